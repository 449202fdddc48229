"""`make test` must fail when something is wrong: proved on a notebook project of two notebooks."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from build_docs import readme, stale_readme
from check_in_step import out_of_step
from test_all import run

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / 'tools'
COLAB = 'https://colab.research.google.com/github/clef-nb/mini/blob/main/nbs/tutorials/20_use.ipynb'
SIDEBAR = """website:
  sidebar:
    contents:
      - section: Start
        contents:
          - text: Start
            href: index.ipynb
          - text: Later
            href: not_there.ipynb
      - section: Tutorials
        contents:
          - text: Use
            href: tutorials/20_use.ipynb
      - section: API
        contents:
          - text: All names
            href: api.md
          - text: room
            href: 00_room.ipynb
"""


def notebook(path, *cells):
    "Write a clean notebook from (id, source) pairs; ids that end in -md are prose"

    def cell(id, source):
        c = dict(cell_type='markdown', id=id, metadata={}, source=source.splitlines(True))
        return (
            c
            if id.endswith('-md')
            else {**c, 'cell_type': 'code', 'execution_count': None, 'outputs': []}
        )

    nb = dict(
        cells=[cell(*c) for c in cells],
        nbformat=4,
        nbformat_minor=5,
        metadata=dict(kernelspec=dict(display_name='python3', language='python', name='python3')),
    )
    path.write_text(
        json.dumps(nb, indent=1, sort_keys=True, ensure_ascii=False) + '\n', encoding='utf-8'
    )


def edit(path, old, new):
    "Replace what is surely there"
    text = path.read_text(encoding='utf-8')
    assert old in text
    path.write_text(text.replace(old, new), encoding='utf-8')


def call(project, *command, **env):
    "Run a tool in the project"
    env = {k: v for k, v in os.environ.items() if k != 'CI'} | {'PYTHONPATH': str(project)} | env
    return subprocess.run(
        command,
        cwd=project,
        env=env,
        text=True,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=300,
    )


def count(done):
    "Passed and failed from the closing line, which must stand alone"
    found = re.fullmatch(r'(\d+) passed, (\d+) failed', done.stdout.splitlines()[-1])
    assert found, done.stdout + done.stderr
    return int(found[1]), int(found[2])


def run_all(project, **env):
    return call(project, sys.executable, TOOLS / 'test_all.py', **env)


@pytest.fixture(scope='module')
def original(tmp_path_factory):
    "A project in good order: notebooks, module, README, one test"
    project = tmp_path_factory.mktemp('original')
    for folder in 'nbs/images', 'nbs/tutorials', 'tests':
        (project / folder).mkdir(parents=True)
    settings = (ROOT / 'settings.ini').read_text(encoding='utf-8')
    (project / 'settings.ini').write_text(settings.replace('clef_nb', 'mini'), encoding='utf-8')
    config = (ROOT / 'pyproject.toml').read_text(encoding='utf-8')
    (project / 'pyproject.toml').write_text(config.replace('clef_nb', 'mini'), encoding='utf-8')
    (project / 'tests/test_one.py').write_text('def test_one():\n    pass\n')
    (project / 'nbs/images/face.png').write_bytes(b'')
    notebook(
        project / 'nbs/index.ipynb',
        ('title-md', '# mini\n\n> Two notebooks'),
        (
            'links-md',
            (
                '[room](00_room.ipynb), [table](../data/a.csv),'
                ' [far](https://example.com)\n\n![face](images/face.png)'
            ),
        ),
        ('import', 'from mini.room import twice'),
        ('use', 'print(twice(2))'),
        ('export', '#| hide\nimport nbdev\n\nnbdev.nbdev_export()'),
    )
    notebook(
        project / 'nbs/00_room.ipynb',
        ('title-md', '# room\n\n> One function'),
        ('exp', '#| default_exp room'),
        ('twice', '#| export\ndef twice(x):\n    return 2 * x'),
        ('equal', 'assert twice(2) == 4'),
        ('slow', "#| slow\nprint('slow cell')"),
        ('never', '#| eval: false\nraise ValueError'),
    )
    notebook(
        project / 'nbs/tutorials/20_use.ipynb',
        ('title-md', '# use\n\n> Exports nothing'),
        ('links-md', f'[room](../00_room.ipynb), [start](../index.ipynb), [run it]({COLAB})'),
        ('import', 'from pathlib import Path\n\nfrom mini.room import twice'),
        ('use', 'print(Path.cwd().name, twice(3))'),
    )
    call(project, Path(sys.executable).with_name('nbdev_export')).check_returncode()
    (project / 'README.md').write_text(readme(project / 'nbs/index.ipynb'), encoding='utf-8')
    return project


@pytest.fixture
def project(original, tmp_path):
    "A copy to spoil"
    return shutil.copytree(original, tmp_path / 'project')


def test_good_project_passes(project):
    subprocess.run(['git', 'init', '-q', project], check=True)
    subprocess.run(['git', '-C', project, 'add', '.'], check=True)
    done = run_all(project, CI='true')
    assert done.returncode == 0, done.stdout + done.stderr
    # format, lint, in step, README, 3 notebooks, 1 test, files as they were
    assert count(done) == (9, 0)


def test_every_step_is_taken_and_counted(project):
    edit(project / 'nbs/00_room.ipynb', '== 4', '== 5')
    edit(project / 'mini/room.py', '2 * x', 'x + x')
    edit(project / 'README.md', 'Two', 'Three')
    edit(project / 'tests/test_one.py', '    pass', 'import os\n    assert 1 == 2')
    done = run_all(project)
    assert done.returncode == 1
    # of the notebooks two pass; format, lint, in step, README, a notebook and the test fail
    assert count(done) == (2, 6)
    assert 'mini/room.py is not what its notebook exports' in done.stdout
    assert 'x + x' in (project / 'mini/room.py').read_text(), 'the change by hand was overwritten'


def test_broken_cell_alone_fails(project):
    edit(project / 'nbs/00_room.ipynb', '== 4', '== 5')
    done = run_all(project)
    assert done.returncode == 1 and count(done) == (7, 1)
    assert '00_room.ipynb' in done.stdout.partition('Tests Failed')[2]


def test_broken_notebook_in_a_folder_fails(project):
    edit(project / 'nbs/tutorials/20_use.ipynb', 'twice(3)', 'twice(3) / 0')
    done = run_all(project)
    assert done.returncode == 1 and count(done) == (7, 1)
    assert '20_use.ipynb' in done.stdout.partition('Tests Failed')[2]


def test_crash_of_a_notebook_fails_all(project):
    edit(project / 'nbs/00_room.ipynb', 'assert twice(2) == 4', 'import os\n\nos._exit(1)')
    done = run_all(project)
    assert done.returncode == 1 and count(done)[1] >= 1


@pytest.mark.slow
def test_a_command_that_hangs_is_ended_with_its_children(tmp_path):
    code, said = run(
        ['sh', '-c', f'echo begun; (sleep 3; touch {tmp_path}/late) & wait'], minutes=1 / 60
    )
    assert code != 0 and said == 'begun\n'
    time.sleep(3)
    assert not (tmp_path / 'late').exists()


def test_in_step(project):
    assert out_of_step(project) == []


@pytest.mark.parametrize(
    'file, old, new, said',
    [
        ('mini/room.py', '2 * x', 'x + x', 'mini/room.py is not what its notebook exports'),
        ('nbs/00_room.ipynb', '2 * x', 'x + x', 'mini/room.py is not what its notebook exports'),
        (
            'nbs/00_room.ipynb',
            '"execution_count": null',
            '"execution_count": 3',
            'nbs/00_room.ipynb is not clean',
        ),
        ('nbs/00_room.ipynb', '"cells"', '"cells', 'nbdev_export failed'),
        (
            'nbs/tutorials/20_use.ipynb',
            '"execution_count": null',
            '"execution_count": 3',
            'nbs/tutorials/20_use.ipynb is not clean',
        ),
        (
            'settings.ini',
            'version = 0.2.0',
            'version = 9.9.9',
            'mini/__init__.py is not what its notebook exports',
        ),
    ],
)
def test_out_of_step(project, file, old, new, said):
    edit(project / file, old, new)
    before = {p: p.read_bytes() for p in project.rglob('*') if p.is_file()}
    found = out_of_step(project)
    assert len(found) == 1 and said in found[0], found
    assert before == {p: p.read_bytes() for p in project.rglob('*') if p.is_file()}, (
        'the check changed files'
    )


def test_a_table_that_is_not_copied(project):
    for folder in 'data', 'mini/data':
        (project / folder).mkdir()
        (project / folder / 'aus.csv').write_text('au,name\n')
    assert out_of_step(project) == []
    (project / 'data/aus.csv').write_text('au,name\n1,inner brow raiser\n')
    (project / 'mini/data/other.csv').touch()
    assert out_of_step(project) == [
        'mini/data/aus.csv is not what data/aus.csv holds',
        'mini/data/other.csv comes from no table in data/',
    ]


def test_module_missing_or_without_notebook(project):
    (project / 'mini/room.py').rename(project / 'mini/other.py')
    found = out_of_step(project)
    assert found[-2:] == [
        'mini/room.py is missing: a notebook exports it',
        'mini/other.py comes from no notebook',
    ]


def test_readme_links_and_code(project):
    text = (project / 'README.md').read_text()
    for part in (
        '[room](nbs/00_room.ipynb)',
        '[table](data/a.csv)',
        '[far](https://example.com)',
        '![face](nbs/images/face.png)',
        'print(twice(2))',
    ):
        assert part in text
    assert 'nbdev_export' not in text
    assert stale_readme(project) == []


def test_stale_readme(project):
    edit(project / 'nbs/index.ipynb', 'Two notebooks', 'A few notebooks')
    assert 'README.md is not what' in stale_readme(project)[0]
    (project / 'README.md').write_text(readme(project / 'nbs/index.ipynb'))
    assert stale_readme(project) == []
    (project / 'nbs/images/face.png').unlink()
    assert 'nbs/images/face.png, which is not there' in stale_readme(project)[0]


def test_readme_refuses_a_picture_it_cannot_carry(project):
    index = project / 'nbs/index.ipynb'
    nb = json.loads(index.read_text())
    nb['cells'][3]['outputs'] = [
        dict(
            output_type='display_data',
            metadata={},
            data={'image/png': 'AAAA', 'text/plain': '<Figure>'},
        )
    ]
    index.write_text(json.dumps(nb))
    with pytest.raises(ValueError, match='Cell use of index.ipynb shows an image'):
        readme(index)


@pytest.mark.slow
def test_run_nbs_keeps_outputs_and_honours_flags(project):
    done = call(project, sys.executable, TOOLS / 'run_nbs.py', 'index', '00')
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"4\\n"' in (project / 'nbs/index.ipynb').read_text()
    assert 'slow cell\\n' not in (project / 'nbs/00_room.ipynb').read_text()
    assert out_of_step(project) == []
    done = call(project, sys.executable, TOOLS / 'run_nbs.py', 'tutorials/20_use.ipynb')
    assert (
        done.returncode == 0
        and '"tutorials 6\\n"' in (project / 'nbs/tutorials/20_use.ipynb').read_text()
    ), done.stdout + done.stderr
    assert out_of_step(project) == []
    done = call(project, sys.executable, TOOLS / 'run_nbs.py', '--slow', '00_room')
    assert done.returncode == 0 and 'slow cell\\n' in (project / 'nbs/00_room.ipynb').read_text()


def test_run_nbs_leaves_a_failing_notebook_alone(project):
    path = project / 'nbs/00_room.ipynb'
    edit(path, '== 4', '== 5')
    before = path.read_bytes()
    done = call(project, sys.executable, TOOLS / 'run_nbs.py', '00_room')
    assert (
        done.returncode == 1
        and 'AssertionError' in done.stderr
        and '00_room: failed' in done.stdout
    )
    assert path.read_bytes() == before
    done = call(project, sys.executable, TOOLS / 'run_nbs.py', '99_none')
    assert done.returncode == 1 and 'No notebook is called 99_none' in done.stderr


@pytest.mark.skipif(
    sys.version_info < (3, 11), reason='smalldocs, which renders the site, begins at Python 3.11'
)
def test_site_has_pages_in_folders(project):
    for name in '_quarto.yml', 'styles.css', 'after.html', '404.html':
        shutil.copy(ROOT / 'nbs' / name, project / 'nbs')
    shutil.copytree(ROOT / 'nbs/katex', project / 'nbs/katex')
    shutil.copy(ROOT / 'nbs/images/favicon.svg', project / 'nbs/images')
    shutil.copytree(TOOLS, project / 'tools')
    (project / 'nbs/sidebar.yml').write_text(SIDEBAR)
    (project / 'data').mkdir()
    (project / 'data/a.csv').touch()
    shutil.copy(ROOT / '.gitignore', project)
    subprocess.run(['git', 'init', '-q', project], check=True)
    subprocess.run(['git', '-C', project, 'add', '.'], check=True)
    done = call(project, sys.executable, TOOLS / 'build_docs.py')
    assert done.returncode == 0, done.stdout + done.stderr
    changed = subprocess.run(
        ['git', '-C', project, 'diff', '--stat'], capture_output=True, text=True
    ).stdout
    assert changed == '', changed
    pages = {
        str(p.relative_to(project / '_docs')): p.read_text(encoding='utf-8')
        for p in (project / '_docs').rglob('*.html')
    }
    assert set(pages) == {'index.html', 'api.html', 'room.html', 'tutorials/use.html', '404.html'}
    assert 'not_there' not in pages['index.html'], 'the sidebar names a notebook that is not there'
    assert 'href="room.html#twice"' in pages['api.html']
    assert 'Tutorials' in pages['index.html'] and 'href="tutorials/use.html"' in pages['index.html']
    for page, text in pages.items():
        for target in re.findall(r'(?:href|src)="([^"#?]+)', text):
            if not re.match('[a-z]+:|//', target):
                assert (project / '_docs' / page).parent.joinpath(target).exists(), (page, target)
    assert (
        'href="../room.html"' in pages['tutorials/use.html']
        and f'href="{COLAB}"' in pages['tutorials/use.html']
    )
    assert any(
        entry['href'].startswith('tutorials/use.html')
        for entry in json.loads((project / '_docs/search.json').read_text())
    )


@pytest.mark.parametrize(
    'written',
    [
        'data/bp4d-twin/twin.json',
        'nbs/data/a.npy',
        'nbs/runs/a',
        'nbs/tutorials/data/cache/a.npy',
        'nbs/tutorials/runs/demo/report.html',
    ],
)
def test_git_ignores_what_notebooks_write(written):
    found = subprocess.run(
        ['git', 'check-ignore', '-q', '--no-index', written], cwd=ROOT
    ).returncode
    if found == 128:
        pytest.skip('not a git repository')
    assert found == 0


def test_wheel_carries_tables_and_assets(tmp_path):
    for name in 'settings.ini', 'setup.py', 'pyproject.toml', 'MANIFEST.in', 'LICENSE':
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(
        ROOT / 'clef_nb',
        tmp_path / 'clef_nb',
        symlinks=True,
        ignore=shutil.ignore_patterns('__pycache__'),
    )
    (tmp_path / 'data/bp4d-twin').mkdir(parents=True)
    (tmp_path / 'data/bp4d-twin/rendered.csv').touch()
    tables = {p.name for p in (ROOT / 'data').glob('*.csv')}
    assert tables
    for name in tables:
        shutil.copy(ROOT / 'data' / name, tmp_path / 'data')
    build = 'import setuptools.build_meta as b; print(b.build_wheel("dist"))'
    done = call(tmp_path, sys.executable, '-c', build)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(next((tmp_path / 'dist').glob('*.whl'))) as z:
        names = set(z.namelist())
    assert {f'clef_nb/data/{n}' for n in tables} == {
        n for n in names if n.startswith('clef_nb/data/')
    }
    assert {f'clef_nb/assets/{p.name}' for p in (ROOT / 'clef_nb/assets').iterdir()} == {
        n for n in names if n.startswith('clef_nb/assets/')
    }
