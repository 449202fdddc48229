"""Plots of leakage and maps: what a figure holds, hard cases in which nothing may overlap, and
input that must be refused.
"""

import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from clef_nb.figures.plots import (
    plot_leakage,
    plot_pareto,
    plot_variance,
    tsne_2d,
    umap_2d,
    umap_panels,
)
from clef_nb.measure.leakage import measure_label

NAMES = [
    'raw pixels',
    'random tower',
    'instance',
    'sequence',
    'activity',
    'activity, other subject',
    'texts only',
    'CLEF',
    'subject, which is the upper bound of leakage',
]
SHARES = ['variance_subject', 'variance_activity', 'variance_interaction', 'variance_rest']


@pytest.fixture(autouse=True)
def font():
    with plt.rc_context({'font.size': 9, 'figure.dpi': 100}):
        yield


def report(level=0.5, width=0.03, **values):
    "A full report, made up; `values` overrides, None takes a measure out"
    v = (
        dict(
            id_accuracy=level,
            selectivity=level * 0.8,
            v_information=3 * level,
            v_information_given_activity=2.5 * level,
            knn_id=level,
            variance_subject=level / 2,
            variance_activity=0.4 - level / 4,
            variance_interaction=0.1,
            variance_rest=0.5 - level / 4,
            id_preference=level,
            au_auroc=0.8 - 0.1 * level,
            amnesic_difference=0.02 - 0.03 * level,
            split_gap=0.1 * level,
        )
        | values
    )
    chance = dict(
        id_accuracy=1 / 14, knn_id=1 / 14, id_preference=0.5, au_auroc=0.5, variance_rest=1.0
    )
    return pd.DataFrame(
        [(m, x, x - width, x + width, chance.get(m, 0.0)) for m, x in v.items() if x is not None],
        columns=['measure', 'value', 'low', 'high', 'chance'],
    )


def reports(n, **kw):
    return {name: report(i / (n - 1), **kw) for i, name in enumerate(NAMES[:n])}


def assert_apart(fig):
    "No text covers another, and none leaves the figure"
    found = [
        (t.get_text(), t.get_window_extent())
        for t in words(fig)
        if t.get_visible() and t.get_text().strip()
    ]
    assert found
    for i, (a, x) in enumerate(found):
        assert x.x0 >= -1 and x.y0 >= -1 and x.x1 <= fig.bbox.x1 + 1 and x.y1 <= fig.bbox.y1 + 1, (
            f'{a!r} leaves the figure'
        )
        for b, y in found[i + 1 :]:
            assert not (
                x.x0 < y.x1 - 0.5 and y.x0 < x.x1 - 0.5 and x.y0 < y.y1 - 0.5 and y.y0 < x.y1 - 0.5
            ), f'{a!r} covers {b!r}'


def words(fig):
    "All texts a reader sees: of axes, ticks within the limits, legends, title"
    # ticks are chosen when drawn
    fig.draw_without_rendering()
    out = [fig._suptitle] if fig._suptitle else []
    for line in fig.legends:
        out += line.get_texts()
    for ax in fig.axes:
        if not ax.axison:
            continue
        out += [*ax.texts, ax.title, ax.xaxis.label, ax.yaxis.label]
        for axis in (ax.xaxis, ax.yaxis):
            low, high = sorted(axis.get_view_interval())
            out += [
                t.label1
                for t in axis.get_major_ticks()
                if low <= t.get_loc() <= high and t.label1.get_visible()
            ]
    return out


@pytest.mark.parametrize('n', [2, 5, 9])
@pytest.mark.parametrize('width', [0, 0.03])
def test_full_report_keeps_its_texts_apart(n, width):
    fig = plot_leakage(reports(n, width=width), 'A title')
    assert [ax.get_title().replace('\n', ' ') for ax in fig.axes if ax.axison] == [
        measure_label(m) for m in report()['measure'] if m not in SHARES
    ]
    assert_apart(fig)


def test_the_three_measures_of_the_demo_are_one_row_from_zero_to_one():
    three = {
        n: r[r['measure'].isin(['id_accuracy', 'knn_id', 'id_preference'])]
        for n, r in reports(3, width=0).items()
    }
    fig = plot_leakage(three)
    assert [ax.get_title() for ax in fig.axes] == [
        'ID accuracy',
        'kNN-ID@5',
        'ID preference',
    ] and len({ax.get_position().y0 for ax in fig.axes}) == 1
    assert all(ax.get_xlim() == pytest.approx((-0.03, 1.03)) for ax in fig.axes)
    assert fig.get_size_inches().tolist() == pytest.approx([7.2, 1.5 + 0.33 * 3])


