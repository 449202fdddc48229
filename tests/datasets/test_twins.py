"""Twins of all six data sets: what was written is what is read, for random parameters; the same
bytes for the same seed; all at once or not at all.
"""

import json
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from PIL import Image

from clef_nb.datasets.affectnet import affectnet, write_affectnet
from clef_nb.datasets.bp4d import bp4d, write_bp4d
from clef_nb.datasets.bp4d_plus import bp4d_plus, write_bp4d_plus
from clef_nb.datasets.disfa import disfa, write_disfa
from clef_nb.datasets.ferplus import ferplus, vote, write_ferplus
from clef_nb.datasets.rafdb import rafdb, write_rafdb
from clef_nb.datasets.texts import BP4D_AUS, DISFA_AUS, DISFA_CODED, FERPLUS_EXPRESSIONS
from clef_nb.faces.captions import captioned_faces
from clef_nb.faces.people import sample_subject
from clef_nb.faces.render import render
from clef_nb.faces.sequences import EXPRESSION_AUS, express


# a failure is shown at once; to shrink it would take minutes
def few(n):
    return settings(
        max_examples=n, deadline=None, derandomize=True, database=None, phases=[Phase.generate]
    )


def patch_everywhere(monkeypatch, name, replacement):
    "Replace a function in every module of the package that uses it"
    users = [m for n, m in sys.modules.items() if n.startswith('clef_nb.') and hasattr(m, name)]
    assert users
    for module in users:
        monkeypatch.setattr(module, name, replacement)


seeds, sizes = st.integers(0, 2**31), st.integers(16, 24)
SMALL = {
    write_bp4d: dict(n_subjects=2, frames_per_sequence=1, size=16),
    write_bp4d_plus: dict(n_subjects=2, frames_per_sequence=1, size=16),
    write_disfa: dict(n_subjects=2, frames_per_subject=5, size=16),
    write_rafdb: dict(n_train=6, n_test=3, size=16, original=True),
    write_affectnet: dict(n_train=4, n_validation=3, size=16),
    write_ferplus: dict(n_train=14, n_public=2, n_private=2),
}
each_writer = pytest.mark.parametrize('write', SMALL, ids=lambda w: w.__name__)


@contextmanager
def written(write, **parameters):
    "A twin in a folder of its own, its truth, and what twin.json says"
    with tempfile.TemporaryDirectory() as folder:
        root = write(Path(folder) / 'twin', **parameters)
        yield (
            root,
            pd.read_parquet(root / 'truth.parquet'),
            json.loads((root / 'twin.json').read_text()),
        )


def found(table, part, what):
    "A number of the table, counted by hand"
    rows = table.df
    if part.startswith('fold '):
        rows = rows[rows['subject'].isin(table.folds[int(part.split()[1]) - 1])]
    elif part:
        rows = rows[rows['split'] == part]
    if what in ('subjects', 'sequences'):
        return rows[what[:-1]].nunique()
    return len(rows) if what == 'frames' else int((rows['expression'] == what).sum())


def agrees(table, root, truth, about, dataset):
    "twin.json's numbers are those of the table, and every image opens"
    assert about['dataset'] == dataset and about['expected']
    for part, what, n in about['expected']:
        assert found(table, part, what) == n, (part, what)
    assert len(table) == truth['coded'].sum()
    for p in table.image_paths():
        if '#' not in p.name:
            Image.open(p).verify()


def aus_agree(table, truth, aus, at, intensity):
    "Occurrence and intensity of the table's rows are those of the truth"
    truth = truth[truth['coded']].set_index(['subject', 'activity', 'frame'])
    rows = truth.loc[list(zip(table.df['subject'], table.df['activity'], table.df['frame']))]
    assert table.labels == [f'AU{a}' for a in aus] and len(rows) == len(truth)
    for a in aus:
        x = rows[f'AU{a}_intensity'].to_numpy()
        np.testing.assert_array_equal(table.df[f'AU{a}'].to_numpy(int), x >= at)
        np.testing.assert_allclose(
            table.df[f'AU{a}_intensity'].to_numpy(float), intensity(x), atol=1e-5
        )


