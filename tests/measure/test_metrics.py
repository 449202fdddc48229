"""Metrics against scikit-learn on many random cases, the bootstrap against copying frames, and
input that must be refused.
"""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    confusion_matrix,
    f1_score,
    precision_recall_fscore_support,
    roc_auc_score,
)

from clef_nb.measure.intervals import expanded_percentiles, subject_bootstrap
from clef_nb.measure.metrics import auroc, concordance, confusion, f1, f1_counts
from clef_nb.measure.scores import au_scores, class_scores


def fold(seed, n=300, k=4, subjects=6, levels=None):
    rng = np.random.default_rng(seed)
    prob = rng.random((n, k))
    if levels:
        prob = (prob * levels).round() / levels
    target = (rng.random((n, k)) < 0.3).astype(float)
    target[rng.random((n, k)) < 0.2] = np.nan
    return prob, target, np.array([f'S{i}' for i in rng.integers(0, subjects, n)])


@pytest.mark.parametrize('seed', range(4))
@pytest.mark.parametrize('levels', [None, 2, 10])
def test_equals_sklearn(seed, levels):
    prob, target, subject = fold(seed, levels=levels)
    table = au_scores(prob, target, subject, n_boot=5)
    for k in range(4):
        c = ~np.isnan(target[:, k])
        assert table['f1'].iloc[k] == pytest.approx(
            f1_score(target[c, k], prob[c, k] >= 0.5), abs=1e-12
        )
        assert table['auroc'].iloc[k] == pytest.approx(
            roc_auc_score(target[c, k], prob[c, k]), abs=1e-12
        )
        assert table['base_rate'].iloc[k] == pytest.approx(target[c, k].mean())
        assert table['n'].iloc[k] == c.sum()
    assert table['f1']['mean'] == pytest.approx(table['f1'].iloc[:4].mean())
    assert table['n']['mean'] == (~np.isnan(target)).sum()


def test_bootstrap_equals_copied_frames():
    prob, target, subject = fold(1, subjects=5, levels=10)
    names, who = np.unique(subject, return_inverse=True)
    seen = []
    subject_bootstrap(lambda w: seen.append(w) or w[:, 0], subject, n_boot=20, seed=3)
    values = {'f1': [], 'auroc': []}
    for resample in seen[0].astype(int):
        rows = np.concatenate([np.flatnonzero(who == s) for s in np.repeat(np.arange(5), resample)])
        per_au = [
            [(f1_score(t[c], p[c] >= 0.5), roc_auc_score(t[c], p[c])) for c in [~np.isnan(t)]][0]
            for p, t in zip(prob[rows].T, target[rows].T)
        ]
        for m, v in zip(('f1', 'auroc'), np.transpose(per_au)):
            values[m].append([*v, v.mean()])
    table = au_scores(prob, target, subject, n_boot=20, seed=3)
    for m, v in values.items():
        low, high = expanded_percentiles(np.array(v), 5)
        np.testing.assert_allclose(table[f'{m}_low'], low, atol=1e-12)
        np.testing.assert_allclose(table[f'{m}_high'], high, atol=1e-12)


def test_concordance_counts_pairs():
    score, target, subject = (
        np.array([0.1, 0.4, 0.4, 0.9, 0.2]),
        np.array([0, 1, 0, 1, np.nan]),
        np.array(['a', 'a', 'b', 'b', 'a']),
    )
    U, P, Q = concordance(score, target, subject)
    assert U.tolist() == [[1, 0.5], [1, 1]] and P.tolist() == [1, 1] and Q.tolist() == [1, 1]


def test_interval_holds_the_value_and_grows_with_subjects_who_differ():
    rng = np.random.default_rng(0)
    subject = np.repeat(np.arange(14), 100)
    target = (rng.random((1400, 1)) < 0.4).astype(float)
    width = []
    for spread in (0, 2):
        logit = (
            2 * target - 1 + rng.normal(size=(1400, 1)) + spread * rng.normal(size=(14, 1))[subject]
        )
        row = au_scores(1 / (1 + np.exp(-logit)), target, subject).iloc[0]
        assert row.f1_low < row.f1 < row.f1_high and row.auroc_low < row.auroc < row.auroc_high
        width.append(row.f1_high - row.f1_low)
    assert width[1] > 2 * width[0]


