"""Leakage measures: known answers over seeds and shapes, slow references, what must not matter, and
input that must be refused.
"""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import Ridge

from clef_nb.measure.au_measures import (
    _pairs,
    _ridge,
    _subject_folds,
    amnesic_difference,
    au_auroc,
    split_gap,
)
from clef_nb.measure.erasure import leace
from clef_nb.measure.intervals import bootstrap_weights, expanded_percentiles, subject_bootstrap
from clef_nb.measure.leakage import (
    compare,
    counterfactual,
    leakage_report,
    measure_label,
    measure_names,
    raw_pixels,
)
from clef_nb.measure.measures import (
    MEASURES,
    by_subject,
    checked_frames,
    make_embeddings,
    measure,
)
from clef_nb.measure.metrics import auroc
from clef_nb.measure.neighbours import _shares, id_preference, knn_id, variance_partition
from clef_nb.measure.probes import (
    _discriminant,
    frame_folds,
    id_accuracy,
    selectivity,
    shuffled_subjects,
    v_information,
)


def given_activity(*x, **kw):
    return v_information(*x, given_activity=True, **kw)


THREE_MEASURES = id_accuracy, knn_id, id_preference
PER_SUBJECT = *THREE_MEASURES, selectivity, v_information, given_activity
VARIANCE = ['variance_subject', 'variance_activity', 'variance_interaction', 'variance_rest']
WITHOUT_AU = [
    'id_accuracy',
    'selectivity',
    'v_information',
    'v_information_given_activity',
    'knn_id',
    *VARIANCE,
    'id_preference',
]
WITH_AU = ['au_auroc', 'amnesic_difference', 'split_gap']
THREE = ['id_accuracy', 'knn_id', 'id_preference']


def made(seed=0, **kw):
    z, table = make_embeddings(
        **{'n_subjects': 6, 'n_activities': 5, 'frames': 8, 'dim': 32, 'seed': seed} | kw
    )
    return z, table['subject'].to_numpy(), table['activity'].to_numpy()


def made_au(seed=0, **kw):
    "The same with 0/1 labels of three AUs"
    z, table = make_embeddings(
        **{'n_subjects': 6, 'n_activities': 5, 'frames': 8, 'dim': 32, 'seed': seed, 'aus': 3} | kw
    )
    return (
        z,
        table['subject'].to_numpy(),
        table['activity'].to_numpy(),
        (table.filter(like='AU') >= 1).to_numpy(float).copy(),
    )


def shares(*x):
    return variance_partition(*x).to_numpy()


def codes(*x):
    return [np.unique(y, return_inverse=True)[1] for y in x]


def report(*x, **kw):
    return leakage_report(*x, **kw).set_index('measure')['value']


def slow_preference(z, s, a):
    z, values = z / np.linalg.norm(z, axis=1, keepdims=True), {}
    for i in range(len(z)):
        d = [
            (z[i] @ z[j], z[i] @ z[k])
            for j in np.flatnonzero((s == s[i]) & (a != a[i]))
            for k in np.flatnonzero((s != s[i]) & (a == a[i]))
        ]
        values.setdefault(s[i], []).append(
            np.mean([0.5 if abs(x - y) < 1e-9 else float(x > y) for x, y in d])
        )
    return np.mean([np.mean(v) for v in values.values()])


def slow_knn(z, s, a, k):
    z, values = z / np.linalg.norm(z, axis=1, keepdims=True), {}
    for i in range(len(z)):
        gallery = np.flatnonzero(a != a[i])
        near = s[gallery[np.argsort(-(z[gallery] @ z[i]), kind='stable')[:k]]].tolist()
        # most votes, then the nearest
        winner = max(near, key=lambda n: (near.count(n), -near.index(n)))
        values.setdefault(s[i], []).append(winner == s[i])
    return np.mean([np.mean(v) for v in values.values()])


@pytest.mark.parametrize('seed', range(5))
def test_slow_references_on_sequences_of_unequal_size(seed):
    z, s, a = made(seed, identity=0.4, activity=0.4)
    rows = np.random.default_rng(seed).permutation(len(z))[:150]
    z, s, a = z[rows].astype(float), s[rows], a[rows]
    assert id_preference(z, s, a) == pytest.approx(slow_preference(z, s, a), abs=1e-9)
    for k in (1, 4, 5):
        assert knn_id(z, s, a, k=k) == pytest.approx(slow_knn(z, s, a, k), abs=1e-9)


def test_preference_with_ties():
    z, s, a = made(frames=3)
    z = np.sign(z * (np.arange(32) < 3))
    assert id_preference(z, s, a) == pytest.approx(slow_preference(z, s, a), abs=1e-9)
    assert id_preference(np.ones_like(z), s, a) == 0.5


@pytest.mark.parametrize('seed, subjects, frames', [(0, 14, 12), (1, 14, 12), (2, 41, 4)])
def test_known_answers(seed, subjects, frames):
    def of(**kw):
        return report(
            *made(seed, n_subjects=subjects, n_activities=8, frames=frames, dim=128, **kw),
            n_boot=5,
            measures=THREE,
        )

    chance = 1 / subjects
    for none in ({}, {'sequence': 1}, {'activity': 0.6}):
        assert (abs(of(**none)[['id_accuracy', 'knn_id']] - chance) < 0.06).all()
    assert abs(of().id_preference - 0.5) < 0.02
    assert of(activity=0.6).id_preference < 0.05
    weak = of(activity=0.6, identity=0.2)
    assert weak.id_accuracy > 4 * chance and weak.id_preference < 0.1
    flip = of(activity=0.2, identity=1, flip=True)
    assert (
        abs(flip.id_accuracy - chance) < 0.06
        and flip.knn_id > 0.9
        and abs(flip.id_preference - 0.5) < 0.03
    )
    only = of(identity=1, noise=0)
    assert only.id_accuracy > 0.99 and only.knn_id > 0.99 and only.id_preference > 0.99
    balance = of(activity=0.5, identity=0.5)
    assert abs(balance.id_preference - 0.5) < 0.15


def test_more_identity_is_more_leakage():
    curves = pd.DataFrame(
        [
            report(*made(identity=i, activity=0.5, frames=12, dim=64), n_boot=5)
            for i in (0, 0.2, 0.4, 0.8)
        ]
    )[THREE + ['v_information', 'v_information_given_activity', 'variance_subject']]
    assert (curves.diff().iloc[1:] > 0).all().all()