@pytest.mark.parametrize('n', [1, 2, 4, 5, 7, 13])
def test_any_number_of_measures_finds_a_panel(n):
    measures = report()['measure'].tolist()[:n]
    fig = plot_leakage(reports(2), measures=measures)
    assert [ax.get_title().replace('\n', ' ') for ax in fig.axes if ax.axison] == [
        measure_label(m) for m in measures
    ]
    assert_apart(fig)


def test_every_value_interval_and_chance_is_drawn_where_it_is():
    found = reports(3)
    for ax, m in zip(
        plot_leakage(found, measures=['v_information', 'split_gap']).axes,
        ['v_information', 'split_gap'],
    ):
        rows = [r.set_index('measure').loc[m] for r in found.values()]
        assert [(float(line.get_xdata()[0]), int(line.get_ydata()[0])) for line in ax.lines] == [
            (r.value, i) for i, r in enumerate(rows)
        ]
        bars = [s for c in ax.collections for s in c.get_segments() if s[0, 1] == s[1, 1]]
        np.testing.assert_allclose([b[:, 0] for b in bars], [(r.low, r.high) for r in rows])
        assert [
            float(s[0, 0]) for c in ax.collections for s in c.get_segments() if s[0, 0] == s[1, 0]
        ] == [0.0] * 3
        low, high = ax.get_xlim()
        assert low < min(r.low for r in rows) and high > max(r.high for r in rows)


def test_what_was_not_measured_is_said():
    found = reports(3)
    found['random tower'] = report(knn_id=None)
    found['instance'] = report(knn_id=np.nan)
    ax = plot_leakage(found, measures=['knn_id']).axes[0]
    assert [t.get_text() for t in ax.texts] == ['0.00', 'not measured', 'not measured'] and len(
        ax.lines
    ) == 1


def test_intervals_that_miss_or_fill_the_axis():
    found = {
        'none': report(0.4),
        'all': report(0.5, width=0.5),
        'negative': report(0.0, id_accuracy=-0.2),
    }
    found['none'].loc[:, ['low', 'high']] = np.nan
    fig = plot_leakage(found, measures=['id_accuracy'])
    assert [t.get_text() for t in fig.axes[0].texts] == ['0.40', '0.50', '\N{MINUS SIGN}0.20']
    assert_apart(fig)
    assert fig.axes[0].get_xlim()[0] < -0.23


def test_no_minus_zero():
    assert [
        t.get_text()
        for t in plot_leakage({'A': report(id_accuracy=-0.001)}, measures=['id_accuracy'])
        .axes[0]
        .texts
    ] == ['0.00']


def test_measures_of_ones_own_and_variance_by_request():
    own = report()
    own.loc[len(own)] = ['gaze', 0.2, 0.1, 0.3, 0.0]
    assert plot_leakage({'A': own}, measures=['gaze']).axes[0].get_title() == 'gaze'
    assert [
        ax.get_title().replace('\n', ' ')
        for ax in plot_leakage({'A': own}, measures=['variance']).axes
    ] == [measure_label(m) for m in SHARES]
    alone = own[own['measure'].isin(SHARES)]
    # nothing else to draw
    assert len(plot_leakage({'A': alone}).axes) == 4


def test_leakage_refuses():
    with pytest.raises(ValueError, match='no reports'):
        plot_leakage({})
    with pytest.raises(ValueError, match="'knn', only id_accuracy"):
        plot_leakage(reports(2), measures=['knn'])
    with pytest.raises(ValueError, match='no measure'):
        plot_leakage(reports(2), measures=[])
    with pytest.raises(ValueError, match="'variance'"):
        plot_leakage({'A': report().head(3)}, measures=['variance'])


