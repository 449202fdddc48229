"""Our scores beside published ones: texts that stay apart in hard cases, what the figures hold, and
tables that must be refused.
"""

import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from test_plots import assert_apart

from clef_nb.datasets.texts import published, row_name
from clef_nb.figures.published import (
    beside_published,
    plot_ablation,
    plot_confusion,
    plot_published,
)

AUS = [c for c in published('bp4d') if c.startswith('AU')]
ABLATION = published('ablation')
ROWS = ABLATION.apply(row_name, axis=1).tolist()
LONG = (
    'a synthetic twin of BP4D with forty-one subjects, made with three seeds and read through a'
    ' camera that is slightly out of focus'
)


@pytest.fixture(autouse=True)
def font():
    with plt.rc_context({'font.size': 9, 'figure.dpi': 100}):
        yield


def scores(labels, value=0.5, width=0.1):
    return pd.DataFrame(dict(value=value, low=value - width, high=value + width), index=labels)


def line(fig):
    return fig.axes[0].get_title(loc='left')


def assert_titles_fit(fig):
    fig.draw_without_rendering()
    boxes = [ax._left_title.get_window_extent() for ax in fig.axes if ax.get_title(loc='left')]
    others = [t.get_window_extent() for ax in fig.axes for t in ax.texts] + (
        [fig._suptitle.get_window_extent()] if fig._suptitle else []
    )
    for i, b in enumerate(boxes):
        assert b.x0 >= 0 and b.x1 <= fig.bbox.x1 and b.y1 <= fig.bbox.y1
        assert not any(b.overlaps(o) for o in others + boxes[i + 1 :])


@pytest.mark.parametrize(
    'table, ran_on, value, width',
    [
        ('bp4d', LONG, 0.5, 0.4),
        ('bp4d_plus', 'real BP4D+', 1.0, 0.0),
        ('disfa', 'synthetic twin', 0.0, 0.0),
    ],
)
def test_published_keeps_its_texts_apart(table, ran_on, value, width):
    p = published(table)
    fig = plot_published(
        scores([c for c in p if c.startswith('AU')] + ['mean'], value, width),
        p,
        ran_on,
        title='A title',
    )
    assert_apart(fig)
    assert_titles_fit(fig)


def test_one_label_without_interval_and_mean():
    fig = plot_published(
        pd.DataFrame({'f1': [0.4]}, ['AU1']),
        published('bp4d')[['method', 'AU1', 'mean']],
        'real BP4D',
        ['CLEF'],
    )
    assert_apart(fig)
    assert [t.get_text() for t in fig.legends[0].get_texts()] == [
        'ours, mean not measured',
        'CLEF, mean 65.9',
    ] and 'interval' not in fig.axes[0].get_xlabel()


@pytest.mark.parametrize(
    'ran_on, fits',
    [
        ('real', True),
        ('real BP4D', True),
        ('Twin of BP4D', True),
        ('2 twins', True),
        ('BP4D', False),
        ('', False),
        (None, False),
        ('really BP4D', False),
        ('real faces and a twin', False),
        ('BP4D twinned', False),
    ],
)
def test_what_ours_ran_on_is_said_or_refused(ran_on, fits):
    ours, bp4d = scores([*AUS, 'mean']), published('bp4d')
    calls = (
        lambda: plot_published(ours, bp4d, ran_on),
        lambda: beside_published(ours, bp4d, ran_on),
        lambda: plot_ablation(scores(ROWS), ABLATION, ran_on),
    )
    for call in calls:
        if not fits:
            with pytest.raises(ValueError, match='word real or the word twin'):
                call()
    if fits:
        said = line(calls[0]()), beside_published(ours, bp4d, ran_on).columns[0], line(calls[2]())
        assert all(ran_on in s for s in said)
        assert ['ot comparable' in said[0], 'not comparable' in said[2]] == [
            'twin' in ran_on.lower()
        ] * 2


