"""The face playground and the embedding browser, driven through their widgets, with what they show
checked against what is computed directly.
"""

import matplotlib

matplotlib.use('Agg')
import numpy as np
import pandas as pd
import pytest
import torch

from clef_nb.datasets.texts import activity_texts, name_texts
from clef_nb.faces.render import render
from clef_nb.figures.face_widget import _PROTOTYPES, face_playground
from clef_nb.figures.map_widget import _SIZE, embedding_browser
from clef_nb.model.classifier import Classifier
from clef_nb.model.towers import embed_images, embed_texts, load_model


@pytest.fixture(scope='module')
def models():
    torch.manual_seed(0)
    return {
        'towers': load_model('clef-tiny'),
        'other': Classifier(load_model('clef-tiny', None, seed=3), ['AU1', 'AU4', 'AU12']).eval(),
    }


@pytest.fixture(scope='module')
def play(models):
    p = face_playground(models, n_people=3, size=64)
    yield p
    p.close()


# ------------------------------------------------------------------ playground


def test_a_slider_moves_the_face_the_bars_and_the_map(play):
    play.show('neutral', 'F001')
    face, bars, at, z = (
        play.face.value,
        play.bars['towers'].value,
        play.maps['towers'].value,
        play.z['towers'],
    )
    play.au[12].value = 4.5
    assert play.intensity == {12: 4.5} and play.expression.value is None
    assert (
        play.face.value != face
        and play.bars['towers'].value != bars
        and play.maps['towers'].value != at
        and not np.allclose(play.z['towers'], z)
    )
    assert np.array_equal(play.image, render(play.subject, {12: 4.5}, play.shot, 64))


@pytest.mark.parametrize(
    'name', ['yaw', 'pitch', 'roll', 'light_side', 'light_height', 'soft_light', 'mix']
)
def test_every_other_slider_moves_the_face(play, name):
    play.show(
        'happiness',
        'F001',
        mix=0,
        yaw=0,
        pitch=0,
        roll=0,
        light_side=20,
        light_height=30,
        soft_light=0.5,
    )
    before = play.image
    getattr(play, name).value = getattr(play, name).max
    assert np.abs(play.image.astype(int) - before).mean() > 1
    play.show(
        'neutral',
        'F001',
        mix=0,
        yaw=0,
        pitch=0,
        roll=0,
        light_side=20,
        light_height=30,
        soft_light=0.5,
    )


def test_bars_are_the_cosines_and_probabilities_computed_directly(play, models):
    play.show({12: 3, 4: 2}, 'M001')
    s, x = play.scores, play.image[None]

    def of(model, group):
        return s[(s['model'] == model) & (s['group'] == group)].set_index('label')

    z = embed_images(models['towers'], x)[0]
    for group, texts in (
        ('expressions', name_texts(list(_PROTOTYPES))),
        ('activities', list(activity_texts().values())),
    ):
        cos = embed_texts(models['towers'], texts).numpy() @ z
        p = torch.from_numpy(models['towers'].logit_scale.exp().item() * cos).softmax(0).numpy()
        shown = of('towers', group)
        assert np.allclose(shown['cosine'], cos, atol=1e-5) and np.allclose(
            shown['probability'], p, atol=1e-5
        )
        assert shown['yes'].tolist() == (p == p.max()).tolist()
    assert of('towers', 'AUs')['probability'].isna().all() and not of('towers', 'AUs')['yes'].any()
    mine = of('other', 'AUs')
    assert mine.index.tolist() == ['AU1', 'AU4', 'AU12'] and np.allclose(
        mine['probability'], models['other'].predict(x)[0], atol=1e-5
    )
    assert mine['yes'].tolist() == (models['other'].predict(x)[0] >= 0.5).tolist()
    for r in s[s['model'] == 'other'].itertuples():
        assert f'cosine {r.cosine:.2f}'.replace('-', '\N{MINUS SIGN}') in play.bars['other'].value