@pytest.mark.parametrize('n', [2, 9])
def test_variance_bars_are_the_shares(n):
    found = reports(n)
    fig = plot_variance(found, 'A title')
    ax = fig.axes[0]
    np.testing.assert_allclose(
        np.reshape([b.get_width() for b in ax.patches], (n, 4)),
        [r.set_index('measure')['value'][SHARES] for r in found.values()],
    )
    for bar in np.reshape(ax.patches, (n, 4)):
        np.testing.assert_allclose(
            [b.get_x() for b in bar], np.cumsum([0, *(b.get_width() for b in bar[:3])]), atol=1e-12
        )
    assert len({tuple(b.get_facecolor()) for b in ax.patches}) == 4 and [
        t.get_text() for t in fig.legends[0].get_texts()
    ] == ['subject', 'activity', 'interaction', 'rest']
    assert_apart(fig)


def test_negative_shares_go_left_of_zero():
    fig = plot_variance(
        {
            'null': report(
                variance_subject=-0.02,
                variance_activity=0.01,
                variance_interaction=-0.06,
                variance_rest=1.07,
            )
        }
    )
    ax = fig.axes[0]
    ends = [(b.get_x(), b.get_x() + b.get_width()) for b in ax.patches]
    np.testing.assert_allclose(
        ends, [(0, -0.02), (0, 0.01), (-0.02, -0.08), (0.01, 1.08)], atol=1e-12
    )
    low, high = ax.get_xlim()
    assert low < -0.08 - 0.03 and high > 1.08
    assert [t.get_text() for t in ax.texts] == ['\N{MINUS SIGN}0.06', '1.07']
    np.testing.assert_allclose(
        [s[:, 0] for c in ax.collections for s in c.get_segments()],
        [(-0.05, 0.01), (-0.02, 0.04), (-0.11, -0.05)],
        atol=1e-12,
    )


def test_variance_refuses():
    with pytest.raises(ValueError, match='no reports'):
        plot_variance({})
    with pytest.raises(ValueError, match="'A' has no variance_interaction"):
        plot_variance({'A': report(variance_interaction=None)})
    with pytest.raises(ValueError, match="'A' has no variance_rest"):
        plot_variance({'A': report(variance_rest=np.nan)})


def table(x, y, w=0.03):
    x, y = np.asarray(x, float), np.asarray(y, float)
    return pd.DataFrame(
        dict(x=x, x_low=x - w, x_high=x + w, y=y, y_low=y - w, y_high=y + w), index=NAMES[: len(x)]
    )


def frontier(fig):
    return [
        line.get_markerfacecolor() != 'w'
        for line in fig.axes[0].lines
        if line.get_marker() not in ('None', '')
    ]


@pytest.mark.parametrize('spread', [0.2, 0.02, 0.004, 0.0005])
@pytest.mark.parametrize('seed', range(2))
def test_names_of_close_points_cover_nothing(spread, seed):
    r = np.random.default_rng(seed)
    # with intervals, without
    t = table(
        0.5 + spread * r.normal(size=9), 0.75 + spread * r.normal(size=9), 0.03 if seed else np.nan
    )
    fig = plot_pareto(t, title='A title')
    ax = fig.axes[0]
    assert [x.get_text().replace('\n', ' ') for x in ax.texts] == t.index.tolist()
    assert_apart(fig)
    frame, dots = ax.get_window_extent(), ax.transData.transform(t[['x', 'y']])
    for x in ax.texts:
        b = x.get_window_extent()
        assert b.x0 >= frame.x0 and b.x1 <= frame.x1 and b.y0 >= frame.y0 and b.y1 <= frame.y1
        assert not (
            (b.x0 < dots[:, 0] + 4)
            & (dots[:, 0] - 4 < b.x1)
            & (b.y0 < dots[:, 1] + 4)
            & (dots[:, 1] - 4 < b.y1)
        ).any(), f'{x.get_text()} covers a point'


def test_names_stand_near_their_points_where_there_is_room():
    t = table([0.1, 0.3, 0.5, 0.7, 0.9], [0.5, 0.9, 0.6, 0.8, 0.7], 0.01)
    fig = plot_pareto(t)
    ax = fig.axes[0]
    for x, p in zip(ax.texts, ax.transData.transform(t[['x', 'y']])):
        b = x.get_window_extent()
        assert np.hypot(*(np.clip(p, b.min, b.max) - p)) < 15
    # the frontier, and no line to a name
    at = [line for line in ax.lines if line.get_marker() in ('None', '')]
    assert len(at) == 1


