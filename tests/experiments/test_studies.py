"""A table computed run by run: kills, errors, other settings, damaged files; the kept results of
the studies.
"""

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from clef_nb.experiments.runner import grid, run_grid
from clef_nb.experiments.sources import open_twin
from clef_nb.experiments.studies import assign_subjects, sample_people
from clef_nb.measure.intervals import resampled_t_intervals

ROOT = Path(__file__).resolve().parents[2]
calls = []


def square(x, power=2, folder=None):
    calls.append(x)
    if x == 3 and folder and not (Path(folder) / 'mended').exists():
        raise ValueError('three is out')
    return pd.DataFrame(
        {'measure': ['power', 'pid'], 'value': [float(x) ** power, float(os.getpid())]}
    )


def slow_square(x, folder):  # leaves a trace before it ends
    (Path(folder) / f'begun-{x}').touch()
    if x == 0:
        time.sleep(0.2)
        raise ValueError('zero is out')
    time.sleep(0.6)
    return pd.DataFrame({'measure': ['power'], 'value': [float(x * x)]})


def powers(t):
    return t.loc[t['measure'] == 'power', 'value'].tolist()


def test_an_error_keeps_what_is_done_and_names_the_run(tmp_path):
    file = tmp_path / 's.parquet'
    with pytest.raises(RuntimeError, match=r'square\(x=3\): ValueError: three is out'):
        run_grid(file, square, grid(x=[1, 2, 3, 4]), folder=tmp_path, processes=0, progress=False)
    assert powers(pd.read_parquet(file)) == [1, 4]
    (tmp_path / 'mended').touch()
    calls.clear()
    assert powers(
        run_grid(file, square, grid(x=[1, 2, 3, 4]), folder=tmp_path, processes=0, progress=False)
    ) == [1, 4, 9, 16]
    assert calls == [3, 4], 'a finished run is not computed again'
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith('.')] == []


@pytest.mark.slow
def test_processes(tmp_path):
    file = tmp_path / 's.parquet'
    with pytest.raises(RuntimeError, match='zero is out'):
        run_grid(file, slow_square, grid(x=[1, 0, 2, 3]), folder=tmp_path, progress=False)
    assert powers(pd.read_parquet(file)) == [1], 'the run that had begun is kept'
    assert not (tmp_path / 'begun-2').exists() and not (tmp_path / 'begun-3').exists(), (
        'and no other is begun'
    )
    out = run_grid(file, slow_square, grid(x=[3, 2, 1]), folder=tmp_path, progress=False)
    assert powers(out) == [9, 4, 1], 'in the order asked for, whichever was ready first'
    two = run_grid(tmp_path / 't.parquet', square, grid(x=[5, 6]), progress=False)
    assert powers(two) == [25, 36] and os.getpid() not in two['value'].tolist()


def test_a_kill_while_writing_leaves_the_old_table(tmp_path, monkeypatch):
    file = tmp_path / 's.parquet'
    run_grid(file, square, grid(x=[1]), processes=0, progress=False)

    def killed(*a):
        raise KeyboardInterrupt

    monkeypatch.setattr('clef_nb.datasets.files.os.replace', killed)
    with pytest.raises(KeyboardInterrupt):
        run_grid(file, square, grid(x=[1, 2]), processes=0, progress=False)
    monkeypatch.undo()
    assert powers(pd.read_parquet(file)) == [1]
    assert powers(run_grid(file, square, grid(x=[1, 2]), processes=0, progress=False)) == [1, 4]
    assert [p.name for p in tmp_path.iterdir()] == ['s.parquet'], (
        'what the kill left is written over'
    )


def test_other_settings_other_arguments_damage(tmp_path):
    file = tmp_path / 's.parquet'
    run_grid(file, square, grid(x=[1]), dict(power=2), processes=0, progress=False)
    with pytest.raises(ValueError, match=r'other settings .*"power": 2.*"power": 3.*remove it'):
        run_grid(file, square, grid(x=[1]), dict(power=3), processes=0, progress=False)
    with pytest.raises(ValueError, match='no column y'):
        run_grid(file, square, grid(x=[1], y=[1]), dict(power=2), processes=0, progress=False)
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(ValueError, match='cannot be read .*remove it'):
        run_grid(file, square, grid(x=[1]), dict(power=2), processes=0, progress=False)


def test_two_processes_write_one_twin(tmp_path):
    def write(_):
        return open_twin('bp4d', tmp_path / 'data/twin', n_subjects=1, frames_per_sequence=1)

    with ThreadPoolExecutor(4) as pool:
        roots = list(pool.map(write, range(4)))
    assert set(roots) == {tmp_path / 'data/twin'} and [
        p.name for p in (tmp_path / 'data').iterdir()
    ] == ['twin']


def test_folds_do_not_depend_on_the_pairing_strategy(tmp_path):
    table, _ = sample_people(9, 1)
    parts = [assign_subjects(table, k) for k in range(5)]
    for train, test in parts:
        who = table.df['subject'].to_numpy()
        assert (
            not set(who[train]) & set(who[test])
            and len(set(who[test])) == 3
            and len(train) + len(test) == len(table)
        )
    assert len({tuple(t) for _, t in parts}) > 1


def test_coverage_of_the_interval():
    """A score that depends on who tests: the corrected interval covers its mean over all people,
    the plain one does not
    """
    rng, hit = np.random.default_rng(0), np.zeros(2)
    for _ in range(400):
        world, rows = rng.normal(size=41), []
        for a in range(5):
            rows.append(dict(assignment=a, pairs='x', value=world[rng.permutation(41)[:14]].mean()))
        for i, overlap in enumerate((14 / 27, 0.0)):
            r = resampled_t_intervals(pd.DataFrame(rows), ['pairs'], overlap=overlap).iloc[0]
            hit[i] += r.low <= 0 <= r.high
    assert 0.92 < hit[0] / 400 < 0.98 and hit[1] / 400 < 0.85


KEPT = sorted((ROOT / 'data/studies').glob('3[0-4]*.parquet'))


def test_something_is_kept():
    assert len(KEPT) >= 5


@pytest.mark.parametrize('file', KEPT, ids=lambda p: p.stem)
def test_kept_results(file):
    t = pd.read_parquet(file)
    assert (
        file.stat().st_size < 300_000
        and np.isfinite(t['value']).all()
        and json.loads(t.attrs['settings']) is not None
    )
    repeat = 'draw' if 'draw' in t else 'assignment'
    assert t[repeat].nunique() == 5 and (repeat == 'draw' or t['seed'].nunique() == 3)
    cells = [c for c in t if c not in ('value', 'chance')]
    assert not t.duplicated(cells).any()
    assert (
        t.groupby('measure').size().max()
        == t.drop(columns=['measure', 'value', 'chance']).drop_duplicates().shape[0]
    ), 'no cell is missing'
    bounded = t[
        t['measure'].isin(
            ['id_accuracy', 'knn_id', 'id_preference', 'au_auroc', 'stage2_auroc', 'stage2_f1']
        )
    ]
    assert bounded['value'].between(0, 1).all()