@pytest.mark.parametrize('measure', (*PER_SUBJECT, shares))
def test_what_must_not_matter(measure):
    z, s, a = made(identity=0.3, activity=0.3)
    rng, value = np.random.default_rng(0), measure(z, s, a)
    # lengths of rows
    assert measure(z * rng.uniform(0.1, 9, (len(z), 1)), s, a) == pytest.approx(value, abs=0.005)
    order = rng.permutation(len(z))
    # order of frames; selectivity draws some
    assert measure(z[order], s[order], a[order]) == pytest.approx(
        value, abs=0.06 if measure is selectivity else 1e-9
    )
    turn = np.linalg.qr(rng.normal(size=(32, 32)))[0]
    # rotation of the embedding
    assert measure(z @ turn, s, a) == pytest.approx(value, abs=0.005)
    renamed = np.array([f'P{9 - int(x[1:])}' for x in s])
    # names of subjects; controls are sampled
    assert measure(z, renamed, a) == pytest.approx(
        value,
        abs=0.06
        if measure is selectivity
        else 0.02
        if measure in (v_information, given_activity)
        else 1e-9,
    )
    for other in (
        pd.Series(s, index=range(7, 7 + len(s))),
        s.tolist(),
        pd.Categorical(s),
        np.unique(s, return_inverse=True)[1],
    ):
        assert measure(z, other, a) == pytest.approx(value, abs=1e-9)
    assert measure(torch.tensor(z, requires_grad=True), s, a) == pytest.approx(value, abs=1e-9)
    assert measure(pd.DataFrame(z), s, a) == pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize('measure', THREE_MEASURES)
def test_shuffled_subjects_are_at_chance(measure):
    z, s, a = made(identity=1, activity=0.3, frames=20)
    value = measure(z, np.random.default_rng(0).permutation(s), a)
    # same activity still means the same activity
    if measure is id_preference:
        assert value < 0.5
    else:
        assert abs(value - 1 / 6) < 0.06


@pytest.mark.parametrize('measure', PER_SUBJECT)
def test_per_subject(measure):
    z, s, a = made(identity=1, activity=0.3)
    z[s == 'F002'] = np.random.default_rng(0).normal(size=(40, 32))
    per = measure(z, s, a, per_subject=True)
    assert per.index.tolist() == sorted(set(s)) and per.mean() == pytest.approx(measure(z, s, a))
    assert per['F002'] == per.min()


@pytest.mark.parametrize('measure', (knn_id, id_preference))
def test_few_anchors_are_near_all(measure):
    z, s, a = made(identity=0.4, activity=0.4, frames=30)
    assert measure(z, s, a, anchors=300) == pytest.approx(measure(z, s, a, anchors=None), abs=0.06)
    assert measure(z, s, a, anchors=300) == measure(z, s, a, anchors=300)
    assert measure(z, s, a, anchors=1) >= 0  # one a cell at least


def test_probe_does_not_favour_subjects_with_many_frames():
    z, s, a = made(identity=0.3, activity=0.3, frames=40)
    keep = (s == 'F001') | (np.arange(len(s)) % 10 == 0)
    value = id_accuracy(z[keep], s[keep], a[keep], per_subject=True)
    assert value['F001'] < 0.9 and value.min() > 1 / 6