@few(4)
@given(
    n=st.integers(1, 3),
    frames=st.integers(1, 2),
    size=sizes,
    seed=seeds,
    habit=st.sampled_from([0.0, 0.5, 2.0]),
)
def test_bp4d(n, frames, size, seed, habit):
    with written(
        write_bp4d,
        n_subjects=n,
        frames_per_sequence=frames,
        size=size,
        seed=seed,
        habit_strength=habit,
    ) as (root, truth, about):
        table = bp4d(root)
        agrees(table, root, truth, about, 'bp4d')
        aus_agree(table, truth, BP4D_AUS, 1, lambda x: x)
        assert len(table) == n * 8 * frames and table.notes['images without a label'] == n * 8 * 4


@few(4)
@given(n=st.integers(1, 3), frames=st.integers(1, 2), size=sizes, seed=seeds)
def test_bp4d_plus(n, frames, size, seed):
    with written(
        write_bp4d_plus, n_subjects=n, frames_per_sequence=frames, size=size, seed=seed
    ) as (root, truth, about):
        table = bp4d_plus(root, folds=2)
        agrees(table, root, truth, about, 'bp4d_plus')
        aus_agree(table, truth, BP4D_AUS, 1, lambda x: x)
        assert set(table.df['activity']) == {'T1', 'T6', 'T7', 'T8'} and set(truth['activity']) == {
            f'T{i}' for i in range(1, 11)
        }


@few(5)
@given(
    n=st.integers(1, 5),
    frames=st.integers(5, 14),
    size=sizes,
    seed=seeds,
    cameras=st.sampled_from([('left',), ('right',), ('left', 'right'), 'right']),
)
def test_disfa(n, frames, size, seed, cameras):
    with written(
        write_disfa, n_subjects=n, frames_per_subject=frames, size=size, seed=seed, cameras=cameras
    ) as (root, truth, about):
        for camera in ('left', 'right'):
            if camera in cameras:
                table = disfa(root, camera=camera)
                agrees(table, root, truth, about, 'disfa')
                aus_agree(table, truth, DISFA_AUS, 2, np.floor)
                assert all(
                    int(Path(p).stem) == f - 1 for p, f in zip(table.df['path'], table.df['frame'])
                )
        aus_agree(
            disfa(root, aus=DISFA_CODED, threshold=3, camera=about['cameras'][0]),
            truth,
            DISFA_CODED,
            3,
            np.floor,
        )
        lengths = truth.groupby('subject').size()
        assert (lengths == [frames - (s == 'SN010') for s in lengths.index]).all()


@few(5)
@given(
    train=st.integers(1, 14), test=st.integers(1, 9), size=sizes, seed=seeds, original=st.booleans()
)
def test_rafdb(train, test, size, seed, original):
    with written(
        write_rafdb, n_train=train, n_test=test, size=size, seed=seed, original=original
    ) as (root, truth, about):
        table = rafdb(root)
        agrees(table, root, truth, about, 'rafdb')
        assert (
            table.df[['path', 'split', 'expression']].to_numpy().tolist()
            == truth[['path', 'split', 'expression']].to_numpy().tolist()
        )
        assert table.splits == ['train', 'test'] and not (
            root / 'EmoLabel/list_patition_label.txt'
        ).read_text().endswith('\n')
        if train >= 7:
            assert set(table.split('train').df['expression']) == {
                'surprise',
                'fear',
                'disgust',
                'happiness',
                'sadness',
                'anger',
                'neutral',
            }
        if original:
            assert len(rafdb(root, images='original')) == len(table)
        else:
            assert not (root / 'Image/original').exists()


