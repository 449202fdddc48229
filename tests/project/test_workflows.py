"The workflows promise what settings.ini and the README say"

import re
import subprocess
import sys
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


def test_a_quick_answer_first_and_the_oldest_versions():
    jobs = workflow('test.yml')['jobs']
    assert commands(jobs['quick'])[-1] == commands(jobs['oldest'])[-1] == 'make check'
    assert jobs['test']['needs'] == jobs['oldest']['needs'] == 'quick'


def test_oldest_versions_are_those_of_settings():
    ini = ConfigParser()
    ini.read(ROOT / 'settings.ini', encoding='utf-8')
    done = subprocess.run(
        [sys.executable, 'tools/oldest.py'], cwd=ROOT, capture_output=True, text=True, check=True
    )
    printed = dict(line.split('~=') for line in done.stdout.splitlines())
    for requirement in ini['DEFAULT']['requirements'].split():
        package, version = requirement.split('>=')
        assert printed[package].startswith(version)


def test_a_release_is_checked_before_it_is_published():
    (job,) = workflow('release.yml')['jobs'].values()
    steps = [s.get('run', s.get('uses', '')) for s in job['steps']]
    assert workflow('release.yml')[True] == {'push': {'tags': ['v*']}}
    assert steps.index('make check') < next(i for i, s in enumerate(steps) if 'pypi-publish' in s)
    assert re.search(r'settings\.ini', ' '.join(steps)), 'the tag is compared with the version'


def test_the_site_is_built_checked_and_published():
    build, deploy = (workflow('docs.yml')['jobs'][k] for k in ('build', 'deploy'))
    assert commands(build)[0] == 'make docs' and deploy['needs'] == 'build'
    uploaded = [s['with']['path'] for s in build['steps'] if 'upload-pages' in s.get('uses', '')]
    ini = ConfigParser()
    ini.read(ROOT / 'settings.ini', encoding='utf-8')
    assert uploaded == [ini['DEFAULT']['doc_path']]
    rights = workflow('docs.yml')['permissions']
    assert rights['pages'] == rights['id-token'] == 'write' and rights['contents'] == 'read'
