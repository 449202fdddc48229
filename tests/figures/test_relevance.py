"""Relevance against known answers: towers that see one place, words that differ, empty maps; what
is refused; images and pages.
"""

import base64
import io
import warnings
from html.parser import HTMLParser

import matplotlib.pyplot as plt
import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from clef_nb.faces.people import sample_subject
from clef_nb.faces.render import Shot, render, sample_shot
from clef_nb.figures import relevance
from clef_nb.figures.relevance import (
    FORMULAS,
    image_relevance,
    moved_region,
    plot_relevance,
    relevance_html,
    relevance_inside,
    word_relevance,
)
from clef_nb.model.towers import embed_images, embed_texts, load_model

TEXT = dict(context_length=77, vocab_size=49408, width=16, heads=2, layers=1)
rng = np.random.default_rng(0)
noise = rng.integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)


def vit(seed=0, layers=2, **kw):
    torch.manual_seed(seed)
    return open_clip.CLIP(
        16, dict(image_size=32, patch_size=8, width=16, layers=layers, head_width=8) | kw, TEXT
    ).eval()


@pytest.fixture(scope='module')
def tiny():
    return load_model('clef-tiny')


@pytest.fixture(scope='module')
def somebody():
    r = np.random.default_rng(3)
    return sample_subject(r, 'F001'), sample_shot(r)


def quiet(*args, **kw):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', UserWarning)
        return image_relevance(*args, **kw)


def one_patch(patch):
    "A transformer of one block whose tokens all look at this patch and at nothing else"
    model = vit(layers=1, head_width=16)
    v = model.visual
    block = v.transformer.resblocks[0]
    u = torch.zeros(16)
    u[0] = 1
    with torch.no_grad():
        v.conv1.weight.mul_(0.05)
        v.class_embedding.zero_()
        v.positional_embedding.zero_()
        v.positional_embedding[:, 1] = 1
        v.positional_embedding[patch + 1, 0] = 9
        q, k, _ = block.attn.in_proj_weight.split(16)
        q.zero_()
        k.zero_()
        k[0] = 60 * u
        block.attn.in_proj_bias.zero_()
        block.attn.in_proj_bias[0] = 60
        block.attn.in_proj_weight.copy_(torch.cat([q, k, _]))
    return model


@pytest.mark.parametrize('patch', [0, 6, 15])
def test_a_transformer_that_reads_one_patch_has_all_relevance_there(patch):
    t = torch.randn(4, 16, generator=torch.Generator().manual_seed(1))
    maps = quiet(one_patch(patch), noise, torch.cat([t, -t]))
    full = maps.max((2, 3)) > 0
    # what lowers one cosine raises its opposite
    assert (full[:, :4] | full[:, 4:]).all()
    region = np.zeros((32, 32), bool)
    y, x = divmod(patch, 4)
    # the patch, and half a patch of enlarging
    region[max(0, 8 * y - 4) : 8 * y + 12, max(0, 8 * x - 4) : 8 * x + 12] = True
    assert np.allclose(relevance_inside(maps[full], region), 1, atol=1e-4)


@pytest.mark.parametrize(
    'kw', [{}, dict(pool_type='avg'), dict(final_ln_after_pool=True), dict(ls_init_value=0.1)]
)
def test_transformers_of_other_forms(kw):
    model = vit(**kw)
    before = embed_images(model, noise)
    maps = quiet(model, noise, ['a smile', 'a frown', 'x'])
    assert (
        maps.shape == (5, 3, 32, 32)
        and maps.dtype == np.float32
        and np.isfinite(maps).all()
        and set(maps.max((2, 3)).ravel().tolist()) <= {0.0, 1.0}
        and maps.min() >= 0
    )
    assert (embed_images(model, noise) == before).all() and not any(
        'attention' in vars(b) for b in model.visual.transformer.resblocks
    )
    with relevance._attentions(model.visual):
        assert np.allclose(embed_images(model, noise), before, atol=1e-5)


