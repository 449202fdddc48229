"""How long it takes to read FER2013's pixels: as usual (pandas and np.fromstring), by `ferplus` the
first time, and from the array that it keeps.

    python benchmarks/ferplus.py [--rounds 5] [--rows 35887]

A fer2013.csv and a fer2013new.csv of the official length are written to a temporary folder (half of
the images smooth, half noise, so that numbers have one to three digits) and read once, so that
the disk plays no part. Rounds alternate between the methods; a row gives the medians of CPU time
and wall time. Ratios are of CPU time, which other work on the machine hardly touches. One thread.
Numba's compilation, or its reading from the cache, is done before and its time printed.
"""

import argparse
import datetime
import os
import shutil
import statistics
import tempfile
import time

# before numpy
os.environ.update(
    dict.fromkeys(
        ('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'MKL_NUM_THREADS', 'NUMBA_NUM_THREADS'), '1'
    )
)
import platform
from pathlib import Path

import numba
import numpy as np
import pandas as pd
from machine import cpu_model, save

import clef_nb.datasets.ferplus as module
from clef_nb.datasets.texts import FERPLUS_EXPRESSIONS

HERE = Path(__file__).resolve().parent
USUAL = 'pandas + np.fromstring'
TARGETS = {'parsed and kept': 2.2, 'from the array': 100}


def smooth_or_noise(i, rng):
    "One image: every other one is noise, the rest walk from pixel to pixel"
    if i % 2:
        return rng.integers(0, 256, 48 * 48)
    return np.clip(rng.integers(20, 235) + rng.normal(0, 4, 48 * 48).cumsum(), 0, 255)


def write(root, rows, seed=0):
    "Two files in the official form; returns the pixels"
    rng, words = np.random.default_rng(seed), np.array([str(i) for i in range(256)], dtype=object)
    tenth = rows // 10
    usage = np.repeat(['Training', 'PublicTest', 'PrivateTest'], [rows - 2 * tenth, tenth, tenth])
    x = np.empty((rows, 48 * 48), np.uint8)
    with open(root / 'fer2013.csv', 'w') as f:
        f.write('emotion,pixels,Usage\n')
        for i in range(rows):
            x[i] = smooth_or_noise(i, rng)
            f.write(f'{i % 7},{" ".join(words[x[i]])},{usage[i]}\n')
    votes = rng.multinomial(10, [0.2, 0.3] + [0.0625] * 8, size=rows)
    with open(root / 'fer2013new.csv', 'w') as f:
        f.write(','.join(['Usage', 'Image name', *FERPLUS_EXPRESSIONS, 'unknown', 'NF']) + '\n')
        for i, v in enumerate(votes.tolist()):
            f.write(f'{usage[i]},fer{i:07}.png,{",".join(map(str, v))}\n')
    return x.reshape(-1, 48, 48)


def usual(file):
    "pandas for the table, np.fromstring for each row"
    df = pd.read_csv(file)
    rows = [np.fromstring(s, dtype=np.uint8, sep=' ') for s in df['pixels']]
    return np.stack(rows).reshape(-1, 48, 48)


def once(step, times=1):
    "Result, CPU and wall seconds of one call"
    w, c = time.perf_counter(), time.process_time()
    for _ in range(times):
        out = step()
    return out, (time.process_time() - c) / times, (time.perf_counter() - w) / times


def methods(root, kept):
    "name -> (function, how often it is repeated in a round)"
    file = root / 'fer2013.csv'

    def first():
        shutil.rmtree(kept, ignore_errors=True)
        return module._fer2013(file, kept)

    def array():
        return np.load(kept / module._fer2013(file, kept)[0], mmap_mode='r')

    def first_call():
        shutil.rmtree(kept, ignore_errors=True)
        return module.ferplus(root, cache=kept)

    return {
        USUAL: (lambda: usual(file), 1),
        'parsed': (lambda: module._parse(file)[0], 1),
        'parsed and kept': (first, 1),
        'from the array': (array, 20),
        'from the array, every byte read': (lambda: int(array().max()), 1),
        'ferplus(), first call': (first_call, 1),
        'ferplus(), later calls': (lambda: module.ferplus(root, cache=kept), 1),
    }


def measure(steps, rounds, pixels):
    "CPU and wall seconds of each method, in alternated rounds"
    cpu, wall = {k: [] for k in steps}, {k: [] for k in steps}
    for i in range(rounds):
        for name, (step, times) in steps.items():
            result, c, w = once(step, times)
            cpu[name].append(c)
            wall[name].append(w)
            if i == 0 and isinstance(result, np.ndarray):
                assert (result == pixels).all(), name
            del result
    return cpu, wall


def summary(cpu, wall):
    "Medians, and ratios to the usual method"
    base, base_wall = (statistics.median(v[USUAL]) for v in (cpu, wall))
    return pd.DataFrame(
        [
            dict(
                way=k,
                cpu_ms=round(statistics.median(cpu[k]) * 1e3, 1),
                wall_ms=round(statistics.median(wall[k]) * 1e3, 1),
                cpu_ratio=round(base / statistics.median(cpu[k]), 1),
                wall_ratio=round(base_wall / statistics.median(wall[k]), 1),
                target=TARGETS.get(k),
            )
            for k in cpu
        ]
    )


def print_table(table):
    print(f'{"":34}{"CPU ms":>9}{"wall ms":>9}{"CPU ratio":>11}{"wall ratio":>11}{"target":>8}')
    for r in table.to_dict('records'):
        target = '' if pd.isna(r['target']) else f'{r["target"]:8g}'
        print(
            f'{r["way"]:34}{r["cpu_ms"]:9.1f}{r["wall_ms"]:9.1f}'
            f'{r["cpu_ratio"]:11.1f}{r["wall_ratio"]:11.1f}{target}'
        )


def main(rounds=5, rows=35_887, out=HERE / 'results' / 'ferplus.csv'):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        pixels = write(root, rows)
        small = root / 'small'
        small.mkdir()
        write(small, 30)
        _, compiled, _ = once(lambda: module._parse(small / 'fer2013.csv'))
        table = summary(*measure(methods(root, root / 'kept'), rounds, pixels))
        size = (root / 'fer2013.csv').stat().st_size
    print(
        f'{rows:,} images, {size / 1e6:,.0f} MB of text; numba took {compiled:.1f} s of CPU time'
        ' beforehand\n'
    )
    print_table(table)
    about = dict(
        rows=rows,
        rounds=rounds,
        threads=1,
        numba_s=round(compiled, 1),
        cpu=cpu_model(),
        python=platform.python_version(),
        numpy=np.__version__,
        pandas=pd.__version__,
        numba=numba.__version__,
        date=datetime.date.today().isoformat(),
    )
    if out:
        save(table.assign(**about), out)
    print('\n' + ', '.join(f'{k} {v}' for k, v in about.items()))


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--rows', type=int, default=35_887)
    args = parser.parse_args()
    main(args.rounds, args.rows)
