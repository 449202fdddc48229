"""Two and three processes against one: the same losses, the same gradients, the same training.

The processes are real and talk over gloo. They are forked from a server that has imported the
package once, where the system has fork; each group does many cases, saves what it found, and the
tests below read that.
"""

import contextlib
import copy
import datetime
import functools
import hashlib
import multiprocessing
import os
import socket
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from test_stages import study
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from clef_nb.datasets.sampling import ShuffledBatches
from clef_nb.model import distributed as processes
from clef_nb.model import losses_fast, stages, training
from clef_nb.model.distributed import (
    all_reduce_sum,
    broadcast_parameters,
    counted_once,
    destroy_process_group,
    device,
    gather,
    local_slice,
    main_process_first,
    rank_and_world_size,
    sum_gradients,
    synced_batch_norm,
)
from clef_nb.model.losses import au_loss, expression_loss
from clef_nb.model.losses_fast import image_text, name_description, supcon
from clef_nb.model.stages import align, other_subject_loss, pretrain
from clef_nb.model.towers import load_model
from clef_nb.model.training import TrainSettings

START = 'forkserver' if 'forkserver' in multiprocessing.get_all_start_methods() else 'spawn'
if START == 'forkserver':
    multiprocessing.get_context(START).set_forkserver_preload(['clef_nb.model.stages'])


def enter(rank, n, port, folder, work, started):
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(n),
        LOCAL_WORLD_SIZE=str(n),
        MASTER_ADDR='127.0.0.1',
        MASTER_PORT=str(port),
    )
    if sys.platform == 'linux':
        os.environ['GLOO_SOCKET_IFNAME'] = 'lo'
    torch.set_num_threads(1)
    warnings.simplefilter('ignore')
    if started:
        dist.init_process_group('gloo', timeout=datetime.timedelta(seconds=60))
    torch.save(work(rank, n, Path(folder)), Path(folder) / f'{rank}.pt')
    destroy_process_group()


def launch(work, n, folder, started=True, seconds=120):
    "What `work(rank, n, folder)` returns in each of n processes; nothing outlives the call"
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    context = mp.start_processes(
        enter, (n, port, str(folder), work, started), nprocs=n, join=False, start_method=START
    )
    end = time.monotonic() + seconds
    try:
        while not context.join(timeout=1):
            if time.monotonic() > end:
                raise TimeoutError(f'{work.__name__} with {n} processes took more than {seconds} s')
    finally:
        for p in context.processes:
            if p.is_alive():
                p.kill()
    return [torch.load(folder / f'{rank}.pt', weights_only=False) for rank in range(n)]


def error(a, b):
    "Relative to the largest number of b; where b is all zeros, a must be so too"
    a, b = a.double(), b.double()
    far = (a - b).abs().max()
    return float(far / b.abs().max()) if b.any() else (0.0 if not a.any() else float('inf'))


# ---- losses

SPLITS = {  # the labels of the rows of each process
    2: {
        'unequal numbers and mixes': [[0, 1, 2, 0, 1], [2, 2, 0, 1, 0, 0, 3, 3, 1, 2, 0]],
        'a class on one process only': [[0, 0, 5, 5, 1, 1], [0, 1, 1]],
        'the only positive elsewhere': [[0, 0, 7], [7, 1, 1, 1]],
        'no anchor on the last': [[0, 0, 1, 1], [2, 3, 4]],
        'no positive inside any': [[0, 1, 2, 3], [3, 2, 1, 0]],
        'one row on the first': [[0], [0, 1, 0, 1, 2, 2]],
        'no positive at all': [[0, 1], [2, 3, 4]],
    },
    3: {
        'unequal numbers and mixes': [[0, 1, 2, 0, 1], [2, 2, 0, 1, 0, 0, 3, 3, 1], [4, 4, 0]],
        'a class on one process only': [[0, 1], [0, 5, 5, 5], [1, 0, 1]],
        'the only positive elsewhere': [[0, 0, 7], [1, 1], [1, 7, 2]],
        'no anchor on the last': [[0, 0, 1, 1], [1, 0], [2, 3, 4]],
        'no positive inside any': [[0, 1], [1, 2], [2, 0]],
        'one row on each': [[3], [3], [2]],
        'no positive at all': [[0, 1], [2], [3, 4]],
    },
}
K = 8


class Toy(nn.Module):
    "A tower of one layer, texts, a scale and a bias, all learnt"

    def __init__(self, dtype):
        super().__init__()
        g = torch.Generator().manual_seed(3)
        for name, shape in dict(tower=(5, 6), texts=(K, 6), descriptions=(K, 6), bias=(K,)).items():
            setattr(
                self,
                name,
                nn.Parameter(torch.randn(shape, generator=g, dtype=torch.float64).to(dtype)),
            )
        self.log_scale = nn.Parameter(torch.tensor(2.3, dtype=dtype))

    def forward(self, x):
        return (
            F.normalize(x @ self.tower, dim=1),
            F.normalize(self.texts, dim=1),
            F.normalize(self.descriptions, dim=1),
            self.log_scale.exp(),
        )


