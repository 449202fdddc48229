"""The notebooks as a reader meets them: how long they take, what their outputs show, images for
those who cannot see them, and tutorials that need no repository.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
ALL = sorted(
    p
    for p in (ROOT / 'nbs').rglob('*.ipynb')
    if not any(part.startswith(('.', '_')) for part in p.relative_to(ROOT).parts)
)
# read, and hardly run
PAGES = {'index', 'guide', 'welcome', 'contributing', 'playground'}
TIMES = re.compile(
    r'([Rr]eading takes .+?, running .+?|reads in .+? and runs in .+?) on two (CPU )?cores'
)
# /home/me stands for the reader's own
MACHINE = re.compile(
    r'(?<![\w.:<])/(work|tmp|root|Users|opt|var|usr|private|mnt|home/(?!me/))\b|site-packages|[A-Z]:\\\\?Users'
)
BADGE = (
    '[![Open in'
    ' Colab]({}images/colab.svg)](https://colab.research.google.com/github/clef-nb/clef_nb/blob/main/nbs/{}.ipynb)'
)
INSTALL = """
if 'google.colab' in sys.modules:
    get_ipython().run_line_magic(
        'pip', 'install -q "clef_nb[all] @ git+https://github.com/clef-nb/clef_nb"'
    )"""


def cells(path, kind='code'):
    "(id, source, outputs) of the cells of a kind"
    return [
        (c['id'], ''.join(c['source']), c.get('outputs', []))
        for c in json.loads(path.read_text(encoding='utf-8'))['cells']
        if c['cell_type'] == kind
    ]


def directives(source):
    "The `#| key: value` lines at the top of a cell, by their first word"
    out = {}
    for line in source.splitlines():
        if not line.startswith('#|'):
            return out
        key, _, value = line[2:].strip().partition(':')
        out[key.split()[0]] = value.strip()
    return out


def texts(outputs):
    "Whatever an output says in words"
    for o in outputs:
        yield ''.join(o.get('text', ''))
        yield from (''.join(v) for k, v in o.get('data', {}).items() if k.startswith('text/'))


def in_colab(path):
    return 'open in colab' in ' '.join(s for _, s, _ in cells(path, 'markdown')).lower()


every = pytest.mark.parametrize('path', ALL, ids=[p.stem for p in ALL])
on_colab = pytest.mark.parametrize(
    'path', [p for p in ALL if p.parent.name == 'tutorials' or in_colab(p)], ids=lambda p: p.stem
)


@every
def test_first_screen_says_how_long_it_takes(path):
    first = '\n'.join(s for _, s, _ in cells(path, 'markdown')[:2])
    if path.stem not in PAGES:
        assert TIMES.search(first), (
            f'{path.name}: say "Reading takes about ... minutes, running it about ... on two CPU'
            ' cores." in the first or second cell of text'
        )


@every
def test_notebook_is_small_and_cells_are_short(path):
    assert path.stat().st_size < 300_000
    long = [
        f'{id}: {n} lines'
        for id, s, _ in cells(path)
        if (n := s.count('\n') + 1) > (61 if '#| export' in s else 50)
    ]
    assert not long, f'{path.name}: {"; ".join(long)}'


@every
def test_outputs_are_kept_and_clean(path):
    code = cells(path)
    if any(
        not {'default_exp', 'export', 'hide', 'slow', 'eval'} & directives(s).keys()
        and not s.startswith(('import', 'from'))
        for _, s, _ in code
    ):
        assert any(o for _, _, o in code), f'{path.name} has been stripped of its outputs'
    for id, _, outputs in code:
        assert not [
            o for o in outputs if o.get('name') == 'stderr' or o['output_type'] == 'error'
        ], f'{path.name}, {id}: an error or a warning is kept'
        for said in texts(outputs):
            assert not re.search(r'\b[A-Z]\w*Warning\b|Traceback', said), (
                f'{path.name}, {id}: a warning is kept'
            )
            assert not (found := MACHINE.search(said)), (
                f'{path.name}, {id}: {said[max(0, found.start() - 30) : found.end() + 30]!r} is a'
                ' path of one machine'
            )


@every
def test_pictures_are_described(path):
    for id, source, outputs in cells(path):
        flags = directives(source)
        images = [k for o in outputs for k in o.get('data', {}) if k.startswith('image/')]
        if images and 'hide' not in flags:
            assert 'fig-alt' in flags, f'{path.name}, {id}: add a line #| fig-alt: "..."'
            alts = yaml.safe_load(flags['fig-alt'])
            for alt in alts if isinstance(alts, list) else [alts]:
                assert (
                    len(alt) > 40
                    and alt.endswith('.')
                    and not re.match(r'(a |the )?(figure|image|plot) of', alt.lower())
                ), f'{path.name}, {id}: {alt!r}'
        for tag in re.findall(r'<img\b[^>]*>', ''.join(texts(outputs))):
            assert re.search(r'\balt="[^"]+"', tag), f'{path.name}, {id}: {tag[:80]}'
    for id, source, _ in cells(path, 'markdown'):
        for alt, target in re.findall(r'!\[([^]]*)\]\(([^)\s]+)', source):
            assert len(alt) > 3, f'{path.name}, {id}: say what {target} shows'
        for tag in re.findall(r'<img\b[^>]*>', source):
            assert re.search(r'\balt="[^"]+"', tag), f'{path.name}, {id}: {tag[:80]}'


@on_colab
def test_colab_finds_badge_and_installation(path):
    name = path.relative_to(ROOT / 'nbs').with_suffix('').as_posix()
    up = '../' * name.count('/')
    assert (
        any(BADGE.format(up, name) in s for _, s, _ in cells(path, 'markdown')[:2])
        and (path.parent / f'{up}images/colab.svg').is_file()
    )
    first = next(source for _, source, _ in cells(path) if 'default_exp' not in directives(source))
    assert 'hide' in directives(first) and first.endswith(INSTALL)


@on_colab
def test_nothing_of_the_repository_is_read(path):
    for id, source, _ in cells(path):
        assert not (
            found := re.search(
                r"""\.\./|\.parent\b.*\.parent\b|data/studies|['"](nbs|tests|tools|benchmarks)/""",
                source,
            )
        ), f'{path.name}, {id}: {found[0]}'