def test_made_up_embeddings():
    z, s, a = made(identity=1, activity=0.5)
    np.testing.assert_allclose(np.linalg.norm(z, axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(z, made(identity=1, activity=0.5)[0])
    assert (
        pd.crosstab(s, a).eq(8).all().all()
        and np.abs(made(identity=1, noise=0, flip=True)[0].reshape(6, -1, 32).mean(1)).max() < 1e-6
    )


def test_rotations_are_disjoint_in_activities():
    """Identity that holds in T1 to T4 and is exchanged in T5: the probe fails there and only there,
    in whatever rotation
    """
    z, s, a = made(identity=1, noise=0.1)
    # everyone gets the next subject's frames
    z[a == 'T5'] = np.roll(z[a == 'T5'], 8, axis=0)
    for rotations in (2, 4, 5, 99):
        assert id_accuracy(z, s, a, rotations=rotations) < 0.9
    assert id_accuracy(z, s, a, rotations=5) == pytest.approx(0.8, abs=0.01)


def test_report():
    z, s, a, au = made_au(identity=0.4, activity=0.4, au=0.5)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        r, more = leakage_report(z, s, a), leakage_report(z, s, a, au)
    assert r.columns.tolist() == ['measure', 'value', 'low', 'high', 'chance']
    assert r['measure'].tolist() == WITHOUT_AU and more['measure'].tolist() == WITHOUT_AU + WITH_AU
    assert r['chance'].tolist() == [1 / 6, 0, 0, 0, 1 / 6, 0, 0, 0, 1, 0.5] and more[
        'chance'
    ].tolist()[-3:] == [0.5, 0, 0]
    assert ((more['low'] <= more['value']) & (more['value'] <= more['high'])).all()
    alone = [
        m(z, s, a) for m in (id_accuracy, selectivity, v_information, given_activity, knn_id)
    ] + [*variance_partition(z, s, a), id_preference(z, s, a)]
    alone += [au_auroc(z, s, au), amnesic_difference(z, s, a, au), split_gap(z, s, a, au)]
    np.testing.assert_allclose(more['value'], alone, rtol=0, atol=1e-12)
    pd.testing.assert_frame_equal(more.iloc[:10], r)
    pd.testing.assert_frame_equal(more, leakage_report(z, s, a, au))
    assert more.attrs == leakage_report(z, s, a, au).attrs


def test_report_with_another_seed():
    z, s, a, au = made_au(identity=0.4, activity=0.4, au=0.5, frames=30)
    r = leakage_report(z, s, a, au, seed=3, n_boot=5)
    alone = (
        [id_accuracy(z, s, a)]
        + [m(z, s, a, seed=3) for m in (selectivity, v_information, given_activity, knn_id)]
        + [*variance_partition(z, s, a), id_preference(z, s, a, seed=3)]
    )
    alone += [
        au_auroc(z, s, au, seed=3),
        amnesic_difference(z, s, a, au, seed=3),
        split_gap(z, s, a, au, seed=3),
    ]
    np.testing.assert_allclose(r['value'], alone, rtol=0, atol=1e-12)
    assert (
        r['value'].to_numpy() != leakage_report(z, s, a, au, n_boot=5)['value'].to_numpy()
    ).sum() >= 4
    assert r.attrs['seed'] == 3


def test_report_picks_measures():
    z, s, a, au = made_au(identity=0.4)
    whole = leakage_report(z, s, a, au, n_boot=50)
    for pick, found in (
        (['knn_id'], ['knn_id']),
        (['id_preference', 'variance', 'id_accuracy'], ['id_accuracy', *VARIANCE, 'id_preference']),
        (['split_gap', 'selectivity'], ['selectivity', 'split_gap']),
    ):
        r = leakage_report(z, s, a, au, measures=pick, n_boot=50)
        pd.testing.assert_frame_equal(r, whole[whole['measure'].isin(found)].reset_index(drop=True))
        assert list(r.attrs['draws']) == found and all(
            r.attrs['draws'][m] == whole.attrs['draws'][m] for m in found
        )
    for wrong in (['knn'], 'knn_id', [], ['variance_subject']):
        with pytest.raises(ValueError, match='measures must be a list from id_accuracy'):
            leakage_report(z, s, a, measures=wrong)
    with pytest.raises(ValueError, match='need au'):
        leakage_report(z, s, a, measures=['split_gap'])
    with pytest.raises(ValueError, match='n_boot'):
        leakage_report(z, s, a, n_boot=0)


def test_resamples_are_the_value_if_these_subjects_had_been_sampled():
    "Subjects sampled twice enter as two, but for pairs of a subject with its copy in the variance"
    z, s, a, au = made_au(identity=0.4, activity=0.4, au=0.5)
    r = leakage_report(z, s, a, au, n_boot=20)
    w = bootstrap_weights(6, 20, 0)
    for m, f in (
        ('id_accuracy', id_accuracy),
        ('selectivity', selectivity),
        ('knn_id', knn_id),
        ('id_preference', id_preference),
    ):
        np.testing.assert_allclose(
            r.attrs['draws'][m],
            [np.repeat(f(z, s, a, per_subject=True).to_numpy(), x.astype(int)).mean() for x in w],
        )
    names, sc = np.unique(s), codes(s, a)[0]
    b = next(i for i, x in enumerate(w) if (x > 0).sum() == 4)
    fold = _subject_folds(6, 5, 0)
    score = _ridge(
        z.astype(float) / np.linalg.norm(z.astype(float), axis=1, keepdims=True), au, fold[sc]
    )
    values = []
    for k in range(3):
        right = pairs = 0
        for g in range(5):
            rows = np.concatenate(
                [
                    np.flatnonzero((sc == i) & (fold[sc] == g))
                    for i in np.repeat(np.arange(6), w[b].astype(int))
                ]
            ).astype(int)
            n = (au[rows, k] == 1).sum() * (au[rows, k] == 0).sum()
            if n:
                right, pairs = right + n * auroc(score[rows, k], au[rows, k]), pairs + n
        values.append(right / pairs)
    assert r.attrs['draws']['au_auroc'][b] == pytest.approx(np.mean(values), abs=1e-12)
    low, high = subject_bootstrap(lambda w: w @ np.arange(6.0) / 6, names, 20, 0, 0.5)
    # the resamples of the tables of scores
    same = expanded_percentiles(w @ np.arange(6.0) / 6, 6, level=0.5)
    assert same.tolist() == [low, high]


def test_parts_are_kept():
    z, s, a, au = made_au(identity=0.4, sequence=0.4, au=0.5)
    r = leakage_report(z, s, a, au, n_boot=50)
    parts = selectivity(z, s, a, parts=True), amnesic_difference(z, s, a, au, parts=True)
    for m, p in zip(('selectivity', 'amnesic_difference'), parts):
        assert [v[0] for v in r.attrs[m].values()] == pytest.approx(p.iloc[:-1].tolist()) and list(
            r.attrs[m]
        ) == p.index[:-1].tolist()
        assert all(v[1] <= v[0] <= v[2] for v in r.attrs[m].values())
        assert p.iloc[-1] == pytest.approx(r.set_index('measure')['value'][m])
    assert parts[0]['selectivity'] == pytest.approx(
        parts[0]['random_frames'] - parts[0]['control_task']
    )
    assert parts[1]['difference'] == pytest.approx(
        parts[1]['without_shuffled'] - parts[1]['without_subject']
    )
    assert selectivity(z, s, a, parts=True, per_subject=True).shape == (6, 3)


def test_attrs_survive_pandas_and_parquet(tmp_path):
    z, s, a = made(identity=0.4)
    for subject in (s, codes(s)[0]):
        r = leakage_report(z, subject, a, n_boot=20)
        r.to_parquet(tmp_path / 'r.parquet')
        back = pd.read_parquet(tmp_path / 'r.parquet')
        assert back.attrs == r.attrs and (r.round(3) == r.round(3)).all().all()
        assert (compare({'a': r, 'b': back})[['difference', 'low', 'high']] == 0).all().all()


def test_smallest_case_and_constant_embedding():
    z, s, a = made(identity=1, n_subjects=2, n_activities=2, frames=3)
    with pytest.warns(
        UserWarning, match='v_information is nan: V-information needs three activities'
    ):
        r = report(z, s, a, n_boot=5)
    assert (
        r['id_preference'] > 0.5
        and r[['v_information', 'v_information_given_activity']].isna().all()
        and r.notna().sum() == 8
    )
    with pytest.warns(UserWarning):
        r = report(np.ones_like(z), s, a, n_boot=5)
    assert (
        r['id_preference'] == 0.5
        and abs(r['id_accuracy'] - 0.5) < 1e-9
        and abs(r['knn_id'] - 0.5) < 1e-9
    )
    z, s, a, au = made_au()
    for constant in (np.ones_like(z), np.full_like(z, -0.1234567)):
        r = leakage_report(constant, s, a, au, n_boot=20).set_index('measure')
        assert r['value'][VARIANCE].isna().all() and r['low'][VARIANCE].isna().all()
        rest = r.drop(VARIANCE)
        np.testing.assert_allclose(rest['value'], rest['chance'], atol=1e-9)
        assert (rest['low'] <= rest['chance'] + 1e-9).all() and (
            rest['chance'] - 1e-9 <= rest['high']
        ).all()


def test_what_has_no_answer_is_nan_with_a_warning_unless_asked_for():
    z, s, a, au = made_au()
    keep = ~((s == 'F003') & (a == 'T2'))
    x = z[keep], s[keep], a[keep]
    with pytest.warns(
        UserWarning, match='variance is nan: subject F003 has no frames of activity T2'
    ):
        r = leakage_report(*x, n_boot=5)
    assert r[r['value'].isna()]['measure'].tolist() == VARIANCE and r['low'].isna().sum() == 4
    with pytest.raises(ValueError, match='F003 has no frames of activity T2'):
        leakage_report(*x, measures=['variance'])
    with pytest.raises(ValueError, match='F003 has no frames of activity T2'):
        variance_partition(*x)
    one = np.unique(pd.Series(s) + a, return_index=True)[1]
    with pytest.raises(ValueError, match='one frame only'):
        variance_partition(z[one], s[one], a[one])
    two = np.isin(s, ['F001', 'F002'])
    with pytest.raises(ValueError, match='three subjects'):
        amnesic_difference(z[two], s[two], a[two], au[two])
    with pytest.warns(UserWarning, match='amnesic_difference is nan'):
        assert (
            leakage_report(z[two], s[two], a[two], au[two], n_boot=5)
            .set_index('measure')['value']
            .isna()
            .sum()
            == 1
        )
    two = np.isin(a, ['T1', 'T2'])
    with pytest.raises(ValueError, match='three activities'):
        leakage_report(z[two], s[two], a[two], measures=['v_information'])


# Slow references


def lda(z, s):
    return LinearDiscriminantAnalysis(
        solver='lsqr', shrinkage=0.1, priors=np.full(len(set(s)), 1 / len(set(s)))
    ).fit(z, s)


@pytest.mark.parametrize('seed', range(3))
def test_the_discriminant_is_scikit_learns(seed):
    z, s, a = made(seed, identity=0.3, n_subjects=4)
    # classes of unequal size
    rows = np.random.default_rng(seed).permutation(len(z))[:90]
    z, y = z[rows].astype(float), codes(s[rows])[0]
    ours, theirs = _discriminant(z, y, 4)(z), lda(z, y).decision_function(z)
    np.testing.assert_allclose(ours - ours[:, :1], theirs - theirs[:, :1], atol=1e-5)
    # two classes without a frame
    more = _discriminant(z, y, 6)(z)
    assert np.isneginf(more[:, 4:]).all()
    np.testing.assert_allclose(more[:, :4], ours)


def test_id_accuracy_is_scikit_learns():
    for seed in range(3):
        z, s, a = made(seed, identity=0.25, activity=0.3)
        z = z.astype(float)
        group, right = codes(a)[0] % 4, np.zeros(len(z))
        for g in range(4):
            right[group == g] = (
                lda(z[group != g], s[group != g]).predict(z[group == g]) == s[group == g]
            )
        assert id_accuracy(z, s, a) == pytest.approx(right.mean(), abs=1e-12)


def test_folds_and_control_task():
    _, s, a = made(frames=7)
    s, a = codes(s, a)
    for keep in (np.ones(len(s), bool), np.random.default_rng(0).random(len(s)) < 0.5):
        fold = frame_folds(s[keep], a[keep], 4, 0)
        for by in ([s[keep]], [s[keep], a[keep]]):
            count = pd.crosstab(by, fold).reindex(columns=range(4), fill_value=0)
            assert (count.max(axis=1) - count.min(axis=1)).max() <= 1
        assert (fold != frame_folds(s[keep], a[keep], 4, 1)).mean() > 0.5
    other = shuffled_subjects(s, a, np.random.default_rng(0))
    assert (pd.crosstab(other, a) == 7).all().all() and pd.Series(other).groupby(
        [s, a]
    ).nunique().max() == 1
    assert 0 < (other == s).mean() < 0.5


def test_selectivity_is_the_difference_of_two_tasks():
    z, s, a = made(identity=0.3, sequence=0.5)
    z = z.astype(float)
    sc, ac = codes(s, a)
    fold, rng = frame_folds(sc, ac, 4, 0), np.random.default_rng(0)

    def right(y):
        return np.mean(
            [
                np.mean(lda(z[fold != g], y[fold != g]).predict(z[fold == g]) == y[fold == g])
                for g in range(4)
            ]
        )

    assert selectivity(z, s, a) == pytest.approx(
        right(sc) - np.mean([right(shuffled_subjects(sc, ac, rng)) for _ in range(3)]), abs=1e-12
    )


def slow_bits(z, y, a, given):
    z, n, group, bits = (
        z / np.linalg.norm(z, axis=1, keepdims=True),
        y.max() + 1,
        a % 4,
        np.zeros(len(z)),
    )
    may = np.array(
        [[not given or ((a == t) & (y == k)).any() for k in range(n)] for t in range(a.max() + 1)]
    )
    if given:
        z = (
            z
            - np.stack(
                [
                    np.mean(
                        [
                            z[(a == t) & (y == k)].mean(0)
                            for k in range(n)
                            if ((a == t) & (y == k)).any()
                        ],
                        0,
                    )
                    for t in range(a.max() + 1)
                ]
            )[a]
        )

    def own(f, y, a, b):
        f = np.where(may[a], b * f, -np.inf)
        f = f - f.max(1, keepdims=True)
        return f[np.arange(len(f)), y] - np.log(np.exp(f).sum(1))

    for g in range(4):
        held = []
        for h in set(range(4)) - {g}:
            train, test = (group != g) & (group != h), group == h
            if len(set(y[train])) == n:
                held.append((lda(z[train], y[train]).decision_function(z[test]), y[test], a[test]))
        grid = np.linspace(0, 2, 4001)
        b = grid[np.argmin([-np.concatenate([own(*x, b) for x in held]).sum() for b in grid])]
        bits[group == g] = (
            own(
                lda(z[group != g], y[group != g]).decision_function(z[group == g]),
                y[group == g],
                a[group == g],
                b,
            )
            / np.log(2)
            + np.log2(may.sum(1))[a[group == g]]
        )
    return bits


@pytest.mark.parametrize('given', (False, True))
def test_v_information_is_the_slow_one(given):
    z, s, a = made(identity=0.3, activity=0.4, n_subjects=4, n_activities=6)
    # two sequences are missing
    keep = ~(((s == 'F002') & (a == 'T1')) | ((s == 'F004') & (a == 'T6')))
    z, s, a = z[keep], s[keep], a[keep]
    sc, ac = codes(s, a)
    rng = np.random.default_rng(0)
    real, *shuffled = (
        np.array([b[sc == i].mean() for i in range(4)])
        for b in [
            slow_bits(z.astype(float), y, ac, given)
            for y in (sc, *(shuffled_subjects(sc, ac, rng) for _ in range(3)))
        ]
    )
    each = real - sum(x * (x.mean() > 0) for x in shuffled) / 3
    np.testing.assert_allclose(
        v_information(z, s, a, given_activity=given, per_subject=True), each, atol=2e-3
    )
    assert v_information(z, s, a, given_activity=given) == pytest.approx(
        max(0, each.mean()), abs=2e-3
    )


def test_v_information_is_bounded():
    z, s, a = made(identity=1, noise=0)
    assert v_information(z, s, a) == pytest.approx(np.log2(6)) and given_activity(
        z, s, a
    ) == pytest.approx(np.log2(6))
    noise = [v_information(*made(seed)) for seed in range(10)]
    assert min(noise) == 0 and max(noise) < 0.05
    assert v_information(z, s, a, per_subject=True).min() > 2.5


def test_knowing_the_activity_helps_where_it_is_in_the_way():
    z, s, a = made(identity=0.3, activity=1, n_activities=8, frames=20)
    assert given_activity(z, s, a) > v_information(z, s, a) + 0.2
    shift = z + 3 * np.random.default_rng(0).normal(size=(8, 32))[codes(a)[0]]
    assert given_activity(shift, s, a) > v_information(shift, s, a) + 0.2


def slow_variance(z, s, a):
    "Sums of squares of the unweighted-means analysis, one dimension at a time"
    z = z / np.linalg.norm(z, axis=1, keepdims=True)
    S, A = s.max() + 1, a.max() + 1
    n = np.array([[((s == i) & (a == j)).sum() for j in range(A)] for i in range(S)])
    parts = np.zeros(4)
    for x in z.T:
        cell = np.array([[x[(s == i) & (a == j)].mean() for j in range(A)] for i in range(S)])
        e = sum((x[k] - cell[s[k], a[k]]) ** 2 for k in range(len(x))) / (len(x) - S * A)
        ms_s, ms_a = A * cell.mean(1).var(ddof=1), S * cell.mean(0).var(ddof=1)
        ms_sa = (
            ((cell - cell.mean(1, keepdims=True) - cell.mean(0) + cell.mean()) ** 2).sum()
            / (S - 1)
            / (A - 1)
        )
        parts += [(ms_s - ms_sa) / A, (ms_a - ms_sa) / S, ms_sa - e * (1 / n).mean(), e]
    return parts / parts.sum()


@pytest.mark.parametrize('seed', range(3))
def test_variance_is_the_textbooks(seed):
    z, s, a = made(seed, identity=0.5, activity=0.4, sequence=0.3)
    for keep in (np.ones(len(z), bool), np.random.default_rng(seed).random(len(z)) < 0.7):
        found = variance_partition(z[keep], s[keep], a[keep])
        np.testing.assert_allclose(
            found, slow_variance(z[keep].astype(float), *codes(s[keep], a[keep])), atol=1e-10
        )
        assert found.index.tolist() == [
            'subject',
            'activity',
            'interaction',
            'rest',
        ] and found.sum() == pytest.approx(1)


def test_variance_of_sampled_subjects_leaves_copies_out():
    """A subject sampled twice counts twice, but never as a pair with its copy: the mean over
    resamples stays the value
    """
    z, s, a = made(activity=0.4, identity=0.3, n_subjects=10)
    shares = _shares(z.astype(float), *codes(s, a), np.unique(s), np.unique(a))
    draws = shares(bootstrap_weights(10, 4000, 0))
    np.testing.assert_allclose(draws.mean(0), shares(np.ones((1, 10)))[0], atol=0.004)
    assert shares(np.array([[2.0, 2, 2, 2, 2, 0, 0, 0, 0, 0]])) == pytest.approx(
        shares(np.array([[2.0, 2, 2, 2, 2, 0, 0, 0, 0, 0]]) / 2), abs=0.1
    )
    # one subject alone
    assert np.isnan(shares(np.array([[10.0, 0, 0, 0, 0, 0, 0, 0, 0, 0]]))).all()


def test_variance_is_what_was_put_in():
    for kw in (
        dict(identity=1),
        dict(activity=1),
        dict(sequence=1),
        {},
        dict(identity=0.5, activity=0.7, sequence=0.4),
    ):
        true = np.array([kw.get(k, 0) ** 2 for k in ('identity', 'activity', 'sequence')] + [1.0])
        found = variance_partition(*made(n_subjects=14, n_activities=8, dim=128, **kw))
        np.testing.assert_allclose(found, true / true.sum(), atol=0.025)


# Action units


def slow_ridge(z, y, train, test):
    x = z[train] - z[train].mean(0)
    return Ridge(0.01 * x.var(0).mean() * len(x)).fit(z[train], y[train]).predict(z[test])


@pytest.mark.parametrize('missing', (0, 0.2))
def test_au_auroc_is_the_slow_one(missing):
    z, s, a, au = made_au(au=0.5, identity=0.3, n_subjects=8, frames=12)
    rng = np.random.default_rng(0)
    au[rng.random(au.shape) < missing] = np.nan
    unit, sc = z / np.linalg.norm(z.astype(float), axis=1, keepdims=True), codes(s)[0]
    fold = _subject_folds(8, 5, 0)[sc]
    assert sorted(np.bincount(_subject_folds(8, 5, 0))) == [1, 1, 2, 2, 2]
    values = []
    for y in au.T:
        right = pairs = 0
        for g in range(5):
            score = slow_ridge(unit, y, (fold != g) & ~np.isnan(y), fold == g)
            d = score[y[fold == g] == 1][:, None] - score[y[fold == g] == 0]
            right, pairs = right + (np.sign(d) / 2 + 0.5).sum(), pairs + d.size
        values.append(right / pairs)
    assert au_auroc(z, s, au) == pytest.approx(np.mean(values), abs=1e-6)
    assert (
        au_auroc(z, s, pd.DataFrame(au)) == au_auroc(z, s, torch.tensor(au)) == au_auroc(z, s, au)
    )
    assert au_auroc(z, s, au[:, 1]) == pytest.approx(values[1], abs=1e-6)
    if not missing:
        assert au_auroc(z, s, au == 1) == au_auroc(z, s, au)


def test_pairs_are_compared_within_a_group():
    s, group = np.array([0, 0, 1, 1, 2, 2]), np.array([0, 0, 0, 0, 1, 1])
    right, pairs = _pairs(
        np.array([[0.9], [0.1], [0.5], [0.4], [0.2], [0.3]]),
        np.array([[1.0], [0], [1], [0], [1], [0]]),
        s,
        group,
    )
    assert pairs[0].tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1]] and right[0].tolist() == [
        [1, 1, 0],
        [1, 1, 0],
        [0, 0, 0],
    ]