def whole_batch(n, split, dtype):
    """(inputs, labels, subjects, targets of AUs, the same with nothing coded on the last process),
    of the rows of all processes
    """
    parts = SPLITS[n][split]
    labels = torch.tensor(sum(parts, []))
    g = torch.Generator().manual_seed(len(labels))
    x = torch.randn(len(labels), 5, generator=g, dtype=torch.float64).to(dtype)
    y = torch.tensor([0.0, 1.0, torch.nan])[torch.randint(0, 3, (len(labels), K), generator=g)]
    y[0, 0] = 1
    late = y.clone()
    late[-len(parts[-1]) :] = torch.nan
    return x, labels, torch.randint(0, 3, (len(labels),), generator=g), y, late


def rows(n, split, rank):
    sizes = [len(p) for p in SPLITS[n][split]]
    return slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))


def clip(m, y, scale, distributed, recompute=None):
    "CLIP's loss: a text for each image, and the texts of all processes on each"
    images, texts = m[0], F.normalize(m[1][y[0]] + m[0].roll(1, 1), dim=1)
    own = torch.arange(len(images))
    if distributed:
        own = own + processes.gather_labels(own)[1]
        texts = gather(texts)
    return image_text(images, texts, own, scale, True, recompute, distributed)


# (embeddings, texts, descriptions, learnt scale, bias), (labels, subjects, targets, targets of some
# processes), distributed
LOSSES = {
    'supcon': lambda m, y, d: supcon(m[0], y[0], distributed=d),
    'supcon, recomputed': lambda m, y, d: supcon(m[0], y[0], recompute=True, distributed=d),
    'supcon, learnt temperature': lambda m, y, d: supcon(m[0], y[0], 1 / m[3], distributed=d),
    'supcon, temperature .01': lambda m, y, d: supcon(m[0], y[0], 0.1 / m[3], distributed=d),
    'supcon, temperature .01, recomputed': lambda m, y, d: supcon(
        m[0], y[0], 0.1 / m[3], recompute=True, distributed=d
    ),
    'other subjects': lambda m, y, d: other_subject_loss(m[0], y[0], y[1], distributed=d),
    'image_text': lambda m, y, d: image_text(m[0], m[1], y[0], m[3], distributed=d),
    'image_text, recomputed': lambda m, y, d: image_text(
        m[0], m[1], y[0], m[3], recompute=True, distributed=d
    ),
    'image_text, asymmetric': lambda m, y, d: image_text(
        m[0], m[1], y[0], m[3], symmetric=False, distributed=d
    ),
    'image_text, scale 100': lambda m, y, d: image_text(m[0], m[1], y[0], m[3] * 10, distributed=d),
    'image_text, scale 100, asymmetric': lambda m, y, d: image_text(
        m[0], m[1], y[0], m[3] * 10, symmetric=False, distributed=d
    ),
    'CLIP': lambda m, y, d: clip(m, y, m[3], d),
    'CLIP, recomputed': lambda m, y, d: clip(m, y, m[3], d, recompute=True),
    'CLIP, scale 100': lambda m, y, d: clip(m, y, m[3] * 10, d),
    'au_loss': lambda m, y, d: au_loss(
        m[0] @ m[1].T, y[2], m[3], m[4], torch.linspace(0.5, 3, K), distributed=d
    ),
    'au_loss, nothing coded on the last': lambda m, y, d: au_loss(
        m[0] @ m[1].T, y[3], m[3], m[4], distributed=d
    ),
    'au_loss, nothing coded': lambda m, y, d: au_loss(
        m[0] @ m[1].T, y[3] * torch.nan, m[3], m[4], distributed=d
    ),
    'expression_loss': lambda m, y, d: expression_loss(m[0] @ m[1].T, y[0], m[3], distributed=d),
    'names and descriptions': lambda m, y, d: counted_once(name_description(m[1], m[2], m[3])),
    'all together': lambda m, y, d: (
        supcon(m[0], y[0], distributed=d)
        + image_text(m[0], m[1], y[0], m[3], distributed=d)
        + counted_once(name_description(m[1], m[2], m[3]))
    ),
    'supcon, bfloat16 operands': lambda m, y, d: supcon(
        m[0], y[0], operands=torch.bfloat16, distributed=d
    ),
}
BLOCKS = [name for name in LOSSES if name.startswith('supcon')]
CLOSE = {torch.float64: 1e-10, torch.float32: 1e-5}


def measured(
    name, n, split, dtype, part=slice(None), distributed=False, add=sum_gradients, loss=None
):
    "(value, gradient of the inputs, {parameter: gradient})"
    module = Toy(dtype)
    x, *y = whole_batch(n, split, dtype)
    x = x[part].clone().requires_grad_()
    y = [v[part] for v in y]
    value = (loss or LOSSES[name])((*module(x), module.bias), y, distributed)
    value.backward()
    add(module)
    return (
        value.detach(),
        torch.zeros_like(x) if x.grad is None else x.grad,
        {k: w.grad for k, w in module.named_parameters() if w.grad is not None},
    )


