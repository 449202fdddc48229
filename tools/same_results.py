"""Are the results of this tree those of an older commit? `same_results.py COMMIT` computes both.

The demo's results.json, the first ten losses of both stages, the files of a synthetic twin of each
data set and the kept results of the studies are computed with the older commit and with the files
that lie here, on this machine, one after the other, and compared to the last digit. `--quick` takes
the quick form of the demo. Numbers differ between machines, so nothing is stored.
"""

import argparse
import hashlib
import importlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# they may change where the method of an interval changes; their values may not
INTERVALS = ('_low', '_high')
SIZES = {
    'bp4d': dict(n_subjects=4, frames_per_sequence=3),
    'bp4d_plus': dict(n_subjects=4, frames_per_sequence=2),
    'disfa': dict(n_subjects=3, frames_per_subject=8),
    'rafdb': dict(n_train=30, n_test=12),
    'affectnet': dict(n_train=40, n_validation=16),
    'ferplus': dict(n_train=40, n_public=8, n_private=16),
}


def digest(data):
    "A short hash of bytes"
    return hashlib.sha256(data).hexdigest()[:16]


def files_in(folder):
    "Path -> hash of each file below a folder"
    return {
        p.relative_to(folder).as_posix(): digest(p.read_bytes())
        for p in sorted(folder.rglob('*'))
        if p.is_file()
    }


def before(module):
    "A module of version 0.1, where all lay in one folder"
    return importlib.import_module(f'clef_nb.{module}')


def writers():
    "Name of a data set -> function that writes its twin"
    try:
        from clef_nb.datasets.registry import get_dataset
    except ImportError:
        return before('datasets').WRITERS
    return {name: get_dataset(name).write for name in SIZES}


def twins(folder):
    "Path -> hash of each file of a small twin of each data set"
    found = {}
    for name, write in writers().items():
        write(folder / name, **SIZES[name])
        found |= {f'{name}/{path}': hash for path, hash in files_in(folder / name).items()}
    return found


def losses_before(twin, cache):
    "The first ten losses of both stages, by the functions of version 0.1"
    stages = before('stages')
    table, model = before('lab').bp4d(twin), before('towers').load_model('clef-tiny')
    images = before('batches').frame_cache(table, 64, folder=cache)
    few = dict(steps=10, batch_size=32, progress=False)
    first = stages.pretrain(model, images, table, **few)
    return first['loss'], stages.align(model, images, table, **few).log['loss']


def losses_now(twin, cache):
    "The same, by today's functions"
    from clef_nb.datasets.bp4d import bp4d
    from clef_nb.datasets.cache import frame_cache
    from clef_nb.model.stages import align, pretrain
    from clef_nb.model.towers import load_model
    from clef_nb.model.training import TrainSettings

    table, model = bp4d(twin), load_model('clef-tiny')
    images = frame_cache(table, 64, folder=cache)
    few = TrainSettings(steps=10, batch_size=32, progress=False)
    first = pretrain(model, images, table, settings=few)
    return first['loss'], align(model, images, table, settings=few).log['loss']


def losses(folder):
    "Name -> loss, of the first ten steps of both stages"
    old = not (Path(sys.path[0]) / 'clef_nb/model').is_dir()
    stages = (losses_before if old else losses_now)(folder / 'bp4d', folder / 'cache')
    return {
        f'stage {k}, step {i}': repr(float(value))
        for k, stage in enumerate(stages, 1)
        for i, value in enumerate(stage)
    }


def demo(folder, quick):
    "Name -> value, of the demo's results.json; intervals are marked"
    try:
        from clef_nb.experiments.demo import demo as run
    except ImportError:
        run = before('reproduce').demo
    rows = run(folder / 'demo', folder / 'demo-twin', quick=quick, progress=False)
    return {
        f'{row["row"]}: {name}' + (' (interval)' if name.endswith(INTERVALS) else ''): repr(value)
        for row in rows
        for name, value in row.items()
    }


def studies(tree):
    "Name -> hash, of the kept results"
    return files_in(tree / 'data/studies')


def compute(tree, quick):
    "All of it, for the package that is imported from `tree`"
    sys.path.insert(0, str(tree))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        return {
            'twins': twins(folder),
            'losses': losses(folder),
            'studies': studies(tree),
            'demo': demo(folder, quick),
        }


def child(tree, quick):
    "`compute` in a Python of its own"
    with tempfile.TemporaryDirectory() as name:
        out = Path(name) / 'found.json'
        command = [sys.executable, __file__, '--tree', tree, '--out', out]
        environment = {**os.environ, 'PYTHONPATH': str(tree), 'CLEF_BF16': '0'}
        subprocess.run(
            [*map(str, command), *['--quick'] * quick], check=True, cwd=name, env=environment
        )
        return json.loads(out.read_text())


def compare(before, now):
    "Print what differs; the number of differences that are no interval"
    bad = 0
    for part, old in before.items():
        new = now[part]
        odd = [k for k in {**old, **new} if old.get(k) != new.get(k)]
        intervals = [k for k in odd if k.endswith('(interval)')]
        print(f'{part}: {len(old) - len(odd):,} of {len(old):,} equal')
        for k in odd:
            print(f'  {k}: {old.get(k)} before, {new.get(k)} now')
        bad += len(odd) - len(intervals)
    print(f'{bad} differences' if bad else 'Nothing differs but intervals that are listed.')
    return bad


def main():
    "Command line"
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('commit', nargs='?', help='commit to compare with')
    parser.add_argument('--quick', action='store_true', help='the quick form of the demo')
    parser.add_argument('--tree', type=Path, help=argparse.SUPPRESS)
    parser.add_argument('--out', type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.tree:
        args.out.write_text(json.dumps(compute(args.tree, args.quick)))
        return 0
    if not args.commit:
        parser.error('name the commit to compare with')
    with tempfile.TemporaryDirectory() as name:
        older = Path(name) / 'older'
        add = ['git', 'worktree', 'add', '--quiet', '--detach', str(older), args.commit]
        subprocess.run(add, cwd=ROOT, check=True)
        try:
            before = child(older, args.quick)
        finally:
            remove = ['git', 'worktree', 'remove', '--force', str(older)]
            subprocess.run(remove, cwd=ROOT, check=True)
    return bool(compare(before, child(ROOT, args.quick)))


if __name__ == '__main__':
    sys.exit(main())
