"""The recipe "Add a data set" of the contributors' page, carried out to the end: a loader, a writer
and one decorator, and the command line, the check, the twins and the ablation know the set
"""

import numpy as np
import pandas as pd
import pytest

from clef_nb.cli import main
from clef_nb.datasets import registry
from clef_nb.datasets.frames import FrameTable, data_root
from clef_nb.datasets.registry import dataset_names, get_dataset, load_dataset, register_dataset
from clef_nb.datasets.twins import numbers_within, save_image, write_twin
from clef_nb.experiments.settings import SETTINGS
from clef_nb.faces.sequences import faces

ABOUT = dict(
    title='Our lab',
    subjects='6',
    frames='96 coded, in 8 tasks',
    labels='2 AUs (occurrence)',
    folds='2, subject-exclusive',
    licence='ours',
    ask='https://example.org',
    layout='codes.csv and F001/T1_000.png',
    source='this test',
)
AUS = (6, 12)


def write_our_lab(
    root,  # folder to make
    n_subjects: int = 6,  # people
    frames_per_sequence: int = 2,  # frames of each activity
    size: int = 64,  # pixels
    seed: int = 0,  # the same seed gives the same files
):
    "A synthetic twin in our layout"
    numbers_within(n_subjects=(n_subjects, 2, 99), frames_per_sequence=(frames_per_sequence, 1, 99))
    settings = dict(
        n_subjects=n_subjects, frames_per_sequence=frames_per_sequence, size=size, seed=seed
    )

    def fill(folder):
        images, meta = faces(n_subjects, frames_per_sequence, size, seed)
        rows, codes = meta.to_dict('records'), []
        for image, row in zip(images, rows):
            row['coded'] = True
            file = f'{row["subject"]}/{row["activity"]}_{row["frame"]:03d}.png'
            save_image(image, folder / file)
            codes.append([file, *[int(row[f'AU{au}_intensity'] >= 2) for au in AUS]])
        table = pd.DataFrame(codes, columns=['file', *[f'AU{au}' for au in AUS]])
        table.to_csv(folder / 'codes.csv', index=False)
        return rows

    return write_twin(root, 'our_lab', settings, fill)


def our_lab(root=None, missing='error'):
    "Read our recordings: subject, activity, frame and two AUs; two folds without a common subject"
    root = data_root(root, 'Our lab', 'CLEF_OUR_LAB', 'codes.csv')
    codes = pd.read_csv(root / 'codes.csv')
    there = [(root / file).is_file() for file in codes['file']]
    lost = len(there) - sum(there)
    if lost and missing == 'error':
        file = codes['file'][there.index(False)]
        raise FileNotFoundError(f'codes.csv names {file}, which is not there; copy it')
    codes = codes[there].reset_index(drop=True)
    parts = codes['file'].str.extract(r'(?P<subject>[^/]+)/(?P<activity>[^_]+)_(?P<frame>\d+)\.png')
    df = parts.assign(
        path=codes['file'],
        sequence=parts['subject'] + '_' + parts['activity'],
        frame=parts['frame'].astype(int),
        **{f'AU{au}': codes[f'AU{au}'] for au in AUS},
    )
    subjects = sorted(df['subject'].unique())
    texts = {a: f'a person in task {a}' for a in df['activity'].unique()}
    folds = [subjects[::2], subjects[1::2]]
    return FrameTable(df, root, 'Our lab', texts, folds, {'images missing': lost})


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    "The set, as `@register_dataset` above its loader makes it known; gone after the test"
    monkeypatch.delenv('CLEF_OUR_LAB', raising=False)
    twin = dict(n_subjects=4, frames_per_sequence=2)
    register_dataset('our_lab', write=write_our_lab, about=ABOUT, twin=twin)(our_lab)
    yield
    registry._REGISTERED.pop('our_lab')


def test_it_has_a_name():
    assert dataset_names()[-1] == 'our_lab'
    data = get_dataset('our_lab')
    assert (data.title, data.variable) == ('Our lab', 'CLEF_OUR_LAB')
    assert (data.load, data.write, data.passes) == (our_lab, write_our_lab, 5)


def test_a_name_is_taken_once():
    def another(root=None):
        return None

    with pytest.raises(ValueError, match='registered already'):
        register_dataset('our_lab', about=ABOUT)(another)
    with pytest.raises(ValueError, match='no title'):
        register_dataset('nameless')(another)


def test_a_notebook_cell_that_is_run_again_replaces_its_loader():
    def again(root=None):
        return None

    again.__module__ = '__main__'
    with pytest.raises(ValueError, match='registered already'):
        register_dataset('our_lab', about=ABOUT)(again)
    again.__qualname__ = our_lab.__qualname__
    register_dataset('our_lab', about=ABOUT)(again)
    assert get_dataset('our_lab').load is again


def test_list(capsys):
    assert main(['data', 'list']) == 0
    out = capsys.readouterr().out
    assert 'our_lab: Our lab' in out and 'CLEF_OUR_LAB, or given as ROOT' in out


