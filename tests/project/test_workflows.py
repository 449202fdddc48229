"The workflows promise what settings.ini and the README say"

from configparser import ConfigParser
from pathlib import Path

import pytest

yaml = pytest.importorskip('yaml')

ROOT = Path(__file__).resolve().parents[2]


def workflow(name):
    return yaml.safe_load((ROOT / '.github/workflows' / name).read_text(encoding='utf-8'))


def commands(job):
    return [s['run'] for s in job['steps'] if 'run' in s]


def test_every_python_on_linux_and_macos():
    job = workflow('test.yml')['jobs']['test']
    ini = ConfigParser()
    ini.read(ROOT / 'settings.ini', encoding='utf-8')
    major, first = map(int, ini['DEFAULT']['min_python'].split('.'))
    assert job['strategy']['matrix'] == dict(
        os=['ubuntu-latest', 'macos-latest'], python=[f'{major}.{n}' for n in range(first, 14)]
    )
    assert commands(job) == ['make test'] and job['strategy']['fail-fast'] is False


def test_the_site_is_built_checked_and_published():
    build, deploy = (workflow('docs.yml')['jobs'][k] for k in ('build', 'deploy'))
    assert commands(build)[0] == 'make docs' and deploy['needs'] == 'build'
    uploaded = [s['with']['path'] for s in build['steps'] if 'upload-pages' in s.get('uses', '')]
    ini = ConfigParser()
    ini.read(ROOT / 'settings.ini', encoding='utf-8')
    assert uploaded == [ini['DEFAULT']['doc_path']]
    rights = workflow('docs.yml')['permissions']
    assert rights['pages'] == rights['id-token'] == 'write' and rights['contents'] == 'read'