def test_frontier():
    assert frontier(plot_pareto(table([0.1, 0.2, 0.3, 0.2], [0.5, 0.7, 0.6, 0.4]))) == [
        True,
        True,
        False,
        False,
    ]
    # equals do not beat each other
    assert frontier(plot_pareto(table([0.1, 0.1, 0.1], [0.5, 0.5, 0.4]))) == [True, True, False]
    # as good on one axis, better on the other
    assert frontier(plot_pareto(table([0.1, 0.2], [0.5, 0.5]))) == [True, False]
    assert frontier(plot_pareto(table([0.3], [0.5]))) == [True]


def test_frontier_of_brute_force():
    r = np.random.default_rng(0)
    for _ in range(5):
        x, y = r.integers(0, 4, (2, 8)) / 10
        want = [
            not any(
                x[j] <= x[i] and y[j] >= y[i] and (x[j], y[j]) != (x[i], y[i]) for j in range(8)
            )
            for i in range(8)
        ]
        assert frontier(plot_pareto(table(x, y))) == want


def test_pareto_draws_intervals_both_ways_or_none():
    t = table([0.2, 0.4], [0.6, 0.7])
    t.loc['random tower', ['x_low', 'x_high']] = np.nan
    ax = plot_pareto(t, 'leak', 'use').axes[0]
    segments = [
        s for c in ax.collections if hasattr(c, 'get_segments') for s in c.get_segments() if len(s)
    ]
    np.testing.assert_allclose(
        [s for s in segments if np.isfinite(s).all()],
        [[(0.17, 0.6), (0.23, 0.6)], [(0.2, 0.57), (0.2, 0.63)], [(0.4, 0.67), (0.4, 0.73)]],
    )
    assert (
        'better' in ax.get_xlabel()
        and ax.get_xlabel().endswith('leak')
        and ax.get_ylabel().startswith('use')
    )
    low, high = ax.get_xlim()
    assert low < 0.17 and high > 0.4


def test_pareto_refuses():
    t = table([0.2, 0.4], [0.6, 0.7])
    with pytest.raises(ValueError, match="no column 'y_low'"):
        plot_pareto(t.drop(columns='y_low'))
    with pytest.raises(ValueError, match='no rows'):
        plot_pareto(t.head(0))
    with pytest.raises(ValueError, match="'random tower' has no x or no y"):
        plot_pareto(t.assign(y=[0.5, np.nan]))


def made(n=60, dim=16, seed=0):
    return np.random.default_rng(seed).normal(size=(n, dim))


@pytest.mark.parametrize('draw', [tsne_2d, umap_2d])
def test_maps_of_few_frames_and_of_frames_that_are_alike(draw):
    for z in (made(10), np.ones((12, 4)), made(12)[:, :1]):
        xy, rows = draw(z)
        assert (
            xy.shape == (len(z), 2)
            and np.isfinite(xy).all()
            and rows.tolist() == list(range(len(z)))
        )
    if draw is tsne_2d:
        assert len(np.unique(draw(np.ones((12, 4)))[0], axis=0)) == 12
    xy, rows = draw(made(50), limit=20)
    assert xy.shape == (20, 2) and (np.diff(rows) > 0).all() and rows.max() < 50
    with pytest.raises(ValueError, match='9 frames are too few'):
        draw(made(9))
    with pytest.raises(ValueError, match='5 frames are too few'):
        draw(made(50), limit=5)
    with pytest.raises(ValueError, match='shape'):
        draw(made()[0])
    bad = made()
    bad[7, 2] = np.nan
    with pytest.raises(ValueError, match='row 7 of z'):
        draw(bad)


def test_tsne_repeats_and_keeps_groups_together():
    z = np.repeat(np.eye(4), 15, 0) + 0.1 * made(60, 4)
    group = np.repeat(range(4), 15)
    xy, _ = tsne_2d(z)
    assert (tsne_2d(z)[0] == xy).all()
    near = np.linalg.norm(xy[:, None] - xy[None], axis=2).argsort(1)[:, 1]
    assert (group[near] == group).mean() > 0.95


def test_figures_are_closed():
    before = plt.get_fignums()
    plot_leakage(reports(2))
    plot_variance(reports(2))
    plot_pareto(table([0.2, 0.4], [0.6, 0.7]))
    umap_panels(made(), [1] * 60, [1] * 60, pd.Series([0] * 60, name='AU12'))
    # a notebook shows each once
    assert plt.get_fignums() == before