def test_means_over_other_labels_are_said():
    ours = scores([*AUS, 'mean'])
    bp4d = published('bp4d')
    assert 'our mean' not in line(plot_published(ours, bp4d, 'real'))
    assert 'without AU4 and AU7)' in line(plot_published(ours.drop(['AU4', 'AU7']), bp4d, 'real'))
    # not scored in the fold
    ours.loc['AU2', ['value', 'low', 'high']] = np.nan
    assert 'without AU2)' in line(plot_published(ours, bp4d, 'real'))
    assert 'also over AU9)' in line(plot_published(scores([*AUS, 'AU9', 'mean']), bp4d, 'real'))
    assert beside_published(ours, bp4d, 'real').index[-1] == 'mean (our mean is without AU2)'


@pytest.mark.parametrize(
    'change, message',
    [
        (lambda x: 100 * x, 'ours, AU1, value: 50; give shares'),
        (lambda x: -x, 'shares'),
        (lambda x: x.rename(columns=dict(low='high', high='low')), 'begins at 0.6 and ends at 0.4'),
        (lambda x: pd.concat([x, x]), "two rows 'AU1'"),
        (lambda x: x.rename(columns=dict(value='accuracy')), "neither a column 'f1' nor 'value'"),
    ],
)
def test_refuses_scores(change, message):
    ours = change(scores([*AUS, 'mean']))
    for call in (plot_published, beside_published):
        with pytest.raises(ValueError, match=message):
            call(ours, published('bp4d'), 'real')


@pytest.mark.parametrize('classes, normalise', [(2, True), (8, True), (7, False), (12, True)])
def test_confusion_keeps_its_texts_apart(classes, normalise):
    names = [f'expression {i}' for i in range(classes)]
    counts = pd.DataFrame(
        np.random.default_rng(0).integers(0, 10000, (classes, classes)), names, names
    )
    counts.iloc[0] = 0
    fig = plot_confusion(counts, 'A title', normalise)
    # oblique: the boxes around them overlap, they do not
    fig.axes[0].set_xticklabels([''] * classes)
    assert_apart(fig)
    # a row without images has no shares
    assert len(fig.axes[0].texts) == classes * (classes - normalise)


def test_confusion_is_written_where_it_belongs():
    fig = plot_confusion(pd.DataFrame([[90, 10], [0, 2]], list('ab'), list('ab')))
    found = {t.get_position(): (t.get_text(), t.get_color()) for t in fig.axes[0].texts}
    assert found == {
        (0.5, 0.5): ('90 %\n90', 'w'),
        (1.5, 0.5): ('10 %\n10', 'k'),
        (0.5, 1.5): ('0', 'k'),
        (1.5, 1.5): ('100 %\n2', 'w'),
    }
    for bad in (-1, 0.5, np.nan):
        with pytest.raises(ValueError, match='b called a: '):
            plot_confusion(pd.DataFrame([[90, 10], [bad, 2]], list('ab'), list('ab')))


@pytest.mark.parametrize(
    'metric, ran_on, ours',
    [
        ('bp4d_f1', LONG, scores(ROWS)),
        ('rafdb_accuracy', 'real RAF-DB', scores(ROWS[::3], 1.0, 0.0)),
        ('bp4d_f1', 'real BP4D', scores(ROWS, 0.9).assign(low=np.nan, high=np.nan)),
        ('bp4d_f1', 'twin', scores([])),
    ],
)
def test_ablation_keeps_its_texts_apart(metric, ran_on, ours):
    fig = plot_ablation(ours.astype(float), ABLATION, ran_on, metric, 'A title')
    assert_apart(fig)
    assert_titles_fit(fig)
    assert [t.get_text() for t in fig.axes[1].texts] == [
        f'{v:.{1 + (metric != "bp4d_f1")}f}' for v in ABLATION[metric]
    ]
    assert len(fig.axes[0].texts) == len(ours)