def test_other_person_keeps_everything_but_the_person(play):
    play.show('sadness', 'F001', yaw=12, roll=-5)
    for _ in range(4):
        who, aus, shot = play.person.value, play.intensity, play.shot
        play.other_person.click()
        assert (
            play.person.value != who
            and play.intensity == aus == _PROTOTYPES['sadness']
            and play.shot == shot
            and play.expression.value == 'sadness'
        )
    play.show('neutral', yaw=0, roll=0)


def test_other_expression_keeps_everything_but_the_expression(play):
    play.show('sadness', 'M001', pitch=8)
    for _ in range(6):
        who, expression, shot = play.person.value, play.expression.value, play.shot
        play.other_expression.click()
        assert (
            play.expression.value != expression
            and play.intensity == _PROTOTYPES[play.expression.value]
            and play.person.value == who
            and play.shot == shot
        )
    play.show('neutral', pitch=0)


def test_a_move_is_noted_for_both_models(play):
    play.show('happiness', 'F001')
    n, before = len(play.moves), dict(play.z)
    play.other_person.click()
    new = play.moves.iloc[n:].set_index('model')
    assert list(new.index) == ['towers', 'other'] and set(new['move']) == {
        'same expression, other person'
    }
    for k in before:
        assert new.loc[k, 'cosine'] == pytest.approx(float(before[k] @ play.z[k]), abs=1e-6)
        assert new.loc[k, 'share'] == pytest.approx(
            (1 - new.loc[k, 'cosine']) / play._maps[k].distance
        )
        assert f'{new.loc[k, "share"]:.2f}' in play.notes[k].value and len(play._maps[k].trail) >= 2


def test_the_unit_of_moves_is_the_mean_distance_of_two_faces_of_the_sheet(play, models):
    sheet = np.stack(
        [render(s, pose, size=64) for s in play._people for pose in _PROTOTYPES.values()]
    )
    z = embed_images(models['towers'], sheet)
    assert play._maps['towers'].distance == pytest.approx(
        1 - (z @ z.T)[~np.eye(len(z), dtype=bool)].mean(), abs=1e-4
    )


def test_a_prototype_is_drawn_once(play, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        'clef_nb.figures.face_widget.render', lambda *a: drawn.append(1) or render(*a)
    )
    play.show('neutral')
    drawn.clear()
    play.expression.value = 'fear'
    assert len(drawn) == 1 and play.intensity == _PROTOTYPES['fear']


def test_the_still_figure_shows_all_models(play):
    titles = [a.get_title() for a in play.still().axes]
    assert 'towers' in titles and 'other' in titles


@pytest.mark.parametrize(
    'call, says',
    [
        (dict(aus={3: 1}), 'no slider for AU 3'),
        (dict(aus={12: 6}), 'AU 12 has intensity 6'),
        (dict(aus='joy'), "no expression 'joy'"),
        (dict(person='X9'), "no person 'X9'"),
        (dict(nose=1), "no slider 'nose'"),
        (dict(yaw=90), 'yaw is 90'),
    ],
)
def test_what_cannot_be_shown_is_refused_and_nothing_changes(play, call, says):
    face = play.face.value
    with pytest.raises(ValueError, match=says):
        play.show(**call)
    assert play.face.value == face


@pytest.mark.parametrize(
    'args, error, says',
    [
        (dict(model='CLEF'), TypeError, 'str'),
        (dict(model={}), ValueError, '0 models'),
        (dict(n_people=1), ValueError, 'n_people'),
        (dict(size=8), ValueError, 'size'),
        (dict(activities={}), ValueError, 'one activity or more'),
        (dict(activities='mars'), ValueError, 'mars'),
    ],
)
def test_a_playground_that_cannot_be_is_refused(args, error, says):
    with pytest.raises(error, match=says):
        face_playground(**args)


def test_closing_closes_all(models):
    p = face_playground(models['towers'], n_people=2, size=32)
    inside = [p.face, p.au[1], p.other_person, *p.bars.values()]
    p.close()
    assert p.comm is None and all(w.comm is None for w in inside)