def test_amnesic_difference_is_the_slow_one():
    z, s, a, au = made_au(identity=0.4, au=1, tangled=True, n_subjects=8)
    z = z.astype(float) / np.linalg.norm(z.astype(float), axis=1, keepdims=True)
    sc, ac = codes(s, a)
    fold, rng = _subject_folds(8, 5, 0)[sc], np.random.default_rng(0)

    def auroc_after(label):
        values = np.zeros((2, 3))
        for g in range(5):
            train, test = fold != g, fold == g
            x = leace(z[train], label(train))(z)
            for k in range(3):
                score, y = slow_ridge(x, au[:, k], train, test), au[test, k]
                values[:, k] += (
                    (np.sign(score[y == 1][:, None] - score[y == 0]) / 2 + 0.5).sum(),
                    (y == 1).sum() * (y == 0).sum(),
                )
        return (values[0] / values[1]).mean()

    erased = auroc_after(lambda rows: sc[rows])
    shuffled = np.mean(
        [auroc_after(lambda rows: shuffled_subjects(sc[rows], ac[rows], rng)) for _ in range(3)]
    )
    found = amnesic_difference(z, s, a, au, parts=True)
    assert found.tolist() == pytest.approx(
        [au_auroc(z, s, au), erased, shuffled, shuffled - erased], abs=1e-6
    )