@contextlib.contextmanager
def blocks_of(rows):
    kept = losses_fast._rows
    losses_fast._rows = lambda x: rows
    try:
        yield
    finally:
        losses_fast._rows = kept


def average(module):
    "What DistributedDataParallel does with gradients"
    sum_gradients(module)
    for w in module.parameters():
        if w.grad is not None:
            w.grad /= rank_and_world_size()[1]


def plain_supcon(m, y, distributed, gather=gather):
    "The formula with masks; `gather` brings in the rows of the others"
    z, labels = m[0], y[0]
    everyone, codes, first = (
        (gather(z), *processes.gather_labels(labels)) if distributed else (z, labels, 0)
    )
    itself = torch.arange(len(z))[:, None] + first == torch.arange(len(everyone))
    positive = (labels[:, None] == codes) & ~itself
    count = positive.sum(1)
    s = (z @ everyone.T / 0.1).masked_fill(itself, -torch.inf)
    log_p = s - s.logsumexp(1, keepdim=True)
    anchors = (count > 0).sum()
    each = -(log_p.masked_fill(~positive, 0)).sum(1) / count.clamp(min=1)
    return (
        all_reduce_sum(each.sum() / all_reduce_sum(anchors))
        if distributed
        else each.sum() / anchors
    )


def no_gradient(x):
    return processes.gather_labels(x)[0]


NEGATIVE = {  # what is to fail, beside what is to pass, in one harness
    'plain formula, gather': dict(loss=plain_supcon),
    'plain formula, gather without gradients': dict(
        loss=functools.partial(plain_supcon, gather=no_gradient)
    ),
    'supcon, averaged': dict(add=average),
}


def loss_cases(rank, n, folder):
    out = {}
    for split in SPLITS[n]:
        part = rows(n, split, rank)
        for dtype in CLOSE:
            for name in LOSSES:
                out[name, split, dtype] = measured(name, n, split, dtype, part, True)
        with blocks_of(2):
            for name in BLOCKS:
                out[name, split, torch.float64, 'blocks'] = measured(
                    name, n, split, torch.float64, part, True
                )
    first = next(iter(SPLITS[n]))
    part = rows(n, first, rank)
    for name, how in NEGATIVE.items():
        out[name] = measured('supcon', n, first, torch.float64, part, True, **how)
    for scaled in (True, False):
        m = Toy(torch.float64)
        model = DistributedDataParallel(m)
        x, *y = whole_batch(n, first, torch.float64)
        x = x[part].clone().requires_grad_()
        value = LOSSES['all together'](
            (*model(x), m.bias), [v[part] for v in y], True
        ) + all_reduce_sum(m.bias.sum() * 0)
        (value * n if scaled else value).backward()
        out['ddp', scaled] = value.detach(), x.grad, {k: w.grad for k, w in m.named_parameters()}
    return out


@pytest.fixture(scope='module')
def groups(tmp_path_factory):
    """A group of n processes is started when a test asks for it first; where it failed, it is not
    started again
    """

    @functools.cache
    def once_only(work, n):
        try:
            return launch(work, n, tmp_path_factory.mktemp(f'{work.__name__}-{n}'))
        except Exception as e:
            return e

    def found(work, n):
        if isinstance(out := once_only(work, n), Exception):
            raise out
        return out

    return found


def worst(found, whole, n, split, cold=False):
    """Largest error of value, gradients of inputs and gradients of parameters; the value of a cold
    loss is a difference of terms of size 100, so its error is relative to 1 where it is less
    """
    value, dx, dw = whole
    far = {}
    for rank, (v, x, w) in enumerate(found):
        far[f'value in {rank}'] = (
            float((v - value).abs()) / max(1, float(value.abs())) if cold else error(v, value)
        )
        far[f'inputs of {rank}'] = error(x, dx[rows(n, split, rank)])
        assert set(w) >= set(dw)
        far.update(
            {f'{k} in {rank}': error(g, dw.get(k, torch.zeros_like(g))) for k, g in w.items()}
        )
    where = max(far, key=far.get)
    return far[where], where


@pytest.mark.slow
@pytest.mark.parametrize('dtype', CLOSE)
@pytest.mark.parametrize('name', LOSSES)
@pytest.mark.parametrize('n', SPLITS)
def test_losses_equal_one_process(groups, n, name, dtype):
    found = groups(loss_cases, n)
    close = 5e-3 if 'bfloat16' in name else CLOSE[dtype]
    for split in SPLITS[n]:
        whole = measured(name, n, split, dtype)
        for case in (name, split, dtype), (name, split, dtype, 'blocks'):
            if case not in found[0]:
                continue
            far, where = worst(
                [f[case] for f in found], whole, n, split, cold='temperature .01' in name
            )
            assert far <= close, (split, where, far, case[3:])
        case = name, split, dtype
        if (
            split == 'no positive at all'
            and name.startswith('supcon')
            or name == 'au_loss, nothing coded'
        ):
            assert all(
                f[case][0] == 0
                and not f[case][1].any()
                and not any(g.any() for g in f[case][2].values())
                for f in found
            ), split


