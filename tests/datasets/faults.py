"What the tests of loaders share: a change and the one error that it must give; twin and truth"

import pandas as pd
import pytest

from clef_nb.datasets.photographs import class_counts


def refuses(read, root, change, kind, words):
    "After the change, reading fails with one error that has all the words"
    change(root)
    with pytest.raises(kind) as e:
        read(root)
    for w in words:
        assert w in str(e.value), str(e.value)


def edit(file, old, new):
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


def agree_with_truth(table):
    "The table of a twin has the labels of its truth; returns both, in the order of the table"
    truth = pd.read_parquet(table.root / 'truth.parquet').query('coded').set_index('path')
    d = table.df.set_index('path')
    assert set(d.index) == set(truth.index)
    truth = truth.loc[d.index]
    assert (d['split'] == truth['split']).all() and (d['expression'] == truth['expression']).all()
    assert class_counts(table)['all'].to_dict() == table.df['split'].value_counts().to_dict()
    return d, truth