def test_inputs_of_other_kinds_agree():
    prob, target, subject = fold(2)
    expected = au_scores(prob, target, subject, list('abcd'), n_boot=20)
    coded = pd.DataFrame(
        {
            n: pd.array([None if np.isnan(v) else int(v) for v in t], dtype='Int8')
            for n, t in zip('abcd', target.T)
        }
    )
    for p, t, s in (
        (torch.tensor(prob), torch.tensor(target), list(subject)),
        (prob.tolist(), coded, pd.Series(subject, index=range(5, 305))),
        (pd.DataFrame(prob), coded, pd.Series(subject, dtype='category')),
        (torch.tensor(prob, requires_grad=True), target, subject),
    ):
        pd.testing.assert_frame_equal(
            au_scores(p, t, s, list('abcd'), n_boot=20), expected, check_exact=False, atol=1e-6
        )
    assert au_scores(prob, coded).index.tolist() == ['a', 'b', 'c', 'd', 'mean']
    assert au_scores(prob, target, labels=list('abcd')).columns.tolist() == [
        'f1',
        'auroc',
        'base_rate',
        'n',
    ]


def test_one_class_and_uncoded_labels():
    prob, target, subject = fold(3)
    target[:, 0] = np.nan
    target[:, 1] = 1
    with pytest.warns(UserWarning, match='for AU1, AU2: .* other 2'):
        table = au_scores(prob, target, subject, ['AU1', 'AU2', 'AU4', 'AU6'], n_boot=20)
    assert table.loc[['AU1', 'AU2'], ['f1', 'auroc', 'f1_low', 'auroc_high']].isna().all().all()
    assert np.isnan(table['base_rate']['AU1']) and table['n']['AU1'] == 0
    assert table['auroc']['mean'] == pytest.approx(table['auroc'][['AU4', 'AU6']].mean())
    assert table.loc['mean', ['f1_low', 'auroc_high']].notna().all()
    target[:] = 0
    with pytest.warns(UserWarning, match='other 0'):
        assert np.isnan(au_scores(prob, target, subject, n_boot=5).loc['mean', 'f1'])


def test_no_stray_warnings():
    prob, target, subject = fold(4)
    target[subject == 'S1'] = 0  # one subject never shows anything
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        table = au_scores(prob, target, subject)
    assert table.notna().all().all()


def test_same_seed_same_numbers():
    prob, target, subject = fold(5)
    pd.testing.assert_frame_equal(
        au_scores(prob, target, subject), au_scores(prob, target, subject)
    )
    assert not au_scores(prob, target, subject, seed=1).equals(au_scores(prob, target, subject))
    # the order of frames does not matter
    order = np.random.default_rng(0).permutation(len(prob))
    pd.testing.assert_frame_equal(
        au_scores(prob[order], target[order], subject[order]), au_scores(prob, target, subject)
    )


def test_threshold():
    assert f1([0.3, 0.6], [1, 1], threshold=0.3) == 1 and f1([0.3, 0.6], [1, 1]) == pytest.approx(
        2 / 3
    )
    assert f1_counts([0.3, 0.6, 0.9], [1, 1, 0], ['a', 'b', 'b']).tolist() == [[0, 0, 1], [1, 1, 0]]


@pytest.mark.parametrize(
    'change, message',
    [
        (lambda p, t, s: (p, np.where(np.arange(300)[:, None] == 4, 9, t), s), 'target, row 4, A'),
        (
            lambda p, t, s: (np.where(np.arange(300)[:, None] == 4, np.nan, p), t, s),
            'prob, row 4, A',
        ),
        (lambda p, t, s: (5 * p, t, s), 'sigmoid'),
        (lambda p, t, s: (p[:-1], t, s), 'shapes'),
        (lambda p, t, s: (p[:, 0], t[:, 0], s), 'labels|shapes'),
        (lambda p, t, s: (p, t, s[:-1]), 'one name a frame'),
        (lambda p, t, s: (p, t, np.full(300, 'F001')), 'only one subject'),
        (
            lambda p, t, s: (p, t, np.where(np.arange(300) == 7, None, s)),
            'row 7: subject is missing',
        ),
    ],
)
def test_refuses(change, message):
    with pytest.raises(ValueError, match=message):
        au_scores(*change(*fold(6)), labels=list('ABCD'))


