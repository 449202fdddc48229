"""Leakage measures: known answers over seeds and shapes, slow references, what must not matter, and input that must be refused."""
import warnings
import numpy as np
import pandas as pd
import pytest
import torch
from clef_nb.leakage import id_accuracy, id_preference, known_factors, knn_id, leakage_report, raw_pixels

MEASURES = id_accuracy, knn_id, id_preference

def made(seed=0, **kw):
    z, table = known_factors(**{'n_subjects': 6, 'n_activities': 5, 'frames': 8, 'dim': 32, 'seed': seed} | kw)
    return z, table['subject'].to_numpy(), table['activity'].to_numpy()

def report(*x, **kw): return leakage_report(*x, **kw).set_index('measure')['value']

def slow_preference(z, s, a):
    z, values = z / np.linalg.norm(z, axis=1, keepdims=True), {}
    for i in range(len(z)):
        d = [(z[i] @ z[j], z[i] @ z[k]) for j in np.flatnonzero((s == s[i]) & (a != a[i])) for k in np.flatnonzero((s != s[i]) & (a == a[i]))]
        values.setdefault(s[i], []).append(np.mean([.5 if abs(x - y) < 1e-9 else float(x > y) for x, y in d]))
    return np.mean([np.mean(v) for v in values.values()])

def slow_knn(z, s, a, k):
    z, values = z / np.linalg.norm(z, axis=1, keepdims=True), {}
    for i in range(len(z)):
        gallery = np.flatnonzero(a != a[i])
        near = s[gallery[np.argsort(-(z[gallery] @ z[i]), kind='stable')[:k]]].tolist()
        winner = max(near, key=lambda n: (near.count(n), -near.index(n)))     # most votes, then the nearest
        values.setdefault(s[i], []).append(winner == s[i])
    return np.mean([np.mean(v) for v in values.values()])

@pytest.mark.parametrize('seed', range(5))
def test_slow_references_on_cells_of_unequal_size(seed):
    z, s, a = made(seed, identity=.4, activity=.4)
    rows = np.random.default_rng(seed).permutation(len(z))[:150]
    z, s, a = z[rows].astype(float), s[rows], a[rows]
    assert id_preference(z, s, a) == pytest.approx(slow_preference(z, s, a), abs=1e-9)
    for k in (1, 4, 5): assert knn_id(z, s, a, k=k) == pytest.approx(slow_knn(z, s, a, k), abs=1e-9)

def test_preference_with_ties():
    z, s, a = made(frames=3)
    z = np.sign(z * (np.arange(32) < 3))
    assert id_preference(z, s, a) == pytest.approx(slow_preference(z, s, a), abs=1e-9)
    assert id_preference(np.ones_like(z), s, a) == .5

@pytest.mark.parametrize('seed, subjects, frames', [(0, 14, 12), (1, 14, 12), (2, 41, 4)])
def test_known_answers(seed, subjects, frames):
    def of(**kw): return report(*made(seed, n_subjects=subjects, n_activities=8, frames=frames, dim=128, **kw), n_boot=5)
    chance = 1 / subjects
    for none in ({}, {'sequence': 1}, {'activity': .6}): assert (abs(of(**none)[['id_accuracy', 'knn_id']] - chance) < .06).all()
    assert abs(of().id_preference - .5) < .02
    assert of(activity=.6).id_preference < .05
    weak = of(activity=.6, identity=.2)
    assert weak.id_accuracy > 4 * chance and weak.id_preference < .1
    flip = of(activity=.2, identity=1, flip=True)
    assert abs(flip.id_accuracy - chance) < .06 and flip.knn_id > .9 and abs(flip.id_preference - .5) < .03
    only = of(identity=1, noise=0)
    assert only.id_accuracy > .99 and only.knn_id > .99 and only.id_preference > .99
    balance = of(activity=.5, identity=.5)
    assert abs(balance.id_preference - .5) < .15

def test_more_identity_is_more_leakage():
    curves = pd.DataFrame([report(*made(identity=i, activity=.5, frames=12, dim=64), n_boot=5) for i in (0, .2, .4, .8)])
    assert (curves.diff().iloc[1:] > 0).all().all()

