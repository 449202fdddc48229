"""Single precision in all tests, on processors with bfloat16 too: many compare numbers to their
last digits.

Children inherit it. And the browser of the tests that need one.
"""

import os
import subprocess
import sys

import pytest
from browser import FLAGS, ROOT, find_browser, serve, watch

os.environ['CLEF_BF16'] = '0'
# a test that takes one of these fixtures has this marker, so that `make check` can leave it out
MARKED = {'browser': 'browser', 'page': 'browser', 'docs': 'site', 'site': 'site'}


def pytest_collection_modifyitems(items):
    for item in items:
        for marker in sorted({MARKED[f] for f in item.fixturenames if f in MARKED}):
            item.add_marker(marker)


# One for each file: while it runs, playwright's event loop is in the way of tests that start their
# own.
@pytest.fixture(scope='module')
def browser():
    "Headless Chromium or Chrome"
    if not (path := find_browser()):
        pytest.skip('no Chromium or Chrome is installed')
    api = pytest.importorskip('playwright.sync_api')
    with api.sync_playwright() as play:
        try:
            found = play.chromium.launch(executable_path=path, args=FLAGS)
        except api.Error as e:
            pytest.skip(f'{path} does not start: {str(e).strip().splitlines()[0]}')
        yield found
        found.close()


@pytest.fixture
def page(browser):
    "A watched page of its own"
    with browser.new_context(viewport={'width': 1280, 'height': 900}) as context:
        yield watch(context.new_page())


@pytest.fixture(scope='session')
def docs():
    "The folder of the site, built anew"
    if sys.version_info < (3, 11):
        pytest.skip('smalldocs, which renders the site, begins at Python 3.11')
    done = subprocess.run(
        [sys.executable, ROOT / 'tools/build_docs.py'],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return ROOT / '_docs'


@pytest.fixture(scope='session')
def site(docs):
    "The address of the site"
    with serve(docs) as address:
        yield address
