"""Losses against slow loops on batches made up at random, on extreme settings, in low precision,
and on input that must be refused
"""

import math
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from clef_nb.model import losses_fast
from clef_nb.model.losses import (
    au_loss,
    check_two_sides,
    check_unit_rows,
    expression_loss,
    image_text_readable,
    multi_positive_loss,
    name_description_readable,
    positive_weights,
    supcon_readable,
    warn_once,
)
from clef_nb.model.losses_fast import image_text, name_description, supcon


def clip(z, t, scale, **kw):
    "CLIP's loss: a text for each image"
    return image_text(z, t, torch.arange(len(z)), scale, **kw)


def unit(*shape, seed=0, dtype=torch.float64):
    return F.normalize(
        torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype), dim=-1
    )


@pytest.fixture(autouse=True)
def fresh():
    warn_once.cache_clear()


def log_sum(x):
    m = max(x)
    return m + math.log(sum(math.exp(v - m) for v in x))


def slow_supcon(z, labels, temperature):
    s = [[float(a @ b) / temperature for b in z] for a in z]
    n = len(z)
    each = []
    for i in range(n):
        positives = [j for j in range(n) if j != i and labels[j] == labels[i]]
        if positives:
            each.append(
                sum(log_sum([s[i][j] for j in range(n) if j != i]) - s[i][p] for p in positives)
                / len(positives)
            )
    return sum(each) / len(each)


def slow_image_text(z, t, labels, scale):
    s = [[scale * float(a @ b) for b in t] for a in z]
    each = []
    to_text = sum(log_sum(s[i]) - s[i][k] for i, k in enumerate(labels)) / len(z)
    for k in sorted(set(labels)):
        own = [i for i, label in enumerate(labels) if label == k]
        each.append(sum(log_sum([r[k] for r in s]) - s[i][k] for i in own) / len(own))
    return (to_text + sum(each) / len(each)) / 2


@pytest.mark.parametrize('seed', range(25))
def test_equal_to_the_loops(seed):
    rng = np.random.default_rng(seed)
    n, k, d = int(rng.integers(2, 24)), int(rng.integers(1, 9)), int(rng.integers(1, 12))
    z, t, labels = (
        unit(n, d, seed=seed),
        unit(k, d, seed=seed + 99),
        torch.from_numpy(rng.integers(0, k, n)),
    )
    temperature = float(10 ** rng.uniform(-2, 1))
    if len(set(labels.tolist())) < n:
        assert supcon(z, labels, temperature).item() == pytest.approx(
            slow_supcon(z, labels.tolist(), temperature), rel=1e-10, abs=1e-12
        )
    assert image_text(z, t, labels, 1 / temperature).item() == pytest.approx(
        slow_image_text(z, t, labels.tolist(), 1 / temperature), rel=1e-10, abs=1e-12
    )
    assert expression_loss(z @ t.T, labels, 1 / temperature).item() == pytest.approx(
        image_text(z, t, labels, 1 / temperature, symmetric=False).item(), rel=1e-10, abs=1e-12
    )
    assert name_description(t, unit(k, d, seed=7), 1 / temperature).item() == pytest.approx(
        slow_image_text(t, unit(k, d, seed=7), range(k), 1 / temperature), rel=1e-10, abs=1e-12
    )
    cos, y, bias, w = (
        z @ t.T,
        rng.choice([0, 1, np.nan], (n, k)),
        rng.normal(size=k),
        rng.uniform(0.2, 5, k),
    )
    y[0, 0] = 1
    p = 1 / (1 + np.exp(-(cos.numpy() * 3 + bias)))
    assert au_loss(
        cos, torch.from_numpy(y), 3.0, torch.from_numpy(bias), torch.from_numpy(w)
    ).item() == pytest.approx(np.nanmean(-(w * y * np.log(p) + (1 - y) * np.log(1 - p))), rel=1e-10)


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize('temperature', [0.01, 0.1, 1.0])
@pytest.mark.parametrize('seed', range(4))
def test_fast_and_readable_forms_are_equal(seed, temperature, dtype):
    g = torch.Generator().manual_seed(seed)
    n, k = int(torch.randint(2, 40, (1,), generator=g)), int(torch.randint(1, 9, (1,), generator=g))
    z, t = unit(n, 6, seed=seed).to(dtype), unit(k, 6, seed=seed + 9).to(dtype)
    u, labels = unit(k, 6, seed=7).to(dtype), torch.randint(0, k, (n,), generator=g)
    labels[0] = labels[1]
    # rounding of a cosine is multiplied by 1/temperature
    close = {torch.float64: 1e-11, torch.float32: 1e-5, torch.bfloat16: 2e-2}[dtype] / temperature
    pairs = [
        (supcon(z, labels, temperature), supcon_readable(z, labels, temperature)),
        (name_description(t, u, 1 / temperature), name_description_readable(t, u, 1 / temperature)),
    ]
    for symmetric in True, False:
        given = t, labels, 1 / temperature, symmetric
        pairs.append((image_text(z, *given), image_text_readable(z, *given)))
    for fast, readable in pairs:
        assert fast.item() == pytest.approx(readable.item(), rel=close, abs=close)


