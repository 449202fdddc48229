"""Run notebooks and keep their outputs: `run_nbs.py` for all, `run_nbs.py 00_facs 07_losses` for
some.

Cells that nbdev_test leaves out (`#| eval: false` and the flags of tst_flags in settings.ini) keep
the outputs they have; `--slow` and `--gpu` run those too. A notebook that fails is left as it was.
"""

import argparse
import re
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbdev.clean import nbdev_clean
from nbdev.config import get_config
from nbdev.doclinks import nbglob
from nbdev.frontmatter import FrontmatterProc
from nbdev.process import NBProcessor, extract_directives


def left_out(cell, flags):
    "Is this a cell that nbdev_test would not run?"
    found = extract_directives(cell, remove=False)
    return (
        'nbdev_export(' in cell.source
        or found.get('eval:') == ['false']
        or bool(flags & found.keys())
    )


def skipped(path):
    "Does the front matter say `skip_exec: true`?"
    nb = NBProcessor(path, procs=FrontmatterProc, process=True).nb
    return str(getattr(nb, 'frontmatter_', {}).get('skip_exec', False)).lower() == 'true'


def run(path, flags, timeout=None):
    "Run one notebook in its folder of notebooks, write it with its outputs, clean it"
    nb = nbformat.read(path, as_version=4)
    for cell in nb.cells:
        # nbclient passes by a cell with this tag; cleaning takes all tags away
        if cell.cell_type == 'code' and left_out(cell, flags):
            cell.metadata['tags'] = ['skip-execution']
    NotebookClient(
        nb,
        timeout=timeout,
        kernel_name='python3',
        store_widget_state=False,
        resources={'metadata': {'path': str(path.parent)}},
    ).execute()
    nbformat.write(nb, path)
    nbdev_clean.__wrapped__(str(path))


def find(names):
    "Notebooks whose name is or starts with one of the names; all of them for no name"
    files = sorted(nbglob(as_path=True))
    if not names:
        return files
    wanted = [Path(n).stem for n in names]
    for w in wanted:
        if not any(p.stem.startswith(w) for p in files):
            sys.exit(f'No notebook is called {w}. There are: {", ".join(p.stem for p in files)}.')
    return [p for p in files if any(p.stem.startswith(w) for w in wanted)]


def main():
    "Command line"
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        'names', nargs='*', help='notebooks, by name or path or by the first part of the name'
    )
    parser.add_argument('--slow', action='store_true', help='run cells marked `#| slow` too')
    parser.add_argument('--gpu', action='store_true', help='run cells marked `#| gpu` too')
    parser.add_argument('--timeout', type=int, help='seconds a cell may take (default: any time)')
    args = parser.parse_args()
    flags = set(get_config().tst_flags.split()) - {f for f in ('slow', 'gpu') if getattr(args, f)}
    failed = []
    for path in find(args.names):
        if skipped(path):
            print(f'{path.stem}: skip_exec, left as it is')
            continue
        start = time.time()
        try:
            run(path, flags, args.timeout)
        except (CellExecutionError, TimeoutError, RuntimeError) as e:
            failed.append(path.stem)
            print(re.sub(r'\x1b\[[\d;]*m', '', str(e)), file=sys.stderr)
            print(f'{path.stem}: failed, left as it was', flush=True)
        else:
            print(f'{path.stem}: {time.time() - start:.0f} s', flush=True)
    sys.exit(bool(failed))


if __name__ == '__main__':
    main()
