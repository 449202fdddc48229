"""What the notebooks of the classifier and the stages do not show: equal runs, losses that break,
targets that cannot be learnt, augmentations of others, damaged files, invalid input.
"""

import json
from dataclasses import replace

import numpy as np
import open_clip
import pandas as pd
import pytest
import torch
from torchvision.transforms import v2

from clef_nb.datasets.frames import FrameTable
from clef_nb.model import stages
from clef_nb.model.augment import Augmentation
from clef_nb.model.classifier import AU_LOSSES, Classifier
from clef_nb.model.stages import PAIRINGS, align, pretrain
from clef_nb.model.towers import embed_images, load_model
from clef_nb.model.training import TrainSettings

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


SHORT = TrainSettings(steps=3, batch_size=12, progress=False)


def same(a, b):
    return all(torch.equal(x, b.state_dict()[k]) for k, x in a.state_dict().items())


def test_same_seed_same_numbers(data):
    runs = []
    for seed in (0, 0, 1):
        # the global generator must not matter
        m = tiny()
        log = pretrain(m, *data, settings=replace(SHORT, seed=seed))
        torch.rand(7)
        r = align(m, *data, settings=replace(SHORT, seed=seed))
        runs.append((m, log['loss'].tolist(), r.log['loss'].tolist(), r.predict(data[0])))
    a, b, c = runs
    assert a[1] == b[1] and a[2] == b[2] and np.array_equal(a[3], b[3]) and same(a[0], b[0])
    assert a[1] != c[1] and a[2] != c[2]


@pytest.mark.parametrize('positives', PAIRINGS)
def test_every_pairing_trains(data, positives):
    m = tiny()
    log = pretrain(m, *data, positives=positives, settings=SHORT)
    assert (
        np.isfinite(log['loss']).all()
        and list(log) == ['step', 'loss', 'loss_images', 'loss_texts', 'images_per_s', 'waited']
        and len(log) == 3
    )
    np.testing.assert_allclose(log['loss'], log['loss_images'] + log['loss_texts'], rtol=1e-5)
    assert not same(m, tiny()) and not m.training


def test_pairings_differ_in_the_image_loss_alone(data):
    logs = {
        p: pretrain(tiny(), *data, positives=p, settings=replace(SHORT, steps=1, batch_size=24))
        for p in PAIRINGS
    }
    assert len({log['loss_images'][0] for log in logs.values()}) == len(PAIRINGS)
    assert len({log['loss_texts'][0] for log in logs.values()}) == 1


def test_texts_are_encoded_once_a_step(data, monkeypatch):
    calls = []
    real = stages.encode_tokens
    monkeypatch.setattr(stages, 'encode_tokens', lambda m, t: calls.append(len(t)) or real(m, t))
    pretrain(tiny(), *data, settings=SHORT)
    assert calls == [3] * 3
    calls.clear()
    align(tiny(), *data, settings=SHORT)
    # two names and two descriptions
    assert calls == [4] * 3


def test_a_loss_that_is_no_number_stops(data):
    m = tiny()
    with torch.no_grad():
        m.visual.conv1.weight[0, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match='stage 1 stopped at step 0, lr 0.001: .*not finite'):
        pretrain(m, *data, settings=SHORT)
    assert not m.training
    with pytest.raises(ValueError, match='stage 1 stopped at step 1, lr'):
        pretrain(tiny(), *data, settings=replace(SHORT, lr=1e30))


def test_an_infinite_loss_stops(data, monkeypatch):
    monkeypatch.setattr(stages, 'name_description', lambda a, b, s: (a * b).sum() / 0)
    with pytest.raises(
        ValueError, match='stage 2 stopped at step 0, lr 0.001: the loss is .*; lower lr'
    ):
        align(tiny(), *data, settings=SHORT)


def test_bfloat16_towers_keep_single_precision_losses(data, monkeypatch):
    plain = pretrain(tiny(), *data, settings=SHORT)
    monkeypatch.setattr(stages, 'has_bf16', lambda device: True)
    m = tiny()
    log = pretrain(m, *data, settings=SHORT)
    assert all(w.dtype == torch.float32 for w in m.parameters())
    assert log['loss'][0] != plain['loss'][0] and abs(log['loss'][0] - plain['loss'][0]) < 0.1
    assert np.isfinite(align(m, *data, settings=SHORT).log['loss']).all()


def test_uncoded_values_do_not_matter(data):
    images, t = data
    df = t.df.copy()
    df.loc[3:8, 'AU4'] = pd.NA
    r = align(tiny(), images, FrameTable(df, 'nowhere'), settings=SHORT)
    assert np.isfinite(r.predict(images)).all()


