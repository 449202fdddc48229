"""Find what the tests of the site and of JupyterLab need, a browser and axe-core, and get what is
missing.

The browser is the system's Chromium or Chrome. Where there is none, and Debian's apt-get and root's
rights are, it is installed; nothing else is put onto the machine. axe-core goes into .venv/axe by
npm. What cannot be had is named and no failure: the tests that need it are skipped. The stamp is
written when both are there.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NAMES = 'chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable'
MACOS = [
    f'/Applications/{name}.app/Contents/MacOS/{name}' for name in ('Google Chrome', 'Chromium')
]
AXE = ROOT / '.venv/axe/node_modules/axe-core/axe.min.js'
APT = [
    'apt-get',
    '-o',
    'Acquire::http::Timeout=30',
    '-o',
    'Acquire::Retries=1',
    '-o',
    'DPkg::Lock::Timeout=60',
]


def find_browser():
    "The path of a Chromium or Chrome, or None; CLEF_BROWSER says which where you have several"
    if own := os.environ.get('CLEF_BROWSER'):
        if not (found := shutil.which(own)):
            sys.exit(
                f'CLEF_BROWSER is {own}, which is no program. Give the path of a Chromium or'
                ' Chrome, or unset it.'
            )
        return found
    return next(filter(None, map(shutil.which, (*NAMES, *MACOS))), None)


def call(minutes, *command):
    "Why a command did not end well, or nothing"
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors='replace',
            timeout=60 * minutes,
            env={**os.environ, 'DEBIAN_FRONTEND': 'noninteractive'},
        )
    except subprocess.TimeoutExpired:
        return f'{command[0]} took more than {minutes} minutes'
    except OSError as e:
        return str(e)
    return (
        ''
        if done.returncode == 0
        else (done.stdout.strip().splitlines() or [f'{command[0]} failed'])[-1]
    )


def get_browser():
    "Install Debian's chromium where that can be; why not, or nothing"
    if not shutil.which('apt-get') or os.geteuid():
        return (
            'no Chromium or Chrome; install one (on Debian: apt-get install chromium) or name it in'
            ' CLEF_BROWSER'
        )
    print('Installing chromium with apt-get ...', flush=True)
    return call(5, *APT, 'update') or call(
        15, *APT, 'install', '-y', '--no-install-recommends', 'chromium'
    )


def get_axe():
    "Put axe-core into .venv/axe; why not, or nothing"
    if not shutil.which('npm'):
        return 'no npm; install Node.js for the checks of accessibility'
    return call(
        5,
        'npm',
        'install',
        '--prefix',
        AXE.parents[2],
        '--no-audit',
        '--no-fund',
        '--fetch-retries=1',
        '--fetch-timeout=60000',
        'axe-core@4',
    )


def main():
    "Get what is missing, say what there is"
    for name, find, get in (
        ('browser', find_browser, get_browser),
        ('axe-core', lambda: AXE.exists() and AXE, get_axe),
    ):
        why = '' if find() else get()
        print(
            (
                f'{name}: {find()}'
                if find()
                else f'{name}: its tests will be skipped, for {why or "it is still not there"}.'
            ),
            flush=True,
        )
    if find_browser() and AXE.exists():
        (ROOT / '.venv/browser').touch()


if __name__ == '__main__':
    main()