# ------------------------------------------------------------------ from an installed package

RUN = """
import sys
from pathlib import Path
import nbformat
from nbclient import NotebookClient
name, site = sys.argv[1:]
nb = nbformat.read(name, as_version=4)
ours = f"import clef_nb; assert clef_nb.__file__.startswith({site!r}), clef_nb.__file__"
nb.cells.insert(0, nbformat.v4.new_code_cell(ours))
NotebookClient(nb, timeout=900, kernel_name='python3').execute()
"""


@pytest.fixture(scope='module')
def installed(tmp_path_factory):
    "A folder with the package as its wheel unpacks it, built in a copy"
    source, site = (tmp_path_factory.mktemp(name) for name in ('source', 'site'))
    for name in 'settings.ini', 'setup.py', 'pyproject.toml', 'MANIFEST.in', 'LICENSE', 'README.md':
        shutil.copy(ROOT / name, source)
    shutil.copytree(
        ROOT / 'clef_nb',
        source / 'clef_nb',
        symlinks=True,
        ignore=shutil.ignore_patterns('__pycache__'),
    )
    (source / 'data').mkdir()
    for p in (ROOT / 'data').glob('*.csv'):
        shutil.copy(p, source / 'data')
    done = subprocess.run(
        [sys.executable, '-c', 'import setuptools.build_meta as b; b.build_wheel("dist")'],
        cwd=source,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(next((source / 'dist').glob('*.whl'))) as wheel:
        wheel.extractall(site)
    return site.resolve()


@pytest.mark.slow
def test_a_tutorial_runs_from_the_installed_package(installed, tmp_path):
    """In an empty folder, away from the repository.

    The quickest one: all are run in their folder by nbdev_test.
    """
    shutil.copy(ROOT / 'nbs/tutorials/22_from_clip_weights.ipynb', tmp_path)
    env = {k: v for k, v in os.environ.items() if k != 'CLEF_BF16'} | {
        'PYTHONPATH': str(installed),
        'OMP_NUM_THREADS': '1',
    }
    done = subprocess.run(
        [sys.executable, '-c', RUN, '22_from_clip_weights.ipynb', str(installed)],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=1200,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert [p.name for p in tmp_path.iterdir()] == ['22_from_clip_weights.ipynb'], (
        'a tutorial leaves files behind'
    )