@pytest.mark.parametrize('n', SPLITS)
def test_what_is_wrong_is_seen_to_be_wrong(groups, n):
    found = groups(loss_cases, n)
    split = next(iter(SPLITS[n]))
    whole = measured('supcon', n, split, torch.float64)
    far = {name: worst([f[name] for f in found], whole, n, split)[0] for name in NEGATIVE}
    assert far['plain formula, gather'] < 1e-10, far
    assert far['plain formula, gather without gradients'] > 0.1 and far['supcon, averaged'] > 0.1, (
        far
    )


@pytest.mark.parametrize('n', SPLITS)
def test_under_ddp_the_loss_times_the_processes(groups, n):
    found = groups(loss_cases, n)
    split = next(iter(SPLITS[n]))
    value, _, dw = measured('all together', n, split, torch.float64)
    for f in found:
        right, wrong = f['ddp', True], f['ddp', False]
        assert error(right[0], value) < 1e-10
        assert (
            max(error(right[2][k], g) for k, g in dw.items()) < 1e-10 and not right[2]['bias'].any()
        )
        assert min(error(wrong[2][k], g) for k, g in dw.items()) > 0.1


# ---- the helpers by themselves


class Odd(nn.Module):
    "Parameters of several types and memory layouts, one without gradient, buffers of integers"

    def __init__(self, dtypes, seed):
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.flipped = nn.Parameter(torch.randn(5, 7, generator=g).T)
        self.several = nn.ParameterList([torch.randn(3, generator=g).to(d) for d in dtypes])
        self.idle = nn.Parameter(torch.randn(2, generator=g))
        self.register_buffer('nothing', torch.zeros(0))
        with torch.no_grad():
            for w in [*self.conv.parameters(), self.norm.running_mean]:
                w.copy_(torch.randn(w.shape, generator=g))
            self.norm.num_batches_tracked += seed
        self.to(memory_format=torch.channels_last)


MIXED = [torch.float64, torch.float32, torch.bfloat16]


def part_of(rank):
    return torch.randn(2 + 3 * rank, 4, 5, generator=torch.Generator().manual_seed(rank))


def weight_of(rank, n):
    return torch.randn(
        sum(2 + 3 * r for r in range(n)), 4, 5, generator=torch.Generator().manual_seed(100 + rank)
    )


def helper_cases(rank, n, folder):
    out = dict(
        world=rank_and_world_size(),
        slices=[local_slice(k) for k in range(25)],
        device=str(device()),
    )
    x = part_of(rank).requires_grad_()
    all_ = gather(x)
    (all_ * weight_of(rank, n)).sum().backward()
    out['gather'] = all_.detach(), x.grad
    turned = part_of(rank).transpose(0, 2).contiguous().transpose(0, 2).requires_grad_()
    (gather(turned) * weight_of(rank, n).flip(2)).sum().backward()
    out['gather, strided'] = turned.grad
    out['gather, bfloat16'] = gather(part_of(rank).bfloat16())
    out['gather, none on the first'] = gather(part_of(rank)[: 3 * rank])
    out['gather, integers'] = processes.gather_labels(torch.arange(2**40, 2**40 + rank + 1))
    out['gather, one column'] = gather(torch.full((rank + 1,), float(rank)))
    x = torch.tensor([1.0 + rank, 2.0], requires_grad=True)
    t = all_reduce_sum(x)
    (t * torch.tensor([3.0, 5.0])).sum().backward()
    out['sum over processes'] = t.detach(), x.grad, x.detach().clone()
    out['sum over processes, integers'] = all_reduce_sum(torch.tensor(rank + 1))
    x = torch.tensor(7.0, requires_grad=True)
    y = counted_once(x * x)
    y.backward()
    out['counted once'] = y.detach(), x.grad
    module = Odd(MIXED, rank)
    broadcast_parameters(module)
    out['broadcast'] = (
        module.state_dict(),
        module.conv.weight.is_contiguous(memory_format=torch.channels_last),
        module.flipped.stride(),
    )
    for name, order in (('', MIXED), (', other order', MIXED[::-1])):
        module = Odd(order, 0)
        seen = []
        real = dist.all_reduce
        for i, w in enumerate(module.parameters()):
            if w is not module.idle:
                w.grad = torch.full_like(w, rank + 1.0) * (i + 1)

        def noted(x, *a, seen=seen, real=real, **k):
            seen.append(x.dtype)
            return real(x, *a, **k)

        dist.all_reduce = noted
        try:
            sum_gradients(module)
        finally:
            dist.all_reduce = real
        out['sum' + name] = (
            [w.grad for w in module.parameters()],
            seen,
            list(dict.fromkeys(w.dtype for w in module.parameters())),
        )
    with main_process_first():
        file = folder / 'once.txt'
        found = file.exists()
        if rank == 0:
            time.sleep(0.3)
            file.write_text('x')
    out['main process first'] = found
    return out