def test_the_eraser_never_sees_the_tested_subjects():
    """Embeddings of tested subjects far away along their own direction: an eraser that had seen
    them would take it out"""
    z, s, a, au = made_au(au=1, n_subjects=8, frames=12)
    first = _subject_folds(8, 5, 0) == 0
    assert first.sum() == 2
    fold = _subject_folds(8, 5, 0)[codes(s)[0]]
    seen = []
    _ridge(z.astype(float), au, fold, lambda rows: (seen.append(rows.copy()), codes(s[rows])[0])[1])
    assert len(seen) == 5 and all((rows == (fold != g)).all() for g, rows in enumerate(seen))


def test_amnesic_known_answers():
    kw = dict(n_subjects=14, n_activities=8, frames=12, dim=128, activity=0.3)
    tangled = [
        amnesic_difference(*made_au(seed, identity=0.4, au=1, tangled=True, **kw))
        for seed in range(3)
    ]
    apart = [amnesic_difference(*made_au(seed, identity=0.4, au=0.5, **kw)) for seed in range(3)]
    none = [amnesic_difference(*made_au(seed, au=0.5, **kw)) for seed in range(3)]
    assert min(tangled) > 0.03 and np.abs(apart).max() < 0.02 and np.abs(none).max() < 0.01
    z, s, a, au = made_au(identity=0.4, au=1, tangled=True, n_subjects=14, dim=8)
    # more training subjects than dimensions: all is erased
    found = amnesic_difference(z, s, a, au, parts=True)
    assert (
        found[['without_subject', 'without_shuffled', 'difference']].tolist() == [0.5, 0.5, 0]
        and found['before'] > 0.7
    )


