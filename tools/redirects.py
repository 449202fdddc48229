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


def pages():
    "Old address -> the page that leads on"
    names = [n for n in public() if n.kind != 'value']
    found = {}
    for old, modules in MOVED.items():
        places = {n.name.lower(): n.place for n in names if n.module in modules}
        target = f'{modules[0].replace(".", "/")}.html'
        found[f'{old}.html'] = PAGE.format(target=target, places=json.dumps(places))
    return found


def write_redirects(folder):
    "Write them into the folder of the site, where no page has that address"
    for address, page in pages().items():
        if not (folder / address).exists():
            (folder / address).write_text(page, encoding='utf-8')