@pytest.mark.parametrize('pool', ['tok', 'avg'])
def test_attention_that_passes_nothing_on_gives_empty_maps(pool):
    model = one_patch(3)
    model.visual.pool_type = pool
    with torch.no_grad():
        model.visual.transformer.resblocks[0].attn.out_proj.weight.zero_()
    with pytest.warns(
        UserWarning, match='10 of 10 maps are empty, the first that of image 0 and class 0'
    ):
        assert image_relevance(model, noise, torch.eye(16)[:2]).max() == 0


class Cells(nn.Module):
    "A residual tower in name; a mean over one column of cells, or a constant"

    image_size, output_dim = 32, 3

    def __init__(self, column, loose=False):
        super().__init__()
        torch.manual_seed(2)
        self.column, self.loose = column, loose
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            nn.Sequential(nn.Conv2d(3, 3, 1), nn.Softplus()) for _ in range(4)
        )

    def forward(self, x):
        x = self.layer4(self.layer3(self.layer2(self.layer1(F.avg_pool2d(x, 8)))))
        return torch.ones(len(x), 3) if self.loose else x[..., self.column].mean(2)


class Towers(nn.Module):
    def __init__(self, visual):
        super().__init__()
        self.visual = visual

    def encode_image(self, x):
        return self.visual(x)


@pytest.mark.parametrize('column', [0, 2])
def test_a_residual_tower_that_reads_one_column(column):
    maps = quiet(Towers(Cells(column)), noise, torch.cat([torch.eye(3), -torch.eye(3)]))
    full = maps.max((2, 3)) > 0
    region = np.zeros((32, 32), bool)
    region[:, max(0, 8 * column - 4) : 8 * column + 12] = True
    assert full.any(1).all() and np.allclose(relevance_inside(maps[full], region), 1)


def test_a_constant_tower_gives_empty_maps_and_says_so():
    with pytest.warns(UserWarning, match='15 of 15 maps are empty'):
        maps = image_relevance(Towers(Cells(0, loose=True)), noise, torch.eye(3))
    assert maps.max() == 0 and relevance_inside(maps, np.ones((32, 32), bool)).max() == 0


def test_hirescam_adds_up_to_a_linear_score_and_layercam_keeps_what_helps():
    a, w = torch.rand(2, 3, 4, 4), torch.tensor([0.5, 2.0, 1.0])
    g = w[:, None, None].expand(2, 3, 4, 4) / 16
    assert torch.allclose(FORMULAS['HiResCAM'](a, g).sum((1, 2, 3)), a.mean((2, 3)) @ w)
    a, g = (
        torch.tensor([[2.0, 3.0]]).reshape(1, 2, 1, 1),
        torch.tensor([[1.0, -2.0]]).reshape(1, 2, 1, 1),
    )
    assert FORMULAS['HiResCAM'](a, g).item() == 0 and FORMULAS['LayerCAM'](a, g).item() == 2


def test_residual_maps_do_not_depend_on_batches_modes_or_frozen_weights(tiny):
    x = rng.integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)
    texts = ['a smile', 'a frown']
    maps = quiet(tiny, x, texts)
    assert np.allclose(quiet(tiny, x, texts, batch_size=2), maps, atol=1e-4) and np.allclose(
        quiet(tiny, x, embed_texts(tiny, texts)), maps, atol=1e-6
    )
    model = load_model('clef-tiny').train().requires_grad_(False)
    with torch.no_grad():
        assert np.allclose(quiet(model, x, 5 * embed_texts(tiny, texts)), maps, atol=1e-4)
    assert (
        model.training
        and all(p.grad is None for p in tiny.parameters())
        and not any(m._forward_hooks for m in tiny.modules())
    )
    assert quiet(tiny, x[:1, :48, :40], texts).shape == (1, 2, 48, 40) and quiet(
        tiny, x[:0], texts
    ).shape == (0, 2, 64, 64)


