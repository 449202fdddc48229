"""Intervals: textbook cases that they must equal, what must not matter, and input that must be
refused.
"""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from clef_nb.measure.intervals import (
    bootstrap_weights,
    expanded_percentiles,
    jackknife_intervals,
    left_out_scores,
    percentiles,
    resampled_t_intervals,
    subject_bootstrap,
)


def test_expanded_percentiles():
    "With many subjects plain percentiles, with few further out, and nan resamples are left out"
    draws = np.random.default_rng(0).normal(size=200_000)
    assert expanded_percentiles(draws, 10_000) == pytest.approx([-1.96, 1.96], abs=0.02)
    # sqrt(14 / 13) * t(13)
    assert expanded_percentiles(draws, 14) == pytest.approx([-2.242, 2.242], abs=0.03)
    # twice as far from the value
    assert expanded_percentiles(draws, 14, 1, 2) == pytest.approx(
        [1 + 2 * (-2.242 - 1), 1 + 2 * (2.242 - 1)], abs=0.06
    )
    assert (expanded_percentiles(draws, 2) == [draws.min(), draws.max()]).all()
    assert (
        expanded_percentiles(np.where(draws > 100, np.nan, draws), 14).tolist()
        == expanded_percentiles(draws, 14).tolist()
    )


def test_the_tail_is_a_fortieth_exactly():
    "The level 0.95 gives the quantile of 0.025, not of (1 - 0.95) / 2, which is a little more"
    x = np.random.default_rng(0).normal(size=500)
    tail = stats.norm.cdf(np.sqrt(8 / 7) * stats.t.ppf(0.025, 7))
    assert expanded_percentiles(x, 8).tolist() == np.quantile(x, [tail, 1 - tail]).tolist()


@pytest.mark.parametrize('n', (12, 20, 40))
def test_expanded_percentiles_of_a_mean_are_students_interval(n):
    x = np.random.default_rng(n).normal(size=n)
    means = bootstrap_weights(n, 40_000, 0) @ x / n
    student = stats.ttest_1samp(x, 0).confidence_interval()
    found, plain = expanded_percentiles(means, n), percentiles(means)
    assert found == pytest.approx(tuple(student), abs=0.25 / np.sqrt(n))
    assert found[0] < plain[0] and plain[1] < found[1]


def test_resamples():
    w = bootstrap_weights(7, 100, 3)
    assert w.shape == (100, 7) and (w.sum(1) == 7).all()
    assert (w == bootstrap_weights(7, 100, 3)).all()
    seen = []
    subject_bootstrap(lambda w: seen.append(w) or w[:, 0], list('gfedcba') * 2, 100, 3)
    # those of every table
    assert (seen[0] == w).all()
    with pytest.raises(ValueError, match='n_boot must be 1 or more'):
        bootstrap_weights(7, 0, 0)
    for wrong in (dict(level=1.0), dict(n_boot=0)):
        with pytest.raises(ValueError, match='level must be between 0 and 1'):
            subject_bootstrap(lambda w: w[:, 0], list('ab'), **wrong)
    with pytest.raises(ValueError, match='no subjects'):
        subject_bootstrap(lambda w: w[:, 0], [])


def left_out(right, **more):
    "Accuracy of frames, one a subject, and with each subject left out"
    n = len(right)
    value = [right.mean(), *((right.sum() - x) / (n - 1) for x in right)]
    return (
        pd.DataFrame(
            {'row': 'a', 'measure': 'accuracy', 'label': 'mean', 'fold': 1, 'seed': 0}
            | more
            | {'left_out': [['', *map(str, range(n))]], 'value': [value]},
            index=[0],
        )
        .explode(['left_out', 'value'])
        .astype({'value': float})
    )


def test_the_jackknife_of_a_mean_is_students_interval():
    right = np.random.default_rng(0).random(20) < 0.7
    found = jackknife_intervals(left_out(right)).iloc[0]
    student = stats.ttest_1samp(right.astype(float), 0).confidence_interval()
    assert (found.low, found.high) == pytest.approx(tuple(student))
    # two folds halve the variance of their mean and have twice the degrees of freedom
    two = jackknife_intervals(pd.concat([left_out(right), left_out(right, fold=2)])).iloc[0]
    ratio = stats.t.ppf(0.975, 38) / stats.t.ppf(0.975, 19) / np.sqrt(2)
    assert (two.high - two.value) / (found.high - found.value) == pytest.approx(ratio)


def test_seeds_that_differ_widen_the_jackknife():
    right = np.random.default_rng(1).random(20) < 0.7
    shifted = left_out(right, seed=1)
    shifted['value'] += 0.1
    same, other = (
        jackknife_intervals(pd.concat([left_out(right), x])).iloc[0]
        for x in (left_out(right, seed=1), shifted)
    )
    assert other.high - other.low > same.high - same.low
    assert other.value == pytest.approx(same.value + 0.05)


def test_left_out_scores_of_one_class():
    "A label with one class alone has no score and is not part of the mean"
    p, t = np.random.default_rng(0).random((30, 2)), np.zeros((30, 2))
    t[::2, 0] = 1
    found = left_out_scores(p, t, np.repeat(list('abc'), 10), ['AU1', 'AU2'])
    assert found['left_out'].unique().tolist() == ['', 'a', 'b', 'c']
    value = found.set_index(['measure', 'label', 'left_out'])['value']
    assert value['f1']['AU2'].isna().all() and value['auroc']['AU2'].isna().all()
    assert value['f1']['mean'].tolist() == value['f1']['AU1'].tolist()


def test_corrected_resampled_t():
    rng = np.random.default_rng(0)
    runs = pd.DataFrame(
        [dict(assignment=i, seed=j, value=rng.normal(), m='x') for i in range(6) for j in range(2)]
    )
    x = runs.groupby('assignment')['value'].mean()
    plain = resampled_t_intervals(runs, ['m'], overlap=0).iloc[0]
    student = stats.ttest_1samp(x, 0).confidence_interval()
    assert (plain.low, plain.high) == pytest.approx(tuple(student))
    wide = resampled_t_intervals(runs, ['m'], overlap=0.5).iloc[0]
    ratio = (wide.high - wide.low) / (plain.high - plain.low)
    assert ratio == pytest.approx(np.sqrt((1 / 6 + 0.5) * 6))
    one = resampled_t_intervals(runs[runs['assignment'] == 0], ['m'])
    assert one[['low', 'high']].isna().all(axis=None) and one['value'].notna().all()
    with pytest.raises(ValueError, match='0 or more'):
        resampled_t_intervals(runs, ['m'], overlap=float('nan'))