@pytest.mark.parametrize('n', [2, 3])
def test_helpers(groups, n):
    found = groups(helper_cases, n)
    everyone = torch.cat([part_of(r) for r in range(n)])
    first = 0
    whole = Odd(MIXED, 0).state_dict()
    factor = n * (n + 1) / 2
    pulled = sum(weight_of(r, n) for r in range(n))
    turned = sum(weight_of(r, n).flip(2) for r in range(n))
    for rank, f in enumerate(found):
        mine = slice(first, first + 2 + 3 * rank)
        first = mine.stop
        assert f['world'] == (rank, n) and f['device'] == str(device())
        assert (
            torch.equal(f['gather'][0], everyone)
            and torch.allclose(f['gather'][1], pulled[mine])
            and torch.allclose(f['gather, strided'], turned[mine])
        )
        assert torch.equal(f['gather, bfloat16'], everyone.bfloat16()) and torch.equal(
            f['gather, none on the first'], torch.cat([part_of(r)[: 3 * r] for r in range(n)])
        )
        assert (
            torch.equal(
                f['gather, integers'][0],
                torch.cat([torch.arange(2**40, 2**40 + r + 1) for r in range(n)]),
            )
            and f['gather, integers'][1] == rank * (rank + 1) // 2
        )
        assert f['gather, one column'].tolist() == [
            float(r) for r in range(n) for _ in range(r + 1)
        ]
        assert (
            f['sum over processes'][0].tolist() == [factor, 2 * n]
            and f['sum over processes'][1].tolist() == [3, 5]
            and f['sum over processes'][2].tolist() == [1 + rank, 2]
            and f['sum over processes, integers'] == factor
        )
        assert f['counted once'][0] == 49 and f['counted once'][1].item() == pytest.approx(14 / n)
        state, channels_last, stride = f['broadcast']
        assert (
            all(torch.equal(v, whole[k]) for k, v in state.items())
            and channels_last
            and stride == (1, 7)
        )
        for case in 'sum', 'sum, other order':
            assert (
                all(
                    g is None or torch.equal(g, torch.full_like(g, factor * (i + 1)))
                    for i, g in enumerate(f[case][0])
                )
                and sum(g is None for g in f[case][0]) == 1
            )
    assert [f['main process first'] for f in found] == [False] + [True] * (n - 1)


@pytest.mark.parametrize('case', ['sum', 'sum, other order'])
def test_gradients_of_several_types_are_sent_in_one_order(groups, case):
    "The order of the parameters is the same in all processes; that of a set is not"
    for f in groups(helper_cases, 2):
        assert f[case][1] == f[case][2]


@pytest.mark.parametrize('n', [2, 3])
def test_slices_leave_nothing_out_and_overlap_nowhere(groups, n):
    for k, parts in enumerate(zip(*(f['slices'] for f in groups(helper_cases, n)))):
        assert [i for s in parts for i in range(k)[s]] == list(range(k)) and max(
            len(range(k)[s]) for s in parts
        ) - min(len(range(k)[s]) for s in parts) <= 1


def test_alone_nothing_happens():
    x = torch.randn(3, 2, requires_grad=True)
    module = Odd(MIXED, 4)
    before = {k: v.clone() for k, v in module.state_dict().items()}
    assert (
        gather(x) is x
        and all_reduce_sum(x) is x
        and counted_once(x) is x
        and local_slice(5) == slice(0, 5)
        and rank_and_world_size() == (0, 1)
    )
    broadcast_parameters(module)
    sum_gradients(module)
    destroy_process_group()
    with main_process_first(), synced_batch_norm(module):
        assert 'forward' not in vars(module.norm)
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())


# ---- batch norm


def normed(**kw):
    g = torch.Generator().manual_seed(5)
    m = nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False),
        nn.BatchNorm2d(4, **kw),
        nn.ReLU(),
        nn.Conv2d(4, 5, 3, bias=False),
        nn.BatchNorm2d(5, **kw),
    ).to(memory_format=torch.channels_last)
    with torch.no_grad():
        for w in m.parameters():
            w.copy_(torch.randn(w.shape, generator=g) * 0.5)
    return m


NORMS = {
    'default': {},
    'no momentum': dict(momentum=None),
    'momentum .3': dict(momentum=0.3),
    'not affine': dict(affine=False),
    'no running statistics': dict(track_running_stats=False),
}
SIZES = {2: [5, 2], 3: [4, 1, 6]}


def noise_images(n):
    g = torch.Generator().manual_seed(n)
    return torch.randn(sum(SIZES[n]), 3, 8, 8, generator=g) * 3 + 7, torch.randn(
        sum(SIZES[n]), 5, 4, 4, generator=g
    )


def norm_run(module, n, part=slice(None), steps=3):
    x, weight = noise_images(n)
    for _ in range(steps):
        x1 = x[part].clone().to(memory_format=torch.channels_last).requires_grad_()
        module.zero_grad()
        with synced_batch_norm(module):
            y = module(x1)
            (y * weight[part]).sum().backward()
        sum_gradients(module)
    return (
        y.detach(),
        x1.grad,
        {k: w.grad for k, w in module.named_parameters()},
        {k: b for k, b in module.named_buffers()},
    )


