"""Every page of the site in a browser, as a reader meets it: nothing broken, nothing from
elsewhere, on a phone and by keyboard
"""

import json
import re
from collections import defaultdict
from html.parser import HTMLParser
from pathlib import Path
from posixpath import dirname, join, normpath
from urllib.parse import unquote, urlsplit

import pytest
from browser import AXE, ROOT, watch
from nbdev.config import get_config

PHONE = {'width': 390, 'height': 844}
DESK = {'width': 1280, 'height': 900}
AUDITED = (
    'index.html',
    'model/losses.html',
    'studies/pairing.html',
    'tutorials/walkthrough.html',
    'playground.html',
)

# What a page says about itself when it has loaded
HERE = Path(__file__).parent
LOOK = (HERE / 'look.js').read_text(encoding='utf-8')
# How wide a page is, and what makes it so
WIDTH = (HERE / 'width.js').read_text(encoding='utf-8')


def none(faults):
    "Fail with a line for each fault, which names up to three of its places"
    places = defaultdict(list)
    for where, found in faults.items():
        for what in found:
            places[what].append(where)
    lines = [
        ', '.join(w[:3]) + f' and {len(w) - 3} more' * (len(w) > 3) + f': {what}'
        for what, w in places.items()
    ]
    assert not lines, f'{len(lines)} faults\n' + '\n'.join(lines)


class Reader(HTMLParser):
    "The ids, the links and the files that a page names"

    def __init__(self, text):
        super().__init__()
        self.ids, self.links = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids += filter(None, [attrs.get('id'), attrs.get('name') if tag == 'a' else None])
        target = attrs.get('src') or attrs.get('href')
        if (
            target is not None
            and not target.startswith(('data:', 'javascript:'))
            and attrs.get('rel') != 'preconnect'
        ):
            self.links.append(target)


@pytest.fixture(scope='module')
def pages(docs):
    return {
        p.relative_to(docs).as_posix(): Reader(p.read_text(encoding='utf-8'))
        for p in sorted(docs.rglob('*.html'))
    }


@pytest.fixture(scope='module')
def walk(browser, site, pages):
    "Each page visited once, at the width of a desk and of a phone: what it said, and its faults"
    seen = {}
    with browser.new_context(viewport=DESK) as context:
        page = watch(context.new_page())
        for name in pages:
            page.set_viewport_size(DESK)
            page.goto(site + name)
            seen[name] = page.evaluate(LOOK)
            page.set_viewport_size(PHONE)
            seen[name]['width'], seen[name]['widest'] = page.evaluate(WIDTH)
            seen[name]['faults'], page.faults = page.faults, []
    return seen


# ------------------------------------------------------------------ what every page must do


def test_there_are_pages_and_every_notebook_has_one(pages):
    names = {
        p.stem
        for p in (ROOT / 'nbs').rglob('*.ipynb')
        if not any(part.startswith(('.', '_')) for part in p.relative_to(ROOT).parts)
    } - {'welcome'}
    assert len(pages) >= len(names) and {
        'index.html',
        'model/losses.html',
        'tutorials/walkthrough.html',
    } <= set(pages)
    none(
        {
            name: ['has no page']
            for name in names
            if not any(Path(p).stem == re.sub(r'^\d+[a-z]?_', '', name) for p in pages)
        }
    )


def test_no_console_error_and_no_foreign_request(walk):
    none({name: seen['faults'] for name, seen in walk.items()})


def test_images_load_and_are_described(walk):
    assert sum(seen['images'] for seen in walk.values()) > 50
    none(
        {
            name: (
                [f'no image: {i}' for i in seen['broken']]
                + [f'no alternative text: {i}' for i in seen['unnamed']]
            )
            for name, seen in walk.items()
        }
    )


