"""What is done to the pages when smalldocs has written them: links to names, keyboard and screen
readers, no foreign host.
"""

import json
import re
import shutil
from pathlib import Path

from api_page import public
from bs4 import BeautifulSoup
from nbdev.config import get_config

KATEX_CDN = re.compile(r'https://cdn\.jsdelivr\.net/npm/katex@[\d.]+/dist/(?:contrib/)?')
FONT_IMPORT = re.compile(r'@import url\(https?://[^)]*\);?')
CALL = re.compile(r'([A-Za-z_][\w.]*)(\(.*\))?', re.S)
# of two functions with one name, the one that is meant where nothing else tells
MEANT = {'align': 'model.stages'}
# functions whose names are also columns, arguments or values: without brackets they are linked only
# where the page has the function
WORDS = {'activities', 'device', 'identity', 'people', 'sequence', 'train'}

LINK = re.compile(r'\[`([^`]+)`\]\([^)]*\)')
CODE = re.compile(r'(<code class="sourceCode[^>]*>)(.*?)(</code>)', re.S)


def code_lines(m):
    "Each line of code in a span that knows its indent, so that a long line can go on below itself"
    # `kept` is a span that the line before left open, as a docstring of several lines does
    lines, kept = m[2].split('\n'), ''
    for i, line in enumerate(lines):
        indent = len(line) - len(line.lstrip(' '))
        line, tags = kept + line, re.findall(r'<span class="\w+">|</span>', kept + line)
        kept = tags[-1] if tags and tags[-1] != '</span>' else ''
        lines[i] = (
            '<span class="line"'
            f' style="--indent:{indent}ch">{line}{"</span>" if kept else ""}</span>'
        )
    return m[1] + '\n'.join(lines) + m[3]


class Names:
    "Finds which public name a piece of code in prose speaks of"

    def __init__(self):
        self.all, self.lib = {}, get_config().lib_path.name
        for n in public():
            self.all.setdefault(n.name, {})[n.module] = n

    def locate(self, folder):
        """Take the places from the rendered pages: of two names that differ in case only, one has a
        number in its address
        """
        for name, found in self.all.items():
            for n in found.values():
                page, _, anchor = n.place.partition('#')
                if n.kind == 'value' or not (folder / page).is_file():
                    continue
                heading = re.search(
                    rf'<h\d [^>]*?\bid="([^"]+)"[^>]*>{re.escape(name)}</h\d>',
                    (folder / page).read_text(encoding='utf-8'),
                )
                n.place = f'{page}#{heading[1] if heading else anchor}'

    def find(self, code, nearby=()):
        "The public name, or None; `nearby` are the modules of the page, the likeliest first"
        m = CALL.fullmatch(code.strip())
        if not m:
            return
        name = m[1].removeprefix(f'{self.lib}.')
        if name not in self.all:
            return self.qualified(name)
        found = self.all[name]
        here = next((found[w] for w in nearby if w in found), None)
        if here or name in WORDS and not m[2]:
            return here
        return found.get(MEANT.get(name)) or next(iter(found.values()))

    def qualified(self, path):
        "The public name behind a path such as `model.losses.supcon` or `losses.supcon`"
        parts = path.split('.')
        for i in range(1, len(parts)):
            module, name = '.'.join(parts[:i]), '.'.join(parts[i:])
            for home, found in self.all.get(name, {}).items():
                if home == module or home.endswith(f'.{module}'):
                    return found

    def members(self, cls):
        return [
            n
            for k, v in self.all.items()
            for n in v.values()
            if k.startswith(f'{cls.name}.') and n.module == cls.module
        ]


def nearby(page, text, lib):
    "The module of a page, then those it imports from"
    return [
        page.removesuffix('.html').replace('/', '.'),
        *dict.fromkeys(re.findall(rf'from {lib}\.([\w.]+) import', re.sub(r'<[^>]*>', '', text))),
    ]


def module_behind(link):
    "The module on whose page a link's target stands"
    return link['href'].partition('#')[0].removesuffix('.html').replace('/', '.')


def add_members(soup, names, page):
    "Below each class, its methods and properties that have no place of their own on the page"
    found = []
    for cls in [
        n
        for v in names.all.values()
        for n in v.values()
        if n.kind == 'class' and n.place.startswith(f'{page}#')
    ]:
        heading = soup.find(id=cls.place.partition('#')[2])
        members = [n for n in names.members(cls) if not soup.find(id=n.place.partition('#')[2])]
        if not heading or not members:
            continue
        rows = soup.new_tag('dl', attrs={'class': 'members'})
        for n in members:
            term, source, text = (
                soup.new_tag('dt', id=n.place.partition('#')[2]),
                soup.new_tag('a', href=n.source, attrs={'class': 'source'}),
                soup.new_tag('dd'),
            )
            code = soup.new_tag('code')
            code.string, source.string = n.signature, 'source'
            term.extend([code, ' ', source])
            text.append(
                BeautifulSoup(
                    re.sub(
                        '`([^`]+)`',
                        r'<code>\1</code>',
                        n.summary.replace('&', '&amp;').replace('<', '&lt;'),
                    ),
                    'html.parser',
                )
            )
            rows.extend([term, text])
            found.append(n)
        (heading.find_parent(class_='cell-output') or heading.parent).append(rows)
    return found


