"""Write README.md from nbs/index.ipynb, CONTRIBUTING.md from nbs/contributing.ipynb, and the site
in _docs/ from all notebooks.

nbdev processes the notebooks as `nbdev_docs` does; smalldocs renders them from the same
nbs/_quarto.yml, so no Quarto is needed. Where Quarto is installed, `nbdev_docs` builds the site
from the same sources.
"""

import argparse
import posixpath
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbdev.doclinks
from execnb.nbio import read_nb, write_nb
from nbdev.config import get_config
from nbdev.process import NBProcessor
from nbdev.quarto import proc_nbs, refresh_quarto_yml
from redirects import write_redirects
from site_pages import finish

NOTE = '<!-- This file is written from nbs/{} by `make export`. Change the notebook. -->'
WRITTEN = {'README.md': 'index.ipynb', 'CONTRIBUTING.md': 'contributing.ipynb'}
# the target of a Markdown link or of an image tag, where it is a path
LOCAL = re.compile(r"""(\]\(|src=["'])(?![a-z]+:|#|/)([^)"'\s]+)""")

# ------------------------------------------------------------------ README.md and CONTRIBUTING.md


def outputs(cell, where):
    "What a cell printed, as Markdown"
    for o in cell.get('outputs', []):
        data = o.get('data', {})
        if any(k.startswith('image/') for k in data):
            raise ValueError(
                f'{where} shows an image that README.md cannot carry. Save it in nbs/images/,'
                ' refer to it from a Markdown cell, and mark the code cell `#| hide`.'
            )
        if o.get('name') == 'stderr':
            continue
        if 'text/markdown' in data:
            yield ''.join(data['text/markdown']).strip()
        else:
            text = ''.join(o.get('text', data.get('text/plain', ''))).rstrip()
            if text:
                yield f'```text\n{text}\n```'


def readme(index):
    """A notebook as Markdown for GitHub: prose, code and printed outputs, with links as seen from
    the project root
    """
    index = Path(index)
    parts = [NOTE.format(index.name)]

    def from_root(m):
        return m[1] + posixpath.normpath(f'{index.parent.name}/{m[2]}')

    for cell in NBProcessor(index).nb.cells:
        flags = cell.directives_ or {}
        if not cell.source.strip() or 'hide' in flags:
            continue
        if cell.cell_type == 'markdown':
            source = LOCAL.sub(from_root, cell.source.strip())
            for target in re.findall(r'!\[[^]]*\]\(([^)\s]+)|<img[^>]*src=["\']([^"\']+)', source):
                target = target[0] or target[1]
                if '://' not in target and not (index.parent.parent / target).exists():
                    raise FileNotFoundError(
                        f'{index.name} refers to the image {target}, which is not there.'
                    )
            parts.append(source)
        elif cell.cell_type == 'code':
            code = '\n'.join(
                line for line in cell.source.splitlines() if not line.startswith('#|')
            ).strip()
            if flags.get('echo:') != ['false'] and 'hide_input' not in flags:
                parts.append(f'```python\n{code}\n```')
            if flags.get('output:') != ['false']:
                parts += outputs(cell, f'Cell {cell.id} of {index.name}')
    return '\n\n'.join(parts) + '\n'


def notebooks_of(root):
    """Each file that is written from a notebook, with that notebook; CONTRIBUTING.md only where
    there is one
    """
    pairs = [(Path(root) / file, Path(root) / 'nbs' / nb) for file, nb in WRITTEN.items()]
    return [(file, nb) for file, nb in pairs if nb.exists() or file.name == 'README.md']


def write_readmes(root='.'):
    "Write README.md and CONTRIBUTING.md"
    for file, nb in notebooks_of(root):
        file.write_text(readme(nb), encoding='utf-8')


def stale_readme(root):
    "One line for each of README.md and CONTRIBUTING.md that is not what its notebook gives"
    found = []
    for file, nb in notebooks_of(root):
        if not nb.exists():
            found.append(f'nbs/{nb.name} is missing: {file.name} is written from it')
            continue
        try:
            fresh = readme(nb)
        except (ValueError, FileNotFoundError) as e:
            found.append(str(e))
            continue
        if not file.exists() or file.read_text(encoding='utf-8') != fresh:
            found.append(
                f'{file.name} is not what nbs/{nb.name} gives. Run `make export` and commit both.'
            )
    return found


# ------------------------------------------------------------------ the site


def front_matter(cell):
    "The `key: value` lines of a front-matter cell"
    if cell.cell_type != 'raw' or not cell.source.startswith('---'):
        return {}
    return dict(line.split(': ', 1) for line in cell.source.splitlines() if ': ' in line)