def test_mathematics_is_rendered(walk):
    source = {}
    for path in (ROOT / 'nbs').rglob('[0-9]*.ipynb'):
        cells = [
            ''.join(c['source'])
            for c in json.loads(path.read_text(encoding='utf-8'))['cells']
            if c['cell_type'] == 'markdown'
        ]
        prose = re.sub(r'```.*?```|`[^`]*`', '', '\n\n'.join(cells), flags=re.S)
        source[re.sub(r'^\d+[a-z]?_', '', path.stem)] = bool(
            re.search(
                r'\$\$.+?\$\$|(?<![\\$\w])\$(?![\s$])[^$\n]+(?<![\s\\])\$(?![\w$])', prose, re.S
            )
        )
    assert sum(source.values()) >= 5
    none(
        {
            name: (
                [f'KaTeX cannot read {m}' for m in seen['misread']]
                + [f'not rendered: {m}' for m in seen['raw']]
                + ['its formulas are not rendered']
                * (source.get(Path(name).stem, False) and not seen['formulas'])
            )
            for name, seen in walk.items()
        }
    )


def test_no_page_is_wider_than_a_phone(walk):
    none(
        {
            name: [f'{seen["width"]} px wide at 390, by {seen["widest"]}']
            for name, seen in walk.items()
            if seen['width'] > PHONE['width']
        }
    )


def test_headings_make_an_outline(walk):
    def faults(seen):
        levels = [level for level, _ in seen['headings']]
        if levels.count(1) != 1:
            yield f'{levels.count(1)} headings of the first level'
        yield from (
            f'from level {a} to {b} at {title}'
            for a, (b, title) in zip(levels, seen['headings'][1:])
            if b > a + 1
        )
        yield from (
            f'an empty heading of level {level}' for level, title in seen['headings'] if not title
        )
        if not seen['lang'] or not seen['title']:
            yield 'no language or no title'

    none({name: list(faults(seen)) for name, seen in walk.items()})


# ------------------------------------------------------------------ links


REPOSITORY = re.compile(
    r'(?:https://colab\.research\.google\.com/github/clef-nb/clef_nb|https://github\.com/clef-nb/clef_nb)'
    r'/(?:blob|tree|raw|edit)/main/(.+)'
)
DEFINITION = re.compile(r'\s*(@|(async )?def |class |[\w, ]+[=:])')


def address_faults(target, url):
    "What is wrong with an address outside the site"
    if url.scheme == 'mailto':
        return [] if '@' in url.path else [f'{target} is no address']
    if (
        url.scheme not in ('http', 'https')
        or not re.fullmatch(r'[\w.-]+\.[a-z]{2,}(:\d+)?', url.netloc)
        or re.search(r'[\s<>"]|%20', target)
    ):
        return [f'{target} is no address']
    found = REPOSITORY.fullmatch(url._replace(fragment='', query='').geturl())
    return repository_faults(target, unquote(found[1]), url.fragment) if found else []


def repository_faults(target, path, fragment):
    "What is wrong with a link to a file of the repository, or to a line of it"
    file = ROOT / path
    if not file.exists():
        return [f'{target}: the repository has no {path}']
    if line := re.fullmatch(r'L(\d+)(-L\d+)?', fragment):
        lines = file.read_text(encoding='utf-8').splitlines()
        if int(line[1]) > len(lines) or not DEFINITION.match(lines[int(line[1]) - 1]):
            return [f'{target}: nothing is defined there']
    return []


def link_faults(name, target, pages, docs):
    "What is wrong with one link of one page"
    cfg = get_config(cfg_name='settings.ini', path=ROOT)
    own, url = f'{cfg.doc_host}{cfg.doc_baseurl}/', urlsplit(target)
    if target.startswith(own):
        return link_faults('index.html', target[len(own) :] or 'index.html', pages, docs)
    if url.scheme or target.startswith('//'):
        return address_faults(target, url)
    if target.startswith('/'):
        return [f'{target} leaves the site, which lies in a folder of its host']
    path = normpath(join(dirname(name), unquote(url.path))) if url.path else name
    if path.startswith('..') or not (docs / path).exists():
        return [f'{target} is not there']
    if (docs / path).is_dir():
        path = f'{path}/index.html'.removeprefix('./')
    if url.fragment and path in pages and unquote(url.fragment) not in pages[path].ids:
        return [f'{target}: the page has no such place']
    return []


def test_no_link_is_broken(pages, docs):
    assert sum(len(p.links) for p in pages.values()) > 1000
    none(
        {
            name: [
                fault
                for target in dict.fromkeys(p.links)
                for fault in link_faults(name, target, pages, docs)
            ]
            for name, p in pages.items()
        }
    )