def test_split_gap_known_answers():
    kw = dict(n_subjects=14, n_activities=8, frames=12, dim=128)
    assert min(split_gap(*made_au(seed, sequence=1, **kw)) for seed in range(3)) > 0.25
    assert max(abs(split_gap(*made_au(seed, au=1, **kw))) for seed in range(3)) < 0.01


def test_split_gap_is_the_slow_one():
    "Two probes, the same pairs: one fold of subjects and one of frames"
    z, s, a, au = made_au(sequence=0.5, au=0.3, n_subjects=7, frames=12)
    z = z.astype(float) / np.linalg.norm(z.astype(float), axis=1, keepdims=True)
    sc, ac = codes(s, a)
    subjects, frames = _subject_folds(7, 5, 0)[sc], frame_folds(sc, ac, 5, 0)

    def aurocs(fold):
        values = []
        for y in au.T:
            score = np.concatenate([slow_ridge(z, y, fold != g, fold == g) for g in range(5)])[
                np.argsort(np.argsort(fold, kind='stable'), kind='stable')
            ]
            d = np.concatenate(
                [
                    (
                        score[(subjects == g) & (frames == h) & (y == 1)][:, None]
                        - score[(subjects == g) & (frames == h) & (y == 0)]
                    ).ravel()
                    for g in range(5)
                    for h in range(5)
                ]
            )
            values.append((np.sign(d) / 2 + 0.5).mean())
        return np.array(values)

    assert split_gap(z, s, a, au) == pytest.approx(
        (aurocs(frames) - aurocs(subjects)).mean(), abs=1e-6
    )


def test_au_input():
    z, s, a, au = made_au(au=0.5)
    for f in (
        lambda au: au_auroc(z, s, au),
        lambda au: amnesic_difference(z, s, a, au),
        lambda au: split_gap(z, s, a, au),
        lambda au: leakage_report(z, s, a, au, n_boot=5),
    ):
        for bad, message in (
            (au[:-1], 'au must be frames by AUs'),
            (au[None], 'au must be frames by AUs'),
            (au[:, :0], 'au must be frames by AUs'),
            (np.where(au == 1, 2, 0), 'column 2: 2'),
            (pd.DataFrame(au * 3, columns=['AU1', 'AU2', 'AU4']), 'column AU'),
            (np.zeros_like(au), 'only one class'),
            (np.full_like(au, np.nan), 'only one class'),
            (np.where(au == 1, np.inf, 0), 'au, row'),
        ):
            with pytest.raises(ValueError, match=message):
                f(bad)
        with pytest.raises(TypeError, match='au must be numbers'):
            f(np.full(au.shape, 'x'))
        with pytest.warns(UserWarning, match='no coded frame, for AU2: left out'):
            f(pd.DataFrame({'AU1': au[:, 0], 'AU2': 1.0, 'AU4': au[:, 2]}))
    with pytest.warns(UserWarning):
        assert au_auroc(z, s, np.where([[0, 1, 0]], 1, au)) == au_auroc(z, s, au[:, [0, 2]])
    with pytest.raises(ValueError, match='folds'):
        au_auroc(z, s, au, folds=1)
    with pytest.raises(ValueError, match='controls'):
        amnesic_difference(z, s, a, au, controls=0)
    with pytest.raises(ValueError, match='one subject'):
        au_auroc(z, np.full(len(s), 'F001'), au)
    with pytest.raises(ValueError, match='row 3 of z .* not finite'):
        au_auroc(np.where(np.arange(len(z))[:, None] == 3, np.nan, z), s, au)


# Counterfactual


def test_counterfactual_is_the_slow_one():
    z = np.random.default_rng(0).normal(size=(5, 4, 3, 16))
    z += 2 * z[:, :1, :1]
    unit = z / np.linalg.norm(z, axis=-1, keepdims=True)
    found = counterfactual(z, n_boot=200)
    for axis, name in enumerate(('person', 'expression', 'shot')):
        x = np.moveaxis(unit, axis, 0)
        assert found['value'][name] == pytest.approx(
            np.mean(
                [1 - (x[i] * x[j]).sum(-1) for i in range(len(x)) for j in range(len(x)) if i != j]
            )
        )
    assert found['value']['person_share'] == pytest.approx(
        found['value']['person'] / (found['value']['person'] + found['value']['expression'])
    )
    assert ((found['low'] <= found['value']) & (found['value'] <= found['high'])).all()
    assert counterfactual(torch.tensor(z[:, :, 0])).index.tolist() == [
        'person',
        'expression',
        'person_share',
    ]
    pd.testing.assert_frame_equal(counterfactual(7 * z, n_boot=200), found)
    # all subjects alike, resampled copies too
    still = counterfactual(np.broadcast_to(z[:1], z.shape))
    assert still.loc['person'].abs().max() < 1e-9 and still['value'][
        'person_share'
    ] == pytest.approx(0)
    for bad, message in (
        (z[0, 0], 'subjects, expressions'),
        (z[:, :1], 'two or more'),
        (z[:, :, :1], 'two or more'),
        (np.where(z > 3, np.nan, z), 'not finite'),
        (0 * z, 'all zeros'),
    ):
        with pytest.raises(ValueError, match=message):
            counterfactual(bad)


# Comparison and intervals