def test_first_probabilities_sit_at_the_weighted_base_rates(data):
    images, t = data
    y = t.label_matrix(['AU12', 'AU4'])
    r = align(tiny(), images, t, ['AU12', 'AU4'], settings=replace(SHORT, steps=1, lr=0.0))
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
        align(tiny(), images, FrameTable(df, 'nowhere'), settings=SHORT)


def test_missing_columns_and_texts_are_named(data):
    images, t = data
    df = t.df.copy()
    df.loc[5, 'activity'] = pd.NA
    hole = FrameTable(df, 'nowhere', activities=ACTIVITIES)
    with pytest.raises(ValueError, match='row 5 has no activity'):
        pretrain(tiny(), images, hole, settings=SHORT)
    with pytest.raises(ValueError, match='no activity texts'):
        pretrain(tiny(), images, FrameTable(t.df, 'nowhere'), settings=SHORT)
    with pytest.raises(ValueError, match='neither AU labels nor expressions'):
        align(
            tiny(),
            images,
            FrameTable(t.df.drop(columns=['AU12', 'AU4']), 'nowhere'),
            settings=SHORT,
        )
    with pytest.raises(ValueError, match='uint8'):
        align(tiny(), images / 255, t, settings=SHORT)
    with pytest.raises(ValueError, match='no column expression'):
        align(tiny(), images, t, ['happiness', 'fear'], settings=SHORT)


def test_faces_from_the_web_learn_by_instances(data):
    images, t = data
    web = FrameTable(t.df[['path']], 'nowhere')
    assert np.isfinite(
        pretrain(tiny(), images, web, positives='instance', activity_texts=False, settings=SHORT)[
            'loss'
        ]
    ).all()


def test_expressions(data):
    images, t = data
    df = t.df.drop(columns=['AU12', 'AU4']).assign(
        expression=t.df['activity'].map({'T0': 'happiness', 'T1': 'fear', 'T2': 'anger'})
    )
    table = FrameTable(df, 'nowhere')
    r = align(tiny(), images, table, settings=SHORT)
    assert r.labels == ['anger', 'fear', 'happiness']
    np.testing.assert_allclose(r.predict(images).sum(1), 1, atol=1e-5)
    with pytest.raises(
        ValueError, match="row 6 has the expression 'anger', which is not among happiness, fear"
    ):
        align(tiny(), images, table, ['happiness', 'fear'], settings=SHORT)


@pytest.mark.parametrize(
    'switch', [dict(), dict(names=False), dict(names=False, descriptions=False)]
)
def test_saved_and_loaded(data, tmp_path, switch):
    images, t = data
    r = align(tiny(), images, t, **switch, settings=SHORT)
    r.save(tmp_path / 'r')
    again = Classifier.load(tmp_path / 'r')
    assert np.array_equal(r.predict(images), again.predict(images)) and again.labels == r.labels
    assert torch.equal(again.scale, r.scale) and torch.equal(again.bias, r.bias)
    pd.testing.assert_frame_equal(again.log, r.log)
    plain = open_clip.create_model(f'local-dir:{tmp_path / "r"}').eval()
    np.testing.assert_allclose(
        embed_images(plain, images), embed_images(r.model, images), atol=1e-5
    )


def test_damaged_classifiers(data, tmp_path):
    images, t = data
    r = align(tiny(), images, t, settings=SHORT)
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


def test_a_csv_of_labels(data, tmp_path):
    images, t = data
    mine = tmp_path / 'mine.csv'
    mine.write_text('label,name,description\nAU4,a frown,the brows come down\n')
    own = align(tiny(), images, t, mine, settings=SHORT)
    assert own.labels == ['AU4'] and own.class_texts() == ['a photo of a person with a frown']
    again = align(tiny(), images, t, str(mine), settings=SHORT)
    assert np.array_equal(own.predict(images), again.predict(images))
    with pytest.raises(FileNotFoundError, match='AU4 does not exist.*label, name, description'):
        align(tiny(), images, t, 'AU4', settings=SHORT)
    mine.write_text('label,name,description\nAU5,a start,the eyes are wide\n')
    with pytest.raises(ValueError, match="no label 'AU5'"):
        align(tiny(), images, t, mine, settings=SHORT)


@pytest.mark.parametrize('au_loss', AU_LOSSES)
@pytest.mark.parametrize('named', [True, False])
def test_every_au_loss_trains_and_is_loaded(data, tmp_path, au_loss, named):
    images, t = data
    r = align(tiny(), images, t, names=named, descriptions=named, au_loss=au_loss, settings=SHORT)
    p = r.predict(images)
    assert p.shape == (len(images), 2) and ((p > 0) & (p < 1)).all()
    assert np.isfinite(r.log['loss']).all()
    again = Classifier.load(r.save(tmp_path / 'r'))
    assert again.au_loss == au_loss and np.array_equal(again.predict(images), p)


# ---- augmentations


