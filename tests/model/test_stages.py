"""What the notebook of the stages does not show: equal runs, losses that break, targets that cannot
be learnt, damaged files.
"""

import json

import numpy as np
import open_clip
import pandas as pd
import pytest
import torch

from clef_nb.datasets.frames import FrameTable
from clef_nb.model import stages
from clef_nb.model.stages import PAIRINGS, Classifier, align, pretrain
from clef_nb.model.towers import embed_images, load_model

ACTIVITIES = {
    f'T{i}': f'Do thing number {i}. The target emotion is {e}.'
    for i, e in enumerate(['joy', 'fear', 'anger'])
}


def study(subjects=4, frames=3, seed=0):
    rng = np.random.default_rng(seed)
    rows = []
    for s in range(subjects):
        for a in ACTIVITIES:
            for f in range(frames):
                rows.append(
                    dict(
                        path=f'S{s}/{a}/{f}.jpg',
                        subject=f'S{s}',
                        activity=a,
                        sequence=f'S{s}_{a}',
                        frame=f,
                        AU12=int(rng.random() < 0.4),
                        AU4=int(rng.random() < 0.3),
                    )
                )
    df = pd.DataFrame(rows)
    df.loc[:1, 'AU12'] = [0, 1]
    df.loc[:1, 'AU4'] = [1, 0]
    return rng.integers(0, 256, (len(df), 64, 64, 3), dtype=np.uint8), FrameTable(
        df, 'nowhere', activities=ACTIVITIES
    )


@pytest.fixture
def data():
    return study()


def tiny():
    return load_model(pretrained=None)


SHORT = dict(steps=3, batch_size=12, progress=False)


def same(a, b):
    return all(torch.equal(x, b.state_dict()[k]) for k, x in a.state_dict().items())


def test_same_seed_same_numbers(data):
    runs = []
    for seed in (0, 0, 1):
        # the global generator must not matter
        m = tiny()
        log = pretrain(m, *data, seed=seed, **SHORT)
        torch.rand(7)
        r = align(m, *data, seed=seed, **SHORT)
        runs.append((m, log['loss'].tolist(), r.log['loss'].tolist(), r.predict(data[0])))
    a, b, c = runs
    assert a[1] == b[1] and a[2] == b[2] and np.array_equal(a[3], b[3]) and same(a[0], b[0])
    assert a[1] != c[1] and a[2] != c[2]


@pytest.mark.parametrize('positives', PAIRINGS)
def test_every_pairing_trains(data, positives):
    m = tiny()
    log = pretrain(m, *data, positives=positives, **SHORT)
    assert (
        np.isfinite(log['loss']).all()
        and list(log) == ['step', 'loss', 'loss_images', 'loss_texts', 'images_per_s', 'waited']
        and len(log) == 3
    )
    np.testing.assert_allclose(log['loss'], log['loss_images'] + log['loss_texts'], rtol=1e-5)
    assert not same(m, tiny()) and not m.training


def test_pairings_differ_in_the_image_loss_alone(data):
    logs = {
        p: pretrain(tiny(), *data, positives=p, steps=1, batch_size=24, progress=False)
        for p in PAIRINGS
    }
    assert len({l['loss_images'][0] for l in logs.values()}) == len(PAIRINGS)
    assert len({l['loss_texts'][0] for l in logs.values()}) == 1


def test_texts_are_encoded_once_a_step(data, monkeypatch):
    calls = []
    real = stages.encode_tokens
    monkeypatch.setattr(stages, 'encode_tokens', lambda m, t: calls.append(len(t)) or real(m, t))
    pretrain(tiny(), *data, **SHORT)
    assert calls == [3] * 3
    calls.clear()
    align(tiny(), *data, **SHORT)
    # two names and two descriptions
    assert calls == [4] * 3


def test_a_loss_that_is_no_number_stops(data):
    m = tiny()
    with torch.no_grad():
        m.visual.conv1.weight[0, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match='stage 1 stopped at step 0, lr 0.001: .*not finite'):
        pretrain(m, *data, **SHORT)
    assert not m.training
    with pytest.raises(ValueError, match='stage 1 stopped at step 1, lr'):
        pretrain(tiny(), *data, lr=1e30, **SHORT)


def test_an_infinite_loss_stops(data, monkeypatch):
    monkeypatch.setattr(stages, 'name_description', lambda a, b, s: (a * b).sum() / 0)
    with pytest.raises(
        ValueError, match='stage 2 stopped at step 0, lr 0.001: the loss is .*; lower lr'
    ):
        align(tiny(), *data, **SHORT)


def test_bfloat16_towers_keep_single_precision_losses(data, monkeypatch):
    plain = pretrain(tiny(), *data, **SHORT)
    monkeypatch.setattr(stages, 'has_bf16', lambda device: True)
    m = tiny()
    log = pretrain(m, *data, **SHORT)
    assert all(w.dtype == torch.float32 for w in m.parameters())
    assert log['loss'][0] != plain['loss'][0] and abs(log['loss'][0] - plain['loss'][0]) < 0.1
    assert np.isfinite(align(m, *data, **SHORT).log['loss']).all()