def test_layers_multiply(tiny):
    x = rng.integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    layers = {'layer1': 'HiResCAM', 'layer3': 'LayerCAM', 'layer2': 'LayerCAM'}
    alone = np.prod(
        [quiet(tiny, x, ['a smile'], {name: formula}) for name, formula in layers.items()], 0
    )
    assert np.allclose(
        quiet(tiny, x, ['a smile'], layers), alone / alone.max((2, 3), keepdims=True), atol=1e-4
    )


def test_image_relevance_refuses(tiny):
    x = np.zeros((2, 64, 64, 3), np.uint8)
    for bad in (x / 255, x[0], x.tolist(), x[..., :2]):
        with pytest.raises(ValueError, match=r'images must be uint8 \[N, H, W, 3\], not '):
            image_relevance(tiny, bad, ['a'])
    with pytest.raises(ValueError, match=r'vectors \[K, 128\], not \[3, 5\]'):
        image_relevance(tiny, x, torch.ones(3, 5))
    with pytest.raises(TypeError, match='list of texts'):
        image_relevance(tiny, x, 'a smile')
    with pytest.raises(ValueError, match='layers is empty'):
        image_relevance(tiny, x, ['a'], {})
    with pytest.raises(ValueError, match="has no layer 'layer5'; it has conv1"):
        image_relevance(tiny, x, ['a'], {'layer5': 'LayerCAM'})
    with pytest.raises(ValueError, match="'CAM'; choose one of LayerCAM, HiResCAM"):
        image_relevance(tiny, x, ['a'], {'layer1': 'CAM'})
    with pytest.raises(ValueError, match='attnpool of ModifiedResNet puts out no feature map'):
        image_relevance(tiny, x, ['a'], {'attnpool': 'LayerCAM'})
    assert not any(m._forward_hooks for m in tiny.modules())
    with pytest.raises(ValueError, match='not Linear'):
        image_relevance(Towers(nn.Linear(2, 2)), x, torch.ones(1, 2))
    for kw in (
        dict(qk_norm=True),
        dict(attentional_pool=True, attn_pooler_queries=4, attn_pooler_heads=2),
    ):
        with pytest.raises(
            ValueError, match='this VisionTransformer has attention blocks or a pooling'
        ):
            image_relevance(vit(**kw), noise, ['a'])
    broken = vit()
    with torch.no_grad():
        broken.visual.conv1.weight[0] = torch.nan
    with pytest.raises(ValueError, match='image 0 for class 0 is not finite'):
        image_relevance(broken, noise, ['a'])


def test_words_are_the_difference_of_two_texts(tiny):
    z = embed_images(tiny, rng.integers(0, 256, (3, 64, 64, 3), dtype=np.uint8))

    def cosine(text):
        return z @ embed_texts(tiny, [text])[0].numpy()

    (w, r), (one, alone) = word_relevance(
        tiny, 7 * z, ['a  person is SMILING, smiling extraordinarily.', 'glasses']
    )
    assert (
        w == ['a', 'person', 'is', 'SMILING,', 'smiling', 'extraordinarily.']
        and r.shape == (3, 6)
        and r.dtype == np.float32
    )
    assert np.allclose(
        r[:, 3],
        cosine('a person is SMILING, smiling extraordinarily.')
        - cosine('a person is smiling extraordinarily.'),
        atol=1e-5,
    )
    assert np.allclose(
        r[:, 5],
        cosine('a person is SMILING, smiling extraordinarily.')
        - cosine('a person is SMILING, smiling'),
        atol=1e-5,
    )
    assert one == ['glasses'] and np.allclose(
        alone[:, 0], cosine('glasses') - cosine(''), atol=1e-5
    )
    assert word_relevance(tiny, z[:0], ['a b'])[0][1].shape == (0, 2)