@pytest.mark.parametrize('measure', MEASURES)
def test_what_must_not_matter(measure):
    z, s, a = made(identity=.3, activity=.3)
    rng, value = np.random.default_rng(0), measure(z, s, a)
    assert measure(z * rng.uniform(.1, 9, (len(z), 1)), s, a) == pytest.approx(value, abs=.005)        # lengths of rows
    order = rng.permutation(len(z))
    assert measure(z[order], s[order], a[order]) == pytest.approx(value, abs=1e-9)                     # order of frames
    turn = np.linalg.qr(rng.normal(size=(32, 32)))[0]
    assert measure(z @ turn, s, a) == pytest.approx(value, abs=.005)                                   # rotation of the embedding
    renamed = np.array([f'P{9 - int(x[1:])}' for x in s])
    assert measure(z, renamed, a) == pytest.approx(value, abs=1e-9)                                    # names of subjects
    for other in (pd.Series(s, index=range(7, 7 + len(s))), s.tolist(), pd.Categorical(s), np.unique(s, return_inverse=True)[1]):
        assert measure(z, other, a) == pytest.approx(value, abs=1e-9)
    assert measure(torch.tensor(z, requires_grad=True), s, a) == pytest.approx(value, abs=1e-9)
    assert measure(pd.DataFrame(z), s, a) == pytest.approx(value, abs=1e-9)

@pytest.mark.parametrize('measure', MEASURES)
def test_shuffled_subjects_are_at_chance(measure):
    z, s, a = made(identity=1, activity=.3, frames=20)
    value = measure(z, np.random.default_rng(0).permutation(s), a)
    if measure is id_preference: assert value < .5        # same activity still means the same activity
    else: assert abs(value - 1 / 6) < .06

@pytest.mark.parametrize('measure', MEASURES)
def test_per_subject(measure):
    z, s, a = made(identity=1, activity=.3)
    z[s == 'F002'] = np.random.default_rng(0).normal(size=(40, 32))
    per = measure(z, s, a, per_subject=True)
    assert per.index.tolist() == sorted(set(s)) and per.mean() == pytest.approx(measure(z, s, a))
    assert per['F002'] == per.min()

@pytest.mark.parametrize('measure', (knn_id, id_preference))
def test_few_anchors_are_near_all(measure):
    z, s, a = made(identity=.4, activity=.4, frames=30)
    assert measure(z, s, a, anchors=300) == pytest.approx(measure(z, s, a, anchors=None), abs=.06)
    assert measure(z, s, a, anchors=300) == measure(z, s, a, anchors=300)
    assert measure(z, s, a, anchors=1) >= 0               # one a cell at least

def test_probe_does_not_favour_subjects_with_many_frames():
    z, s, a = made(identity=.3, activity=.3, frames=40)
    keep = (s == 'F001') | (np.arange(len(s)) % 10 == 0)
    value = id_accuracy(z[keep], s[keep], a[keep], per_subject=True)
    assert value['F001'] < .9 and value.min() > 1 / 6