def test_write_check_and_load(tmp_path, capsys):
    root = tmp_path / 'our_lab'
    line = ['data', 'write', 'our_lab', str(root), '--subjects', '3', '--frames', '2']
    assert main([*line, '--size', '32']) == 0
    out = capsys.readouterr().out
    assert '3 subjects, 24 sequences, 48 frames' in out
    assert main(['data', 'check', 'our_lab', str(root), '--images']) == 0
    assert capsys.readouterr().out.splitlines()[-1] == 'fits the protocol of the twin'
    table = load_dataset('our_lab', root)
    assert len(table) == 48 and table.labels == ['AU6', 'AU12']
    table.image_paths()[5].unlink()
    assert main(['data', 'check', 'our_lab', str(root)]) == 1
    assert 'images missing' in capsys.readouterr().out


def test_expected_numbers_without_a_record(tmp_path):
    expected = (('', 'subjects', 3), ('fold 1', 'frames', 7))
    registry._REGISTERED.pop('our_lab')
    register_dataset('our_lab', write=write_our_lab, about=ABOUT, expected=expected)(our_lab)
    root = write_our_lab(tmp_path / 'our_lab', 3, 1, 16)
    (root / 'twin.json').unlink()
    report = registry.check_dataset('our_lab', root).set_index(['part', 'what'])
    assert report.loc[('', 'subjects'), 'fits'] and not report.loc[('fold 1', 'frames'), 'fits']


def test_a_wrong_option_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(['data', 'write', 'our_lab', str(tmp_path / 'x'), '--subjects', '1'])
    assert 'n_subjects is 1' in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_one_run_of_the_ablation(tmp_path, monkeypatch, capsys):
    "`clef reproduce ablation` writes the twin in the registered sizes, trains and scores"
    monkeypatch.chdir(tmp_path)
    stage = dict(steps=2, batch_size=16)
    recipe = SETTINGS['tiny']['recipe'] | dict(pretrain=stage, align=stage)
    monkeypatch.setitem(SETTINGS, 'tiny', SETTINGS['tiny'] | dict(recipe=recipe))
    line = 'reproduce ablation --data our_lab --rows CLEF+PA+PI+I+N+D --folds 1 --seeds 0'
    assert main([*line.split(), '--processes', '0']) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    assert 'Our lab' in out
    runs = pd.read_parquet(tmp_path / 'runs/ablation/our_lab.parquet')
    assert set(runs['label']) >= {'AU6', 'AU12'}
    assert (tmp_path / 'data/our-lab-twin-4-2-0/twin.json').is_file()


# a set with less than all of it


def least(root):
    "A loader that is a function from a folder to a table, and nothing else"
    df = pd.DataFrame({'path': ['a.png', 'b.png'], 'subject': ['F001', 'F002']})
    return FrameTable(df, root)


@pytest.fixture
def replaced():
    "Register in the place of the set above"

    def register(load, **more):
        registry._REGISTERED.pop('our_lab')
        register_dataset('our_lab', about=ABOUT, **more)(load)

    return register


def test_without_a_writer(replaced, tmp_path, monkeypatch, capsys):
    replaced(least)
    monkeypatch.chdir(tmp_path)
    assert main(['data', 'list']) == 0 and 'our_lab' in capsys.readouterr().out
    assert main('reproduce ablation --data our_lab --rows CLIP+I'.split()) == 1
    assert 'has no writer of a synthetic twin; give the folder' in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(['data', 'write', 'our_lab', 'x'])
    assert 'our_lab has no writer' in capsys.readouterr().err


def test_missing_images_are_counted_for_a_loader_that_does_not(replaced, tmp_path, capsys):
    replaced(least)
    save_image(np.zeros((8, 8, 3), np.uint8), tmp_path / 'a.png')
    assert main(['data', 'check', 'our_lab', str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert 'no number is prescribed' in out and '<- 1 too many' in out
    save_image(np.zeros((8, 8, 3), np.uint8), tmp_path / 'b.png')
    assert main(['data', 'check', 'our_lab', str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == 'no image is missing'


def test_a_loader_that_returns_no_table(replaced, tmp_path, capsys):
    replaced(lambda root: None)
    assert main(['data', 'check', 'our_lab', str(tmp_path)]) == 1
    assert (
        capsys.readouterr().err
        == 'clef: the loader of our_lab returned a NoneType, no FrameTable\n'
    )


def test_options_of_one_name_are_read_by_each_set_in_its_own_way(replaced, tmp_path, capsys):
    said = {}

    def write(root, form: str = 'a', size: float = 1.0):
        said.update(form=form, size=size)
        raise ValueError('that is all')

    replaced(least, write=write)
    with pytest.raises(SystemExit):
        main(['data', 'write', 'our_lab', str(tmp_path / 'x'), '--form', 'odd', '--size', '1.5'])
    assert said == dict(form='odd', size=1.5)
    with pytest.raises(SystemExit):
        main(['data', 'write', 'affectnet', str(tmp_path / 'x'), '--form', 'odd'])
    assert "invalid choice: 'odd' (choose from 'csv', 'npy')" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(['data', 'write', 'bp4d', str(tmp_path / 'x'), '--size', '1.5'])
    assert "invalid int value: '1.5'" in capsys.readouterr().err


def test_a_parameter_that_the_command_has_itself(replaced, capsys):
    def write(root, name: str = 'a'):
        return root

    replaced(least, write=write)
    assert main(['data', 'write', 'bp4d', 'x']) == 1
    assert 'our_lab: the command has a --name of its own' in capsys.readouterr().err