def test_the_word_that_distinguishes_two_images(tiny, somebody):
    _, shot = somebody
    z = embed_images(
        tiny,
        np.stack(
            [
                render(
                    sample_subject(np.random.default_rng(i), 'F001', looks={'glasses': on}),
                    {},
                    shot,
                )
                for i in range(8)
                for on in (False, True)
            ]
        ),
    )
    ((w, r),) = word_relevance(tiny, z, ['a photo of a woman with glasses'])
    assert w[(r[1::2] - r[::2]).mean(0).argmax()] == 'glasses'


def test_words_refuse(tiny):
    z = np.ones((2, 128))
    with pytest.raises(ValueError, match='text 1 has no words'):
        word_relevance(tiny, z, ['a', ' \n'])
    with pytest.raises(TypeError, match='list of texts'):
        word_relevance(tiny, z, 'a smile')
    with pytest.raises(ValueError, match=r'must be \[N, 128\], not \[128\]'):
        word_relevance(tiny, z[0], ['a'])
    with pytest.raises(ValueError, match='77 tokens'):
        word_relevance(tiny, z, ['word ' * 90])


def test_moved_region_is_what_changed(somebody):
    s, shot = somebody
    change = np.abs(render(s, {12: 4.0}, shot).astype(int) - render(s, {}, shot)).max(-1)
    for threshold in (0, 4, 30):
        assert (moved_region(s, 12, shot, threshold=threshold) == (change > threshold)).all()
    assert 0 < moved_region(s, 12, shot).mean() < 0.5 and moved_region(
        s, 12, shot, size=96
    ).shape == (96, 96)
    assert (
        moved_region(s, 12, shot, intensity=1).sum() < moved_region(s, 12, shot, intensity=5).sum()
    )

    def rows(au):
        return np.flatnonzero(moved_region(s, au, Shot()).any(1)).mean()

    # brows, nose, chin
    assert rows(1) < rows(9) < rows(17)
    for bad in (0, -1, 5.5):
        with pytest.raises(ValueError, match=f'intensity is {bad}'):
            moved_region(s, 12, shot, intensity=bad)
    with pytest.raises(ValueError, match='cannot be posed'):
        moved_region(s, 3, shot)


def test_share_inside():
    maps = rng.random((2, 3, 8, 8)).astype(np.float32)
    region = rng.random((2, 1, 8, 8)) < 0.3
    assert np.allclose(relevance_inside(maps, region) + relevance_inside(maps, ~region), 1)
    assert np.allclose(relevance_inside(5 * maps, region), relevance_inside(maps, region))
    assert (
        relevance_inside(np.zeros((8, 8)), region[0, 0]) == 0
        and relevance_inside(maps[0, 0], region[0, 0]).shape == ()
    )
    for m, r in ((maps, region.astype(int)), (maps, region[..., :4]), (maps[0, 0, 0], region)):
        with pytest.raises(ValueError, match='one size, the region bool'):
            relevance_inside(m, r)
    for bad in (-maps, maps * np.nan):
        with pytest.raises(ValueError, match='below 0 or not finite'):
            relevance_inside(bad, region)


def made(n=3):
    images, maps = rng.integers(0, 256, (n, 24, 24, 3), dtype=np.uint8), rng.random((n, 24, 24))
    maps[-1] = 0
    words = [
        (
            f'word{i} <b>&" and the corners of the mouth '.split() * (3 * i + 1),
            rng.normal(size=8 * (3 * i + 1)),
        )
        for i in range(n)
    ]
    return images, maps, words, [f'AU{i} <i>' for i in range(n)]


