"""How long the contrastive losses take, how much memory they need and how exact their gradients
are, beside the formula with a mask, pytorch-metric-learning, lightly and open_clip.

    python benchmarks/losses.py [--rounds 5] [--quick]

`supcon` is measured against a floor: the three N x N matrix products that a forward and backward
pass of the plain formula cannot do without, and nothing else. `over` names what a row is compared
with, `ratio` is CPU time as a multiple of it: below 1 is faster. One forward and backward pass is
timed, to the gradient of every input (learnt scales included); medians of alternated rounds, CPU
time, one thread. Reading it into speed: 1/ratio. peak_mib is the most that tensors hold at one time
over the inputs, by torch's record of its allocator (exact, the same in every run); resident_mib is
what a fresh process grows by, which also holds the work space of the matrix library, and is
measured at the size of the target alone. gradient_error is |g - g64|/|g64| with g64 from the mask
formula (ClipLoss) in float64; for supcon without the part along z, which two of the peers remove by
normalising again. It is measured on rows that cluster by label, where the gradient is a small
difference of large parts, and (gradient_error_random) on random directions. lightly has no loss
with labels: its NTXentLoss is the case of two views of N/2 images. Its gradient is checked on those
labels. clip_loss is `image_text` with a text for each image, which is what ClipLoss computes.
"""

import argparse
import functools
from pathlib import Path

from machine import (
    about,
    alternate,
    has_bf16,
    one_thread,
    peer,
    resident_peak,
    save,
    show,
    tensor_peak,
)

one_thread()
import pandas as pd
import torch
import torch.nn.functional as F

torch.set_num_threads(1)
from open_clip.loss import ClipLoss

from clef_nb.model.losses_fast import image_text, supcon

HERE = Path(__file__).resolve().parent
D, K, TEMPERATURE = 512, 8, 0.1
# FULL: where the targets for memory are
SIZES, FULL = (256, 512, 1024, 2048, 4096, 8192), 4096
CLIP_SIZES = (1024, 4096)
TARGETS = {
    ('supcon', 'clef_nb', 256): dict(target=1.25),
    ('supcon', 'clef_nb', 1024): dict(target=0.72),
    ('supcon', 'clef_nb', 4096): dict(target=0.60),
    ('supcon', 'clef_nb, recompute', 4096): dict(target=0.85, peak_share_target=0.1),
    ('supcon', 'clef_nb, bfloat16', 4096): dict(target=0.35, gradient_error_target=2e-3),
    ('image_text', 'clef_nb', 4096, 10): dict(target=1 / 100),
    **{
        ('clip_loss', 'clef_nb', n, scale): dict(
            target=1 / 2 if scale <= 40 else 1 / 1.4, peak_share_target=0.5
        )
        for n in CLIP_SIZES
        for scale in (10, 40, 100)
    },
}


def unit(n, d=D, seed=0, centres=None):
    "Unit rows, near one of `centres` where they are given"
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) / d**0.5
    return F.normalize(x if centres is None else x + centres, dim=1)


def batch(n, apart=True):
    """Rows and labels: eight activities with cosines about .5 within each, as a tower gives them
    after a while; not `apart`: random directions, as at the start
    """
    labels = torch.arange(n) % K
    return unit(n, centres=unit(K, seed=1)[labels] if apart else None), labels


def floor(z, labels):
    with torch.no_grad():
        s = torch.mm(z, z.T)
        return torch.mm(s, z), torch.mm(s.T, z)


def with_mask(z, labels, temperature=TEMPERATURE):
    """The formula as most code writes it: who is whose positive as a matrix, log-probabilities as
    another
    """
    n = len(z)
    others = ~torch.eye(n, dtype=torch.bool)
    positive = ((labels[:, None] == labels[None, :]) & others).to(z.dtype)
    others = others.to(z.dtype)
    logits = z @ z.T / temperature
    logits = logits - logits.max(1, keepdim=True).values.detach()
    log_p = logits - (logits.exp() * others).sum(1, keepdim=True).log()
    return -((positive * log_p).sum(1) / positive.sum(1).clamp(min=1)).mean()


