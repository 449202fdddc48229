"""Pages at the addresses that the site had before version 0.2, when all modules lay in one folder.

Each leads to the module that took over, or, for an address of a function, to where that function is
documented now.
"""

import json

from api_page import public

# old page: modules that it became, the likeliest first
MOVED = {
    'ablation': ['experiments.ablation', 'experiments.sources'],
    'batches': ['datasets.cache', 'datasets.sampling', 'model.augment'],
    'browser': ['figures.map_widget'],
    'datasets': ['datasets.registry'],
    'erasure': ['measure.erasure', 'model.adversary'],
    'explore': ['figures.face_widget'],
    'facs': ['datasets.texts'],
    'frames': ['datasets.frames'],
    'head': ['faces.mesh'],
    'lab': ['datasets.bp4d', 'datasets.bp4d_plus', 'datasets.disfa'],
    'leakage': ['measure.leakage', 'measure.probes', 'measure.neighbours', 'measure.au_measures'],
    'losses': ['model.losses', 'model.losses_fast'],
    'metrics': ['measure.metrics', 'measure.intervals'],
    'people': ['faces.people', 'faces.render'],
    'plots': ['figures.plots'],
    'processes': ['model.distributed'],
    'recipe': ['experiments.settings', 'experiments.cost'],
    'relevance': ['figures.relevance'],
    'reproduce': ['experiments.demo', 'cli'],
    'results': ['figures.published'],
    'stages': ['model.stages', 'model.classifier'],
    'studies': ['experiments.studies', 'experiments.runner', 'measure.intervals'],
    'synthface': ['faces.sequences', 'faces.captions', 'datasets.bp4d', 'datasets.twins'],
    'towers': ['model.towers'],
    'training': ['model.training'],
    'wild': ['datasets.rafdb', 'datasets.affectnet', 'datasets.ferplus'],
    'zeroshot': ['experiments.zeroshot'],
}
PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>Moved – clef_nb</title>
<link rel="canonical" href="{target}">
<meta http-equiv="refresh" content="1; url={target}">
<script>
const places = {places};
location.replace(places[location.hash.slice(1)] || "{target}" + location.hash);
</script>
<p>This page is now <a href="{target}">{target}</a>.</p>
</html>
"""


def address(module):
    "The page of a module"
    return f'{module.replace(".", "/")}.html'


def page(modules):
    "A page that leads to the first of the modules, or to one of their functions"
    names = [n for n in public() if n.kind != 'value' and n.module in modules]
    places = {n.name.lower(): n.place for n in names}
    return PAGE.format(target=address(modules[0]), places=json.dumps(places))


def write_redirects(folder):
    "Write those whose target is there into the folder of the site"
    for old, modules in MOVED.items():
        if (folder / address(modules[0])).is_file():
            (folder / f'{old}.html').write_text(page(modules), encoding='utf-8')