def norm_cases(rank, n, folder):
    part = slice(sum(SIZES[n][:rank]), sum(SIZES[n][: rank + 1]))
    out = {k: norm_run(normed(**kw), n, part) for k, kw in NORMS.items()}
    flat = nn.BatchNorm1d(192)
    x = noise_images(n)[0].flatten(1)[part]
    with synced_batch_norm(flat):
        out['flat'] = flat(x).detach(), flat.running_var.clone()
    m = normed()
    m(noise_images(n)[0])
    m.eval()
    x = noise_images(n)[0][part]
    before = {k: b.clone() for k, b in m.named_buffers()}
    plain = m(x)
    with synced_batch_norm(m):
        y = m(x)
    out['eval'] = torch.equal(plain, y) and all(
        torch.equal(b, before[k]) for k, b in m.named_buffers()
    )
    try:
        with synced_batch_norm(m):
            inside = 'forward' in vars(m[1])
            raise KeyError('x')
    except KeyError:
        out['restored'] = inside and 'forward' not in vars(m[1]) and 'forward' not in vars(m[4])
    low = nn.BatchNorm2d(3)
    with synced_batch_norm(low):
        out['bfloat16'] = low(x.bfloat16()).detach()
    return out


@pytest.mark.parametrize('n', [2, 3])
@pytest.mark.parametrize('name', NORMS)
def test_batch_norm_equals_one_process(groups, n, name):
    y, dx, dw, buffers = norm_run(normed(**NORMS[name]), n)
    first = 0
    for rank, f in enumerate(groups(norm_cases, n)):
        part = slice(first, first + SIZES[n][rank])
        first = part.stop
        found = f[name]
        # gradients of inputs are small differences of large sums
        assert error(found[0], y[part]) < 1e-5 and error(found[1], dx[part]) < 1e-4
        for k, g in dw.items():
            assert error(found[2][k], g) < 1e-4, k
        assert set(found[3]) == set(buffers) and all(
            error(found[3][k], b) < 1e-5 for k, b in buffers.items()
        )


@pytest.mark.parametrize('n', [2, 3])
def test_batch_norm_of_other_kinds(groups, n):
    x, _ = noise_images(n)
    flat = nn.BatchNorm1d(192)
    y = flat(x.flatten(1))
    low = nn.BatchNorm2d(3)(x)
    first = 0
    for rank, f in enumerate(groups(norm_cases, n)):
        part = slice(first, first + SIZES[n][rank])
        first = part.stop
        assert f['eval'] and f['restored']
        assert (
            error(f['flat'][0], y[part].detach()) < 1e-5
            and error(f['flat'][1], flat.running_var) < 1e-5
        )
        assert (
            f['bfloat16'].dtype == torch.bfloat16
            and error(f['bfloat16'], low[part].detach()) < 0.02
        )


# ---- training


@contextlib.contextmanager
def double():
    """Everything in double precision.

    In single precision two right runs part quickly: a rounding carries an activation over the kink
    of a ReLU, and AdamW divides a gradient that is rounding alone by its own size.
    """
    single = torch.Tensor.float
    kept = stages._view, stages.embed_images, stages.has_bf16

    def view(*args):
        torch.Tensor.float = single
        try:
            return kept[0](*args).double()
        finally:
            torch.Tensor.float = torch.Tensor.double

    torch.Tensor.float = torch.Tensor.double
    stages._view = view
    stages.embed_images = lambda model, x: kept[1](copy.deepcopy(model).to(torch.float32), x)
    stages.has_bf16 = lambda device: False
    try:
        yield
    finally:
        torch.Tensor.float = single
        stages._view, stages.embed_images, stages.has_bf16 = kept


def expressions(table):
    return stages.FrameTable(
        table.df.drop(columns=['AU12', 'AU4']).assign(
            expression=table.df['activity'].map({'T0': 'happiness', 'T1': 'fear', 'T2': 'anger'})
        ),
        'nowhere',
    )


# 11 rows a batch are shared as 5 and 6. micro_batch is for the processes: one process takes all at
# once
TRAINED = {
    'pretrain': lambda m, data, settings, micro_batch: pretrain(m, *data, settings=settings),
    'pretrain, other subjects': lambda m, data, settings, micro_batch: pretrain(
        m, *data, positives='activity_other_subject', settings=settings
    ),
    'pretrain, instances': lambda m, data, settings, micro_batch: pretrain(
        m, *data, positives='instance', activity_texts=False, settings=settings
    ),
    'pretrain, micro-batches': lambda m, data, settings, micro_batch: pretrain(
        m,
        *data,
        settings=replace(
            settings, freeze=('batch_norm', 'token_embedding'), micro_batch=micro_batch
        ),
    ),
    'align': lambda m, data, settings, micro_batch: align(m, *data, settings=settings).log,
    'align, expressions': lambda m, data, settings, micro_batch: (
        align(m, data[0], expressions(data[1]), settings=settings).log
    ),
}
SHORT = TrainSettings(steps=3, batch_size=11, progress=False, seed=2)


def digest(module):
    return hashlib.sha256(
        b''.join(w.detach().contiguous().numpy().tobytes() for w in module.state_dict().values())
    ).hexdigest()


def trained(name, micro_batch=None, seed=0, **changes):
    m = load_model(pretrained=None, seed=seed)
    return TRAINED[name](m, study(), replace(SHORT, **changes), micro_batch), m


