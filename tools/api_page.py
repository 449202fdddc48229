"""The public names of the package, and api.md, the page that lists them.

Quarto and smalldocs run this file in the folder of processed notebooks before they render
(`pre-render` in _quarto.yml).
"""

import ast
import re
import runpy
from dataclasses import dataclass
from pathlib import Path

from nbdev.config import get_config
from nbdev.doclinks import patch_name


@dataclass
class Name:
    "A public name of the package"

    name: str  # such as `supcon`, `FrameTable` or `FrameTable.fold`
    module: str  # such as `losses`
    kind: str  # function, class, method, property or value
    # first line of the docstring; of a value, the value and the comment after it
    summary: str
    place: str  # where the site documents it, seen from its root
    source: str  # its first line on GitHub
    signature: str = ''  # name and parameters of a function or method


def _summary(node):
    "First paragraph of a docstring on one line"
    return ' '.join((ast.get_docstring(node) or '').partition('\n\n')[0].split())


def _first_sentence(text):
    return re.split(r'(?<=[^.][.:])\s+(?=[A-Z`])', text, maxsplit=1)[0].rstrip('.:')


def _value(node, lines):
    "The value and, where there is one, the comment behind it"
    text, last = ast.unparse(node.value), lines[node.end_lineno - 1][node.end_col_offset :]
    return f'`{text if len(text) < 70 else text[:60] + " …"}`', last.partition('#')[2].strip()


def _members(node):
    "Methods and properties that a class body defines"
    for b in node.body:
        if isinstance(b, ast.FunctionDef) and not b.name.startswith('_'):
            yield b, f'{node.name}.{b.name}'


def _signature(node, name):
    "Name and parameters, without types"
    if not isinstance(node, ast.FunctionDef) or _kind(node, name) == 'property':
        return name
    args = ast.parse(ast.unparse(node)).body[0].args
    for a in [*args.posonlyargs, *args.args, *args.kwonlyargs, args.vararg, args.kwarg]:
        if a:
            a.annotation = None
    return f'{name}({re.sub(r"^(self|cls)(, )?", "", ast.unparse(args))})'


def _kind(node, name):
    if isinstance(node, ast.ClassDef):
        return 'class'
    if any('property' in ast.unparse(d) for d in node.decorator_list) or 'as_prop=True' in ''.join(
        map(ast.unparse, node.decorator_list)
    ):
        return 'property'
    return 'method' if '.' in name else 'function'


def modules():
    "Path and one-line description of each module, in the order of the notebooks"
    cfg = get_config()
    said = re.compile(r'File to edit: \S*?([^/\s]+)\.ipynb')

    def place(p):
        return (said.search(p.read_text(encoding='utf-8')) or ['', p.stem])[1]

    files = [
        p
        for p in cfg.lib_path.glob('*.py')
        if not p.name.startswith('_') and said.search(p.read_text(encoding='utf-8'))
    ]
    return {
        p: _first_sentence(_summary(ast.parse(p.read_text(encoding='utf-8'))))
        for p in sorted(files, key=place)
    }


def public():
    "Every public name of the package, module by module"
    cfg, found = get_config(), []
    syms = runpy.run_path(cfg.lib_path / '_modidx.py')['d']['syms']
    for path in modules():
        text, module, nodes = path.read_text(encoding='utf-8'), path.stem, []
        exported, tree, lines = set(), ast.parse(text), text.splitlines()
        for n in tree.body:
            if isinstance(n, ast.Assign) and getattr(n.targets[0], 'id', '') == '__all__':
                exported = set(ast.literal_eval(n.value))
            elif isinstance(n, ast.ClassDef):
                nodes += [(n, n.name), *_members(n)]
            elif isinstance(n, ast.FunctionDef):
                nodes.append((n, patch_name(n)))
            elif isinstance(n, ast.Assign):
                nodes += [
                    (n, x.id)
                    for t in n.targets
                    for x in ast.walk(t)
                    if isinstance(x, ast.Name) and isinstance(x.ctx, ast.Store)
                ]
        for node, name in nodes:
            if name.split('.')[0] not in exported or '._' in name:
                continue
            source = (
                f'{cfg.git_url}/blob/{cfg.branch}/{cfg.lib_path.name}/{path.name}#L{node.lineno}'
            )
            if isinstance(node, ast.Assign):
                value, comment = _value(node, lines)
                found.append(
                    Name(
                        name,
                        module,
                        'value',
                        ' '.join(filter(None, [value, comment])),
                        f'api.html#{module}.{name}',
                        source,
                    )
                )
            else:
                place = syms.get(f'{cfg.lib_path.name}.{module}', {}).get(
                    f'{cfg.lib_path.name}.{module}.{name}', (f'{module}.html#{name.lower()}', '')
                )[0]
                found.append(
                    Name(
                        name,
                        module,
                        _kind(node, name),
                        _first_sentence(_summary(node)),
                        place,
                        source,
                        _signature(node, name),
                    )
                )
    return found


def page():
    "api.md: a table for each module"
    names, lib = public(), get_config().lib_path.name
    parts = [
        '---',
        'title: All names',
        (
            f'description: "Every public name of `{lib}`, module by module, with the first sentence'
            ' of its documentation."'
        ),
        '---',
        '',
    ]
    for path, about in modules().items():
        mine = [n for n in names if n.module == path.stem]
        if not mine:
            continue
        home = next((n.place for n in mine if n.kind != 'value'), f'{path.stem}.html').partition(
            '#'
        )[0]
        parts += [
            f'## [{path.stem}]({home}) {{#{path.stem}}}',
            '',
            f'{about}.',
            '',
            '::: {.api}',
            '',
            '| name | what it is |',
            '|---|---|',
        ]
        for n in mine:
            label = (
                f'[`{n.name}`]({n.place})'
                if n.kind != 'value'
                else f'<a id="{n.module}.{n.name}"></a>[`{n.name}`]({n.source})'
            )
            parts.append(f'| {label} | {n.summary.replace("|", chr(92) + "|")} |')
        parts += ['', ':::', '']
    return '\n'.join(parts)


if __name__ == '__main__':
    Path('api.md').write_text(page(), encoding='utf-8')
