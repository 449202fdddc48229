"""Erasure: the closed form beside the formula, exactness in sample, bad rank, cross-fitting,
gradients, and input that must be refused.
"""

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression

from clef_nb.measure.erasure import erase, leace
from clef_nb.measure.measures import make_embeddings
from clef_nb.measure.neighbours import knn_id
from clef_nb.measure.probes import id_accuracy
from clef_nb.model.adversary import IdentityAdversary, reverse_gradient


def made(seed=0, **kw):
    z, table = make_embeddings(
        **{
            'identity': 0.5,
            'activity': 0.4,
            'n_subjects': 6,
            'n_activities': 5,
            'frames': 8,
            'dim': 32,
            'seed': seed,
        }
        | kw
    )
    return z.astype(float), table['subject'].to_numpy(), table['activity'].to_numpy()


def slow(z, c):
    "Theorem 4.3, word for word"
    x, c = z - z.mean(0), c - c.mean(0)
    values, vectors = np.linalg.eigh(x.T @ x / len(x))
    values[values < 1e-12 * values[-1]] = 0
    inverse = np.divide(1, np.sqrt(values), out=np.zeros_like(values), where=values > 0)
    W, back = vectors * inverse @ vectors.T, vectors * np.sqrt(values) @ vectors.T
    M = W @ x.T @ c / len(x)
    return z - x @ (back @ M @ np.linalg.pinv(M, rcond=1e-9) @ W).T


def one_hot(s):
    return pd.get_dummies(pd.Series(s)).to_numpy(float)


@pytest.mark.parametrize('seed', range(3))
def test_leace_is_the_formula(seed):
    # classes of unequal size
    z, s, a = made(seed)
    rows = np.random.default_rng(seed).permutation(len(z))[:130]
    z, s = z[rows] + 5, s[rows]
    eraser = leace(z, s)
    np.testing.assert_allclose(eraser(z), slow(z, one_hot(s)), atol=1e-9)
    np.testing.assert_allclose(
        eraser(z[:7] + 1),
        z[:7] + 1 - (z[:7] + 1 - z.mean(0)) @ eraser.projection @ eraser.reconstruction,
    )
    assert eraser.rank == 5 and repr(eraser) == 'LEACE(32 dimensions, 5 of them erased)'
    numbers = np.random.default_rng(9).normal(size=(130, 3)) + z[:, :3]
    np.testing.assert_allclose(leace(z, numbers)(z), slow(z, numbers), atol=1e-9)
    assert leace(z, numbers * [1, 1e6, 1e-6]).rank == 3


@pytest.mark.parametrize('seed', range(3))
def test_in_sample_nothing_linear_is_left(seed):
    z, s, a = made(seed)
    x = leace(z, s)(z)
    weights = np.linalg.lstsq(x - x.mean(0), one_hot(s) - one_hot(s).mean(0), rcond=1e-10)[0]
    assert np.abs(weights).max() < 1e-9
    assert np.abs(pd.DataFrame(x).groupby(s).mean() - z.mean(0)).max().max() < 1e-12
    # a probe fitted on the same frames can only guess
    assert (
        np.abs(LogisticRegression(C=1e4, max_iter=500).fit(x, s).predict_proba(x) - 1 / 6).max()
        < 1e-2
    )
    assert LogisticRegression(C=1e4, max_iter=500).fit(z, s).score(z, s) > 0.95


def test_least_squares_of_all_maps():
    "No other linear map that makes the means equal changes the embeddings less"
    z, s, a = made()
    eraser = leace(z, s)
    rng = np.random.default_rng(0)
    least = ((eraser(z) - z) ** 2).sum()
    # the same directions are taken away, but along other projections
    for size in [0.1, 1] * 10:
        projection = eraser.projection + size * rng.normal(size=eraser.projection.shape)
        # scaled so that the means are equal again
        projection = projection @ np.linalg.inv(eraser.reconstruction @ projection)
        y = z - (z - eraser.mean) @ projection @ eraser.reconstruction
        assert np.abs(pd.DataFrame(y).groupby(s).mean() - z.mean(0)).max().max() < 1e-9
        assert ((y - z) ** 2).sum() > least


def test_leace_of_embeddings_without_full_rank():
    z, s, a = made()
    for x in (
        np.concatenate([z, z[:, :4] * 2], 1),
        np.concatenate([z, np.ones((len(z), 3))], 1),
        z @ np.random.default_rng(0).normal(size=(32, 40)),
        z[:20],
        (z * np.r_[np.full(16, 1e-5), np.ones(16)]),
    ):
        y = leace(x, s[: len(x)] if len(x) > 20 else a[:20])(x)
        assert np.isfinite(y).all()
        means = pd.DataFrame(y).groupby(s if len(x) > 20 else a[:20]).mean()
        assert np.abs(means - x.mean(0)).max().max() < 1e-7 * np.abs(x).max()
    y = leace(np.concatenate([z, z[:, :4]], 1), s)(np.concatenate([z, z[:, :4]], 1))
    # what is alike stays alike
    np.testing.assert_allclose(y[:, :4], y[:, 32:], atol=1e-9)
    single = leace(z.astype(np.float32), s)(z.astype(np.float32))
    assert (
        single.dtype == float
        and np.abs(pd.DataFrame(single).groupby(s).mean() - single.mean(0)).max().max() < 1e-9
    )


