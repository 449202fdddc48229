"""The playground's files agree with each other, with the renderer and with the notebook; a browser
is not needed here
"""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clef_nb.datasets.texts import expressions
from clef_nb.experiments.studies import POSES
from clef_nb.faces.people import sample_subject
from clef_nb.faces.render import Shot, render
from clef_nb.faces.sequences import subject_names

FOLDER = Path(__file__).parents[2] / 'nbs/playground'


@pytest.fixture(scope='module')
def shown():
    return json.loads((FOLDER / 'similarities.json').read_text(encoding='utf-8'))


def test_small():
    assert {f.name for f in FOLDER.iterdir()} == {
        'faces.webp',
        'playground.css',
        'playground.js',
        'similarities.json',
    }
    assert sum(f.stat().st_size for f in FOLDER.iterdir()) < 500_000


def test_sprite_holds_the_grid(shown):
    with Image.open(FOLDER / shown['sprite']) as sprite:
        assert sprite.size == (
            len(shown['expressions']) * shown['tile'],
            len(shown['people']) * shown['tile'],
        )


def test_labels(shown):
    assert set(shown['expressions']) <= set(expressions().index) and len(
        set(shown['expressions'])
    ) == len(shown['expressions'])
    assert len(set(shown['people'])) == len(shown['people']), 'two people have the same description'
    assert list(shown['models']) == ['baseline', 'CLEF']


def test_every_pair_is_there(shown):
    n, k = len(shown['people']) * len(shown['expressions']), len(shown['expressions'])
    for name, model in shown['models'].items():
        assert [len(row) for row in model['similarity']] == list(range(1, n + 1)), name
        s = np.zeros((n, n))
        for i, row in enumerate(model['similarity']):
            s[i, : i + 1] = s[: i + 1, i] = row
        assert (
            np.isfinite(s).all()
            and np.abs(s).max() <= 1.001
            and np.allclose(np.diag(s), 1, atol=1e-3)
        ), name
        assert np.linalg.eigvalsh(s).min() > -0.05, f'{name}: no embedding has these cosines'
        a, b = np.divmod(np.arange(n), k)
        assert abs(s[(a[:, None] != a) & (b[:, None] != b)].mean() - model['unrelated']) < 1e-3, (
            name
        )


def test_faces_are_the_renderers(shown):
    # as in playground.ipynb
    rng = np.random.default_rng((2023, 13))
    people = [sample_subject(rng, name) for name in subject_names(3)]
    sprite, size = (
        np.array(Image.open(FOLDER / shown['sprite']).convert('RGB')).astype(float),
        shown['tile'],
    )

    def cell(i, j):
        return sprite[i * size : (i + 1) * size, j * size : (j + 1) * size]

    fresh = render(
        people[2],
        {au: x * shown['strength'] for au, x in POSES[shown['expressions'][3]].items()},
        Shot(),
        size,
    )

    def far(x):
        return np.abs(x - fresh).mean()

    assert far(cell(2, 3)) < 4 < min(far(cell(2, 2)), far(cell(1, 3)))


def test_script():
    if not (node := shutil.which('node')):
        pytest.skip('node is not installed, and only it can parse the script here')
    done = subprocess.run(
        [node, '--check', FOLDER / 'playground.js'], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_script_loads_what_is_there():
    script = (FOLDER / 'playground.js').read_text(encoding='utf-8')
    assert '://' not in script, 'the script asks another host'
    for f in FOLDER.iterdir():
        assert f.suffix == '.js' or f"'{f.name}'" in script, f'{f.name} is not loaded'
    page = json.loads((FOLDER.parent / 'playground.ipynb').read_text(encoding='utf-8'))
    html = ''.join(next(c for c in page['cells'] if c['id'] == 'playground')['source'])
    assert (
        '<div id="playground">' in html
        and 'src="playground/playground.js"' in html
        and '<noscript>' in html
    )
