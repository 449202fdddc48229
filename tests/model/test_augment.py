"The promises of augmentation, effect by effect, on images made up at random"

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from clef_nb.model.augment import augment, sample_augmentation, to_float

OFF = dict(
    scale=(1.0, 1.0),
    rotate=0.0,
    flip=0.0,
    brightness=0.0,
    contrast=0.0,
    saturation=0.0,
    hue=0.0,
    grayscale=0.0,
)
SCALE, ROTATE, FLIP, LEFT, TOP, BLUR, BRIGHTNESS, CONTRAST, SATURATION, GREY, HUE = range(11)


@pytest.fixture
def drawn(monkeypatch):
    "Choose the draws: drawn({SCALE: 0}) makes draw 0 zero and leaves the others in the middle"

    def choose(values):
        def rand(n, b, **kw):
            u = torch.full((n, b), 0.5)
            for k, v in values.items():
                u[k] = v
            return u

        monkeypatch.setattr(torch, 'rand', rand)

    return choose


@pytest.mark.parametrize('h, w', [(16, 16), (17, 16), (12, 20)])
def test_quarter_turn(drawn, h, w):
    x, s = torch.rand(2, 3, h, w), min(h, w) - (h - w) % 2
    drawn({ROTATE: 1})
    y = augment(x, **(OFF | dict(rotate=90.0)))

    def middle(v):
        return v[..., (h - s) // 2 : (h - s) // 2 + s, (w - s) // 2 : (w - s) // 2 + s]

    if (h - w) % 2 == 0:
        assert torch.allclose(middle(y), middle(x).rot90(1, (2, 3)), atol=1e-5) or torch.allclose(
            middle(y), middle(x).rot90(-1, (2, 3)), atol=1e-5
        )
    drawn({ROTATE: 1})
    assert torch.allclose(augment(x, **(OFF | dict(rotate=180.0))), x.flip((2, 3)), atol=1e-4)


@pytest.mark.parametrize('left, top', [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_crops_reach_every_corner(drawn, left, top):
    x = torch.rand(2, 3, 16, 16)
    drawn({LEFT: left, TOP: top})
    y = augment(x, **(OFF | dict(scale=(0.5, 0.5))))
    quarter = x[..., 8 * top : 8 * top + 8, 8 * left : 8 * left + 8]
    assert torch.allclose(
        y[..., 2:-2, 2:-2],
        F.interpolate(quarter, (16, 16), mode='bilinear', align_corners=False)[..., 2:-2, 2:-2],
        atol=1e-5,
    )


def test_crop_stays_inside(drawn):
    "Without rotation nothing beyond the edge is shown"
    x = torch.zeros(1, 3, 32, 32)
    x[..., 0, :] = 1  # only the first row is white
    for s in np.linspace(0, 1, 6):
        drawn({SCALE: s, TOP: 1})
        assert augment(x, **(OFF | dict(scale=(0.5, 0.9))))[0, 0].max() == 0


def test_settings_change_their_own_effect_alone():
    x = torch.rand(8, 3, 16, 16) * 0.4 + 0.3

    def g():
        return torch.Generator().manual_seed(1)

    both = augment(x, g(), **(OFF | dict(flip=0.5, brightness=0.2)))
    assert torch.allclose(
        both,
        augment(augment(x, g(), **(OFF | dict(flip=0.5))), g(), **(OFF | dict(brightness=0.2))),
        atol=1e-5,
    )


def test_each_effect_has_a_row_of_its_own():
    "Changing one row of the draws changes the image if, and only if, its effect is on"
    x, u = torch.rand(2, 3, 16, 16) * 0.4 + 0.3, torch.full((11, 2), 0.4)
    on = {
        SCALE: dict(scale=(0.5, 0.9)),
        ROTATE: dict(rotate=20.0),
        FLIP: dict(flip=0.5),
        LEFT: dict(scale=(0.5, 0.5)),
        TOP: dict(scale=(0.5, 0.5)),
        BLUR: dict(blur=0.5),
        BRIGHTNESS: dict(brightness=0.2),
        CONTRAST: dict(contrast=0.2),
        SATURATION: dict(saturation=0.2),
        GREY: dict(grayscale=0.5),
        HUE: dict(hue=0.1),
    }
    for row, setting in on.items():
        before = augment(x, draws=u, **(OFF | setting))
        for other in range(11):
            v = u.clone()
            v[other] = 0.9
            same = torch.allclose(augment(x, draws=v, **(OFF | setting)), before, atol=1e-6)
            assert same == (
                other != row
                and not (row in (LEFT, TOP) and other in (LEFT, TOP))
                and not (row == SCALE and other in (LEFT, TOP))
            ), (row, other)


def slow_hue(x, turn):
    "[3, H, W] in float64, pixel by pixel"
    m = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
    out = np.empty(x.shape)
    for i, j in np.ndindex(*x.shape[1:]):
        y, a, b = m @ x[:, i, j]
        out[:, i, j] = np.linalg.solve(
            m, [y, a * np.cos(turn) - b * np.sin(turn), a * np.sin(turn) + b * np.cos(turn)]
        )
    return out.clip(0, 1)


@pytest.mark.parametrize('hue', [0.03, 0.25, 0.5])
def test_hue_against_pixel_by_pixel(hue):
    x = torch.rand(5, 3, 6, 7, dtype=torch.float64)
    u = sample_augmentation(5, torch.Generator().manual_seed(0))
    u[HUE] = torch.linspace(0, 1, 5)
    y = augment(x, draws=u, **(OFF | dict(hue=hue)))
    for v, w, d in zip(x.numpy(), y.numpy(), u[HUE].tolist()):
        assert np.abs(slow_hue(v, 2 * np.pi * hue * (2 * d - 1)) - w).max() < 2e-6


def test_hue_keeps_luma_and_greys_and_turns_back():
    x, luma = torch.rand(4, 3, 8, 8) * 0.2 + 0.4, torch.tensor([0.299, 0.587, 0.114])
    u = sample_augmentation(4, torch.Generator().manual_seed(0))
    back = u.clone()
    back[HUE] = 1 - u[HUE]
    y = augment(x, draws=u, **(OFF | dict(hue=0.2)))
    assert (y - x).abs().max() > 0.01 and torch.allclose(
        torch.einsum('bchw,c->bhw', y - x, luma), torch.zeros(4, 8, 8), atol=1e-6
    )
    assert torch.allclose(augment(y, draws=back, **(OFF | dict(hue=0.2))), x, atol=1e-6)
    g = torch.rand(4, 1, 8, 8).expand(-1, 3, -1, -1)
    assert torch.allclose(augment(g, draws=u, **(OFF | dict(hue=0.5))), g, atol=1e-6)
    # grey has no hue
    y = augment(x, draws=u, **(OFF | dict(hue=0.5, grayscale=1.0)))
    assert torch.allclose(y, torch.einsum('bchw,c->bhw', x, luma)[:, None].expand_as(x), atol=1e-6)


def test_hue_of_zero_changes_nothing():
    "Colours as they were before there was a hue: the same first ten rows, the same matrix"
    x = torch.rand(16, 3, 8, 8)

    def g():
        return torch.Generator().manual_seed(3)

    old, new = torch.rand(10, 16, generator=g()), sample_augmentation(16, g())
    assert torch.equal(old, new[:10])
    b, c, q = (1 + 0.3 * (2 * v - 1) for v in old[6:9])
    q = torch.where(old[9] < 0.1, 0.0, q)
    luma = torch.tensor([0.299, 0.587, 0.114])
    mix = q[:, None, None] * torch.eye(3) + (1 - q)[:, None, None] * luma
    y = (
        torch.baddbmm(
            (b * (1 - c) * (x.mean((2, 3)) @ luma))[:, None, None],
            (b * c)[:, None, None] * mix,
            x.flatten(2),
        )
        .clamp(0, 1)
        .view_as(x)
    )
    assert torch.allclose(augment(x, g(), scale=(1, 1), rotate=0, flip=0, hue=0), y, atol=1e-7)


@pytest.mark.parametrize('parts', [[0, 20], [0, 7, 8, 20], [0, 0, 13, 20]])
def test_parts_of_a_batch_share_its_draws(parts):
    x, u = torch.rand(20, 3, 12, 12), sample_augmentation(20, torch.Generator().manual_seed(0))
    whole = augment(x, draws=u, blur=0.5)
    assert torch.equal(whole, augment(x, torch.Generator().manual_seed(0), blur=0.5))
    for a, b in zip(parts, parts[1:]):
        assert torch.allclose(augment(x[a:b], draws=u[:, a:b], blur=0.5), whole[a:b], atol=1e-6)
    order = torch.randperm(20)
    assert torch.allclose(augment(x[order], draws=u[:, order], blur=0.5), whole[order], atol=1e-6)
    kept = u.clone()
    augment(x, draws=u.double())
    assert torch.equal(u, kept)


def test_draws():
    u = sample_augmentation(3000, torch.Generator().manual_seed(0))
    assert u.shape == (11, 3000) and u.dtype == torch.float32 and 0 <= u.min() and u.max() < 1
    assert (u.mean(1) - 0.5).abs().max() < 0.03 and (
        torch.corrcoef(u) - torch.eye(11)
    ).abs().max() < 0.1
    assert sample_augmentation(0).shape == (11, 0)
    for wrong in u[:10], u[:, :4], u.T, u[:, 0]:
        with pytest.raises(ValueError, match=r'draws are \[.*5 \w+ need \[11, 5\]'):
            augment(torch.rand(5, 3, 4, 4), draws=wrong)
    with pytest.raises(ValueError, match='both a generator and draws'):
        augment(torch.rand(5, 3, 4, 4), torch.Generator(), draws=u[:, :5])
    for hue in -0.1, 0.51, float('nan'):
        with pytest.raises(ValueError, match='hue is .* between 0 and 0.5'):
            augment(torch.rand(5, 3, 4, 4), hue=hue)


def test_draws_differ_between_images():
    x = torch.rand(1, 3, 16, 16).repeat(64, 1, 1, 1)
    for change in (
        dict(scale=(0.5, 1.0)),
        dict(rotate=20.0),
        dict(brightness=0.3),
        dict(contrast=0.3),
        dict(saturation=0.3),
        dict(hue=0.1),
    ):
        y = augment(x, torch.Generator().manual_seed(0), **(OFF | change))
        assert len(torch.unique((y * 1e5).round().flatten(1), dim=0)) > 60, change


def test_probabilities():
    x = torch.rand(1, 3, 8, 8).repeat(2000, 1, 1, 1)
    y = augment(x, torch.Generator().manual_seed(0), **(OFF | dict(flip=0.3)))
    assert abs((y - x.flip(-1)).abs().amax((1, 2, 3)).lt(1e-4).float().mean() - 0.3) < 0.04
    y = augment(x, torch.Generator().manual_seed(0), **(OFF | dict(grayscale=0.2)))
    assert abs((y[:, 0] - y[:, 1]).abs().amax((1, 2)).lt(1e-5).float().mean() - 0.2) < 0.04


def test_blur(drawn):
    x = torch.zeros(1, 3, 9, 9)
    x[..., 4, 4] = 0.9
    drawn({BLUR: 1})
    y = augment(x, **(OFF | dict(blur=1.0)))
    assert torch.allclose(y[0, 0, 3:6, 3:6], torch.full((3, 3), 0.1)) and abs(y.sum() - 2.7) < 1e-5
    # no dark rim
    x = torch.full((1, 3, 5, 5), 0.7)
    assert torch.allclose(augment(x, **(OFF | dict(blur=1.0))), x)


def test_beyond_the_edge_the_image_is_reflected(drawn):
    x = torch.rand(1, 3, 16, 16) * 0.5 + 0.5
    drawn({ROTATE: 1})
    assert augment(x, **(OFF | dict(rotate=45.0))).min() > 0.49


def test_range_shape_and_types():
    x = torch.rand(5, 3, 20, 14)
    for dtype in torch.float32, torch.float64:
        y = augment(
            x.to(dtype),
            torch.Generator().manual_seed(0),
            brightness=1.0,
            contrast=1.0,
            saturation=1.0,
            hue=0.5,
            grayscale=0.5,
            blur=1.0,
            rotate=180.0,
            scale=(0.01, 1.0),
        )
        assert y.shape == x.shape and y.dtype == dtype and 0 <= y.min() and y.max() <= 1
    # the input is left as it was
    before = x.clone()
    augment(x)
    assert torch.equal(x, before)
    assert augment(x[:0]).shape == (0, 3, 20, 14)


def test_to_float_of_read_only_maps(tmp_path, recwarn):
    np.save(
        tmp_path / 'x.npy', np.random.default_rng(0).integers(0, 256, (12, 16, 16, 3), np.uint8)
    )
    x = np.load(tmp_path / 'x.npy', mmap_mode='r')
    for part in x[2:5], x[[2, 3, 4]]:
        assert torch.allclose(
            to_float(part), torch.from_numpy(np.array(x[2:5])).permute(0, 3, 1, 2) / 255, atol=1e-7
        )
    assert len(recwarn) == 0