def each(x):
    "A transform of torchvision for each image by itself"
    one = v2.Compose([v2.RandomResizedCrop(64, (0.6, 1.0)), v2.RandomHorizontalFlip()])
    return torch.stack([one(image) for image in x])


def whole(x):
    return v2.RandomRotation(20)(x)


@pytest.mark.parametrize('augmentation', [each, whole, Augmentation(rotate=3.0), None])
def test_any_augmentation_repeats_with_the_seed(data, augmentation):
    def run(seed):
        torch.rand(3)  # the global generator must not matter
        settings = replace(SHORT, seed=seed)
        return pretrain(tiny(), *data, settings=settings, augmentation=augmentation)['loss']

    assert run(0).equals(run(0)) and not run(0).equals(run(1))
    r = align(tiny(), *data, settings=SHORT, augmentation=augmentation)
    assert np.isfinite(r.log['loss']).all()


@pytest.mark.parametrize('augmentation', [each, whole, Augmentation(), None])
def test_micro_batches_see_the_same_augmentation_both_times(data, monkeypatch, augmentation):
    "Forward and backward, each micro-batch by itself: what the tower gets is compared"
    model, seen = tiny(), []
    real = stages.model_input
    monkeypatch.setattr(
        stages, 'model_input', lambda m, x: seen.append(x.detach().clone()) or real(m, x)
    )
    small = replace(SHORT, steps=1, micro_batch=12, freeze=('batch_norm',))
    pretrain(model, *data, settings=small, augmentation=augmentation)
    first, second, *again = seen
    assert len(again) == 2 and {len(x) for x in seen} == {12}
    assert {tuple(x.flatten()[:50].tolist()) for x in again} == {
        tuple(x.flatten()[:50].tolist()) for x in (first, second)
    }
    assert any(torch.equal(x, first) for x in again)
    assert any(torch.equal(x, second) for x in again)
    assert torch.equal(first, second) == (augmentation is None)


@pytest.mark.parametrize(
    'augmentation, says',
    [
        (lambda x: x * float('nan'), 'not values from nan'),
        (lambda x: 255 * x, 'not values from 0 to 2'),
        (lambda x: x.mul(255).byte(), 'not torch.uint8'),
        (lambda x: x.permute(0, 2, 3, 1), r'not torch.float32 \[\d+, 64, 64, 3\]'),
        (lambda x: x[:3], r'not torch.float32 \[3, 3, 64, 64\]'),
        (lambda x: None, 'not NoneType'),
        (Augmentation, 'augmentation is <class'),
    ],
)
def test_what_an_augmentation_must_not_give_is_refused_before_the_towers(data, augmentation, says):
    model = tiny()
    before = [b.clone() for b in model.buffers()]
    for train in (pretrain, align):
        with pytest.raises(ValueError, match=says):
            train(model, *data, settings=SHORT, augmentation=augmentation)
    assert all(torch.equal(a, b) for a, b in zip(before, model.buffers()))


def test_no_augmentation_is_one_that_does_nothing(data):
    off = Augmentation(
        scale=(1, 1), rotate=0, flip=0, brightness=0, contrast=0, saturation=0, hue=0, grayscale=0
    )
    a, b = (pretrain(tiny(), *data, settings=SHORT, augmentation=x) for x in (off, None))
    assert a['loss'].equals(b['loss'])


# ---- invalid input


@pytest.mark.parametrize(
    'options, says',
    [
        (dict(positives='friends'), 'positives is .friends.; choose one of .*other_subject'),
        (dict(image_pairs=False, activity_texts=False), 'both off, so there is nothing to learn'),
        (dict(adversary=-1), 'adversary is -1; its strength must be 0 or more'),
        (dict(augmentation=dict(rotate=3)), 'augmentation is .*give None, or something that can'),
    ],
)
def test_stage_1_refuses(data, options, says):
    with pytest.raises(ValueError, match=says):
        pretrain(tiny(), *data, **options)


@pytest.mark.parametrize(
    'options, says',
    [
        (dict(au_loss='hinge'), 'au_loss is .hinge.; choose one of bce, present_absent, softmax'),
        (dict(au_loss='softmax', names=False), 'say names=True'),
        (dict(labels=['AU12', 'happiness']), 'mix action units and expressions'),
        (dict(labels=[]), 'stage 2 learns from labels'),
        (dict(augmentation='strong'), 'augmentation is .strong.'),
    ],
)
def test_stage_2_refuses(data, options, says):
    with pytest.raises(ValueError, match=says):
        align(tiny(), *data, **options)


def test_images_and_table_that_do_not_go_together(data):
    images, t = data
    with pytest.raises(ValueError, match='35 images and 36 rows in the table'):
        pretrain(tiny(), images[1:], t)
    with pytest.raises(ValueError, match='the table is empty'):
        align(tiny(), images[:0], t.subset(np.zeros(len(t), bool)))