def test_uncoded_values_do_not_matter(data):
    images, t = data
    df = t.df.copy()
    df.loc[3:8, 'AU4'] = pd.NA
    r = align(tiny(), images, FrameTable(df, 'nowhere'), **SHORT)
    assert np.isfinite(r.predict(images)).all()


def test_first_probabilities_sit_at_the_weighted_base_rates(data):
    images, t = data
    y = t.label_matrix(['AU12', 'AU4'])
    r = align(
        tiny(), images, t, labels=['AU12', 'AU4'], steps=1, batch_size=12, lr=0.0, progress=False
    )
    rate = y.mean(0)
    w = np.clip((1 - rate) / rate, 1, 5)
    np.testing.assert_allclose(
        r.predict(images).mean(0), w * rate / (w * rate + 1 - rate), atol=0.05
    )


@pytest.mark.parametrize(
    'value,says',
    [(0, '0 in every coded row'), (1, '1 in every coded row'), (pd.NA, 'coded in no row')],
)
def test_an_au_without_both_values_is_refused(data, value, says):
    images, t = data
    df = t.df.copy()
    df['AU4'] = value
    with pytest.raises(ValueError, match=f'AU4 is {says}'):
        align(tiny(), images, FrameTable(df, 'nowhere'), **SHORT)


def test_missing_columns_and_texts_are_named(data):
    images, t = data
    df = t.df.copy()
    df.loc[5, 'activity'] = pd.NA
    hole = FrameTable(df, 'nowhere', activities=ACTIVITIES)
    with pytest.raises(ValueError, match='row 5 has no activity'):
        pretrain(tiny(), images, hole, **SHORT)
    with pytest.raises(ValueError, match='no activity texts'):
        pretrain(tiny(), images, FrameTable(t.df, 'nowhere'), **SHORT)
    with pytest.raises(ValueError, match='neither AU labels nor expressions'):
        align(tiny(), images, FrameTable(t.df.drop(columns=['AU12', 'AU4']), 'nowhere'), **SHORT)
    with pytest.raises(ValueError, match='uint8'):
        align(tiny(), images / 255, t, **SHORT)
    with pytest.raises(ValueError, match='no column expression'):
        align(tiny(), images, t, labels=['happiness', 'fear'], **SHORT)


def test_faces_from_the_web_learn_by_instances(data):
    images, t = data
    web = FrameTable(t.df[['path']], 'nowhere')
    assert np.isfinite(
        pretrain(tiny(), images, web, positives='instance', activity_texts=False, **SHORT)['loss']
    ).all()


def test_expressions(data):
    images, t = data
    df = t.df.drop(columns=['AU12', 'AU4']).assign(
        expression=t.df['activity'].map({'T0': 'happiness', 'T1': 'fear', 'T2': 'anger'})
    )
    table = FrameTable(df, 'nowhere')
    r = align(tiny(), images, table, **SHORT)
    assert r.labels == ['anger', 'fear', 'happiness']
    np.testing.assert_allclose(r.predict(images).sum(1), 1, atol=1e-5)
    with pytest.raises(
        ValueError, match="row 6 has the expression 'anger', which is not among happiness, fear"
    ):
        align(tiny(), images, table, labels=['happiness', 'fear'], **SHORT)


@pytest.mark.parametrize(
    'switch', [dict(), dict(names=False), dict(names=False, descriptions=False)]
)
def test_saved_and_loaded(data, tmp_path, switch):
    images, t = data
    r = align(tiny(), images, t, **switch, **SHORT)
    r.save(tmp_path / 'r')
    again = Classifier.load(tmp_path / 'r')
    assert np.array_equal(r.predict(images), again.predict(images)) and again.labels == r.labels
    assert torch.equal(again.scale, r.scale) and torch.equal(again.bias, r.bias)
    pd.testing.assert_frame_equal(again.log, r.log)
    plain = open_clip.create_model(f'local-dir:{tmp_path / "r"}').eval()
    np.testing.assert_allclose(
        embed_images(plain, images), embed_images(r.model, images), atol=1e-5
    )


def test_damaged_recognisers(data, tmp_path):
    images, t = data
    r = align(tiny(), images, t, **SHORT)
    folder = r.save(tmp_path / 'r')
    about = json.loads((folder / 'classifier.json').read_text())
    (folder / 'classifier.json').write_text(json.dumps({**about, 'labels': ['AU12']}))
    with pytest.raises(ValueError, match='do not go together'):
        Classifier.load(folder)
    (folder / 'classifier.json').write_text('{"labels"')
    with pytest.raises(ValueError, match='classifier.json'):
        Classifier.load(folder)
    (folder / 'classifier.json').unlink()
    with pytest.raises(FileNotFoundError, match='classifier.json'):
        Classifier.load(folder)


def test_labels_without_texts_or_twice():
    with pytest.raises(ValueError, match='AU99'):
        Classifier(tiny(), ['AU12', 'AU99'])
    with pytest.raises(ValueError, match='different labels'):
        Classifier(tiny(), ['AU12', 'AU12'])