def test_more_labels_than_dimensions_leaves_the_mean():
    z, s, a = made(dim=4)
    eraser = leace(z, s)
    assert eraser.rank == 4
    np.testing.assert_allclose(eraser(z), np.broadcast_to(z.mean(0), z.shape), atol=1e-12)
    # a constant has nothing to erase
    assert leace(np.ones((6, 3)), list('aabbcc')).rank == 0


def test_a_faint_trace_goes_too():
    z, s, a = made(identity=0, frames=200)
    x = leace(z, s)(z)
    assert (
        leace(z, s).rank == 5
        and np.abs(pd.DataFrame(x).groupby(s).mean() - z.mean(0)).max().max() < 1e-12
    )
    np.testing.assert_allclose(x, slow(z, one_hot(s)), atol=1e-9)


def test_a_concept_that_is_not_there_costs_nothing():
    rng = np.random.default_rng(0)
    half = rng.normal(size=(50, 8))
    # equal means
    z, s = np.concatenate([half, half]), np.repeat(['a', 'b'], 50)
    assert leace(z, s).rank == 0
    np.testing.assert_array_equal(leace(z, s)(z), z)


def test_tensors_keep_type_and_gradient():
    z, s, a = made()
    eraser = leace(torch.tensor(z, dtype=torch.float32), s)
    x = torch.tensor(z, dtype=torch.float32, requires_grad=True)
    y = eraser(x)
    assert y.dtype == torch.float32
    np.testing.assert_allclose(y.detach().numpy(), eraser(z), atol=1e-5)
    y.sum().backward()
    np.testing.assert_allclose(
        x.grad[0].numpy(),
        (np.eye(32) - eraser.projection @ eraser.reconstruction).sum(1),
        atol=1e-4,
    )
    assert eraser(z[0]).shape == (32,) and eraser(z.reshape(6, 5, 8, 32)).shape == (6, 5, 8, 32)
    assert eraser(pd.DataFrame(z[:3])).shape == (3, 32)


def test_after_leace_probes_are_near_chance_and_after_the_control_they_are_not():
    z, s, a = made(n_subjects=14, n_activities=8, frames=12, dim=64)
    early = np.isin(a, ['T1', 'T2', 'T3', 'T4', 'T5'])
    sequence = pd.factorize(pd.Series(s) + a)[0]
    shuffled = np.random.default_rng(0).permutation(np.repeat(np.arange(14), 8))[sequence]
    assert id_accuracy(z, s, a) > 0.9
    assert id_accuracy(leace(z, s)(z), s, a) < 1 / 14
    assert (
        abs(id_accuracy(erase(z, s), s, a) - 1 / 14) < 0.07
        and abs(id_accuracy(erase(z, s, parts=a), s, a) - 1 / 14) < 0.07
    )
    # an eraser that has not met these activities
    assert id_accuracy(leace(z[early], s[early])(z[~early]), s[~early], a[~early]) < 0.25
    assert (
        id_accuracy(erase(z, shuffled), s, a) > 0.5
        and id_accuracy(leace(z, shuffled)(z), s, a) > 0.5
    )
    flip, s, a = made(n_subjects=14, n_activities=8, frames=12, dim=64, identity=1, flip=True)
    # blind to what is not linear
    assert knn_id(leace(flip, s)(flip), s, a) > 0.9


def test_erase_is_fitted_on_the_other_parts():
    z, s, a = made()
    for parts in (a, np.arange(len(z)) % 3 * 10 - 5):
        x = erase(z, s, parts=parts)
        for p in np.unique(parts):
            np.testing.assert_allclose(
                x[parts == p], leace(z[parts != p], s[parts != p])(z[parts == p]), atol=1e-12
            )
    x = erase(z, s, folds=4, seed=1)
    parts = np.random.default_rng(1).permutation(len(z)) % 4
    np.testing.assert_allclose(x, erase(z, s, parts=parts), atol=1e-12)
    assert np.abs(x - erase(z, s, folds=4, seed=2)).max() > 1e-3
    # subjects whom the eraser has not met
    x = erase(z, s, parts=s)
    assert np.abs(x - z).max() > 1e-3
    np.testing.assert_allclose(erase(z, one_hot(s), parts=a), erase(z, s, parts=a), atol=1e-9)


