"""The rooms of the package: a module imports from its own wing and those before it, no private name
of another module, in no circle, and at the top but where a reason is known.
"""

import ast
from graphlib import TopologicalSorter
from importlib.util import resolve_name

from browser import ROOT

ORDER = ['faces', 'datasets', 'model', 'measure', 'figures', 'experiments', 'cli']
# to start the command fast, and for the extra `plots`
INSIDE = {
    'clef_nb.cli',
    'clef_nb.experiments.demo',
    'clef_nb.experiments.embeddings',
}


def module_of(path):
    return '.'.join(path.relative_to(ROOT).with_suffix('').parts)


def wing(module):
    return ORDER.index(module.split('.')[1])


def imports(path):
    "(module, name, is it at the top) of each import of our own"
    tree, package = ast.parse(path.read_text(encoding='utf-8')), module_of(path).rpartition('.')[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            module = resolve_name('.' * node.level + (node.module or ''), package)
            if module.partition('.')[0] == 'clef_nb':
                for name in node.names:
                    yield module, name.name, node in tree.body


FILES = [p for p in sorted((ROOT / 'clef_nb').rglob('*.py')) if not p.name.startswith('_')]
IMPORTS = {module_of(p): list(imports(p)) for p in FILES}


def test_there_are_modules_and_imports():
    assert len(IMPORTS) > 50 and sum(map(len, IMPORTS.values())) > 200


def test_from_no_later_wing():
    later = [(m, other) for m, found in IMPORTS.items() for other, _, _ in found]
    assert not [(m, other) for m, other in later if wing(other) > wing(m)]


def test_no_circle():
    graph = {m: {other for other, _, _ in found} for m, found in IMPORTS.items()}
    assert list(TopologicalSorter(graph).static_order())


def test_no_private_name_of_another_module():
    assert not [
        (m, other, name)
        for m, found in IMPORTS.items()
        for other, name, _ in found
        if name.startswith('_')
    ]


def test_at_the_top_but_for_a_reason():
    assert {m for m, found in IMPORTS.items() if not all(top for _, _, top in found)} <= INSIDE
