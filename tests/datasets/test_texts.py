"Faults in tables of texts that a user writes"

import pandas as pd
import pytest

from clef_nb.datasets.texts import aus, label_rows, name_texts, prompts


@pytest.mark.parametrize(
    'read, content, words',
    [
        (aus, 'au,name\n1,x\n', ['description']),
        (aus, 'au,name,description\n1,x,y\n1,x,y\n', ['row 3', 'second time']),
        (aus, 'au,name,description\nAU1,x,y\n', ['row 2', "'AU1'"]),
        (aus, 'au,name,description\n1,x,y\n2, ,y\n', ['row 3', "'name'"]),
        (prompts, 'kind,template\nname,a {}\ndescription,no gap\n', ['row 3', 'once']),
        (prompts, 'kind,template\nname,a {} {x}\n', ['row 2', 'no other braces']),
        (prompts, 'kind,template\nname,a {}\n', ["'description'"]),
        (prompts, 'kind,template\nnames,a {}\n', ['row 2', "'names'"]),
    ],
)
def test_faults_say_file_and_row(tmp_path, read, content, words):
    file = tmp_path / 't.csv'
    file.write_text(content)
    with pytest.raises(ValueError) as e:
        read(file)
    for w in [str(file), *words]:
        assert w in str(e.value)


def test_a_template_of_each_kind_is_needed_where_it_is_used(tmp_path):
    file = tmp_path / 't.csv'
    file.write_text('kind,template\nname,a {}\ndescription,it {}\n')
    assert name_texts(['anger'], templates=file) == ['a an angry expression']
    with pytest.raises(ValueError, match="no row of kind 'absent'"):
        name_texts(['anger'], templates=file, absent=True)


def test_labels_of_a_table_and_of_rows(tmp_path):
    file = tmp_path / 't.csv'
    file.write_text('label,name,description\nb,B,bb\na,A,aa\n')
    rows = label_rows(None, file)
    assert rows.index.tolist() == ['b', 'a']
    pd.testing.assert_frame_equal(label_rows(['a'], rows), rows.loc[['a']])
    with pytest.raises(ValueError, match=f"no text for the label 'c'; {file} knows b, a"):
        label_rows(['c'], file)
    with pytest.raises(ValueError, match='the table that was given knows b, a'):
        label_rows(['c'], rows)