def test_refuses_more():
    prob, target, subject = fold(7)
    with pytest.raises(ValueError, match='3 labels for 4'):
        au_scores(prob, target, subject, ['a', 'b', 'c'])
    with pytest.raises(TypeError, match='prob must be numbers'):
        au_scores(np.full((300, 4), 'x'), target)
    with pytest.raises(ValueError, match='level'):
        subject_bootstrap(lambda w: w, subject, level=95)
    with pytest.raises(ValueError, match='shapes'):
        auroc([0.1, 0.2], [1])


NAMES = list('abcd')


def split(seed, n=300, subjects=6):
    rng = np.random.default_rng(seed)
    prob = rng.dirichlet(np.ones(4), n)
    return (
        prob,
        rng.choice(4, n, p=[0.5, 0.3, 0.15, 0.05]),
        np.array([f'S{i}' for i in rng.integers(0, subjects, n)]),
    )


@pytest.mark.parametrize('seed', range(4))
def test_classes_equal_sklearn(seed):
    prob, target, subject = split(seed)
    said, table = (
        prob.argmax(1),
        class_scores(prob, target, NAMES, subject if seed % 2 else None, n_boot=5),
    )
    np.testing.assert_array_equal(confusion(prob, target, NAMES), confusion_matrix(target, said))
    precision, recall, f, n = precision_recall_fscore_support(target, said)
    for m, v in (('recall', recall), ('precision', precision), ('f1', f), ('n', n)):
        np.testing.assert_allclose(table[m].iloc[:4], v, atol=1e-12)
    for m, v in (('recall', recall), ('precision', precision), ('f1', f)):
        assert table[m]['mean'] == pytest.approx(v.mean())
    assert table['recall']['mean'] == pytest.approx(balanced_accuracy_score(target, said))
    assert table.loc['all', ['recall', 'precision', 'f1']].tolist() == pytest.approx(
        [accuracy_score(target, said)] * 3
    )
    assert table['n'][['mean', 'all']].tolist() == [300, 300]


def test_classes_over_subjects_equal_copied_images():
    prob, target, subject = split(1, subjects=5)
    said, seen = prob.argmax(1), []
    who = np.unique(subject, return_inverse=True)[1]
    subject_bootstrap(lambda w: seen.append(w) or w[:, 0], subject, n_boot=20, seed=3)
    values = []
    for resample in seen[0].astype(int):
        rows = np.concatenate([np.flatnonzero(who == s) for s in np.repeat(np.arange(5), resample)])
        values.append(
            [
                balanced_accuracy_score(target[rows], said[rows]),
                accuracy_score(target[rows], said[rows]),
                f1_score(target[rows], said[rows], labels=[2], average=None)[0],
            ]
        )
    table = class_scores(prob, target, NAMES, subject, n_boot=20, seed=3)
    for (row, m), (low, high) in zip(
        (('mean', 'recall'), ('all', 'recall'), ('c', 'f1')),
        expanded_percentiles(np.array(values), 5).T,
    ):
        assert table.loc[row, [f'{m}_low', f'{m}_high']].tolist() == pytest.approx([low, high])


def test_classes_over_images_equal_sampling_within_each_class():
    prob, target, _ = split(2, n=400)
    said, rng = prob.argmax(1), np.random.default_rng(0)
    draws = [
        np.concatenate(
            [rng.choice(np.flatnonzero(target == c), (target == c).sum()) for c in range(4)]
        )
        for _ in range(1500)
    ]
    values = np.array(
        [
            [f1_score(target[r], said[r], average='macro'), accuracy_score(target[r], said[r])]
            for r in draws
        ]
    )
    table = class_scores(prob, target, NAMES, n_boot=4000)
    for row, m, v in (('mean', 'f1', values[:, 0]), ('all', 'recall', values[:, 1])):
        assert table.loc[row, [f'{m}_low', f'{m}_high']].tolist() == pytest.approx(
            np.quantile(v, [0.025, 0.975]).tolist(), abs=0.006
        )


