"""Writing twins: the same bytes for the same seed, labels that agree with the truth, nothing left
behind by a failure.
"""

import errno

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from clef_nb.datasets.bp4d import bp4d, write_bp4d
from clef_nb.faces.captions import captioned_faces
from clef_nb.faces.people import sample_subject
from clef_nb.faces.render import render
from clef_nb.faces.sequences import faces, occurrence

SMALL = dict(n_subjects=3, frames_per_sequence=2, size=32)


@pytest.fixture(scope='module')
def twin(tmp_path_factory):
    return write_bp4d(tmp_path_factory.mktemp('twin') / 'bp4d', **SMALL)


def files(root):
    return {
        str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob('*')) if p.is_file()
    }


def test_same_seed_same_bytes(twin, tmp_path):
    again = files(write_bp4d(tmp_path / 'again', **SMALL))
    once = files(twin)
    assert once.keys() == again.keys()
    for name in once:
        if not name.endswith('.parquet'):
            assert once[name] == again[name], name
    pd.testing.assert_frame_equal(
        pd.read_parquet(twin / 'truth.parquet'), pd.read_parquet(tmp_path / 'again/truth.parquet')
    )


def test_another_seed_is_another_twin(twin, tmp_path):
    assert files(write_bp4d(tmp_path / 'other', **SMALL, seed=1)) != files(twin)


def test_labels_agree_with_the_truth(twin):
    table = bp4d(twin)
    truth = pd.read_parquet(twin / 'truth.parquet').set_index(['subject', 'activity', 'frame'])
    assert truth['coded'].sum() == len(table) == 3 * 8 * 2
    rows = truth.loc[list(zip(table.df['subject'], table.df['activity'], table.df['frame']))]
    for label in table.labels:
        np.testing.assert_array_equal(
            table.df[label].to_numpy(int), occurrence(rows[f'{label}_intensity'])
        )
        np.testing.assert_allclose(
            table.df[f'{label}_intensity'], rows[f'{label}_intensity'], atol=1e-3
        )


def test_three_subjects_fill_three_folds(twin):
    table = bp4d(twin)
    assert [len(table.fold(k)[1].subjects) for k in (1, 2, 3)] == [1, 1, 1]


def test_some_run_starts_late_and_9_marks_what_is_not_coded(twin):
    starts = [
        int(p.read_text().splitlines()[1].split(',')[0])
        for p in (twin / 'AUCoding/AU_OCC').glob('*.csv')
    ]
    assert max(starts) > 1
    assert ',9,' in (twin / 'AUCoding/AU_OCC/F001_T1.csv').read_text()


def test_full_disk_leaves_nothing(tmp_path, monkeypatch):
    save, calls = Image.Image.save, []

    def full(self, *args, **kw):
        calls.append(1)
        if len(calls) > 5:
            raise OSError(errno.ENOSPC, 'No space left on device')
        return save(self, *args, **kw)

    monkeypatch.setattr(Image.Image, 'save', full)
    with pytest.raises(OSError, match='No space'):
        write_bp4d(tmp_path / 'bp4d', **SMALL)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    'bad', [dict(n_subjects=0), dict(n_subjects=42), dict(frames_per_sequence=0)]
)
def test_impossible_numbers(bad, tmp_path):
    with pytest.raises(ValueError, match=next(iter(bad))):
        write_bp4d(tmp_path / 'bp4d', **{**SMALL, **bad})
    assert list(tmp_path.iterdir()) == []


def test_habits_can_be_switched_off():
    assert not sample_subject(np.random.default_rng(0), habit_strength=0).habits.any()
    assert sample_subject(np.random.default_rng(0)).habits.std() > 0.2


def test_captioned_people_are_in_no_twin():
    one, _ = faces(1, frames=1, size=32, seed=0)
    other, _ = captioned_faces(4, seed=0, size=32)
    assert all(not np.array_equal(a, b) for a in one for b in other)


def test_an_au_moves_only_where_it_acts():
    s = sample_subject(np.random.default_rng([0, 0]), 'F001')
    change = np.abs(render(s, {12: 5}, size=64).astype(int) - render(s, size=64)).sum(2)
    # a smile is in the lower half
    assert change[40:].sum() > 5 * change[:24].sum()
    change = np.abs(render(s, {2: 5}, size=64).astype(int) - render(s, size=64)).sum(2)
    assert change[:26].sum() > 5 * change[40:].sum()  # a raised brow in the upper
