"""How long a table of BP4D's true size takes, and how much memory: built, folded and sampled from,
without images.

    python benchmarks/tables.py [bp4d_coded_segments.csv]

The file has one row a sequence (subject, task, first_frame, last_frame, n); it is looked for beside
the project. Labels are random, for the file has none. Times are medians over rounds; load
is the system's load average, for a busy machine measures high. Peak memory is what the process grew
by at its highest in the first round of a step (room that an earlier step gave back counts as none);
kept memory is the data frame's own count.
"""

import argparse
import datetime
import os
import platform
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow
from machine import cpu_model, forget_peak, peak, save

from clef_nb.datasets.frames import FrameTable
from clef_nb.datasets.recordings import bp4d_folds
from clef_nb.datasets.sampling import ActivityBatches
from clef_nb.datasets.texts import BP4D_AUS, activity_texts

HERE = Path(__file__).resolve().parent
SEGMENTS = HERE.parents[1] / 'shared' / 'real' / 'bp4d_coded_segments.csv'


def coded_frames(path, seed=0):
    """One row for each coded frame of the file, twelve AU columns: a tenth of the labels is
    missing, a third of the others present
    """
    seg = pd.read_csv(path)
    n = seg['n'].to_numpy()
    df = pd.DataFrame(
        dict(
            subject=np.repeat(seg['subject'].to_numpy(), n),
            activity=np.repeat(seg['task'].to_numpy(), n),
            frame=np.concatenate([np.arange(a, a + k) for a, k in zip(seg['first_frame'], n)]),
        )
    )
    df['sequence'] = df['subject'] + '_' + df['activity']
    df['path'] = df['subject'] + '/' + df['activity'] + '/' + df['frame'].astype(str) + '.jpg'
    rng = np.random.default_rng(seed)
    for au in BP4D_AUS:
        df[f'AU{au}'] = pd.arrays.IntegerArray(
            (rng.random(len(df)) < 1 / 3).astype('int8'), rng.random(len(df)) < 0.1
        )
    return df


def measure(step, rounds):
    "What the step returned; wall and CPU time, ms; growth at the peak of the first round, MB"
    forget_peak()
    before = peak()
    wall, cpu = [], []
    for i in range(rounds):
        w, c = time.perf_counter(), time.process_time()
        out = step()
        wall.append((time.perf_counter() - w) * 1e3)
        cpu.append((time.process_time() - c) * 1e3)
        if i == 0:
            grown = peak() - before
    return out, statistics.median(wall), statistics.median(cpu), grown


def megabytes(*tables):
    "Memory of the data frames"
    return sum(t.df.memory_usage(deep=True).sum() for t in tables) / 1024**2


def build(df):
    folds = bp4d_folds(df['subject'].unique())
    return FrameTable(df, '.', 'BP4D', activity_texts('bp4d'), folds)


def measure_steps(df, rounds):
    "One row a step; the table, its folds and the batches of the first"
    rows = []

    def row(name, step, kept=None):
        result, wall, cpu, grown = measure(step, rounds)
        times = dict(wall_ms=round(wall, 1), cpu_ms=round(cpu, 1), peak_mb=round(grown, 1))
        rows.append(dict(step=name, **times, kept_mb=round(kept(result), 1) if kept else None))
        return result

    table = row('build the table', lambda: build(df), megabytes)
    folds = row(
        'split it by its 3 folds',
        lambda: [table.fold(k) for k in (1, 2, 3)],
        lambda pairs: megabytes(*(t for pair in pairs for t in pair)),
    )
    batches = row('make ActivityBatches of fold 1', lambda: ActivityBatches(folds[0][0]))
    row('one epoch of it', lambda: sum(len(b) for b in batches))
    row('label matrix', table.label_matrix, lambda x: x.nbytes / 1024**2)
    return rows, table, folds, batches


def main(path=SEGMENTS, rounds=7, out=HERE / 'results' / 'tables.csv'):
    df = coded_frames(path)
    # whatever loads at the first call
    ActivityBatches(build(df.groupby('subject').head(600)).fold(1)[0], 16, 2)
    rows, table, folds, batches = measure_steps(df, rounds)
    print(
        f'{len(table):,} frames, {len(table.labels)} labels; the folds test'
        f' {", ".join(f"{len(test):,}" for _, test in folds)}; an epoch of fold 1 has'
        f' {len(batches)} batches of {batches.batch_size}\n'
    )
    print(f'{"":32}{"wall ms":>9}{"CPU ms":>9}{"peak MB":>9}{"kept MB":>9}')
    for r in rows:
        kept = '' if r['kept_mb'] is None else f'{r["kept_mb"]:9.1f}'
        print(f'{r["step"]:32}{r["wall_ms"]:9.1f}{r["cpu_ms"]:9.1f}{r["peak_mb"]:9.1f}{kept}')
    about = dict(
        frames=len(table),
        rounds=rounds,
        load=round(os.getloadavg()[0], 1),
        cpu=cpu_model(),
        python=platform.python_version(),
        pandas=pd.__version__,
        numpy=np.__version__,
        pyarrow=pyarrow.__version__,
        date=datetime.date.today().isoformat(),
    )
    if out:
        save(pd.DataFrame(rows).assign(**about), out)
    print('\n' + ', '.join(f'{k} {v}' for k, v in about.items()))


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        'segments',
        nargs='?',
        type=Path,
        default=SEGMENTS,
        help='bp4d_coded_segments.csv (default: beside the project)',
    )
    args = parser.parse_args()
    if not args.segments.is_file():
        sys.exit(
            f'{args.segments} is not there; give the path of bp4d_coded_segments.csv (columns'
            ' subject, task, first_frame, last_frame, n)'
        )
    main(args.segments)