def small():
    "Towers as clef-tiny's, residual with batch norm, and a hundredth of its work"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return open_clip.CLIP(
            embed_dim=16,
            vision_cfg=dict(image_size=32, layers=[1, 1, 1, 1], width=8, head_width=32),
            text_cfg=dict(context_length=77, vocab_size=49408, width=16, heads=2, layers=1),
        )


def trained_in_double(name, micro_batch=None):
    "(log, by how much each number of the towers changed in two steps, digest of the weights)"
    with double():
        m = small().double()
        start = {k: w.clone() for k, w in m.state_dict().items()}
        log = TRAINED[name](m, study(), replace(SHORT, steps=2), micro_batch)
    return (
        log,
        {k: w - start[k] for k, w in m.state_dict().items() if w.is_floating_point()},
        digest(m),
    )


BOTH = 'pretrain', 'align'  # the two stages


class PowerCut(Exception):
    pass


def training_cases(rank, n, folder):
    out = {}
    saved = []
    for name in TRAINED:
        out[name, 'double'] = trained_in_double(name, 2)
    real = training._Checkpoint.save

    def noted(checkpoint, *a):
        saved.append(checkpoint.path.name)
        real(checkpoint, *a)

    training._Checkpoint.save = noted
    files = folder / 'whole'
    file = files / 'c.pt'
    # process 0 is followed, whatever the others start from
    for name in BOTH:
        log, m = trained(
            name, seed=rank, checkpoint=file if name == 'pretrain' else None, checkpoint_every=2
        )
        out[name] = log, digest(m)
    dist.barrier()
    out['saved'] = (
        list(saved),
        sorted(p.name for p in files.iterdir()),
        torch.load(file, weights_only=True)['step'],
    )
    calls = []
    text = stages.image_text

    def cut(*a, **kw):
        calls.append(1)
        if len(calls) == 3:
            raise PowerCut
        return text(*a, **kw)

    stages.image_text = cut
    files = folder / 'cut'
    file = files / 'c.pt'
    try:
        trained('pretrain', checkpoint=file, checkpoint_every=1)
    except PowerCut:
        pass
    finally:
        stages.image_text = text
    dist.barrier()
    out['cut at'] = torch.load(file, weights_only=True)['step']
    dist.barrier()
    log, m = trained('pretrain', checkpoint=file, checkpoint_every=1)
    out['resumed'] = log, digest(m)
    # a folder that the other does not see
    mine = folder / f'own-{rank}' / 'c.pt'
    if rank == 0:
        mine.parent.mkdir()
        mine.write_bytes(file.read_bytes())
    try:
        trained('pretrain', checkpoint=mine)
        out['own file'] = 'taken'
    except ValueError as e:
        out['own file'] = str(e)
    out['left'] = sorted(p.name for p in files.iterdir())
    return out


@pytest.mark.slow
@pytest.mark.parametrize('name', TRAINED)
def test_training_equals_one_process(groups, name):
    found = groups(training_cases, 2)
    log, moved, _ = trained_in_double(name)
    norm = sum(v.square().sum() for v in moved.values()).sqrt()
    for f in found:
        theirs, changes, end = f[name, 'double']
        for c in [c for c in log if c.startswith('loss') and log[c].notna().all()]:
            assert theirs[c].tolist() == pytest.approx(log[c].tolist(), rel=1e-6), c
        assert set(changes) == set(moved)
        far = sum((changes[k] - v).square().sum() for k, v in moved.items()).sqrt() / norm
        assert norm > 0.1 and far < 1e-5, (norm, far)
        # bit-exact in all processes
        assert end == found[0][name, 'double'][2]


@pytest.mark.parametrize('name', BOTH)
def test_single_precision_begins_alike_and_all_processes_end_alike(groups, name):
    found = groups(training_cases, 2)
    log, _ = trained(name, steps=1)
    for c in [c for c in log if c.startswith('loss') and log[c].notna().all()]:
        for f in found:
            assert f[name][0][c][0] == pytest.approx(log[c][0], rel=1e-5), c
        assert found[0][name][0][c].equals(found[1][name][0][c])
    assert found[0][name][1] == found[1][name][1]  # bit-exact


def test_one_checkpoint_is_written_once(groups):
    found = groups(training_cases, 2)
    # after step 2, and the last
    assert found[0]['saved'][0] == ['c.pt', 'c.pt'] and found[1]['saved'][0] == []
    for f in found:
        assert f['saved'][1:] == (['c.pt'], 3) and f['left'] == ['c.pt']


def test_resume_with_two_processes(groups):
    for f in groups(training_cases, 2):
        assert f['cut at'] == 2 and f['resumed'][1] == f['pretrain'][1]
        for c in ('loss', 'loss_images', 'loss_texts'):
            assert f['resumed'][0][c].equals(f['pretrain'][0][c])


def test_a_checkpoint_that_one_process_alone_sees_is_refused(groups):
    for f in groups(training_cases, 2):
        assert 'not the same file for all processes' in f['own file']