def link_names(soup, names, page, text):
    """Make names in backticks links to their documentation, and mend those that nbdev has linked to
    a namesake
    """
    near, up = nearby(page, text, names.lib), '../' * page.count('/')
    for code in soup.select('main code'):
        link = code.find_parent('a')
        if (
            code.find_parent(['pre', 'h1', 'h2', 'h3', 'h4', 'h5', 'dt'])
            or link
            and not re.search(r'(^|/)\w+\.html#[\w.]+$', link['href'])
        ):
            continue
        n = names.find(
            code.get_text(),
            [module_behind(link)] if link and page == 'api.html' else near,
        )
        if link and link.get_text() == code.get_text():
            # a word that is no name here, or a private function, which has no place on a page
            if not n and (names.find(code.get_text() + '()', near) or '#_' in link['href']):
                link.unwrap()
            elif n:
                link['href'] = up + n.place
        elif n and not link:
            code.wrap(soup.new_tag('a', href=up + n.place))
    # nbdev has set Markdown's links into the comments of a signature
    for comment in soup.select('main pre .co'):
        before, *rest = LINK.split(comment.get_text())
        if not rest:
            continue
        comment.string = before
        for said, after in zip(rest[::2], rest[1::2]):
            n = names.find(said, near)
            link = soup.new_tag('a', href=up + n.place) if n else soup.new_tag('span')
            link.string = said
            comment.extend([link, after])
    for a in soup.select('main a[href]'):  # a place on the page itself
        if a['href'].startswith(f'{up}{page}#'):
            a['href'] = a['href'].partition(page)[2]


def for_all_readers(soup):
    "Names, roles and order that keyboards and screen readers need"
    for i in soup.select('i.bi'):
        i.attrs.pop('role', None)
        i['aria-hidden'] = 'true'
    for a in soup.select('a[data-bs-toggle=collapse][role=navigation]'):
        if 'sidebar-item-toggle' in a['class']:
            a.decompose()
            continue
        a.name, a['type'], a['aria-controls'] = 'button', 'button', a['data-bs-target'].lstrip('#')
        a['class'] += [] if a['aria-expanded'] == 'true' else ['collapsed']
        del a['role']
    for a in soup.select('a.quarto-color-scheme-toggle'):
        a.name, a['type'], a['aria-label'], a['title'] = (
            'button',
            'button',
            'Light or dark',
            'Light or dark',
        )
        del a['href']
    for i, said in {
        '#quarto-header > .navbar': 'Site',
        '.quarto-secondary-nav': 'Sections',
        '#quarto-sidebar': 'Pages',
        '#TOC': 'On this page',
        '.page-navigation': 'Before and after',
        '.quarto-secondary-nav .quarto-page-breadcrumbs': 'Where you are, in short',
    }.items():
        for nav in soup.select(i):
            nav['aria-label'] = said
    for nav in soup.select('#TOC'):
        nav.attrs.pop('role', None)
    for b in soup.select('.quarto-btn-toggle'):
        b['aria-expanded'] = 'false'
    main = soup.find('main')
    main['tabindex'] = '-1'
    for t in soup.select('main a[target=_blank]'):
        del t['target']
    for a in soup.select('main a[style*="float:right"]'):
        a['class'] = 'source'
        del a['style']


def finish(folder):
    "Finish every page of the site in `folder`; one line of warning for each figure without a text"
    names = Names()
    names.locate(folder)
    for css in (folder / 'site_libs/themes').glob('*.css'):
        css.write_text(FONT_IMPORT.sub('', css.read_text(encoding='utf-8')), encoding='utf-8')
    shutil.copy(Path(__file__).with_name('search.js'), folder / 'site_libs/fuse/fuse.min.js')
    search = json.loads((folder / 'search.json').read_text(encoding='utf-8'))
    for file in sorted(folder.rglob('*.html')):
        page = file.relative_to(folder).as_posix()
        text = file.read_text(encoding='utf-8')
        if 'id="quarto-document-content"' not in text:
            continue
        soup = BeautifulSoup(
            CODE.sub(code_lines, KATEX_CDN.sub('../' * page.count('/') + 'katex/', text)),
            'html.parser',
        )
        for n in add_members(soup, names, page):
            search.append(
                dict(
                    objectID=n.place,
                    href=n.place,
                    title=soup.h1.get_text(),
                    section=n.name,
                    text=n.summary,
                )
            )
        link_names(soup, names, page, text)
        for_all_readers(soup)
        for n, img in enumerate(soup.select('main .cell-output img')):
            if not img.get('alt'):
                print(
                    f'{page}: figure {n + 1} has no text for those who do not see it; give its cell'
                    ' a line `#| fig-alt: ...`'
                )
        file.write_text(str(soup), encoding='utf-8')
    (folder / 'search.json').write_text(json.dumps(search, ensure_ascii=False), encoding='utf-8')