def test_made_up_embeddings():
    z, s, a = made(identity=1, activity=.5)
    np.testing.assert_allclose(np.linalg.norm(z, axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(z, made(identity=1, activity=.5)[0])
    assert pd.crosstab(s, a).eq(8).all().all() and np.abs(made(identity=1, noise=0, flip=True)[0].reshape(6, -1, 32).mean(1)).max() < 1e-6

def test_rotations_are_disjoint_in_activities():
    "Identity that holds in T1 to T4 and is exchanged in T5: the probe fails there and only there, in whatever rotation"
    z, s, a = made(identity=1, noise=.1)
    z[a == 'T5'] = np.roll(z[a == 'T5'], 8, axis=0)       # everyone gets the next subject's frames
    for rotations in (2, 4, 5, 99): assert id_accuracy(z, s, a, rotations=rotations) < .9
    assert id_accuracy(z, s, a, rotations=5) == pytest.approx(.8, abs=.01)

def test_report():
    z, s, a = made(identity=.4, activity=.4)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        r = leakage_report(z, s, a)
    assert r.columns.tolist() == ['measure', 'value', 'low', 'high', 'chance']
    assert r['measure'].tolist() == ['id_accuracy', 'knn_id', 'id_preference']
    assert r['chance'].tolist() == [1 / 6, 1 / 6, .5]
    assert ((r['low'] <= r['value']) & (r['value'] <= r['high'])).all()
    assert r['value'].tolist() == [m(z, s, a) for m in MEASURES]
    pd.testing.assert_frame_equal(r, leakage_report(z, s, a))

def test_smallest_case_and_constant_embedding():
    z, s, a = made(identity=1, n_subjects=2, n_activities=2, frames=3)
    assert report(z, s, a, n_boot=5)['id_preference'] > .5
    r = report(np.ones_like(z), s, a, n_boot=5)
    assert r['id_preference'] == .5 and abs(r['id_accuracy'] - .5) < 1e-9 and abs(r['knn_id'] - .5) < 1e-9

@pytest.mark.parametrize('measure', (*MEASURES, leakage_report))
@pytest.mark.parametrize('change, message', [
    (lambda z, s, a: (z, np.full(len(s), 'F001'), a), 'one subject'),
    (lambda z, s, a: (z, s, np.full(len(a), 'T1')), 'one activity'),
    (lambda z, s, a: (z[:-1], s, a), 'subject must be one label a frame'),
    (lambda z, s, a: (z, s, a[:-1]), 'activity must be one label a frame'),
    (lambda z, s, a: (np.where(np.arange(len(z))[:, None] == 3, np.nan, z), s, a), 'row 3 of z .* not finite'),
    (lambda z, s, a: (np.where(np.arange(len(z))[:, None] == 3, np.inf, z), s, a), 'row 3 of z .* not finite'),
    (lambda z, s, a: (np.where(np.arange(len(z))[:, None] == 3, 0, z), s, a), 'row 3 of z is all zeros'),
    (lambda z, s, a: (z[:, 0], s, a), 'frames by dimensions'),
    (lambda z, s, a: (z, np.where(np.arange(len(z)) == 3, None, s), a), 'row 3: subject is missing'),
    (lambda z, s, a: (z, s, np.where(np.arange(len(z)) == 3, None, a)), 'row 3: activity is missing'),
    (lambda z, s, a: (z, s, np.where(s == 'F002', 'T1', a)), 'one activity only'),
    (lambda z, s, a: (z, s, np.where((s == 'F002') & (a == 'T2'), 'T9', a)), 'activity T9 has frames of one subject only'),
    (lambda z, s, a: (z[:0], s[:0], a[:0]), 'no frames')])
def test_refuses(measure, change, message):
    z, s, a = made()
    s, a = s.astype(object), a.astype(object)
    with pytest.raises(ValueError, match=message): measure(*change(z, s, a))

def test_refuses_settings():
    z, s, a = made()
    with pytest.raises(ValueError, match='rotations'): id_accuracy(z, s, a, rotations=1)
    with pytest.raises(ValueError, match='k must be'): knn_id(z, s, a, k=1000)
    keep = ~((s == s[0]) & ~np.isin(a, ['T1', 'T5']))     # both activities of one person fall into one group of four
    with pytest.raises(ValueError, match='rotations=5'): id_accuracy(z[keep], s[keep], a[keep])
    assert id_accuracy(z[keep], s[keep], a[keep], rotations=5) >= 0
    with pytest.raises(TypeError, match='z must be numbers'): id_accuracy(np.full(z.shape, 'x'), s, a)

def test_raw_pixels(tmp_path):
    x = np.random.default_rng(0).integers(0, 255, (50, 48, 48, 3), dtype=np.uint8)
    z = raw_pixels(x, dim=8)
    assert z.shape == (50, 8) and z.dtype == np.float32 and np.abs(z.mean(0)).max() < 1e-4
    m = np.memmap(tmp_path/'x', np.uint8, 'w+', shape=x.shape); m[:] = x
    np.testing.assert_array_equal(raw_pixels(m, dim=8), z)
    assert raw_pixels(x[:5]).shape == (5, 4)              # fewer pictures than components
    np.testing.assert_array_equal(raw_pixels(x, dim=8, sample=20), raw_pixels(x, dim=8, sample=20))
    with pytest.raises(ValueError, match='N, H, W, 3'): raw_pixels(x[..., 0])
    with pytest.raises(ValueError, match='two pictures'): raw_pixels(x[:1])
