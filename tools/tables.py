"""The package's copy of the tables: data/*.csv is edited, clef_nb/data/ is what is installed.

`tables.py` copies what differs; `stale` says what would be copied.
"""

import shutil
from pathlib import Path


def stale(root, lib='clef_nb'):
    "One line for each table whose copy in the package is missing, differs or has no original"
    root = Path(root)
    ours = {p.name: p for p in (root / 'data').glob('*.csv')}
    theirs = {p.name: p for p in (root / lib / 'data').glob('*.csv')}
    found = []
    for name in sorted({*ours, *theirs}):
        if name not in ours:
            found.append(f'{lib}/data/{name} comes from no table in data/')
        elif name not in theirs:
            found.append(f'{lib}/data/{name} is missing: data/{name} is there')
        elif ours[name].read_bytes() != theirs[name].read_bytes():
            found.append(f'{lib}/data/{name} is not what data/{name} holds')
    return found


def copy(root, lib='clef_nb'):
    "Bring the package's copy into step"
    root = Path(root)
    folder = root / lib / 'data'
    folder.mkdir(exist_ok=True)
    for table in folder.glob('*.csv'):
        if not (root / 'data' / table.name).exists():
            table.unlink()
    for table in (root / 'data').glob('*.csv'):
        shutil.copyfile(table, folder / table.name)


if __name__ == '__main__':
    copy('.')