def test_the_figure_says_all_words_and_nothing_overlaps():
    images, maps, words, titles = made()
    before = plt.get_fignums()
    fig = plot_relevance(images, maps, words, titles, 'A title')
    assert plt.get_fignums() == before
    fig.draw_without_rendering()
    boxes = [t.get_window_extent() for t in fig.texts if t.get_text()]
    assert [t.get_text() for t in fig.texts if t is not fig._suptitle] == [
        x for (w, _), t in zip(words, titles) for x in (t, *w)
    ]
    assert all(
        b.x0 >= 0 and b.x1 <= fig.bbox.x1 and b.y0 > 0 and b.y1 <= fig.bbox.y1 for b in boxes
    )
    boxes += [ax.get_window_extent() for ax in fig.axes] + [fig.legends[0].get_window_extent()]
    for i, a in enumerate(boxes):
        for b in boxes[i + 1 :]:
            assert not (
                a.x0 < b.x1 - 1 and b.x0 < a.x1 - 1 and a.y0 < b.y1 - 1 and b.y0 < a.y1 - 1
            ), (a, b)
    assert [t.get_text() for ax in fig.axes for t in ax.texts] == ['empty']
    lines = [t.get_window_extent() for t in fig.texts[1:] if t.get_bbox_patch()]
    assert all(b.x0 - a.x1 > 5 for a, b in zip(lines, lines[1:]) if a.y0 - 3 < b.y0 < a.y0 + 3)


def test_the_deepest_background_is_the_word_that_counts_most():
    images, maps, _, titles = made(1)
    maps += 1
    fig = plot_relevance(images, maps, [(['for', 'nothing', 'against'], [0.5, 0.0, -0.25])], titles)
    colour = [t.get_bbox_patch().get_facecolor()[:3] for t in fig.texts[1:]]
    assert (
        colour[0][0] > colour[0][2] + 0.5
        and colour[1] == (1, 1, 1)
        and colour[2][2] > colour[2][0]
        and min(colour[2]) > min(colour[0])
    )
    assert [
        t.get_bbox_patch().get_facecolor()[:3]
        for t in plot_relevance(images, maps, [(['a', 'b'], [0.0, 0.0])], titles).texts[1:]
    ] == [(1, 1, 1)] * 2


def test_the_page_is_well_formed_escaped_and_described():
    images, maps, words, titles = made()
    page = relevance_html(images, maps, words, titles)
    seen, stack = [], []

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attrs):
            seen.append((tag, dict(attrs)))
            stack.append(tag) if tag not in ('img', 'br') else None

        def handle_endtag(self, tag):
            assert stack.pop() == tag

    reader = Reader()
    reader.feed(page)
    reader.close()
    assert not stack
    shown = [a for tag, a in seen if tag == 'img']
    assert len(shown) == 6 and {tag for tag, _ in seen} == {
        'div',
        'table',
        'tr',
        'td',
        'img',
        'b',
        'br',
        'mark',
        'p',
    }
    assert shown[0]['alt'] == 'AU0 <i>: the face' and shown[5]['alt'].endswith(
        'nothing, the map is empty'
    )
    assert (
        np.asarray(Image.open(io.BytesIO(base64.b64decode(shown[2]['src'].split(',')[1]))))
        == images[1]
    ).all()
    assert (
        page.count('<mark') == 2 + sum(len(w) for w, _ in words)
        and '<b>&' not in page
        and f'title="{words[0][1][0]:+.3f}"' in page
    )


@pytest.mark.parametrize('draw', [plot_relevance, relevance_html])
def test_figure_and_page_refuse(draw):
    images, maps, words, titles = made()
    with pytest.raises(ValueError, match='uint8'):
        draw(images / 255, maps, words, titles)
    with pytest.raises(ValueError, match='uint8'):
        draw(images[:0], maps[:0], [], [])
    with pytest.raises(ValueError, match=r'one an image, \[3, 24, 24\], not \[3, 3, 24, 24\]'):
        draw(images, np.stack([maps] * 3), words, titles)
    with pytest.raises(ValueError, match='3 images, 2 texts and 3 titles'):
        draw(images, maps, words[:2], titles)
    with pytest.raises(ValueError, match='text 0 has 8 words'):
        draw(images, maps, [(words[0][0], words[0][1][None])] * 3, titles)
    with pytest.raises(ValueError, match='text 0 has 8 words'):
        draw(images, maps, [(words[0][0], words[0][1] * np.nan)] * 3, titles)