@few(6)
@given(
    train=st.integers(1, 9),
    validation=st.integers(1, 8),
    size=sizes,
    seed=seeds,
    form=st.sampled_from(['csv', 'npy']),
    header=st.booleans(),
)
def test_affectnet(train, validation, size, seed, form, header):
    with written(
        write_affectnet,
        form=form,
        n_train=train,
        n_validation=validation,
        size=size,
        seed=seed,
        header=header,
    ) as (root, truth, about):
        table = affectnet(root)
        agrees(table, root, truth, about, 'affectnet')
        rows = truth[truth['coded']].set_index('path').loc[table.df['path']]
        for c in ('split', 'expression'):
            assert table.df[c].tolist() == rows[c].tolist()
        for c in ('valence', 'arousal'):
            np.testing.assert_allclose(table.df[c].to_numpy(float), rows[c], atol=1e-5)
        assert rows[['valence', 'arousal']].abs().max(axis=None) <= 1
        np.testing.assert_allclose(
            np.stack(table.df['landmarks']), np.stack(rows['landmarks']), atol=1e-3
        )
        dropped = {
            f'dropped: {c}': int((truth['expression'] == c).sum())
            for c in ('none', 'uncertain', 'no face')
        }
        assert {k: n for k, n in table.notes.items() if k in dropped} == {
            k: n for k, n in dropped.items() if n
        } and (sum(dropped.values()) > 0) == (form == 'csv')
        if form == 'csv':
            for c in ('face_x', 'face_y', 'face_width', 'face_height'):
                np.testing.assert_array_equal(table.df[c].to_numpy(float), rows[c])
            assert (root / 'validation.csv').read_text().startswith(
                'subDirectory_filePath'
            ) == header
        seven = truth['coded'] & (truth['expression'] != 'contempt')
        if seven.any():
            assert len(affectnet(root, classes=7)) == seven.sum()


@few(5)
@given(
    train=st.integers(1, 26),
    public=st.integers(1, 6),
    private=st.integers(1, 6),
    seed=seeds,
    form=st.sampled_from(['csv', 'images']),
)
def test_ferplus(train, public, private, seed, form):
    with written(
        write_ferplus, form=form, n_train=train, n_public=public, n_private=private, seed=seed
    ) as (root, truth, about):
        if not truth['coded'].any():
            return  # one image, and nobody agrees on it
        table = ferplus(root)
        agrees(table, root, truth, about, 'ferplus')
        rows = truth[truth['coded']]
        assert (
            table.df['expression'].tolist() == rows['expression'].tolist()
            and table.df['split'].tolist() == rows['split'].tolist()
        )
        if form == 'images':
            assert [Path(p).name for p in table.df['path']] == rows['name'].tolist()
        for e in FERPLUS_EXPRESSIONS:
            np.testing.assert_allclose(table.df[f'votes_{e}'].to_numpy(float), rows[f'votes_{e}'])
        assert (
            truth[[c for c in truth if c.startswith('votes_')]].sum(axis=1) == 10
        ).all() and len(truth) == train + public + private
        why = {
            'no majority': 'dropped: no majority',
            'unknown': 'dropped: unknown',
            'not a face': 'dropped: not a face',
        }
        for label, note in why.items():
            assert table.notes.get(note, 0) == (truth['expression'] == label).sum(), note


# all writers alike


def files(root):
    return {
        str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob('*')) if p.is_file()
    }


@each_writer
def test_same_seed_same_bytes(write, tmp_path):
    a, b, c = (
        files(write(tmp_path / name, **SMALL[write], seed=seed))
        for name, seed in (('a', 3), ('b', np.int64(3)), ('c', 4))
    )
    assert a.keys() == b.keys() and all(a[k] == b[k] for k in a)

    def images(f):
        return {v for k, v in f.items() if k.endswith(('.jpg', '.png', 'fer2013.csv'))}

    assert images(a) and not images(a) & images(c)


@each_writer
def test_a_failure_leaves_nothing(write, tmp_path, monkeypatch):
    def full(self, *args, **kw):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(pd.DataFrame, 'to_parquet', full)  # the last thing but one
    with pytest.raises(OSError, match='No space'):
        write(tmp_path / 'twin', **SMALL[write])
    assert list(tmp_path.iterdir()) == []


@each_writer
def test_interruption_leaves_nothing(write, tmp_path, monkeypatch):
    def stop(*args, **kw):
        raise KeyboardInterrupt

    patch_everywhere(monkeypatch, 'render', stop)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / 'twin', **SMALL[write])
    assert list(tmp_path.iterdir()) == []


@each_writer
def test_an_existing_folder_is_refused(write, tmp_path):
    (tmp_path / 'twin').mkdir()
    (tmp_path / 'twin/mine.txt').touch()
    with pytest.raises(FileExistsError, match='exists'):
        write(tmp_path / 'twin', **SMALL[write])
    assert files(tmp_path) == {'twin/mine.txt': b''}


