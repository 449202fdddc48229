"The ablation: the command, what it refuses, and what a second call does"

import csv
import pickle

import numpy as np
import pytest
import torch

from clef_nb.cli import main
from clef_nb.datasets.bp4d import write_bp4d
from clef_nb.datasets.rafdb import write_rafdb
from clef_nb.experiments.ablation import ablation_rows
from clef_nb.experiments.settings import SETTINGS
from clef_nb.experiments.sources import open_experiment, open_source
from clef_nb.measure.intervals import jackknife_intervals, left_out_scores
from clef_nb.model.towers import load_model

pytestmark = pytest.mark.slow

SMALL = dict(
    model='clef-tiny',
    clip='synthface',
    size=64,
    pretrain=dict(steps=2, batch_size=16),
    align=dict(steps=2, batch_size=16),
)


@pytest.fixture(scope='module')
def twin(tmp_path_factory):
    return write_bp4d(tmp_path_factory.mktemp('bp4d') / 'twin', 9, 2)


@pytest.fixture
def clef(tmp_path, monkeypatch, capsys, twin):
    """Run `clef reproduce ablation` with few steps in a folder of its own; returns exit code,
    output and errors
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(SETTINGS['tiny'], 'recipe', SMALL)

    def run(*args, root=twin):
        code = main(
            [
                'reproduce',
                'ablation',
                '--root',
                str(root),
                '--seeds',
                '0',
                '--processes',
                '0',
                *map(str, args),
            ]
        )
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def refused(found, *words):
    code, _, err = found
    assert code == 1 and len(err.strip().splitlines()) == 1, err
    for w in words:
        assert w in err
    return err


def test_command(clef, tmp_path):
    code, out, _ = clef('--rows', 'CLIP+I', 'CLEF+PA+PI+I', '--folds', 1, 2)
    assert (
        code == 0
        and 'rendered twin of BP4D' in out
        and '63.4' in out
        and '64.2' in out
        and '2 folds, 1 seed' in out
    )
    assert max(map(len, out.split('\n\n', 1)[0].splitlines()[1:] + out.splitlines()[2:6])) <= 80
    file = tmp_path / 'runs/ablation/bp4d.parquet'
    before = file.stat().st_mtime_ns, file.read_bytes()
    assert clef('--rows', 'CLEF+PA+PI+I', 'CLIP+I', '--folds', 1, 2)[0] == 0
    assert (file.stat().st_mtime_ns, file.read_bytes()) == before, (
        'a finished run is never computed again'
    )
    assert (
        clef('--rows', 'CLEF PA PI I N', '--folds', 1)[0] == 0
        and len(list((tmp_path / 'runs/ablation/towers').iterdir())) == 2
    ), 'rows share their stage 1'


def test_all_thirteen_rows_run(clef, tmp_path):
    # stands for FaRL's checkpoint
    torch.save({'state_dict': load_model().state_dict()}, tmp_path / 'farl.pt')
    code, out, _ = clef(
        '--rows',
        *[r.replace(' ', '+') for r in ablation_rows().index],
        '--folds',
        1,
        '--farl',
        tmp_path / 'farl.pt',
    )
    assert code == 0 and all(r in out for r in ablation_rows().index)


def test_refuses_in_one_line(clef, tmp_path, twin):
    refused(clef('--rows', 'CLEF+I'), "no row 'CLEF+I'", 'CLEF+PA+PI+I+N+D')
    refused(clef(root=tmp_path / 'nowhere'), 'nowhere does not exist')
    refused(clef('--rows', 'FaRL'), '--farl FILE')
    refused(clef('--rows', 'CLIP+I', '--folds', 4), 'there is no fold 4')
    refused(clef('--rows', 'CLIP+I', '--clip', 'laion9b'), 'laion9b')
    assert not (tmp_path / 'runs').exists(), 'nothing is left behind'


def test_refuses_weights(clef, tmp_path):
    class Payload:
        def __reduce__(self):
            return (open, (str(tmp_path / 'ran'), 'w'))

    whole = tmp_path / 'whole.pt'
    torch.save(load_model().state_dict(), whole)
    (tmp_path / 'half.pt').write_bytes(whole.read_bytes()[:20_000])
    torch.save({'state_dict': Payload()}, tmp_path / 'payload.pt')
    (tmp_path / 'old.pt').write_bytes(pickle.dumps(Payload()))
    state = load_model().state_dict()
    state['visual.conv1.weight'] = torch.zeros(7, 3, 3, 3)
    torch.save(state, tmp_path / 'other.pt')
    for name in ('half', 'payload', 'old', 'other'):
        refused(
            clef('--rows', 'FaRL+I', '--folds', 1, '--farl', tmp_path / f'{name}.pt'), f'{name}.pt'
        )
    assert not (tmp_path / 'ran').exists(), 'no code of the file was run'


def test_refuses_a_fold_without_codes(clef, tmp_path):
    root = write_bp4d(tmp_path / 'uncoded', 9, 2)
    tested = open_source('bp4d', root, folder=tmp_path).table.fold(1)[1].subjects
    for file in (f for s in tested for f in (root / 'AUCoding/AU_OCC').glob(f'{s}_*.csv')):
        with open(file, newline='') as f:
            rows = list(csv.reader(f))
        with open(file, 'w', newline='') as f:
            csv.writer(f).writerows([rows[0], *([r[0], *['9'] * (len(r) - 1)] for r in rows[1:])])
    refused(clef('--rows', 'CLIP+I', '--folds', 1, root=root), 'fold 1', 'none has a coded AU')


def test_wild_data_and_real_ones(clef, tmp_path, twin):
    wild = write_rafdb(tmp_path / 'rafdb', 60, 40)
    code, out, _ = clef(
        '--data', 'rafdb', '--lab-root', twin, '--rows', 'CLEF+PA+PI+I+N+D', root=wild
    )
    assert code == 0 and 'accuracy' in out and '90.09' in out
    refused(clef('--data', 'rafdb', '--rows', 'CLIP+I', '--folds', 2, root=wild), 'fold 1')
    # as if these were photographs
    (wild / 'twin.json').unlink()
    refused(
        clef('--data', 'rafdb', '--lab-root', twin, '--rows', 'CLEF', root=wild),
        'real RAF-DB',
        '--lab-root',
    )


def test_two_data_sets_never_share_a_file(clef, tmp_path):
    assert clef('--rows', 'CLIP+I', '--folds', 1)[0] == 0
    refused(
        clef('--rows', 'CLIP+I', '--folds', 1, root=write_bp4d(tmp_path / 'others', 9, 3)),
        'other settings',
        'bp4d.parquet',
    )


def test_begin_knows_a_twin_from_the_real_set(tmp_path, monkeypatch):
    root = write_bp4d(tmp_path / 'set', 9, 2)
    monkeypatch.setenv('CLEF_BP4D', str(root))
    source, recipe, file = open_experiment('bp4d', '41', tmp_path)
    assert (
        source.twin
        and recipe['model'] == 'clef-tiny'
        and file == tmp_path / 'data/studies/41.parquet'
        and 'not on BP4D itself' in source.said
    )
    # as if these were photographs
    (root / 'twin.json').unlink()
    source, recipe, file = open_experiment('bp4d', '41', tmp_path)
    assert (
        not source.twin
        and recipe['model'] == 'ViT-B-16-quickgelu'
        and source.images.shape[1] == 224
        and file == tmp_path / 'runs/reproduction/41.parquet'
        and source.ran_on == 'real BP4D'
    )


def test_intervals_cover(tmp_path):
    "The jackknife's interval of a mean F1 over people covers the truth about as often as it says"

    from clef_nb.measure.metrics import f1

    rng, hits = np.random.default_rng(0), 0

    # how often a person shows it
    def draw(people):
        return rng.beta(2, 2, people)

    def frames(rate):
        y = rng.random((len(rate), 30)) < rate[:, None]
        return np.where(rng.random(y.shape) < 0.8, y, ~y), y

    p, y = frames(draw(4000))
    truth = f1(p.ravel().astype(float), y.ravel().astype(float))
    for _ in range(200):
        p, y = frames(draw(14))
        who = np.repeat(np.arange(14), 30)
        cells = left_out_scores(
            p.reshape(-1, 1).astype(float), y.reshape(-1, 1).astype(float), who, ['AU1']
        ).assign(row='x', fold=1, seed=0)
        r = jackknife_intervals(cells[cells['measure'] == 'f1']).query('label == "mean"').iloc[0]
        hits += r.low <= truth <= r.high
    assert 0.88 <= hits / 200 <= 0.99, hits