def test_order_and_rotation_do_not_matter():
    z, t, labels = unit(20, 8), unit(5, 8, seed=1), torch.arange(20) % 5
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    q = torch.linalg.qr(
        torch.randn(8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    )[0]
    assert supcon((z @ q)[order], labels[order]).item() == pytest.approx(supcon(z, labels).item())
    assert image_text((z @ q)[order], t @ q, labels[order], 9.0).item() == pytest.approx(
        image_text(z, t, labels, 9.0).item()
    )
    swap = torch.tensor([3, 0, 4, 1, 2])
    assert image_text(z, t[swap], torch.argsort(swap)[labels], 9.0).item() == pytest.approx(
        image_text(z, t, labels, 9.0).item()
    )


def test_descent_goes_the_right_way():
    "A step against the gradient brings rows of one label together"
    v = torch.randn(24, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)
    labels = torch.arange(24) % 3

    def gap(v):
        c = F.normalize(v, dim=1) @ F.normalize(v, dim=1).T
        same = labels[:, None] == labels
        return (c[same].mean() - c[~same].mean()).item()

    before = gap(v)
    for _ in range(60):
        v = (
            (v - 0.5 * torch.autograd.grad(supcon(F.normalize(v, dim=1), labels), v)[0])
            .detach()
            .requires_grad_()
        )
    assert gap(v) > before + 0.5


# ---- anchors without a positive


def test_anchors_without_positive_are_left_out_but_are_negatives():
    z, labels = unit(7, 5), torch.tensor([0, 0, 1, 1, 1, 2, 3])
    v = z.clone().requires_grad_()
    supcon(v, labels).backward()
    # 5 and 6 are pushed by the others
    assert torch.isfinite(v.grad).all() and (v.grad.abs().sum(1) > 0).all()
    assert supcon(z, labels) > supcon(z[:5], labels[:5])


@pytest.mark.parametrize('n', [1, 2, 9])
@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_no_positive_at_all(n, dtype):
    v = torch.randn(n, 4, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
    with pytest.warns(UserWarning, match='no row shares its label'):
        loss = supcon(F.normalize(v, dim=1), torch.arange(n))
    loss.backward()
    assert (
        loss.item() == 0
        and loss.dtype == torch.promote_types(dtype, torch.float32)
        and v.grad is not None
        and (v.grad == 0).all()
    )
    # said once
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        supcon(F.normalize(v, dim=1), torch.arange(n))


def test_nothing_coded():
    cos, bias, scale = (
        unit(4, 3).requires_grad_(),
        torch.zeros(3, requires_grad=True),
        torch.tensor(5.0, requires_grad=True),
    )
    with pytest.warns(UserWarning, match='no entry of the batch is coded'):
        loss = au_loss(cos, torch.full((4, 3), torch.nan), scale, bias)
    loss.backward()
    assert loss.item() == 0 and all((p.grad == 0).all() for p in (cos, bias, scale))


def test_an_uncoded_entry_pulls_nothing_whatever_it_says():
    cos, y = unit(6, 4, dtype=torch.float32), torch.ones(6, 4)
    y[2, 1] = torch.nan
    a = cos.clone().requires_grad_()
    au_loss(a, y, 5.0, 0.0).backward()
    cos[2, 1] = -cos[2, 1]
    b = cos.clone().requires_grad_()
    au_loss(b, y, 5.0, 0.0).backward()
    assert a.grad[2, 1] == 0 and torch.equal(a.grad, b.grad)


# ---- precision


@pytest.mark.parametrize('temperature', [1e-3, 0.01, 0.1, 1.0, 100.0])
def test_extreme_temperatures_are_finite(temperature):
    v = torch.randn(32, 6, generator=torch.Generator().manual_seed(0), requires_grad=True)
    z = F.normalize(v, dim=1)
    labels = torch.arange(32) % 4
    for loss in (
        supcon(z, labels, temperature),
        image_text(z, z[:4].detach(), labels, 1 / temperature),
        name_description(z[:4], z[4:8], 1 / temperature),
        expression_loss(z @ z[:4].T, labels, 1 / temperature),
        au_loss(z @ z[:4].T, (z @ z[:4].T > 0).float(), 1 / temperature, 0.0),
    ):
        assert (
            torch.isfinite(loss)
            and torch.isfinite(torch.autograd.grad(loss, v, retain_graph=True)[0]).all()
        )


@pytest.mark.parametrize(
    'dtype, close', [(torch.float32, 1e-5), (torch.float16, 5e-3), (torch.bfloat16, 3e-2)]
)
def test_low_precision(dtype, close):
    z, t, labels = unit(64, 32), unit(8, 32, seed=1), torch.arange(64) % 8
    # normalised in low precision: not refused
    low, text = F.normalize(z.to(dtype), dim=1), F.normalize(t.to(dtype), dim=1)
    for ours, exact in (
        (supcon(low, labels), supcon(z, labels)),
        (image_text(low, text, labels, 10.0), image_text(z, t, labels, 10.0)),
        (name_description(text, low[:8], 10.0), name_description(t, z[:8], 10.0)),
        (expression_loss(low @ text.T, labels, 10.0), expression_loss(z @ t.T, labels, 10.0)),
    ):
        assert ours.dtype == torch.float32 and ours.item() == pytest.approx(exact.item(), rel=close)


def test_autocast_does_not_touch_the_products():
    z, labels = unit(64, 32, dtype=torch.float32), torch.arange(64) % 8
    with torch.autocast('cpu', dtype=torch.bfloat16):
        inside = supcon(z, labels), image_text(z, z[:8], labels, 100.0)
    assert inside == (supcon(z, labels), image_text(z, z[:8], labels, 100.0))


@pytest.mark.parametrize('d', [2, 3, 16, 512, 4096])
def test_unit_rows_in_bfloat16_pass(d):
    check_unit_rows(
        F.normalize(
            torch.randn(2000, d, generator=torch.Generator().manual_seed(d)).bfloat16(), dim=1
        ),
        'z',
    )


def test_cosines_of_rows_in_bfloat16_pass():
    z = F.normalize(
        torch.randn(500, 2, generator=torch.Generator().manual_seed(0)).bfloat16(), dim=1
    )
    cos = (z @ z.T)[:, :50]
    assert cos.max() > 1
    au_loss(cos, (cos > 0).float(), 5.0, 0.0)
    expression_loss(cos, torch.arange(500) % 50, 5.0)


@pytest.mark.parametrize(
    'length, ok', [(1.009, True), (0.991, True), (1.011, False), (0.989, False)]
)
def test_tolerance(length, ok):
    z, labels = unit(8, 8), torch.arange(8) % 2
    z[5] *= length
    if ok:
        supcon(z, labels)
    else:
        with pytest.raises(ValueError, match='row 5 of z has length'):
            supcon(z, labels)


def test_scale_and_bias_may_be_learnt():
    z, t = unit(8, 6), unit(3, 6, seed=1)
    log_scale = torch.tensor(2.0, requires_grad=True)
    bias = torch.zeros(3, requires_grad=True)
    labels = torch.arange(8) % 3
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        (
            image_text(z, t, labels, log_scale.exp())
            + name_description(z[:3], t, log_scale.exp())
            + au_loss(z @ t.T, torch.ones(8, 3), log_scale.exp(), bias)
        ).backward()
    assert log_scale.grad.abs() > 0 and (bias.grad.abs() > 0).all()


# ---- refused

Z, T, L = unit(6, 4), unit(3, 4, seed=1), torch.tensor([0, 0, 1, 1, 2, 2])
COS, Y = Z @ T.T, torch.ones(6, 3)


def with_(x, i, v):
    x = x.clone()
    x[i] = v
    return x


@pytest.mark.parametrize(
    'call, words',
    [
        (
            lambda: supcon(with_(Z, (3, 1), math.nan), L),
            'row 3 of z has a value that is not finite',
        ),
        (
            lambda: supcon(with_(Z, (3, 1), math.inf), L),
            'row 3 of z has a value that is not finite',
        ),
        (lambda: supcon(with_(Z, 4, 0.0), L), 'row 4 of z has length 0'),
        (
            lambda: supcon(Z[0], L),
            r'z must be a float tensor of \[rows, dimensions\], not torch.float64 \[4\]',
        ),
        (lambda: supcon(Z.numpy(), L), 'not ndarray'),
        (lambda: supcon(torch.ones(6, 4, dtype=torch.int64), L), 'not torch.int64'),
        (lambda: supcon(Z[:, :0], L), 'z is empty'),
        (lambda: supcon(Z[:0], L[:0]), 'z is empty'),
        (lambda: supcon(Z, L[:5]), 'labels must be 6 integers'),
        (lambda: supcon(Z, L[:, None]), 'labels must be 6 integers'),
        (lambda: supcon(Z, L * 1.0), 'not torch.float32'),
        (lambda: supcon(Z, L, operands=torch.int8), 'operands is torch.int8'),
        (lambda: supcon(Z, L, recompute='yes'), "recompute is 'yes'"),
        (lambda: supcon_readable(Z * 2, L), 'row 0 of z has length 2'),
        (lambda: supcon_readable(Z, L[:5]), 'labels must be 6 integers'),
        (lambda: supcon_readable(Z, L, 0.0), 'temperature is 0; it must be a positive number'),
        (lambda: image_text_readable(Z, T, L + 1, 1.0), r'labels\[4\] is 3; it must lie between'),
        (lambda: image_text_readable(Z, T[:, :3], L, 1.0), 'row 0 of t has length'),
        (lambda: image_text_readable(Z, T, L, -1), 'scale is -1'),
        (lambda: name_description_readable(Z, T, 1.0), '6 names and 3 descriptions'),
        (lambda: supcon(Z, L, -0.1), 'temperature is -0.1'),
        (lambda: supcon(Z, L, math.nan), 'temperature is nan'),
        (lambda: supcon(Z, L, math.inf), 'temperature is inf'),
        (lambda: image_text(Z, T * 2, L, 1.0), 'row 0 of t has length 2'),
        (lambda: image_text(Z, T[:0], L, 1.0), 't is empty'),
        (
            lambda: image_text(Z, T, with_(L, 2, -1), 1.0),
            r'labels\[2\] is -1; it must lie between 0 and 2',
        ),
        (
            lambda: image_text(Z, T, with_(L, 2, 3), 1.0),
            r'labels\[2\] is 3; it must lie between 0 and 2',
        ),
        (lambda: image_text(Z, T, L, 0), 'scale is 0'),
        (lambda: image_text(Z, unit(3, 5), L, 1.0), '4 and 5 dimensions'),
        (lambda: name_description(Z, T, 1.0), '6 names and 3 descriptions'),
        (lambda: name_description(Z, Z * 1.5, 1.0), 'row 0 of descriptions has length 1.5'),
        (lambda: name_description(Z, Z, math.nan), 'scale is nan'),
        (lambda: au_loss(with_(COS, (2, 1), math.nan), Y, 1.0, 0.0), r'cos\[2, 1\] is nan'),
        (
            lambda: au_loss(with_(COS, (2, 1), -3), Y, 1.0, 0.0),
            r'cos\[2, 1\] is -3; a cosine lies between',
        ),
        (
            lambda: au_loss(COS, with_(Y, (5, 2), 9.0), 1.0, 0.0),
            r'targets\[5, 2\] is 9; it must be 0, 1, or nan',
        ),
        (lambda: au_loss(COS, Y[:5], 1.0, 0.0), r'targets are \[5, 3\] and cos \[6, 3\]'),
        (lambda: au_loss(COS[:0], Y[:0], 1.0, 0.0), 'cos is empty'),
        (lambda: au_loss(COS, Y, 1.0, torch.zeros(6, 1)), r'bias is \[6, 1\]'),
        (lambda: au_loss(COS, Y, 0.0, 0.0), 'scale is 0'),
        (lambda: au_loss(COS, Y, 1.0, 0.0, torch.ones(2)), r'pos_weight is \[2\]'),
        (
            lambda: au_loss(COS, Y, 1.0, 0.0, torch.tensor([1.0, math.inf, 1.0])),
            r'pos_weight\[1\] is inf',
        ),
        (lambda: multi_positive_loss(COS, Y, 1.0), r'targets are \[6, 3\] and cos \[6, 2\]'),
        (lambda: multi_positive_loss(COS, Y[:, :2] + 1, 1.0), 'it must be 0, 1, or nan'),
        (lambda: multi_positive_loss(COS * 9, Y[:, :2], 1.0), 'a cosine lies between'),
        (lambda: expression_loss(COS, with_(L, 1, 3), 1.0), r'target\[1\] is 3'),
        (lambda: expression_loss(COS * 9, L, 1.0), 'a cosine lies between'),
        (lambda: expression_loss(COS, L[:2], 1.0), 'target must be 6 integers'),
        (lambda: positive_weights(torch.ones(3)), 'targets must be'),
    ],
)
def test_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_lists_and_arrays_of_labels_will_do():
    assert (
        supcon(Z, L.tolist())
        == supcon(Z, L.numpy())
        == supcon(Z, L.to(torch.int32))
        == supcon(Z, L)
    )
    assert au_loss(COS, Y.numpy(), 5.0, 0.0, [1.0, 2.0, 3.0]) == au_loss(
        COS, Y, 5.0, 0.0, torch.tensor([1.0, 2.0, 3.0])
    )


def test_positive_weights():
    y = torch.tensor([[1, 0], [0, 0], [0, math.nan], [0, 1]])
    assert positive_weights(y).tolist() == [3, 2] and positive_weights(
        y.numpy(), most=2.0
    ).tolist() == [2, 2]
    balanced = au_loss(torch.zeros(4, 2), y, 1.0, 0.0, positive_weights(y))
    assert balanced.item() == pytest.approx(math.log(2) * (3 + 3 + 2 + 2) / 7)


# ---- blocks, against formulas in plain torch on the whole matrix


def plain_supcon(z, labels, temperature):
    itself = torch.eye(len(z), dtype=torch.bool)
    positive = (labels[:, None] == labels) & ~itself
    count = positive.sum(1)
    s = (z @ z.T / temperature).masked_fill(itself, -torch.inf)
    log_p = (s - s.logsumexp(1, keepdim=True)).masked_fill(~positive, 0)
    return -(log_p.sum(1) / count.clamp(min=1)).sum() / (count > 0).sum()


def plain_image_text(z, t, labels, scale, symmetric=True):
    s = scale * z @ t.T
    own = s.gather(1, labels[:, None])[:, 0]
    rows = (s.logsumexp(1) - own).mean()
    if not symmetric:
        return rows
    count = torch.bincount(labels, minlength=len(t))
    column = s.logsumexp(0)[labels] - own
    return (rows + (column / count[labels]).sum() / (count > 0).sum()) / 2


def plain_clip(z, t, scale):
    return plain_image_text(z, t, torch.arange(len(z)), scale)


# 5, 7 and 8 stand alone; 4 and 6 are nowhere
N = 23
MIXED = torch.tensor([0, 1, 2, 0, 1, 1, 5, 0, 7, 2, 2, 0, 0, 1, 3, 0, 1, 2, 8, 3, 1, 0, 2])
EACH = {
    'supcon': (
        lambda z, t, h, **kw: supcon(z, MIXED, 1 / h, **kw),
        lambda z, t, h: plain_supcon(z, MIXED, 1 / h),
    ),
    'supcon, one label': (
        lambda z, t, h, **kw: supcon(z, MIXED * 0, 1 / h, **kw),
        lambda z, t, h: plain_supcon(z, MIXED * 0, 1 / h),
    ),
    'image_text': (
        lambda z, t, h, **kw: image_text(z, t[:9], MIXED, h, **kw),
        lambda z, t, h: plain_image_text(z, t[:9], MIXED, h),
    ),
    'image_text, asymmetric': (
        lambda z, t, h, **kw: image_text(z, t[:9], MIXED, h, symmetric=False, **kw),
        lambda z, t, h: plain_image_text(z, t[:9], MIXED, h, False),
    ),
    'CLIP': (
        lambda z, t, h, **kw: clip(z, t, h, **kw),
        lambda z, t, h: plain_clip(z, t, h),
    ),
}


def measured(loss, scale, dtype=torch.float64, grad=1.0, d=6, shape=lambda z: z, **kw):
    "[value, gradients of images, texts and scale]"
    v, u = (unit(N, d, seed=s).to(dtype).requires_grad_() for s in (0, 1))
    h = torch.tensor(
        float(scale),
        dtype=torch.float64 if dtype == torch.float64 else torch.float32,
        requires_grad=True,
    )
    value = loss(shape(F.normalize(v, dim=1)), shape(F.normalize(u, dim=1)), h, **kw)
    (value * grad).backward()
    return [value.detach(), v.grad, torch.zeros_like(u) if u.grad is None else u.grad, h.grad]


def error(a, b):
    return max(
        float((x.double() - y.double()).abs().max() / y.double().abs().max().clamp(min=1e-12))
        for x, y in zip(a, b)
    )


@pytest.mark.parametrize('rows', [1, 3, 5, N, 100])
@pytest.mark.parametrize('scale', [1.0, 10.0, 30.0, 41.0, 100.0])
@pytest.mark.parametrize('name', EACH)
def test_blocks_equal_the_plain_formula(monkeypatch, name, scale, rows):
    monkeypatch.setattr(losses_fast, '_rows', lambda x: rows)
    ours, plain = EACH[name]
    exact = measured(plain, scale, grad=-3.0)
    kept, again = (
        measured(ours, scale, grad=-3.0, recompute=False),
        measured(ours, scale, grad=-3.0, recompute=True),
    )
    assert error(kept, exact) < 1e-9 and error(again, kept) < 1e-12
    assert error(measured(ours, scale, torch.float32, grad=-3.0), exact) < 1e-4


@pytest.mark.parametrize(
    'layout',
    [
        lambda z: torch.stack([z, z], 2).flatten(1)[:, ::2],
        lambda z: z.T.contiguous().T,
        lambda z: z.repeat(1, 2)[:, :6],
    ],
    ids=['every second column', 'by columns', 'part of a row'],
)
@pytest.mark.parametrize('name', EACH)
def test_any_layout_in_memory(name, layout):
    for scale in 10.0, 100.0:
        assert (
            error(measured(EACH[name][0], scale, shape=layout), measured(EACH[name][0], scale))
            < 1e-12
        )


@pytest.mark.parametrize('scale', [10.0, 100.0])
@pytest.mark.parametrize('recompute', [True, False])
def test_pairs_across_blocks(monkeypatch, scale, recompute):
    "So many texts that few images fit into a block"
    monkeypatch.setattr(losses_fast, '_rows', lambda x: 1)
    t, u = unit(6000, 6, seed=2), unit(300, 6, seed=3)
    labels = MIXED * 731
    for symmetric in True, False:
        ours = measured(
            lambda z, _, h, symmetric=symmetric, **kw: image_text(z, t, labels, h, symmetric, **kw),
            scale,
            recompute=recompute,
        )
        assert (
            error(
                ours,
                measured(
                    lambda z, _, h, symmetric=symmetric: plain_image_text(
                        z, t, labels, h, symmetric
                    ),
                    scale,
                ),
            )
            < 1e-9
        )
    assert measured(lambda z, _, h: image_text(z, t, labels, h, recompute=False), scale)[
        0
    ].isfinite()
    z, w, h = (
        unit(300, 6).requires_grad_(),
        u.requires_grad_(),
        torch.tensor(scale, dtype=torch.float64, requires_grad=True),
    )
    loss = clip(z, w, h, recompute=False)
    assert len(loss.grad_fn.blocks) > 1
    assert (
        error(
            torch.autograd.grad(clip(z, w, h, recompute=recompute), (z, w, h)),
            torch.autograd.grad(plain_clip(z, w, h), (z, w, h)),
        )
        < 1e-9
    )


@pytest.mark.parametrize('temperature', [0.001, 0.003, 0.01, 0.02, 0.0249, 0.0251])
@pytest.mark.parametrize('name', EACH)
def test_low_temperatures_in_single_precision(monkeypatch, name, temperature):
    "Rounding of a cosine, 6e-8, is multiplied by 1/temperature in the exponent"
    monkeypatch.setattr(losses_fast, '_rows', lambda x: 5)
    ours, plain = EACH[name]
    exact = measured(plain, 1 / temperature)
    for recompute in True, False:
        found = measured(ours, 1 / temperature, torch.float32, recompute=recompute)
        assert (
            all(torch.isfinite(x).all() for x in found) and error(found, exact) < 3e-6 / temperature
        )


@pytest.mark.parametrize('temperature', [0.001, 0.02, 0.03, 0.1])
def test_opposite_rows_do_not_vanish(temperature):
    "Cosines of -1 with all others: exp(-2/temperature) is where single precision could end"
    z = torch.tensor([[1.0, 0], [-1, 0], [-1, 0], [-1, 0]]).requires_grad_()
    labels = torch.tensor([0, 0, 1, 1])
    loss = supcon(z, labels, temperature)
    loss.backward()
    exact = z.detach().double().requires_grad_()
    right = plain_supcon(exact, labels, temperature)
    right.backward()
    assert (
        loss.item() == pytest.approx(right.item(), rel=1e-4)
        and error([z.grad], [exact.grad]) < 1e-4
    )
    z = torch.tensor([[1.0, 0], [1, 0]])
    t = -z[:1]
    assert image_text(z, t, torch.tensor([0, 0]), 1 / temperature).item() == pytest.approx(
        math.log(2) / 2, abs=1e-7 / temperature
    )


@pytest.mark.parametrize('recompute', [True, False])
@pytest.mark.parametrize('scale', [10.0, 100.0])
@pytest.mark.parametrize('name', EACH)
def test_backward_twice_and_never_of_itself(name, scale, recompute):
    v, u = (unit(N, 6, seed=s).requires_grad_() for s in (0, 1))
    h = torch.tensor(scale, dtype=torch.float64, requires_grad=True)
    loss = EACH[name][0](F.normalize(v, dim=1), F.normalize(u, dim=1), h, recompute=recompute)
    once, twice, thrice = (torch.autograd.grad(loss, (v, h), retain_graph=True) for _ in range(3))
    assert error(twice, once) < 1e-12 and error(thrice, once) < 1e-12
    with pytest.raises(RuntimeError, match='create_graph=True is refused'):
        torch.autograd.grad(loss, v, create_graph=True)
    loss.backward()
    # the graph is gone
    with pytest.raises(RuntimeError):
        loss.backward()


@pytest.mark.parametrize('name', EACH)
def test_autocast_changes_nothing(name):
    plain = measured(EACH[name][0], 30.0, torch.float32)
    with torch.autocast('cpu', torch.bfloat16):
        inside = measured(lambda z, t, h, **kw: EACH[name][0](z, t, h, **kw), 30.0, torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(inside, plain))


@pytest.mark.parametrize('dtype, close', [(torch.bfloat16, 2e-2), (torch.float16, 3e-3)])
@pytest.mark.parametrize('name', EACH)
def test_low_precision_gradients(name, dtype, close):
    low, exact = measured(EACH[name][0], 10.0, dtype), measured(EACH[name][1], 10.0)
    assert (
        low[0].dtype == torch.float32
        and low[1].dtype == dtype
        and error(low[:2], exact[:2]) < 3 * close
    )


@pytest.mark.parametrize('noise, close', [(4.0, 2e-3), (0.8, 5e-2)])
def test_bfloat16_operands_on_groups(noise, close):
    """Rows of 8 labels around their centres.

    The closer a group, the more of its gradient cancels, and the more the rounding shows
    """
    g = torch.Generator().manual_seed(0)
    labels = torch.arange(1024) % 8
    centre = unit(8, 512)
    v = F.normalize(
        centre[labels]
        + noise * F.normalize(torch.randn(1024, 512, generator=g, dtype=torch.float64), dim=1),
        dim=1,
    )
    z = v.float().requires_grad_()
    loss = supcon(z, labels, operands=torch.bfloat16)
    loss.backward()
    exact = v.clone().requires_grad_()
    right = plain_supcon(exact, labels, 0.1)
    right.backward()
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(right.item(), rel=2e-3)
    assert 1e-4 < (z.grad - exact.grad).norm() / exact.grad.norm() < close
    for recompute in True, False:
        again = v.float().requires_grad_()
        supcon(again, labels, operands=torch.bfloat16, recompute=recompute).backward()
        assert error([again.grad], [z.grad]) < 1e-6
    with pytest.raises(ValueError, match='operands is torch.float64'):
        supcon(z, labels, operands=torch.float64)


# ---- memory


class Largest(torch.utils._python_dispatch.TorchDispatchMode):
    "The most numbers that one tensor had, of all that were computed"

    most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in torch.utils._pytree.tree_leaves(out):
            if isinstance(x, torch.Tensor):
                self.most = max(self.most, x.numel())
        return out


@pytest.mark.parametrize('name', ['supcon', 'image_text', 'CLIP'])
def test_recomputed_losses_hold_blocks_alone(monkeypatch, name):
    "No tensor has N x N numbers, forward or backward, and none of the blocks is held in between"
    n, d, b = 1000, 16, 50
    monkeypatch.setattr(losses_fast, '_rows', lambda x: b)
    z, t = (
        unit(n, d, dtype=torch.float32).requires_grad_(),
        unit(n, d, seed=1, dtype=torch.float32).requires_grad_(),
    )
    labels = torch.arange(n) % 7
    call = dict(
        supcon=lambda **kw: supcon(z, labels, **kw),
        image_text=lambda **kw: image_text(z, t, torch.arange(n).flip(0), 10.0, **kw),
        CLIP=lambda **kw: clip(z, t, 10.0, **kw),
    )[name]
    with Largest() as seen:
        loss = call(recompute=True)
        held = loss.grad_fn.blocks
        loss.backward()
    assert held == [] and b * n <= seen.most <= 2 * b * n
    saved = sum(x.numel() for x in call(recompute=True).grad_fn.saved_tensors if x is not None)
    assert saved < n * (3 * d + 12)
    kept = call(recompute=False).grad_fn.blocks
    assert sum(x.numel() for x in kept) >= n * n / 2
    monkeypatch.setattr(losses_fast, '_KEPT', n * n)
    assert call().grad_fn.blocks == []
    monkeypatch.setattr(losses_fast, '_KEPT', 8 * n * n)
    assert len(call().grad_fn.blocks) >= n // (2 * b)
    with pytest.raises(ValueError, match="recompute is 'yes'"):
        call(recompute='yes')


# ---- labels and devices


@pytest.mark.parametrize(
    'labels', [[-1, -1, 5, 5, 5, -9], [2**62, 2**62, 0, 0, -(2**62), 1], [0] * 6]
)
def test_any_integers_are_labels(labels):
    codes = {label: i for i, label in enumerate(dict.fromkeys(labels))}
    assert supcon(Z, labels).item() == pytest.approx(
        plain_supcon(Z, torch.tensor([codes[label] for label in labels]), 0.1).item(), rel=1e-12
    )
    assert (
        supcon(Z, torch.tensor(labels).bool()).item()
        == pytest.approx(plain_supcon(Z, torch.tensor(labels).bool().int(), 0.1).item(), rel=1e-12)
        if 0 in labels[1:]
        else True
    )


@pytest.mark.parametrize(
    'labels',
    [list('aabbcc'), np.array(list('aabbcc')), [[0], [0], [1], [1], [2], [2]], 1, [1j] * 6],
)
def test_what_is_no_label_is_refused(labels):
    for call in lambda: supcon(Z, labels), lambda: image_text(Z, T, labels, 1.0):
        with pytest.raises((ValueError, TypeError)):
            call()


def test_batches_of_one_and_two():
    one, two = Z[:1].clone().requires_grad_(), Z[:2].clone().requires_grad_()
    for loss in clip(one, T[:1], 9.0), image_text(one, T[:1], [0], 100.0):
        assert loss.item() == pytest.approx(0, abs=1e-12)
        loss.backward()
        assert one.grad.abs().max() < 1e-10
    assert supcon(two, [0, 0]).item() == pytest.approx(0, abs=1e-12)
    supcon(two, [0, 0], 0.001).backward()
    assert two.grad.abs().max() < 1e-9


@pytest.mark.parametrize(
    'call',
    [lambda m: check_two_sides(Z, m(T)), lambda m: check_two_sides(m(Z), T)],
)
def test_two_devices_are_named(call):
    with pytest.raises(
        ValueError, match='the two sides are on (cpu and meta|meta and cpu); move one to the other'
    ):
        call(lambda x: x.to('meta'))


# ---- never nan


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    n=st.integers(1, 12),
    d=st.integers(1, 6),
    k=st.integers(1, 5),
    seed=st.integers(0, 2**16),
    power=st.floats(-3, 1),
    rows=st.integers(1, 13),
    single=st.booleans(),
    aligned=st.booleans(),
    recompute=st.sampled_from([True, False, None]),
)
def test_never_nan(n, d, k, seed, power, rows, single, aligned, recompute):
    kept = losses_fast._rows
    losses_fast._rows = lambda x: rows
    temperature = 10**power
    g = torch.Generator().manual_seed(seed)
    try:
        labels = torch.randint(0, k, (n,), generator=g)
        v = torch.randn(n, d, generator=g, dtype=torch.float64)
        # rows that are equal or opposite
        if aligned:
            v = torch.sign(v[:, :1]) * torch.eye(d, dtype=torch.float64)[0]
        v = v.to(torch.float32 if single else torch.float64).requires_grad_()
        z = F.normalize(v, dim=1)
        t = F.normalize(torch.randn(k, d, generator=g, dtype=v.dtype), dim=1)
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            for ours, plain in (
                (
                    supcon(z, labels, temperature, recompute=recompute),
                    plain_supcon(z, labels, temperature),
                ),
                (
                    image_text(z, t, labels, 1 / temperature, recompute=recompute),
                    plain_image_text(z, t, labels, 1 / temperature),
                ),
                (
                    clip(z, t[labels], 1 / temperature, recompute=recompute),
                    plain_clip(z, t[labels], 1 / temperature),
                ),
            ):
                slope = torch.autograd.grad(ours, v, retain_graph=True)[0]
                assert torch.isfinite(ours) and torch.isfinite(slope).all()
                if torch.isfinite(plain):
                    assert float(ours.detach()) == pytest.approx(
                        float(plain.detach()),
                        rel=1e-9 if not single else 1e-4,
                        abs=1e-10 if not single else 3e-6 / temperature,
                    )
    finally:
        losses_fast._rows = kept