def edit_text(nb, edit):
    "Apply `edit` to the prose of a processed notebook and to its outputs that are prose"
    for cell in nb.cells:
        if cell.cell_type != 'code':
            cell.source = edit(cell.source)
        for o in cell.get('outputs', []):
            data = o.get('data', {})
            if 'text/markdown' in data:
                data['text/markdown'] = edit(''.join(data['text/markdown']))


def join_prints(nb):
    "Make one output of prints that follow each other, as they were on the screen"
    for cell in nb.cells:
        joined = []
        for o in cell.get('outputs', []):
            if joined and 'name' in o and joined[-1].get('name') == o['name']:
                joined[-1]['text'] = ''.join(joined[-1]['text']) + ''.join(o['text'])
            else:
                joined.append(o)
        if 'outputs' in cell:
            cell['outputs'] = joined


def present(sidebar, pages, proc):
    "The sidebar without the notebooks that are not there"
    there = {p.relative_to(proc).as_posix() for p in pages}

    def known(m):
        return '' if m[2].endswith('.ipynb') and m[2] not in there else m[0]

    return re.sub(r'^ *- text: (.*)\n *href: (.*)\n', known, sidebar, flags=re.M)


def relative(text, folder, site, blob):
    "Prose of a page in `folder`: links into the repository lead to GitHub, own ones have no host"
    up = '../' * len(folder.parts)

    def local(m):
        path = posixpath.normpath(posixpath.join(folder.as_posix(), m[2]))
        return m[1] + (f'{blob}/{path[3:]}' if path.startswith('../') else m[2])

    if text.startswith('---'):
        text = re.sub(r'^output-file:.*\n', '', text, flags=re.M)
    text = LOCAL.sub(local, text)
    return text.replace(f']({site}/', f']({up}').replace(f'href="{site}/', f'href="{up}')


def name_pages(proc, site, blob):
    """Give each page the name in its `output-file`, which Quarto reads and smalldocs does not;
    point links at those names
    """
    pages = {}
    for p in proc.rglob('*.ipynb'):
        name = front_matter(read_nb(p).cells[0]).get('output-file', p.name)
        pages[p] = p.with_name(Path(name).stem + '.ipynb')
    renamed = {old.name: new.name for old, new in pages.items()}
    # such as a notebook's address on Colab
    elsewhere = rf'https?://(?!{re.escape(site.partition("://")[2])}/)[^\s)"\'<>]*'
    pattern = re.compile(
        '|'.join([elsewhere, *(rf'(?<![\w.-]){re.escape(name)}' for name in renamed)])
    )

    def rename(text):
        return pattern.sub(lambda m: renamed.get(m[0], m[0]), text)

    for old, new in pages.items():
        nb = read_nb(old)
        folder = old.relative_to(proc).parent
        edit_text(nb, lambda text, folder=folder: rename(relative(text, folder, site, blob)))
        join_prints(nb)
        old.unlink()
        write_nb(nb, new)
    sidebar = proc / 'sidebar.yml'
    sidebar.write_text(
        rename(present(sidebar.read_text(encoding='utf-8'), pages, proc)), encoding='utf-8'
    )


def site():
    "Build _docs/"
    cfg, smalldocs = get_config(), Path(sys.executable).with_name('smalldocs')
    if not smalldocs.exists():
        sys.exit(
            'The site is rendered by smalldocs, which is not here: it begins at Python 3.11. Remove'
            ' .venv and run `make docs PYTHON=python3.11`, or a later one.'
        )
    # pages are renamed below, so nbdev must not take those of an earlier build for fresh ones
    shutil.rmtree(cfg.config_path / '_proc', ignore_errors=True)
    refresh_quarto_yml()
    nbdev.doclinks._build_modidx()
    proc = proc_nbs(n_workers=0)
    name_pages(proc, f'{cfg.doc_host}{cfg.doc_baseurl}', f'{cfg.git_url}/blob/{cfg.branch}')
    subprocess.run([smalldocs, 'render', '--quiet', proc], check=True)
    shutil.rmtree(cfg.doc_path, ignore_errors=True)
    shutil.move(proc / cfg.doc_path.name, cfg.doc_path)
    shutil.rmtree(proc)
    finish(cfg.doc_path)
    write_redirects(cfg.doc_path)
    print(
        f'{len(list(cfg.doc_path.rglob("*.html")))} pages in {cfg.doc_path.name}/; start at'
        f' {cfg.doc_path.name}/index.html'
    )


def main():
    "Command line"
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--readme', action='store_true', help='write README.md and CONTRIBUTING.md only'
    )
    args = parser.parse_args()
    write_readmes()
    if not args.readme:
        site()


if __name__ == '__main__':
    main()
