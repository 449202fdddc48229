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
    module: str  # such as `model.losses`
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


def module_of(path):
    "Name of a module inside the package, such as `model.losses`"
    return '.'.join(path.relative_to(get_config().lib_path).with_suffix('').parts)


def modules():
    "Path and one-line description of each module, in the order of the notebooks"
    said = re.compile(r'File to edit: (?:\.\./)*nbs/(\S+)\.ipynb')
    homes = {}
    for path in get_config().lib_path.rglob('*.py'):
        text = path.read_text(encoding='utf-8')
        home = said.search(text)
        if home and not path.name.startswith('_'):
            homes[path] = order(home[1]), _first_sentence(_summary(ast.parse(text)))
    return {path: about for path, (_, about) in sorted(homes.items(), key=lambda item: item[1])}


def order(notebook):
    "Where a notebook stands: its wing in the sidebar's order, then its number"
    sidebar = (get_config().nbs_path / 'sidebar.yml').read_text(encoding='utf-8')
    place = sidebar.find(f'{notebook}.ipynb')
    return (place if place >= 0 else len(sidebar), notebook)


def _exported(tree):
    "The names in `__all__`"
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], 'id', '') == '__all__':
            return set(ast.literal_eval(node.value))
    return set()


def _defined(tree):
    "(node, name) of what a module defines, members of classes too"
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            yield node, node.name
            yield from _members(node)
        elif isinstance(node, ast.FunctionDef):
            yield node, patch_name(node)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                for x in ast.walk(target):
                    if isinstance(x, ast.Name) and isinstance(x.ctx, ast.Store):
                        yield node, x.id


def _described(node, name, module, lines, syms):
    "The `Name` of a definition, but for its source"
    if isinstance(node, (ast.Assign, ast.AnnAssign)):
        summary = ' '.join(filter(None, _value(node, lines)))
        return Name(name, module, 'value', summary, f'api.html#{module}.{name}', '')
    full = f'{get_config().lib_path.name}.{module}'
    fallback = f'{module.replace(".", "/")}.html#{name.lower()}'
    place = syms.get(full, {}).get(f'{full}.{name}', (fallback, ''))[0]
    summary = _first_sentence(_summary(node))
    return Name(name, module, _kind(node, name), summary, place, '', _signature(node, name))


def public():
    "Every public name of the package, module by module"
    cfg, found = get_config(), []
    syms = runpy.run_path(cfg.lib_path / '_modidx.py')['d']['syms']
    for path in modules():
        text, module = path.read_text(encoding='utf-8'), module_of(path)
        tree, lines = ast.parse(text), text.splitlines()
        exported = _exported(tree)
        file = f'{cfg.git_url}/blob/{cfg.branch}/{path.relative_to(cfg.config_path).as_posix()}'
        for node, name in _defined(tree):
            if name.split('.')[0] in exported and '._' not in name:
                item = _described(node, name, module, lines, syms)
                item.source = f'{file}#L{node.lineno}'
                found.append(item)
    return found


def _row(n):
    "The line of a name in its module's table"
    label = f'[`{n.name}`]({n.place})'
    if n.kind == 'value':
        label = f'<a id="{n.module}.{n.name}"></a>[`{n.name}`]({n.source})'
    return f'| {label} | {n.summary.replace("|", chr(92) + "|")} |'


def page():
    "api.md: a table for each module"
    names, lib = public(), get_config().lib_path.name
    parts = [
        '---',
        'title: All names',
        f'description: "Every public name of `{lib}`, module by module, with the first sentence of'
        ' its documentation."',
        '---',
        '',
    ]
    for path, about in modules().items():
        module = module_of(path)
        mine = [n for n in names if n.module == module]
        if not mine:
            continue
        # where its first name with a page of its own is documented
        found = [n.place.partition('#')[0] for n in mine if n.kind != 'value']
        home = found[0] if found else f'{module.replace(".", "/")}.html'
        parts += [f'## [{module}]({home}) {{#{module}}}', '', f'{about}.', '', '::: {.api}', '']
        parts += ['| name | what it is |', '|---|---|', *map(_row, mine), '', ':::', '']
    return '\n'.join(parts)


if __name__ == '__main__':
    Path('api.md').write_text(page(), encoding='utf-8')