# ------------------------------------------------------------------ browser

N = 60


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    df = pd.DataFrame(
        {
            'subject': [f'F{i % 6:03}' for i in range(N)],
            'activity': [f'T{i // 10 + 1}' for i in range(N)],
            'AU12': pd.array(rng.integers(0, 2, N), dtype='Int8'),
            'AU4': pd.array([None] * 5 + [1] * (N - 5), dtype='Int8'),
            'AU12_intensity': rng.uniform(0, 5, N),
        }
    )
    return (
        rng.integers(0, 255, (N, 16, 16, 3), dtype=np.uint8),
        rng.normal(size=(N, 5)).astype(np.float32),
        df,
        rng.normal(size=(N, 2)),
    )


def nearest(z, i, k):
    z = z / np.linalg.norm(z, axis=1, keepdims=True)
    cos = z @ z[i]
    cos[i] = -9
    return np.argsort(-cos)[:k], np.sort(cos)[::-1][:k]


def test_choosing_a_frame_shows_its_face_texts_and_neighbours(data):
    images, z, df, xy = data
    b = embedding_browser(images, z, df, xy, neighbours=5, activities={'T4': 'Sing <a> song.'})
    face = b.face.value
    b.frame.value = 33
    rows, cos = nearest(z, 33, 5)
    assert b.neighbours['row'].tolist() == rows.tolist() and np.allclose(
        b.neighbours['cosine'], cos, atol=1e-5
    )
    assert (
        b.face.value != face
        and 'F003' in b.texts.value
        and 'Sing &lt;a&gt; song.' in b.texts.value
        and 'AU4 brow lowerer' in b.texts.value
    )
    assert b.thumbnails.value.count('<button') == 5 and b.ring.value.count('<path') == 5
    same = df.loc[rows, 'subject'].eq('F003').sum()
    assert (
        b.shared()['subject'] == (same, pytest.approx(5 * 9 / 59))
        and f'same subject {same} of 5' in b.thumbnails.value
    )


def test_a_click_takes_the_nearest_dot_and_the_pointer_only_looks(data):
    images, z, df, xy = data
    b = embedding_browser(images, z, df, xy)
    b.point.value = ','.join(map(str, (b._xy[41] + 0.3) / _SIZE))
    assert b.frame.value == 41
    b.hover.value = ','.join(map(str, b._xy[7] / _SIZE))
    assert 'frame 7' in b.preview.value and b.frame.value == 41
    b.point.value = 'nowhere'
    assert b.frame.value == 41


def test_next_and_previous_walk_round(data):
    images, z, df, xy = data
    b = embedding_browser(images, z, df, xy)
    b.previous.click()
    assert b.frame.value == N - 1
    b.next.click()
    assert b.frame.value == 0


def test_colours(data):
    images, z, df, xy = data
    b = embedding_browser(images, z, df, xy)
    assert (
        b.colour.options == ('subject', 'activity', 'AU4', 'AU12', 'AU12_intensity')
        and b.map.value.count('<path') == N
    )
    for column, legend in (('activity', 'T6'), ('AU4', 'no value'), ('AU12', 'present')):
        before = b.map.value
        b.colour.value = column
        assert (
            b.map.value != before
            and legend in b.legend.value
            and f'coloured by {column}' in b.map.value
        )


def test_predictions_add_errors(data):
    images, z, df, xy = data
    p = np.stack([np.where(np.arange(N) < 20, 0.9, 0.1), np.full(N, 0.9)], 1)
    b = embedding_browser(
        images, z, df, xy, predictions=pd.DataFrame(p, columns=['AU12', 'AU4']), colour='errors'
    )
    wrong = (p[:, 0] >= 0.5) != df['AU12'].to_numpy(float).astype(bool)
    # AU4 is right wherever it is coded
    assert b._shown.columns['errors'].tolist() == wrong.astype(float).tolist()
    assert (
        b._shown.columns['AU12 outcome'].eq('found').sum() == int(df['AU12'][:20].sum())
        and b._shown.columns['AU4 outcome'].isna().sum() == 5
    )
    b.frame.value = int(np.flatnonzero(~wrong == 0)[-1])
    assert 'missed: AU12' in b.texts.value


