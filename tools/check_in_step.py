"""Are the modules what the notebooks export, are the notebooks clean, and the tables copied?

nbdev works on a copy, so a change made by hand is reported and never overwritten.
"""

import shutil
import subprocess
import sys
import tempfile
from configparser import ConfigParser
from pathlib import Path

import tables

MEND = (
    'Put the change into the notebook, run `make export`, and commit notebook and module together.'
)


def nbdev_command(name):
    "Path of an nbdev command of the Python that runs this"
    return Path(sys.executable).with_name(name)


def layout(root):
    "Folders of the notebooks and of the modules, as settings.ini names them"
    ini = ConfigParser()
    ini.read(root / 'settings.ini', encoding='utf-8')
    return ini['DEFAULT']['nbs_path'], ini['DEFAULT']['lib_path']


def sources(folder, suffix):
    "Relative paths of the files nbdev reads or writes in a folder"
    return {
        p.relative_to(folder)
        for p in folder.rglob(f'*{suffix}')
        if not any(part.startswith(('.', '__pycache__')) for part in p.relative_to(folder).parts)
    }


def same(a, b):
    return a.read_bytes() == b.read_bytes()


def out_of_step(root):
    """One line for each notebook that is not clean, each module that differs from its notebook, and
    each table that differs from its original
    """
    root = Path(root).resolve()
    nbs, lib = layout(root)
    with tempfile.TemporaryDirectory() as tmp:
        copy = Path(tmp).resolve()
        shutil.copy(root / 'settings.ini', copy)
        for p in sources(root / nbs, '.ipynb'):
            (copy / nbs / p).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / nbs / p, copy / nbs / p)
        (copy / lib).mkdir()
        if (root / lib / '__init__.py').exists():
            shutil.copy(root / lib / '__init__.py', copy / lib)
        for command in 'nbdev_export', 'nbdev_clean':
            done = subprocess.run(
                [nbdev_command(command)],
                cwd=copy,
                stdin=subprocess.DEVNULL,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
            if done.returncode or 'Failed to clean' in done.stdout:
                return [f'{command} failed:\n{done.stdout.strip()}']
        there, fresh = sources(root / lib, '.py'), sources(copy / lib, '.py')
        return (
            [
                f'{nbs}/{p} is not clean'
                for p in sorted(sources(copy / nbs, '.ipynb'))
                if not same(root / nbs / p, copy / nbs / p)
            ]
            + [f'{lib}/{p} is missing: a notebook exports it' for p in sorted(fresh - there)]
            + [f'{lib}/{p} comes from no notebook' for p in sorted(there - fresh)]
            + [
                f'{lib}/{p} is not what its notebook exports'
                for p in sorted(fresh & there)
                if not same(root / lib / p, copy / lib / p)
            ]
            + tables.stale(root, lib)
        )


if __name__ == '__main__':
    found = out_of_step('.')
    print('\n'.join([*found, MEND] if found else ['Modules and notebooks are in step.']))
    sys.exit(bool(found))