@pytest.mark.parametrize(
    'change, message',
    [
        (lambda z, s: (z, s[:-1]), 'one label a frame'),
        (lambda z, s: (z, one_hot(s)[None]), 'one label a frame'),
        (lambda z, s: (z, np.where(np.arange(len(s)) == 3, None, s)), 'row 3: concept is missing'),
        (lambda z, s: (z, np.full(len(s), 'F001')), 'nothing to erase'),
        (lambda z, s: (z, np.ones((len(s), 2))), 'nothing to erase'),
        (
            lambda z, s: (z, np.where(np.arange(len(s))[:, None] == 3, np.nan, one_hot(s))),
            'row 3 of concept',
        ),
        (lambda z, s: (np.where(np.arange(len(z))[:, None] == 3, np.inf, z), s), 'row 3 of z'),
        (lambda z, s: (z[:, 0], s), 'frames by dimensions'),
        (lambda z, s: (z[:1], s[:1]), 'two frames or more'),
    ],
)
def test_refuses(change, message):
    z, s, a = made()
    for f in (leace, erase):
        with pytest.raises(ValueError, match=message):
            f(*change(z, s.astype(object)))


def test_refuses_parts():
    z, s, a = made()
    for kw, message in (
        (dict(parts=a[:-1]), 'parts must be one label'),
        (dict(parts=np.ones(len(z))), 'one part'),
        (dict(parts=np.where(a == 'T1', None, a.astype(object))), 'part is missing'),
        (dict(folds=1), 'folds'),
        (dict(folds=1000), 'folds'),
    ):
        with pytest.raises(ValueError, match=message):
            erase(z, s, **kw)
    # the concept is the part: constant wherever the eraser is fitted
    first = s == 'F001'
    with pytest.raises(ValueError, match='nothing to erase'):
        erase(z, np.where(first, 'a', 'b'), parts=first)
    with pytest.raises(ValueError, match='fitted in 32 dimensions'):
        leace(z, s)(z[:, :31])
    with pytest.raises(TypeError, match='z must be numbers'):
        leace(np.full(z.shape, 'x'), s)


@pytest.mark.parametrize('strength', (0, 0.25, 3))
def test_gradient_reversal(strength):
    x = torch.randn(4, 3, dtype=torch.double, requires_grad=True)
    y = reverse_gradient(x, strength)
    assert torch.equal(y, x) and y is not x
    g = torch.randn(4, 3, dtype=torch.double)
    y.backward(g)
    assert torch.allclose(x.grad, -strength * g, atol=0)
    for wrong in (-1, float('nan')):
        with pytest.raises(ValueError, match='0 or more'):
            reverse_gradient(x, wrong)


@pytest.mark.parametrize('hidden', (None, 5))
def test_adversary(hidden):
    torch.manual_seed(0)
    adversary = IdentityAdversary(4, 3, hidden, 0.5)
    z, subject = torch.randn(6, 4, requires_grad=True), torch.tensor([0, 1, 2, 0, 1, 2])
    loss = adversary(z, subject)
    loss.backward()
    again = z.detach().clone().requires_grad_()
    plain = F.cross_entropy(adversary.head(again), subject)
    up, *down = torch.autograd.grad(plain, [again, *adversary.head.parameters()])
    assert loss.item() == pytest.approx(plain.item()) and torch.allclose(z.grad, -0.5 * up)
    for w, d in zip(adversary.parameters(), down, strict=True):
        assert torch.allclose(w.grad, d)
    adversary.strength = 2.0
    z.grad = None
    adversary(z, subject).backward()
    # may be raised during training
    assert torch.allclose(z.grad, -2 * up)
    assert len(list(adversary.parameters())) == (2 if hidden is None else 4)
    for wrong in (
        dict(dim=0, n_subjects=3),
        dict(dim=4, n_subjects=1),
        dict(dim=4, n_subjects=3, hidden=0),
    ):
        with pytest.raises(ValueError, match='2 subjects'):
            IdentityAdversary(**wrong)


def test_adversary_in_training_takes_identity_out():
    z, s, a = made(n_subjects=8, n_activities=6, dim=32)
    x, subject = torch.tensor(z, dtype=torch.float32) * 5, torch.tensor(pd.factorize(s)[0])

    def trained(strength):
        torch.manual_seed(0)
        net = torch.nn.ModuleDict(
            dict(
                embed=torch.nn.Linear(32, 8),
                back=torch.nn.Linear(8, 32),
                adversary=IdentityAdversary(8, 8, 16, strength),
            )
        )
        optimiser = torch.optim.AdamW(net.parameters(), lr=1e-2)
        for _ in range(200):
            e = net['embed'](x)
            loss = F.mse_loss(net['back'](e), x) + net['adversary'](e, subject)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        return id_accuracy(net['embed'](x).detach(), s, a)

    assert trained(0.0) > 0.6 and trained(1.0) < 0.4