def unstarted(rank, n, folder):
    before = rank_and_world_size(), str(device()), rank_and_world_size()
    log = pretrain(load_model(pretrained=None), *study(), settings=replace(SHORT, steps=1))
    destroy_process_group()
    return before, rank_and_world_size(), log['loss'][0]


def test_under_a_launcher_the_processes_meet_by_themselves(tmp_path):
    "torchrun sets the environment and nothing else"
    found = launch(unstarted, 2, tmp_path, started=False)
    whole = pretrain(load_model(pretrained=None), *study(), settings=replace(SHORT, steps=1))[
        'loss'
    ][0]
    for rank, (before, after, loss) in enumerate(found):
        assert (
            before[0] == (0, 1)
            and before[2] == (rank, 2)
            and after == (0, 1)
            and loss == pytest.approx(whole, rel=1e-5)
        )


LAUNCHED = """
import sys
import torch
from clef_nb.model.distributed import all_reduce_sum, device, rank_and_world_size


def work(folder):
    where = device()
    rank, processes = rank_and_world_size()
    x = torch.tensor([1.0 + rank], device=where, requires_grad=True)
    all_reduce_sum(x * x).sum().backward()
    torch.save((rank, processes, all_reduce_sum(x.detach()).item(), x.grad.item()),
               f'{folder}/{rank}.pt')


if __name__ == '__main__':
    from accelerate import notebook_launcher

    notebook_launcher(
        work, (sys.argv[1],), num_processes=2, rdzv_backend='c10d', rdzv_endpoint='localhost:0'
    )
"""


def test_the_notebook_launcher_of_accelerate_is_a_launcher(tmp_path):
    "It sets the environment that torchrun sets; nothing else of accelerate is used"
    pytest.importorskip('accelerate', reason='accelerate is not installed (extra: dev)')
    if START != 'forkserver' or torch.cuda.is_available():
        pytest.skip('the launcher forks, and on GPUs wants one for each process')
    script = tmp_path / 'launched.py'
    script.write_text(LAUNCHED)
    environment = dict(os.environ, OMP_NUM_THREADS='1')
    if sys.platform == 'linux':
        environment['GLOO_SOCKET_IFNAME'] = 'lo'
    done = subprocess.run(
        [sys.executable, script, tmp_path],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    found = [torch.load(tmp_path / f'{rank}.pt', weights_only=True) for rank in range(2)]
    assert found == [(0, 2, 3.0, 2.0), (1, 2, 3.0, 4.0)]


def test_the_core_does_not_import_accelerate():
    code = 'import sys, clef_nb.model.distributed; print("accelerate" in sys.modules)'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.stdout.strip() == 'False', done.stderr


@pytest.mark.parametrize('nccl', [True, False])
def test_on_gpus_each_process_of_a_machine_takes_its_own(monkeypatch, nccl):
    "Without GPUs: what torch would be asked for"
    called = []
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 4)
    monkeypatch.setattr(torch.cuda, 'set_device', called.append)
    monkeypatch.setattr(dist, 'is_nccl_available', lambda: nccl)
    monkeypatch.setattr(dist, 'init_process_group', called.append)
    monkeypatch.delenv('WORLD_SIZE', raising=False)
    assert device() == torch.device('cuda') and called == []
    # the second machine of two with four GPUs each
    for name, value in dict(WORLD_SIZE='8', RANK='6', LOCAL_RANK='2').items():
        monkeypatch.setenv(name, value)
    assert device() == torch.device('cuda', 2)
    assert called == ['nccl' if nccl else 'gloo', torch.device('cuda', 2)]


def test_processes_on_one_cpu_share_its_cores_unless_told_otherwise(monkeypatch):
    threads = []
    monkeypatch.setattr(dist, 'init_process_group', lambda backend: None)
    monkeypatch.setattr(torch, 'get_num_threads', lambda: 8)
    monkeypatch.setattr(torch, 'set_num_threads', threads.append)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    for name, value in dict(WORLD_SIZE='3', LOCAL_WORLD_SIZE='3').items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    assert device() == torch.device('cpu') and threads == []
    monkeypatch.delenv('OMP_NUM_THREADS')
    assert device() == torch.device('cpu') and threads == [2]


def own_stage(rank, n, folder):
    parts, saved, tower = [], [], nn.Linear(192, 4)
    real = training._Checkpoint.save
    training._Checkpoint.save = lambda *a: saved.append(1) or real(*a)

    def losses(batch):
        parts.append((batch.part.start, batch.part.stop))
        return {
            'loss': all_reduce_sum(
                tower(batch.images.flatten(1).float()).square().sum() / batch.size
            )
        }

    training.train(
        tower,
        np.zeros((9, 8, 8, 3), np.uint8),
        ShuffledBatches(9, 9),
        losses,
        TrainSettings(steps=1, progress=False, checkpoint=folder / 'c' / 'own.pt'),
    )
    destroy_process_group()
    return parts, len(saved)


def test_a_stage_of_ones_own_is_shared_by_itself(tmp_path):
    # the first process alone writes
    assert launch(own_stage, 2, tmp_path, started=False) == [([(0, 4)], 1), ([(4, 9)], 0)]