def test_compare():
    z, s, a, au = made_au(identity=0.3, activity=0.4, au=0.5)
    less, more = (
        leakage_report(z, s, a, au, n_boot=100),
        leakage_report(made_au(identity=0.5, activity=0.4, au=0.5)[0], s, a, au, n_boot=100),
    )
    c = compare({'less': less, 'more': more, 'again': less})
    assert (
        c.columns.tolist() == ['measure', 'embedding', 'against', 'difference', 'low', 'high']
        and len(c) == 26
        and set(c['against']) == {'less'}
    )
    assert c[c['embedding'] == 'again'][['difference', 'low', 'high']].eq(0).all().all()
    np.testing.assert_allclose(c['difference'][:13], more['value'] - less['value'])
    d = np.subtract(more.attrs['draws']['knn_id'], less.attrs['draws']['knn_id'])
    assert c.set_index('measure').loc['knn_id', ['low', 'high']].iloc[0].tolist() == pytest.approx(
        expanded_percentiles(d, 6).tolist()
    )
    d, m = (
        np.subtract(more.attrs['draws']['split_gap'], less.attrs['draws']['split_gap']),
        c['difference'][12],
    )
    # probes are trained on other subjects
    assert c.loc[12, ['low', 'high']].tolist() == pytest.approx(
        (m + 1.25 * (expanded_percentiles(d, 6) - m)).tolist()
    )
    other = compare({'less': less, 'more': more}, against='more')
    np.testing.assert_allclose(other['difference'], -c['difference'][:13])
    np.testing.assert_allclose(other['low'], -c['high'][:13])
    some = compare({'less': less[less['measure'] == 'knn_id'], 'more': more})
    assert some['measure'].tolist() == ['knn_id']
    with warnings.catch_warnings(record=True):
        assert (
            compare(
                {
                    'a': leakage_report(z[:80], s[:80], a[:80], n_boot=5),
                    'b': leakage_report(z[:80], s[:80], a[:80], n_boot=5),
                }
            )['low']
            .notna()
            .sum()
            >= 0
        )


def test_compare_refuses():
    z, s, a = made()
    kw = dict(measures=['knn_id'], n_boot=20)
    r = leakage_report(z, s, a, **kw)
    keep = s != 'F006'
    for other, message in (
        (leakage_report(z, s, a, seed=1, **kw), 'differ in seed'),
        (leakage_report(z[keep], s[keep], a[keep], **kw), 'differ in subjects'),
        (leakage_report(z, np.char.add('P', s), a, **kw), 'differ in subjects'),
        (leakage_report(z, s, a, measures=['knn_id'], n_boot=30), 'differ in n_boot'),
        (pd.DataFrame(r.to_dict()), 'no resamples'),
        (leakage_report(z, s, a, measures=['variance'], n_boot=20), 'in common'),
    ):
        with pytest.raises(ValueError, match=message):
            compare({'a': r, 'b': other})
    for reports, against in (({}, None), ({'a': r}, None), ({'a': r, 'b': r}, 'c')):
        with pytest.raises(ValueError, match='two reports'):
            compare(reports, against)


@pytest.mark.slow
def test_chance_is_inside_the_interval_of_a_null_embedding():
    "Nothing but noise: in at least 90 of 100 draws, for every measure"
    hits = []
    for seed in range(100):
        z, s, a, au = made_au(seed, n_subjects=14, frames=8)
        r = leakage_report(z, s, a, au, seed=seed, n_boot=500)
        hits.append(((r['low'] <= r['chance']) & (r['chance'] <= r['high'])).set_axis(r['measure']))
    assert (pd.DataFrame(hits).sum() >= 90).all(), pd.DataFrame(hits).sum().to_dict()


RECIPES = {
    'noise': {},
    'no identity': dict(activity=0.6, au=0.6),
    'sequences': dict(sequence=1),
    'weak': dict(activity=0.6, au=0.6, identity=0.15),
    'flip': dict(activity=0.3, au=0.6, identity=1, flip=True),
    'only': dict(identity=1, noise=0),
}


@pytest.mark.slow
def test_known_answers_of_all_measures():
    "Chance is inside the interval where there is nothing to see, and outside where there is"
    nothing = {
        'noise': WITHOUT_AU + WITH_AU,
        'no identity': [
            'id_accuracy',
            'selectivity',
            'v_information',
            'v_information_given_activity',
            'knn_id',
            'variance_subject',
        ],
        'sequences': [
            'id_accuracy',
            'selectivity',
            'v_information',
            'v_information_given_activity',
            'knn_id',
            'variance_subject',
            'variance_activity',
            'id_preference',
            'au_auroc',
        ],
        'flip': [
            'id_accuracy',
            'v_information',
            'v_information_given_activity',
            'variance_subject',
        ],
    }
    something = {
        'weak': [
            'id_accuracy',
            'selectivity',
            'v_information',
            'v_information_given_activity',
            'knn_id',
            'variance_subject',
            'au_auroc',
        ],
        'flip': ['knn_id'],
        'sequences': ['variance_interaction', 'split_gap'],
        'only': [
            'id_accuracy',
            'selectivity',
            'v_information',
            'v_information_given_activity',
            'knn_id',
            'variance_subject',
            'id_preference',
        ],
        'no identity': ['variance_activity', 'au_auroc'],
    }
    missed = []
    for name, kw in RECIPES.items():
        inside = []
        for seed in range(3):
            z, s, a, au = made_au(seed, n_subjects=14, n_activities=8, frames=12, dim=128, **kw)
            r = leakage_report(z, s, a, au, n_boot=200, seed=seed).set_index('measure')
            inside.append((r['low'] - 1e-9 <= r['chance']) & (r['chance'] <= r['high'] + 1e-9))
            above = r['low'] > r['chance']
            missed += [(name, seed, m) for m in something.get(name, ()) if not above[m]]
        inside = pd.DataFrame(inside).sum()
        # one miss in three seeds is allowed: these are 95 % intervals
        missed += [(name, m, inside[m]) for m in nothing.get(name, ()) if inside[m] < 2]
        if name == 'flip':
            assert (
                r['value']['id_preference'] == pytest.approx(0.5, abs=0.02)
                and r['value']['knn_id'] > 0.95
            )
        if name == 'only':
            assert r['value'][
                ['id_accuracy', 'knn_id', 'variance_subject', 'id_preference']
            ].tolist() == pytest.approx([1] * 4, abs=1e-6) and r['value'][
                'v_information'
            ] == pytest.approx(np.log2(14))
    assert not missed


def test_odd_labels():
    "Codes with gaps, negative codes, strings, floats and categories give the same report"
    z, s, a, au = made_au(identity=0.4, activity=0.4, au=0.5)
    sc, ac = codes(s, a)
    base = leakage_report(z, s, a, au, n_boot=20)
    for subject, activity in (
        (100 - 7 * (5 - sc), 3 * ac),
        (sc - 3.0, ac - 2.5),
        (pd.Series(s).astype('category'), pd.Series(a, index=range(9, 9 + len(a)))),
        (s.tolist(), a.astype(object)),
    ):
        pd.testing.assert_frame_equal(leakage_report(z, subject, activity, au, n_boot=20), base)