def test_predicted_expressions(data):
    images, z, df, xy = data
    df = df[[]].assign(expression=['happiness', 'anger'] * (N // 2))
    b = embedding_browser(
        images, z, df, xy, predictions=pd.DataFrame({'happiness': [0.8] * N, 'anger': 0.2})
    )
    assert (
        b._shown.columns['errors'].value_counts().to_dict() == {'right': 30, 'wrong': 30}
        and 'recognised as happiness' in b.texts.value
        and b.shared() == {}
    )


def test_limit_draws_frames_and_keeps_their_rows(data):
    images, z, df, xy = data
    b = embedding_browser(images, z, df, xy, limit=20)
    assert (
        b.frame.max == 19
        and b.map.value.count('<path') == 20
        and set(b.neighbours['row']) <= set(b._shown.rows)
    )
    b.frame.value = 5
    assert (
        f'row {b._shown.rows[5]} of the table' in b.texts.value
        and df['subject'][b._shown.rows[5]] in b.texts.value
    )


def test_thousands_of_dots_stay_small():
    rng = np.random.default_rng(0)
    n = 3000
    b = embedding_browser(
        np.zeros((n, 8, 8, 3), np.uint8),
        rng.normal(size=(n, 8)),
        pd.DataFrame({'subject': rng.integers(0, 40, n).astype(str)}),
        rng.normal(size=(n, 2)),
    )
    assert (
        len(b.map.value) < 300_000 and len(b.ring.value) < 3_000 and '10 others' in b.legend.value
    )


def test_still_and_close(data):
    images, z, df, xy = data
    b = embedding_browser(images, z, df, xy)
    assert (
        sum(len(a.images) for a in b.still().axes)
        + sum(len(a.images) for f in b.still().subfigs for a in f.axes)
        >= 9
    )
    b.close()
    assert b.comm is None and b.map.comm is None and b.frame.comm is None


@pytest.mark.parametrize(
    'change, says',
    [
        (dict(z=lambda d: d[1][:9]), 'z has 9 rows for 60 images'),
        (dict(z=lambda d: d[1][0]), 'frames by dimensions'),
        (dict(z=lambda d: np.where(np.arange(N)[:, None] == 7, np.nan, d[1])), 'row 7 of z'),
        (dict(z=lambda d: d[1] * (np.arange(N)[:, None] != 3)), 'row 3 of z is zero'),
        (dict(table=lambda d: d[2][:5]), 'table has 5 rows'),
        (dict(table=lambda d: d[2][[]]), 'nothing to colour by'),
        (dict(xy=lambda d: d[3][:, :1]), 'positions'),
        (dict(xy=lambda d: d[3] * np.inf), 'not finite'),
        (dict(images=lambda d: d[0] / 255), 'uint8'),
        (dict(images=lambda d: d[0][..., 0]), 'uint8'),
        (dict(colour=lambda d: 'AU99'), "no column 'AU99'"),
        (dict(neighbours=lambda d: 0), 'neighbours is 0'),
        (dict(predictions=lambda d: np.zeros((N, 5))), r'\(60, 5\)'),
        (dict(predictions=lambda d: np.full((N, 2), np.nan)), 'row 0 of predictions'),
        (dict(predictions=lambda d: pd.DataFrame({'AU7': [0.0] * N})), "no column 'AU7'"),
        (dict(predictions=lambda d: pd.DataFrame({'joy': [0.0] * N})), "no column 'expression'"),
    ],
)
def test_bad_input_is_refused(data, change, says):
    args = dict(zip(('images', 'z', 'table', 'xy'), data)) | {k: f(data) for k, f in change.items()}
    with pytest.raises(ValueError, match=says):
        embedding_browser(**args)