def test_no_place_has_a_name_twice(pages):
    none(
        {
            name: [f'id {i} twice' for i in {i for i in p.ids if p.ids.count(i) > 1}]
            for name, p in pages.items()
        }
    )


def test_search_knows_only_places_that_are_there(pages, docs):
    index = json.loads((docs / 'search.json').read_text(encoding='utf-8'))
    assert len(index) > 100
    found = defaultdict(list)
    for entry in index:
        found['search.json'] += link_faults('index.html', entry['href'], pages, docs)
    none(found)


# ------------------------------------------------------------------ search, keyboard, phone, dark


def search_field(page):
    return page.get_by_role('searchbox').or_(page.locator('#quarto-search input')).first


@pytest.mark.parametrize('start, up', [('index.html', ''), ('tutorials/walkthrough.html', '../')])
def test_search_finds_supcon(page, site, start, up):
    page.goto(site + start)
    search_field(page).click()
    page.keyboard.type('supcon')
    first = page.locator('.search-result').first
    first.wait_for()
    assert (
        'model/losses_fast.html' in first.get_attribute('href')
        and 'supcon' in first.inner_text().lower()
    )
    first.click()
    page.wait_for_url('**/losses_fast.html*')
    assert urlsplit(page.url).fragment == 'supcon', page.url
    assert page.locator('[id="supcon"]').is_visible() and not page.faults, page.faults


def test_search_by_keyboard_alone(page, site):
    page.goto(f'{site}index.html')
    page.keyboard.press('/')
    page.keyboard.type('supcon')
    page.locator('.search-result').first.wait_for()
    page.keyboard.press('ArrowDown')
    page.keyboard.press('Enter')
    page.wait_for_url('**/losses_fast.html*')
    assert not page.faults, page.faults


def test_search_says_when_it_finds_nothing(page, site):
    page.goto(f'{site}index.html')
    search_field(page).fill('qqqqzzzzxxxx')
    page.get_by_text('No results').wait_for()
    page.keyboard.press('Escape')
    page.get_by_text('No results').wait_for(state='hidden')


def focused(page):
    "What has the focus: its text, whether it can be seen, and whether the focus shows"
    return page.evaluate((HERE / 'focus.js').read_text(encoding='utf-8'))


def test_keyboard_reaches_the_text_and_shows_where_it_is(page, site):
    page.goto(f'{site}model/losses.html')
    page.keyboard.press('Tab')
    first = focused(page)
    assert (
        first['href']
        and first['href'].startswith('#')
        and 'skip' in first['text'].lower()
        and first['seen']
    ), f'the first stop is {first}, no link that skips to the text'
    stops = []
    for _ in range(12):
        page.keyboard.press('Tab')
        stops.append(focused(page))
    bad = [
        s for s in stops if s['tag'] == 'BODY' or not s['seen'] or not s['ring'] or not s['text']
    ]
    assert not bad, f'stops without a name, out of sight, or without a mark: {bad}'
    page.goto(f'{site}model/losses.html')
    page.keyboard.press('Tab')
    page.keyboard.press('Enter')
    page.keyboard.press('Tab')
    assert page.evaluate("document.activeElement.closest('main') !== null"), (
        f'after the skip link comes {focused(page)}'
    )


def test_phone_reaches_pages_and_search(page, site):
    page.set_viewport_size(PHONE)
    page.goto(f'{site}model/losses.html')
    link = page.locator('#quarto-sidebar a[href="../measure/metrics.html"]').first
    assert not link.is_visible()
    page.locator('.quarto-btn-toggle').first.click()
    link.click()
    page.wait_for_url('**/metrics.html')
    field = search_field(page)
    if not field.is_visible():
        page.locator('.navbar-toggler').first.click()
    field.fill('supcon')
    page.locator('.search-result').first.click()
    page.wait_for_url('**/losses_fast.html*')
    assert (
        page.evaluate('document.documentElement.scrollWidth') <= PHONE['width'] and not page.faults
    ), page.faults


def lightness(page):
    "Of the page's background, 0 to 255"
    r, g, b = map(
        float,
        re.findall(r'[\d.]+', page.evaluate('getComputedStyle(document.body).backgroundColor'))[:3],
    )
    return 0.299 * r + 0.587 * g + 0.114 * b