@each_writer
def test_impossible_numbers(write, tmp_path):
    for name in SMALL[write]:
        if name in ('original',):
            continue
        for bad in (0, -1, 10**7, 2.5, True, 'all', None):
            with pytest.raises(ValueError, match=f'{name} is'):
                write(tmp_path / 'twin', **SMALL[write] | {name: bad})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    'write,bad,words',
    [
        (write_disfa, dict(cameras=()), 'cameras is'),
        (write_disfa, dict(cameras=('top',)), "'left', 'right' or both"),
        (write_affectnet, dict(form='zip'), "'csv' or 'npy'"),
        (write_ferplus, dict(form='npy'), "'csv' or 'images'"),
        (write_bp4d, dict(habit_strength=-1), 'habit_strength is'),
        (write_bp4d_plus, dict(habit_strength='much'), 'habit_strength is'),
        (write_disfa, dict(habit_strength=float('nan')), 'habit_strength is'),
        (write_rafdb, dict(seed=-1), 'seed is'),
    ],
)
def test_impossible_arguments(write, bad, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        write(tmp_path / 'twin', **SMALL[write] | bad)
    assert list(tmp_path.iterdir()) == []


def test_no_two_sets_share_a_person(tmp_path, monkeypatch):
    "The same seed draws other people for each data set and for the captioned images"
    people = {}

    def watched(rng, *args, **kw):
        s = sample_subject(rng, *args, **kw)
        people.setdefault(who, set()).add(s.neutral.tobytes())
        return s

    patch_everywhere(monkeypatch, 'sample_subject', watched)
    for write in SMALL:
        who = write.__name__
        write(tmp_path / who, **SMALL[write])
    who = 'captioned'
    captioned_faces(4, size=16, per_subject=1)
    assert len(people) == 7 and sum(map(len, people.values())) == len(set().union(*people.values()))


def test_most_images_in_the_wild_show_a_new_person(tmp_path):
    truth = pd.read_parquet(
        write_rafdb(tmp_path / 'twin', n_train=40, n_test=10, size=16) / 'truth.parquet'
    )
    assert 0.75 * len(truth) < truth['subject'].nunique() < len(truth)
    assert truth['age'].nunique() == 3 and truth['yaw'].std() > 9


# expressions and votes


@pytest.fixture(scope='module')
def people():
    return [
        sample_subject(np.random.default_rng([5, i]), f'{"FM"[i % 2]}{i:03d}') for i in range(6)
    ]


@few(40)
@given(expression=st.sampled_from(list(EXPRESSION_AUS)), who=st.integers(0, 5), seed=seeds)
def test_express(people, expression, who, seed):
    aus = express(people[who], expression, np.random.default_rng(seed))
    assert aus == express(people[who], expression, np.random.default_rng(seed))
    render(people[who], aus, size=16)  # takes every key and every intensity
    strays = {
        k: x
        for k, x in aus.items()
        if k not in EXPRESSION_AUS[expression] and not isinstance(k, str)
    }
    assert all(0 <= x <= 2 for x in strays.values())
    mine = {k: x for k, x in aus.items() if k not in strays}
    assert all(1 <= x <= 5 for x in mine.values())
    # contempt is on one side, everything else on both
    sides = {k[0] if isinstance(k, str) else 'both' for k in mine}
    assert (
        sides <= {'both'} if expression != 'contempt' else len(sides) <= 1 and sides <= {'L', 'R'}
    )


def test_expressions_are_what_they_are_called(people):
    """Each action unit takes part about as often as the table says; the vote of many people finds
    the expression
    """
    rng = np.random.default_rng(0)
    for e, prototype in EXPRESSION_AUS.items():
        faces = [express(people[i % 6], e, rng) for i in range(240)]
        for au, (share, _) in prototype.items():
            assert (
                abs(np.mean([bool({au, f'L{au}', f'R{au}'} & set(f)) for f in faces]) - share)
                < 0.15
            ), (e, au)
        label = [FERPLUS_EXPRESSIONS[vote(f, rng, 200)[:8].argmax()] for f in faces]
        assert np.mean([x == e for x in label]) > 0.85, e
    with pytest.raises(ValueError, match="no expression 'joy'.*happiness"):
        express(people[0], 'joy', rng)


def test_stray_units_are_rare(people):
    strays = [
        len(express(p, 'neutral', np.random.default_rng(i))) for i in range(100) for p in people
    ]
    assert 0.2 < np.mean(strays) < 1.5
