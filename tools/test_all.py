"""All checks of the project, one after the other; the last line says `N passed, N failed`.

N counts checks (format, lint, modules in step with notebooks, README.md fresh), notebooks and
tests. Every step is taken, also after one that failed. With CI set, one more check: the run left
the files of the repository as they were. `--quick` leaves out the notebooks and the tests that are
slow, need a browser or build the site.
"""

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
import xml.etree.ElementTree as ET
from pathlib import Path

from build_docs import stale_readme
from check_in_step import MEND, layout, nbdev_command, out_of_step, sources

NOTEBOOK_MINUTES, TEST_MINUTES = 40, 30
QUICK = 'not slow and not browser and not site'


def run(command, minutes, **env):
    "Run a command, show and return what it prints; end it and its children when the time is up"
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding='utf-8',
        errors='replace',
        start_new_session=True,
        env={**os.environ, 'PYTHONUNBUFFERED': '1', **env},
    )

    def end():
        print(
            f'\nTime is up: {Path(command[0]).name} took more than {minutes} minutes.', flush=True
        )
        os.killpg(process.pid, signal.SIGKILL)

    timer = threading.Timer(60 * minutes, end)
    timer.start()
    lines = []
    try:
        for line in process.stdout:
            print(line, end='', flush=True)
            lines.append(line)
        return process.wait(), ''.join(lines)
    finally:
        timer.cancel()
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def check(problems, mend=None):
    "Count a check: (passed, failed)"
    print('\n'.join([*problems, mend] if problems and mend else problems or ['Good.']))
    return (0, 1) if problems else (1, 0)


def notebooks(root):
    "Count notebooks by nbdev_test"
    names = [
        p.name
        for p in sources(root / layout(root)[0], '.ipynb')
        if not any(part.startswith('_') for part in p.parts)
    ]
    code, text = run(
        [nbdev_command('nbdev_test'), '--n_workers', '2', '--do_print', '--timing'],
        NOTEBOOK_MINUTES,
        OMP_NUM_THREADS='1',
        NUMBA_NUM_THREADS='1',
    )
    if code == 0:
        return len(names), 0
    verdict = text.partition('nbdev Tests Failed On The Following Notebooks')[2]
    failed = [n for n in names if re.search(rf'^\s+{re.escape(n)}$', verdict, re.M)]
    if not failed:

        def said(word):
            return set(re.findall(rf'{word} .*?([^/]+\.ipynb)$', text, re.M))

        running = sorted(said('Starting') - said('- Completed'))
        print(
            'nbdev_test ended without a verdict, so all notebooks count as failed. Unfinished:'
            f' {", ".join(running) or "unknown"}.'
        )
        return 0, max(len(names), 1)
    return len(names) - len(failed), len(failed)


def ruff(*arguments):
    "What ruff complains of"
    done = subprocess.run(
        [sys.executable, '-m', 'ruff', *arguments], capture_output=True, text=True, encoding='utf-8'
    )
    return [done.stdout + done.stderr] if done.returncode else []


def tests(root, quick=False):
    "Count tests by pytest"
    with tempfile.TemporaryDirectory() as tmp:
        report = Path(tmp) / 'tests.xml'
        command = [sys.executable, '-m', 'pytest', '-q', '-rs', 'tests', f'--junitxml={report}']
        if quick:
            # one thread a worker, as many workers as cores
            command += ['-m', QUICK, '-n', 'auto']
            code, _ = run(command, TEST_MINUTES, OMP_NUM_THREADS='1')
        else:
            code, _ = run(command, TEST_MINUTES)
        cases = list(ET.parse(report).iter('testcase')) if report.exists() else []
    bad = sum(c.find('failure') is not None or c.find('error') is not None for c in cases)
    skipped = sum(c.find('skipped') is not None for c in cases)
    # a crash of pytest itself is a failure, although no test says so
    return len(cases) - bad - skipped, max(bad, int(code != 0))


def git_status():
    "What git calls changed"
    return subprocess.run(
        ['git', 'status', '--porcelain'], capture_output=True, text=True
    ).stdout.splitlines()


def steps(root, quick):
    "(title, function that counts) of each step"
    yield 'Format', lambda: check(ruff('format', '--check', '--quiet'), 'Run `make format`.')
    yield 'Lint', lambda: check(ruff('check', '--output-format', 'concise'))
    yield 'Notebooks and modules in step', lambda: check(out_of_step(root), MEND)
    yield 'README.md fresh', lambda: check(stale_readme(root))
    if not quick:
        yield 'Notebooks', lambda: notebooks(root)
    if (root / 'tests').exists():
        yield 'Tests', lambda: tests(root, quick)


def main():
    "Run every step"
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--quick', action='store_true', help='no notebooks, no slow tests')
    quick, root = parser.parse_args().quick, Path.cwd()
    before, todo = git_status(), list(steps(root, quick))
    # elsewhere somebody may be at work meanwhile
    if os.environ.get('CI'):
        todo.append(
            (
                'Files left as they were',
                lambda: check([f for f in git_status() if f not in before]),
            )
        )
    passed = failed = 0
    for title, step in todo:
        print(f'\n== {title}', flush=True)
        try:
            good, bad = step()
        except Exception:
            traceback.print_exc()
            good, bad = 0, 1
        passed, failed = passed + good, failed + bad
    print(f'\n{passed} passed, {failed} failed', flush=True)
    sys.exit(bool(failed))


if __name__ == '__main__':
    main()