@pytest.mark.parametrize('measure', (*PER_SUBJECT, variance_partition, leakage_report))
@pytest.mark.parametrize(
    'change, message',
    [
        (lambda z, s, a: (z, np.full(len(s), 'F001'), a), 'one subject'),
        (lambda z, s, a: (z, s, np.full(len(a), 'T1')), 'one activity'),
        (lambda z, s, a: (z[:-1], s, a), 'subject must be one label a frame'),
        (lambda z, s, a: (z, s, a[:-1]), 'activity must be one label a frame'),
        (
            lambda z, s, a: (np.where(np.arange(len(z))[:, None] == 3, np.nan, z), s, a),
            'row 3 of z .* not finite',
        ),
        (
            lambda z, s, a: (np.where(np.arange(len(z))[:, None] == 3, np.inf, z), s, a),
            'row 3 of z .* not finite',
        ),
        (
            lambda z, s, a: (np.where(np.arange(len(z))[:, None] == 3, 0, z), s, a),
            'row 3 of z is all zeros',
        ),
        (lambda z, s, a: (z[:, 0], s, a), 'frames by dimensions'),
        (
            lambda z, s, a: (z, np.where(np.arange(len(z)) == 3, None, s), a),
            'row 3: subject is missing',
        ),
        (
            lambda z, s, a: (z, s, np.where(np.arange(len(z)) == 3, None, a)),
            'row 3: activity is missing',
        ),
        (lambda z, s, a: (z, s, np.where(s == 'F002', 'T1', a)), 'one activity only'),
        # a single frame
        (
            lambda z, s, a: tuple(
                x[~((s == 'F002') & (np.arange(len(s)) != 41))] for x in (z, s, a)
            ),
            'subject F002 has frames of one activity only',
        ),
        (
            lambda z, s, a: (z, s, np.where((s == 'F002') & (a == 'T2'), 'T9', a)),
            'activity T9 has frames of one subject only',
        ),
        (lambda z, s, a: (z[:0], s[:0], a[:0]), 'no frames'),
    ],
)
def test_refuses(measure, change, message):
    z, s, a = made()
    s, a = s.astype(object), a.astype(object)
    with pytest.raises(ValueError, match=message):
        measure(*change(z, s, a))


def test_refuses_settings():
    z, s, a = made()
    with pytest.raises(ValueError, match='rotations'):
        id_accuracy(z, s, a, rotations=1)
    with pytest.raises(ValueError, match='k must be'):
        knn_id(z, s, a, k=1000)
    # both activities of one subject fall into one group of four
    keep = ~((s == s[0]) & ~np.isin(a, ['T1', 'T5']))
    with pytest.raises(ValueError, match='rotations=5'):
        id_accuracy(z[keep], s[keep], a[keep])
    assert id_accuracy(z[keep], s[keep], a[keep], rotations=5) >= 0
    with pytest.raises(TypeError, match='z must be numbers'):
        id_accuracy(np.full(z.shape, 'x'), s, a)


def test_raw_pixels(tmp_path):
    x = np.random.default_rng(0).integers(0, 255, (50, 48, 48, 3), dtype=np.uint8)
    z = raw_pixels(x, dim=8)
    assert z.shape == (50, 8) and z.dtype == np.float32 and np.abs(z.mean(0)).max() < 1e-4
    m = np.memmap(tmp_path / 'x', np.uint8, 'w+', shape=x.shape)
    m[:] = x
    np.testing.assert_array_equal(raw_pixels(m, dim=8), z)
    assert raw_pixels(x[:5]).shape == (5, 4)  # fewer images than components
    np.testing.assert_array_equal(raw_pixels(x, dim=8, sample=20), raw_pixels(x, dim=8, sample=20))
    with pytest.raises(ValueError, match='N, H, W, 3'):
        raw_pixels(x[..., 0])
    with pytest.raises(ValueError, match='two images'):
        raw_pixels(x[:1])


def test_one_decorated_function_is_a_measure_everywhere():
    "Report, comparison and label know it; nothing else is touched to add it"

    @measure('spread', unit='cosine', chance=lambda n: 1 / n)
    def spread(z, subject, activity, per_subject=False, seed=0):
        z, s, _, subjects, _ = checked_frames(z, subject, activity)
        return by_subject(z[:, 0] + 0 * seed, s, subjects, per_subject)

    try:
        z, s, a, au = made_au(identity=0.4, au=0.5)
        reports = {k: leakage_report(x, s, a, au, n_boot=50) for k, x in (('a', z), ('b', -z))}
        row = reports['a'].set_index('measure').loc['spread']
        assert row['value'] == pytest.approx(spread(z, s, a)) and row['low'] <= row['high']
        assert row['chance'] == 1 / len(set(s))
        # those that need AUs come last
        order = reports['a']['measure'].tolist()
        assert order.index('id_preference') < order.index('spread') < order.index('au_auroc')
        assert 'spread' in compare(reports)['measure'].tolist()
        assert measure_label('spread') == 'spread' and 'spread' in measure_names(aus=False)
        with pytest.raises(ValueError, match='is a measure already'):
            measure('other', name='id_accuracy')(spread)
        # a notebook's own, run again or beside its module; not one that only has the name
        assert measure('spread', unit='cosine')(spread) is spread
        theirs = MEASURES['id_accuracy']

        def id_accuracy(z, subject, activity, per_subject=False):
            return by_subject(z[:, 0], subject, sorted(set(subject)), per_subject)

        id_accuracy.__module__ = '__main__'
        with pytest.raises(ValueError, match='is a measure already'):
            measure('something else')(id_accuracy)
        try:
            measure(theirs.label)(id_accuracy)
            assert MEASURES['id_accuracy'].origin == '__main__.id_accuracy'
        finally:
            MEASURES['id_accuracy'] = theirs
    finally:
        MEASURES.pop('spread', None)


def test_a_measure_that_returns_something_else_is_named():
    z, s, a, _ = made_au(identity=0.4, au=0.5)
    for wrong in (0.5, np.ones(3), pd.Series([1.0])):

        @measure('wrong')
        def odd(z, subject, activity, per_subject=False, wrong=wrong):
            return wrong

        try:
            with pytest.raises(ValueError, match=r'odd\(..., per_subject=True\) must return'):
                leakage_report(z, s, a, measures=['odd'], n_boot=20)
        finally:
            MEASURES.pop('odd', None)


def test_a_measure_of_aus_gets_them():
    "One value a subject from AU labels; only in reports that have them, behind the others"

    @measure('coded', needs_aus=True, wider=2.0)
    def coded(z, subject, activity, au, per_subject=False):
        _, s, _, subjects, _ = checked_frames(z, subject, activity)
        return by_subject(au[:, 0], s, subjects, per_subject)

    try:
        z, s, a, au = made_au(identity=0.4, au=0.5)
        report = leakage_report(z, s, a, au, n_boot=50)
        row = report.iloc[-1]
        assert row['measure'] == 'coded' and row['value'] == pytest.approx(coded(z, s, a, au))
        narrow = expanded_percentiles(np.array(report.attrs['draws']['coded']), 6)
        assert row['high'] - row['low'] == pytest.approx(2 * (narrow[1] - narrow[0]))
        assert 'coded' not in leakage_report(z, s, a, n_boot=5)['measure'].tolist()
        assert MEASURES['coded'].label_of('coded') == 'coded'
    finally:
        MEASURES.pop('coded', None)
