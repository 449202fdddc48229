"""Whether the gradient of a loss is the same on one process and on several: open_clip, lightly and
pytorch-metric-learning beside ours.

    python benchmarks/distributed.py [--rounds 20] [--quick]

1, 2 and 3 processes (gloo, on this machine) share a batch in equal parts, with classes that lie
unevenly among them. Each embeds its own images (and texts) with a linear map, calls the loss, calls
backward; then the gradients of the two maps are averaged over the processes, as
DistributedDataParallel does, or for ours added up, as its convention is. error is |g - g1|/|g1|,
with g1 the gradient of the same loss on one process with the whole batch. along is the multiple of
g1 that g comes nearest to: where error is |1 - along| only the length is wrong, and where it is
more the direction as well. clip_loss is `image_text` with a text for each image. cpu_ms and
wall_ms, for information: one loss call of 2 processes forward and backward, of 1,024 rows in all
with 512 dimensions, medians as rank 0 sees them. One thread a process.
"""

import argparse
import os
import statistics
import tempfile
import time
import warnings
from pathlib import Path

from machine import about, one_thread, peer, save, show

one_thread()
import pandas as pd
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F

torch.set_num_threads(1)
from open_clip.loss import ClipLoss
from torch import nn

from clef_nb.model.distributed import gather, gather_labels
from clef_nb.model.losses_fast import image_text, supcon

HERE = Path(__file__).resolve().parent
N, D, K, TEMPERATURE = 120, 64, 5, 0.1  # N: divided by 1, 2 and 3
TARGET = 1e-5


def clip_loss(images, texts, scale, distributed):
    "CLIP's loss as ours: a text for each image, and the texts of all processes on each"
    own = torch.arange(len(images))
    if distributed:
        own = own + gather_labels(own)[1]
        texts = gather(texts)
    return image_text(images, texts, own, scale, distributed=distributed)


def losses(rank=0, processes=1):
    """{name: loss of image embeddings, text embeddings, labels, embeddings of the K texts};
    `processes` 0 is a single process without a group
    """
    group, scale = processes > 0, 1 / TEMPERATURE
    where = dict(rank=rank, world_size=max(processes, 1))
    found = {
        'open_clip ClipLoss': lambda a, b, y, t: ClipLoss(**where)(a, b, scale),
        'open_clip ClipLoss, local_loss and gather_with_grad': lambda a, b, y, t: ClipLoss(
            local_loss=True, gather_with_grad=True, **where
        )(a, b, scale),
    }
    if peer('lightly'):
        from lightly.loss import NTXentLoss

        found['lightly NTXentLoss, gather_distributed'] = lambda a, b, y, t: NTXentLoss(
            temperature=TEMPERATURE, gather_distributed=group
        )(a, b)
    if peer('pytorch_metric_learning'):
        from pytorch_metric_learning.losses import SupConLoss
        from pytorch_metric_learning.utils.distributed import DistributedLossWrapper

        def wrapped(efficient):
            return (
                DistributedLossWrapper(SupConLoss(temperature=TEMPERATURE), efficient)
                if group
                else SupConLoss(temperature=TEMPERATURE)
            )

        found['pytorch-metric-learning SupConLoss, wrapped'] = lambda a, b, y, t: wrapped(False)(
            a, y
        )
        found['pytorch-metric-learning SupConLoss, wrapped, efficient'] = lambda a, b, y, t: (
            wrapped(True)(a, y)
        )
    return found | {
        'clef_nb supcon': lambda a, b, y, t: supcon(a, y, TEMPERATURE, distributed=group),
        'clef_nb image_text': lambda a, b, y, t: image_text(a, t, y, scale, distributed=group),
        'clef_nb clip_loss': lambda a, b, y, t: clip_loss(a, b, scale, group),
    }


