"""`make lab` in a browser: the welcome notebook and its links, the walkthrough to its end, the
widgets.

JupyterLab serves a copy of nbs/ and keeps its own files in a temporary home, so nothing remains.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from browser import ROOT

SECOND, MINUTE = 1000, 60_000
NBS = ROOT / 'nbs'
MAP = '.clef-map > .widget-html-content > svg'
# what JupyterLab's own parts say of themselves, whatever the notebook
HARMLESS = ('favicon', 'ResizeObserver loop')


def notebooks():
    "Paths of all notebooks, seen from nbs/"
    return {
        p.relative_to(NBS).as_posix()
        for p in NBS.rglob('*.ipynb')
        if not any(part.startswith(('.', '_')) for part in p.relative_to(NBS).parts)
    }


def cells(path):
    return json.loads(path.read_text(encoding='utf-8'))['cells']


def test_welcome_links_every_notebook_and_none_that_is_missing():
    text = '\n'.join(
        ''.join(c['source']) for c in cells(NBS / 'welcome.ipynb') if c['cell_type'] == 'markdown'
    )
    linked = set(re.findall(r'\]\(([^)\s#]+)', text))
    assert linked - notebooks() == set(), 'linked, and not there'
    assert notebooks() - linked == {'welcome.ipynb'}, 'there, and not linked'


# ------------------------------------------------------------------ JupyterLab


def free_port():
    with closing(socket.socket()) as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


@pytest.fixture(scope='module')
def lab(tmp_path_factory, browser):
    "What `make lab` would show in your browser, and the folder in which it runs"
    if not shutil.which('make'):
        pytest.skip('no make')
    tmp = tmp_path_factory.mktemp('lab')
    nbs, home, opener, opened = tmp / 'nbs', tmp / 'home', tmp / 'opener', tmp / 'opened'
    shutil.copytree(NBS, nbs, ignore=shutil.ignore_patterns('.*', 'data', 'runs'))
    home.mkdir()
    for name in 'data', 'benchmarks':
        (tmp / name).symlink_to(ROOT / name)
    # in place of your browser
    opener.write_text(
        f'#!/bin/sh\ncp "${{1#file://}}" {opened}.part && mv {opened}.part {opened}\n'
    )
    opener.chmod(0o755)
    options = (
        f'--allow-root --ServerApp.browser="{opener} %s" --ServerApp.port={free_port()}'
        ' --ServerApp.port_retries=0 --IdentityProvider.token=clef'
    )
    line = subprocess.run(
        ['make', '-n', '-s', '-o', '.venv/installed', 'lab', f'LAB={options}'],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    assert (
        line.startswith('cd nbs && ') and line.count('../.venv/bin/jupyter lab welcome.ipynb') == 1
    ), f'this test must learn how `make lab` starts JupyterLab: {line}'
    line = line.replace('cd nbs', f'cd {nbs}').replace(
        '../.venv/bin/jupyter', str(Path(sys.executable).with_name('jupyter'))
    )
    env = {k: v for k, v in os.environ.items() if not k.startswith(('JUPYTER', 'XDG'))} | dict(
        HOME=str(home), IPYTHONDIR=str(home / 'ipython'), PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1'
    )
    log = tmp / 'log'
    with log.open('w') as out:
        process = subprocess.Popen(
            line,
            shell=True,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        end = time.time() + 180
        while not opened.exists():
            assert process.poll() is None and time.time() < end, (
                f'JupyterLab does not start:\n{log.read_text()[-3000:]}'
            )
            time.sleep(0.5)
        yield re.search(r'href="([^"]+)"', opened.read_text())[1], nbs
    finally:
        # the kernels end with it
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture
def jupyter(lab, page):
    "JupyterLab with the notebook that `make lab` opens, and its folder"
    page.set_default_timeout(2 * MINUTE)
    page.goto(lab[0])
    panel(page, 'welcome.ipynb')
    yield page, lab[1]
    assert not [f for f in page.faults if not any(h in f for h in HARMLESS)]


def panel(page, name):
    "The notebook of a name, when it is shown and its kernel has nothing to do"
    page.get_by_role('tab', name=name, selected=True).wait_for()
    found = page.locator('.jp-NotebookPanel:visible')
    found.locator('.jp-Notebook-ExecutionIndicator[data-status="idle"]').wait_for()
    return found


def open_notebook(page, path):
    "A notebook, by its address"
    page.goto(re.match(r'.*?/lab', page.url)[0] + f'/tree/{path}')
    return panel(page, Path(path).name)


def menu(page, *names):
    for name in names:
        page.get_by_role('menuitem', name=name, exact=True).click()


def saved(page, file):
    "Save the notebook that is shown: its cells as they lie on disk"
    stamp = file.stat().st_mtime_ns
    page.locator('.jp-NotebookPanel:visible [data-jp-item-name="save"]').click()
    while file.stat().st_mtime_ns == stamp:
        page.wait_for_timeout(200)
    page.wait_for_timeout(SECOND)
    return cells(file)


def to_run(cells):
    "Code cells, but for the one that writes the modules and has no project here"
    code = [c for c in cells if c['cell_type'] == 'code']
    return [
        c for c in code if ''.join(c['source']).strip() and 'nbdev_export(' not in c['source'][-1]
    ]


def run_all(page, file, minutes):
    """Run > Run All Cells until every code cell has run, or one of them failed: the cells on disk.

    Cells that are out of sight show no prompt, so the file says what has run.
    """
    before = cells(file)
    menu(page, 'Run', 'Run All Cells')
    shown, end = page.locator('.jp-NotebookPanel:visible'), time.time() + 60 * minutes
    while True:
        page.wait_for_timeout(SECOND)
        status = shown.locator('.jp-Notebook-ExecutionIndicator').get_attribute('data-status')
        prompts = shown.locator('.jp-CodeCell .jp-InputPrompt').all_inner_texts()
        if status == 'idle' and not any('*' in p for p in prompts):
            after = saved(page, file)
            assert len(after) == len(before)
            code = to_run(after)
            failed = any(o['output_type'] == 'error' for c in code for o in c['outputs'])
            if failed or all(c['execution_count'] for c in code):
                return after
        assert time.time() < end, f'not done in {minutes} minutes: {status}, {prompts}'


def assert_ran(cells):
    """Every code cell was run and none of them complained; the one that writes the modules has no
    project here
    """
    for c in to_run(cells):
        for o in c['outputs']:
            assert o['output_type'] != 'error', f'{c["id"]}: {o["ename"]}: {o["evalue"]}'
            assert o.get('name') != 'stderr', f'{c["id"]}: {"".join(o["text"])}'
        assert c['execution_count'], f'{c["id"]} was not run'


def test_welcome_opens_and_its_links_open_notebooks(jupyter):
    page, nbs = jupyter
    welcome = panel(page, 'welcome.ipynb')
    assert welcome.locator('h1').first.inner_text().startswith('Welcome')
    shown = welcome.locator('.jp-MarkdownCell a[href*=".ipynb"]')
    # cells are drawn one by one
    page.wait_for_function(
        'n => document.querySelectorAll(\'.jp-MarkdownCell a[href*=".ipynb"]\').length >= n',
        arg=len(notebooks()) - 1,
    )
    assert (
        shown.count() >= len(notebooks()) - 1
        and welcome.locator('.jp-MarkdownCell table').count() >= 5
    )
    assert page.locator('.Toastify__toast').count() == 0, 'JupyterLab asks for something first'
    assert_ran(run_all(page, nbs / 'welcome.ipynb', 5))
    assert welcome.locator('.jp-OutputArea-output img').first.evaluate('i => i.naturalWidth') == 128
    welcome.get_by_role('link', name='model: losses', exact=True).click()
    losses = panel(page, '02_losses.ipynb')
    losses.locator('.jp-MarkdownCell mjx-container').first.wait_for()
    assert losses.locator('h1').first.inner_text().startswith('Losses')


def test_walkthrough_runs_to_its_end(jupyter):
    page, nbs = jupyter
    shown = open_notebook(page, 'tutorials/20_walkthrough.ipynb')
    ran = run_all(page, nbs / 'tutorials/20_walkthrough.ipynb', 15)
    assert_ran(ran)
    counts = [
        c['execution_count']
        for c in ran
        if c['cell_type'] == 'code' and ''.join(c['source']).strip()
    ]
    assert counts == list(range(1, len(counts) + 1)) and len(counts) > 20
    images = shown.locator('.jp-OutputArea-output img')
    assert images.count() >= 4 and all(
        images.nth(i).evaluate('i => i.naturalWidth') > 100 for i in range(images.count())
    )
    assert shown.locator('mjx-merror').count() == 0


def test_widgets_of_explore_answer(jupyter):
    if not (NBS / 'figures/03_face_widget.ipynb').exists():
        pytest.skip('there is no face widget')
    page, nbs = jupyter
    shown = open_notebook(page, 'figures/03_face_widget.ipynb')
    assert_ran(run_all(page, nbs / 'figures/03_face_widget.ipynb', 15))
    face = shown.locator('img.clef-face').first
    bars = shown.locator('.clef-bars').first
    face.scroll_into_view_if_needed()

    def changes(act):
        "The face and its bars are others after something"
        source, text = face.get_attribute('src'), bars.inner_text()
        act()
        page.wait_for_function(
            '([i, s, b, t]) => i.src !== s && b.innerText !== t',
            arg=[face.element_handle(), source, bars.element_handle(), text],
        )
        assert face.evaluate('i => i.decode().then(() => i.naturalWidth)') > 64

    def press_slider():
        handle = shown.locator('.clef-playground .noUi-handle').first
        handle.focus()
        for _ in range(5):
            page.keyboard.press('ArrowRight')

    changes(press_slider)
    notes = shown.locator('.clef-moves').first.inner_text()
    changes(lambda: shown.get_by_role('button', name='same expression, other person').first.click())
    assert shown.locator('.clef-moves').first.inner_text() != notes
    assert shown.locator('.clef-map svg').first.is_visible()


def test_embedding_browser_answers(jupyter):
    page, nbs = jupyter
    shown = open_notebook(page, 'figures/04_map_widget.ipynb')
    assert_ran(run_all(page, nbs / 'figures/04_map_widget.ipynb', 15))
    browser = shown.locator('.clef-browser').first
    browser.scroll_into_view_if_needed()
    texts, neighbours = (
        browser.locator('.clef-texts').first,
        browser.locator('.clef-neighbours').first,
    )

    def changes(act):
        "Another frame is chosen: its texts and its neighbours"
        before = texts.inner_text(), neighbours.inner_text()
        act()
        page.wait_for_function(
            '([t, n, a, b]) => t.innerText !== a && n.innerText !== b',
            arg=[texts.element_handle(), neighbours.element_handle(), *before],
        )

    changes(lambda: browser.get_by_role('button', name='next').click())
    for x, y in (0.1, 0.7), (0.9, 0.2):
        dot = dict(x=540 * x, y=420 * y)
        changes(partial(browser.locator(MAP).first.click, position=dot))
    changes(neighbours.locator('button').nth(2).click)
    legend = browser.locator('.clef-legend').first
    browser.locator('.clef-colour select').first.select_option('activity')
    page.wait_for_function(
        'l => l.innerText.startsWith("activity") && l.innerText.includes("T8")',
        arg=legend.element_handle(),
    )


# ------------------------------------------------------------------ a table of relevance


@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_relevance_shows_its_words(browser, scheme):
    from clef_nb.figures.relevance import relevance_html

    rng = np.random.default_rng(0)
    faces, maps = (
        rng.integers(0, 256, (2, 64, 64, 3), dtype=np.uint8),
        rng.random((2, 64, 64)).astype(np.float32),
    )
    words = [
        ('a person smiling <broadly>'.split(), np.array([0.001, -0.02, 0.1, 0.03], np.float32)),
        ('an angry face'.split(), np.array([0, 0.2, -0.2], np.float32)),
    ]
    with browser.new_context(color_scheme=scheme) as context:
        page = context.new_page()
        page.set_content(
            '<!doctype html><meta name="color-scheme" content="light'
            f' dark">{relevance_html(faces, maps, words, ["happiness", "anger"])}'
        )
        marks = page.locator('td mark')
        assert marks.all_inner_texts() == [w for ws, _ in words for w in ws] and all(
            m.is_visible() and m.get_attribute('title') for m in marks.all()
        )
        assert (
            page.evaluate(
                'Promise.all([...document.images].map(i => i.decode().then(() => i.naturalWidth > 0'
                ' && i.alt !== "")))'
            )
            == [True] * 4
        )

        def seen(m):
            "A word's colour and its ground, over the ground of the table"
            text, ground, sheet = m.evaluate(
                'm => [getComputedStyle(m).color, getComputedStyle(m).backgroundColor,'
                ' getComputedStyle(m.closest("div")).backgroundColor]'
            )
            (*text, _), (*ground, a), (*sheet, _) = (
                [*map(float, re.findall(r'[\d.]+', c)), 1.0][:4] for c in (text, ground, sheet)
            )
            return np.array(text), np.array(ground) * a + np.array(sheet) * (1 - a)

        def light(c):
            c = c / 255
            return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) @ [
                0.2126,
                0.7152,
                0.0722,
            ]

        pairs = [seen(m) for m in page.locator('mark').all()]
        for text, ground in pairs:
            low, high = sorted((light(text), light(ground)))
            assert (high + 0.05) / (low + 0.05) >= 4.5, (text, ground)
        grounds = dict(zip([w for ws, _ in words for w in ws], (g for _, g in pairs)))
        assert (
            np.abs(grounds['angry'] - grounds['face']).max() > 60
            and np.abs(grounds['angry'] - grounds['an']).max() > 60
        ), 'for and against look alike'