def two_views(n):
    return torch.arange(n // 2).repeat(2)


@functools.cache
def supcon_methods():
    "{name: function of rows and labels}; the floor makes no loss"
    methods = {'floor': floor, 'mask formula': with_mask}
    if peer('pytorch_metric_learning'):
        from pytorch_metric_learning.losses import SupConLoss

        methods['pytorch-metric-learning'] = SupConLoss(temperature=TEMPERATURE)
    if peer('lightly'):
        from lightly.loss import NTXentLoss

        loss = NTXentLoss(temperature=TEMPERATURE)
        methods['lightly (two views)'] = lambda z, labels: loss(*z.chunk(2))
    methods['clef_nb'] = lambda z, labels: supcon(z, labels, TEMPERATURE)
    methods['clef_nb, recompute'] = lambda z, labels: supcon(z, labels, TEMPERATURE, recompute=True)
    methods['clef_nb, bfloat16'] = lambda z, labels: supcon(
        z, labels, TEMPERATURE, operands=torch.bfloat16
    )
    return methods


def supcon_step(name, n, apart=True):
    "One forward and backward pass, to call again and again; returns the gradient"
    method, (z, labels) = supcon_methods()[name], batch(n, apart)
    if name == 'floor':
        return lambda: method(z, labels)
    z.requires_grad_()
    return lambda: torch.autograd.grad(method(z, labels), z)[0]


def clip_loss(z, t, scale, recompute=None):
    "CLIP's loss as ours: a text for each image"
    return image_text(z, t, torch.arange(len(z)), scale, recompute=recompute)


def clip_inputs(loss, name, n, scale):
    """Images, texts, scale: K texts for `image_text`, else one for each image, at a cosine of about
    .2, with which a scale of 100 is not yet flat
    """
    z = unit(n, seed=2)
    return (
        z,
        unit(K, seed=3)
        if loss == 'image_text' and name == 'clef_nb'
        else unit(n, centres=0.2 * z, seed=3),
        torch.tensor(float(scale)),
    )


def clip_step(loss, name, n, scale):
    inputs = [x.requires_grad_() for x in clip_inputs(loss, name, n, scale)]
    labels = torch.arange(n) % K

    def unique_texts(z, t, s):
        return image_text(z, t, labels, s)

    def recomputed(z, t, s):
        return clip_loss(z, t, s, recompute=True)

    method = {
        'open_clip ClipLoss': ClipLoss(),
        'clef_nb': unique_texts if loss == 'image_text' else clip_loss,
        'clef_nb, recompute': recomputed,
    }[name]
    return lambda: torch.autograd.grad(method(*inputs), inputs)


def alone(make, name, n, *more):
    """What a fresh process measures: code is loaded by a small step first, and the gradients stay
    where they are
    """
    make(name, 256, *more)()
    step = make(name, n, *more)

    def run():
        step()

    return run


def exact(loss, *inputs):
    "Gradients in float64"
    inputs = [x.detach().double().requires_grad_() for x in inputs]
    return torch.autograd.grad(loss(*inputs), inputs)


def error(gradient, reference, z=None):
    "Relative difference; with `z`, of what moves rows of unit length"
    a, b = gradient.double(), reference
    if z is not None:
        a, b = (g - (g * z).sum(1, keepdim=True) * z for g in (a, b))
    return ((a - b).norm() / b.norm()).item()


def rows_of(loss, n, steps, over, peak_over, rounds, slow=(), **more):
    """One row a method: time as a multiple of `over`'s, memory as a share of `peak_over`'s; what is
    slow is timed once
    """
    peaks = {w: tensor_peak(step) for w, step in steps.items()}
    times = alternate({w: s for w, s in steps.items() if w not in slow}, rounds) | alternate(
        {w: steps[w] for w in slow}, 1
    )
    return [
        dict(
            loss=loss,
            method=w,
            n=n,
            **more,
            over=over,
            ratio=times[w][0] / times[over][0],
            cpu_ms=times[w][0] * 1e3,
            wall_ms=times[w][1] * 1e3,
            peak_mib=peaks[w],
            peak_share=peaks[w] / peaks[peak_over],
        )
        | TARGETS.get((loss, w, n, *more.values()), {})
        for w in steps
    ]


def gradient_errors(rows, n, apart):
    "Give each row of a method the error of its gradient, by the mask formula in float64"
    z, labels = batch(n, apart)
    truth = exact(lambda z: with_mask(z, labels), z)[0]
    truth_of_views = exact(lambda z: with_mask(z, two_views(n)), z)[0]
    column = 'gradient_error' if apart else 'gradient_error_random'
    for r in rows:
        if r['method'] != 'floor':
            right = truth_of_views if 'two views' in r['method'] else truth
            r[column] = error(supcon_step(r['method'], n, apart)(), right, z.double())


def measure_supcon(rounds, sizes, full):
    methods, rows, bf16 = supcon_methods(), [], 'clef_nb, bfloat16'
    slow = () if has_bf16() else (bf16,)  # emulated, many times slower
    measured_alone = ('mask formula', 'pytorch-metric-learning', 'clef_nb', 'clef_nb, recompute')
    for n in sizes:
        here = [m for m in methods if m not in slow or n in (1024, full)]
        new = rows_of(
            'supcon',
            n,
            {m: supcon_step(m, n) for m in here},
            'floor',
            'mask formula',
            rounds if n <= full else 1,
            slow=[m for m in slow if m in here],
        )
        if n <= full:
            gradient_errors(new, n, apart=True)
            gradient_errors(new, n, apart=False)
        for r in new:
            if n == full and r['method'] in measured_alone:
                r['resident_mib'] = resident_peak(alone, supcon_step, r['method'], n)[0]
        rows += new
    return rows


def measure_clip(rounds, sizes, full):
    peer_name, rows = 'open_clip ClipLoss', []
    for loss, n, scale in [
        ('image_text', full, 10),
        *(('clip_loss', n, scale) for n in sizes for scale in (10, 40, 100)),
    ]:
        steps = {
            w: clip_step(loss, w, n, scale)
            for w in (peer_name, 'clef_nb')
            + (('clef_nb, recompute',) if loss == 'clip_loss' else ())
        }
        new = rows_of(
            loss,
            n,
            steps,
            peer_name,
            peer_name,
            min(rounds, 3) if n >= full else rounds,
            scale=scale,
        )
        if loss == 'clip_loss' and n == sizes[0]:
            truth = exact(ClipLoss(), *clip_inputs(loss, peer_name, n, scale))
            # the scale's is one number, which may be next to 0
            for r in new:
                r['gradient_error'] = max(map(error, steps[r['method']]()[:2], truth))
        rows += new
    return rows


def main(
    rounds=5, sizes=SIZES, full=FULL, clip_sizes=CLIP_SIZES, out=HERE / 'results' / 'losses.csv'
):
    rows = measure_supcon(rounds, sizes, full) + measure_clip(rounds, clip_sizes, full)
    columns = [
        'loss',
        'method',
        'n',
        'scale',
        'over',
        'ratio',
        'target',
        'peak_mib',
        'peak_share',
        'peak_share_target',
        'resident_mib',
        'gradient_error',
        'gradient_error_random',
        'gradient_error_target',
        'cpu_ms',
        'wall_ms',
    ]
    table = pd.DataFrame(rows).reindex(columns=columns)
    show(table.drop(columns=['over', 'wall_ms', 'peak_share_target', 'gradient_error_target']))
    facts = about(
        'torch',
        'numpy',
        'open_clip_torch',
        'pytorch-metric-learning',
        'lightly',
        rounds=rounds,
        d=D,
        k=K,
        temperature=TEMPERATURE,
        bf16_hardware=has_bf16(),
    )
    if out:
        save(table.assign(**facts), out)
    print('\n' + ', '.join(f'{k} {v}' for k, v in facts.items()))


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument(
        '--quick', action='store_true', help='small sizes, one round, nothing saved'
    )
    args = parser.parse_args()
    if args.quick:
        main(1, (256, 512), 512, (256,), None)
    else:
        main(args.rounds)