def batch(n=N, d=D):
    """Images, texts, labels (half in order, so that classes gather on some processes) and the K
    texts
    """
    g = torch.Generator().manual_seed(0)
    labels = torch.where(
        torch.rand(n, generator=g) < 0.5,
        torch.arange(n) * K // n,
        torch.randint(0, K, (n,), generator=g),
    )
    return (
        torch.randn(n, d, generator=g),
        torch.randn(n, d, generator=g),
        labels,
        torch.randn(K, d, generator=g),
    )


def gradient(loss, images, texts, labels, unique):
    "Gradients of the two linear maps, as one vector"
    torch.manual_seed(1)
    maps = [nn.Linear(D, D, bias=False) for _ in range(2)]
    a, b, t = (
        F.normalize(m(x), dim=1)
        for m, x in zip((maps[0], maps[1], maps[1]), (images, texts, unique))
    )
    loss(a, b, labels, t).backward()
    return torch.cat(
        [
            (torch.zeros_like(m.weight) if m.weight.grad is None else m.weight.grad).flatten()
            for m in maps
        ]
    )


def call_times(loss, rows, rounds):
    "(CPU s, wall s) of one call in every process at once"
    a, b, t = (F.normalize(rows[i], dim=1).requires_grad_() for i in (0, 1, 3))
    taken = []
    for _ in range(rounds + 2):
        dist.barrier()
        c, w = time.process_time(), time.perf_counter()
        loss(a, b, rows[2], t).backward()
        taken.append((time.process_time() - c, time.perf_counter() - w))
    return [statistics.median(v) for v in zip(*taken[2:])]


def part(rows, rank, processes):
    return [x.chunk(processes)[rank] for x in rows[:3]] + [rows[3]]


def work(rank, processes, folder, rounds, n):
    "One process: leaves {name: (gradient, times)} in a file"
    os.environ.setdefault('GLOO_SOCKET_IFNAME', 'lo')
    warnings.filterwarnings('ignore')
    dist.init_process_group(
        'gloo', init_method=f'file://{folder}/meet', rank=rank, world_size=processes
    )
    found = {}
    for name, loss in losses(rank, processes).items():
        g = gradient(loss, *part(batch(), rank, processes))
        dist.all_reduce(g)
        found[name] = (
            g if name.startswith('clef_nb') else g / processes,
            call_times(loss, part(batch(n, 512), rank, processes), rounds)
            if processes == 2
            else None,
        )
    if rank == 0:
        torch.save(found, f'{folder}/found.pt')
    dist.barrier()
    dist.destroy_process_group()


def main(rounds=20, counts=(1, 2, 3), n=1024, out=HERE / 'results' / 'distributed.csv'):
    single, rows = {k: gradient(loss, *batch()) for k, loss in losses(processes=0).items()}, []
    for processes in counts:
        with tempfile.TemporaryDirectory() as folder:
            mp.spawn(work, (processes, folder, rounds, n), processes)
            found = torch.load(f'{folder}/found.pt')
        for name, (g, times) in found.items():
            g1 = single[name]
            rows.append(
                dict(
                    method=name,
                    processes=processes,
                    error=((g - g1).norm() / g1.norm()).item(),
                    along=(g @ g1 / (g1 @ g1)).item(),
                    target=TARGET if name.startswith('clef_nb') else None,
                )
                | (dict(cpu_ms=times[0] * 1e3, wall_ms=times[1] * 1e3) if times else {})
            )
    table = pd.DataFrame(rows).sort_values(
        'method', key=lambda s: s.map({k: i for i, k in enumerate(single)}), kind='stable'
    )
    show(table)
    facts = about(
        'torch',
        'open_clip_torch',
        'lightly',
        'pytorch-metric-learning',
        rounds=rounds,
        rows=N,
        d=D,
        timed_rows=n,
    )
    if out:
        save(table.assign(**facts), out)
    print('\n' + ', '.join(f'{k} {v}' for k, v in facts.items()))


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--rounds', type=int, default=20)
    parser.add_argument(
        '--quick', action='store_true', help='two processes, one round, nothing saved'
    )
    args = parser.parse_args()
    if args.quick:
        main(1, (2,), 256, None)
    else:
        main(args.rounds)