@pytest.mark.parametrize('prefers', ['light', 'dark'])
def test_dark_and_light_switch_and_stay(browser, site, prefers):
    with browser.new_context(viewport=DESK, color_scheme=prefers) as context:
        page = watch(context.new_page())
        page.goto(f'{site}index.html')
        assert (lightness(page) > 128) == (prefers == 'light'), (
            "the page opens as the reader's system has it"
        )
        page.locator('.quarto-color-scheme-toggle:visible').first.click()
        page.wait_for_function(
            "document.documentElement.classList.contains('quarto-dark') === %s"
            % json.dumps(prefers == 'light')
        )
        changed = lightness(page)
        assert (changed > 128) == (prefers == 'dark')
        page.goto(f'{site}studies/pairing.html')
        assert lightness(page) == changed and not page.faults, (
            'the choice is forgotten on the next page'
        )


def test_playground_answers(page, site, docs, pages):
    assert 'playground.html' in pages
    told = json.loads((docs / 'playground/similarities.json').read_text(encoding='utf-8'))
    columns, last = len(told['expressions']), len(told['people']) - 1

    def expected(model, held, now):
        a, b = (who * columns + expression for who, expression in (held, now))
        of = told['models'][model]
        # in mean distances of two faces
        return (1 - of['similarity'][max(a, b)][min(a, b)]) / (1 - of['unrelated'])

    def bars():
        return {
            b.get_attribute('data-model'): float(b.inner_text())
            for b in page.locator('#playground .bar').all()
        }

    def image():
        return page.locator('#playground').evaluate(
            "p => [...p.querySelectorAll('.pg-faces [role=img]')].map(e => e.getAttribute('style')"
            " + e.getAttribute('aria-label'))"
        )

    def assert_shown(held, now):
        shown = bars()
        assert set(shown) == set(told['models'])
        for model, value in shown.items():
            assert abs(value - expected(model, held, now)) < 0.0051, (model, held, now)

    page.goto(f'{site}playground.html')
    page.locator('#playground[data-ready="1"]').wait_for()
    who, what = page.locator('input#identity'), page.locator('input#expression')
    held, now = (0, 1), (int(who.input_value()), int(what.input_value()))
    assert now == (1, 1) and bars()['baseline'] > 2 * bars()['CLEF'] > 0, (
        'the leak is to be seen before anything is touched'
    )
    assert_shown(held, now)
    for slider, key in (who, 'ArrowRight'), (what, 'ArrowRight'), (who, 'End'), (what, 'Home'):
        before, values = image(), bars()
        slider.focus()
        page.keyboard.press(key)
        now = int(who.input_value()), int(what.input_value())
        assert image() != before and bars() != values
        assert_shown(held, now)
    assert now == (last, 0)
    for name, same in ('same expression, other person', 1), ('same person, other expression', 0):
        page.get_by_role('button', name=name).click()
        now = int(who.input_value()), int(what.input_value())
        assert now[same] == held[same] and now[1 - same] != held[1 - same]
        assert_shown(held, now)
    page.get_by_role('button', name='hold this face').click()
    assert set(bars().values()) == {0.0} and not page.faults, page.faults


@pytest.mark.parametrize('scheme', ['light', 'dark'])
@pytest.mark.parametrize('name', AUDITED)
def test_axe_finds_no_serious_fault(browser, site, pages, name, scheme):
    if not AXE.exists():
        pytest.skip('axe-core is not in .venv/axe; tools/set_up_browser.py gets it where npm is')
    if name not in pages:
        pytest.fail(f'there is no page {name}')
    with browser.new_context(viewport=DESK, color_scheme=scheme) as context:
        page = context.new_page()
        page.goto(site + name)
        page.evaluate(LOOK)
        page.add_script_tag(path=AXE)
        found = page.evaluate(
            "axe.run(document, {resultTypes: ['violations']}).then(r => r.violations)"
        )
    none(
        {
            f'{v["id"]} ({v["impact"]})': [
                f'{v["help"]}: {n["target"]} {n["html"][:100]} {n["failureSummary"][:200]}'
                for n in v['nodes'][:4]
            ]
            for v in found
            if v['impact'] in ('serious', 'critical')
        }
    )