def test_classes_of_other_kinds_agree():
    prob, target, subject = split(3)
    expected, named = class_scores(prob, target, NAMES, subject, n_boot=20), np.array(NAMES)[target]
    for p, t in (
        (torch.tensor(prob), torch.tensor(target)),
        (prob.tolist(), named.tolist()),
        (pd.DataFrame(prob, columns=NAMES), pd.Series(named, range(5, 305), dtype='category')),
        (prob.argmax(1), pd.Series(target, dtype='Int8')),
        (torch.tensor(prob).argmax(1), pd.Series(named, dtype='string')),
        (np.array(NAMES)[prob.argmax(1)], target.astype(float)),
    ):
        pd.testing.assert_frame_equal(class_scores(p, t, NAMES, subject, n_boot=20), expected)
        assert confusion(p, t, NAMES).equals(confusion(prob, target, NAMES))


def test_classes_never_predicted_and_never_there():
    target = np.array([0, 0, 1, 1, 2, 2])
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        table = class_scores([0, 0, 1, 0, 1, 1], target, list('abc'))
    assert (
        table.loc['c', ['recall', 'precision', 'f1']].tolist() == [0, 0, 0]
        and table.loc['c', 'recall_high'] == 0
    )
    with pytest.warns(UserWarning, match='no image of d: .* other 3'):
        table = class_scores([0, 0, 1, 0, 1, 3], target, NAMES, list('xyxyxy'), n_boot=50)
    assert (
        table.loc['d'].drop('n').isna().all()
        and table['n']['d'] == 0
        and table.loc[['mean', 'all']].notna().all(axis=None)
    )
    assert table['recall']['mean'] == pytest.approx(0.5) and table['recall'][
        'all'
    ] == pytest.approx(0.5)


@pytest.mark.parametrize(
    'change, message',
    [
        (
            lambda p, t: (np.where(np.arange(300)[:, None] == 4, np.nan, p), t),
            'prob, row 4, a: nan',
        ),
        (lambda p, t: (np.log(p), t), 'softmax'),
        (lambda p, t: (p[:, :3], t), '4 labels for 3'),
        (lambda p, t: (p[:-1], t), '299 predictions for 300'),
        (lambda p, t: (p[None], t), 'shape'),
        (lambda p, t: (pd.DataFrame(p, columns=list('abdc')), t), 'one order'),
        (lambda p, t: (p, np.where(np.arange(300) == 7, 4, t)), 'target, row 7: 4 is no position'),
        (
            lambda p, t: (p, np.where(np.arange(300) == 7, 0.5, t)),
            'target, row 7: 0.5 is no position',
        ),
        (lambda p, t: (p, np.where(np.arange(300) == 7, np.nan, t)), 'target, row 7: is missing'),
        (
            lambda p, t: (p, np.where(np.arange(300) == 7, None, np.array(NAMES, dtype=object)[t])),
            'target, row 7: is missing',
        ),
        (
            lambda p, t: (p, np.where(np.arange(300) == 7, 'e', np.array(NAMES, dtype=object)[t])),
            "target, row 7: 'e' is not among a, b",
        ),
        (lambda p, t: (np.where(np.arange(300) == 7, -1, p.argmax(1)), t), 'prediction, row 7: -1'),
        (lambda p, t: (p[:0], t[:0]), 'no image'),
    ],
)
def test_classes_refuse(change, message):
    prob, target, _ = split(6)
    for f in (confusion, class_scores):
        with pytest.raises(ValueError, match=message):
            f(*change(prob, target), NAMES)


def test_classes_refuse_more():
    prob, target, subject = split(7)
    with pytest.raises(ValueError, match='different names'):
        confusion(prob, target, list('aabc'))
    with pytest.raises(ValueError, match='only one subject'):
        class_scores(prob, target, NAMES, ['S1'] * 300)
    with pytest.raises(ValueError, match='subject must be one name'):
        class_scores(prob, target, NAMES, subject[:-1])
    with pytest.raises(ValueError, match='n_boot'):
        class_scores(prob, target, NAMES, n_boot=0)
