"""How long a whole training step takes, and how much memory: open_clip as it comes beside
`pretrain`, for a small residual tower and a small ViT.

    python benchmarks/step.py [--rounds 3] [--quick]

Both sides train both towers on 128 images of 64 px, in training mode, in single precision where the
processor has no bfloat16, without augmentation. open_clip as it comes: `create_model`, one text for
each image padded to 77 tokens, ClipLoss, torch.optim.AdamW; its images are scaled and ready
beforehand. Ours: `pretrain` itself, called for a number of steps, with all that it does (choice of
rows, images from uint8, log; its setting up is spread over the steps). 'images and texts' is stage
1 as it comes: two views of 64 images, supcon and eight texts. 'texts' has 128 images and no supcon.
Parts of a step: the text tower (eight texts, trimmed, once, against a padded one for each image;
forward and backward; difference of the embeddings), AdamW (fused against default). Memory: what a
fresh process grows by in one step with 1,024 images (512, two views), all at once and with
chunk=64; difference is the largest of any gradient over the largest gradient. `ratio` is CPU time
as a multiple of `over`'s, medians of alternated rounds, one thread: below 1 is faster, 1/ratio is
how many times as fast.
"""

import argparse
import json
import logging
import tempfile
import time
from pathlib import Path

from machine import about, alternate, has_bf16, one_thread, resident_peak, save, show

one_thread()
import numpy as np
import open_clip
import pandas as pd
import torch
import torch.nn.functional as F

torch.set_num_threads(1)
from open_clip.loss import ClipLoss

from clef_nb.datasets.frames import FrameTable
from clef_nb.datasets.texts import activity_texts
from clef_nb.model.augment import normalise, to_float
from clef_nb.model.stages import pretrain
from clef_nb.model.towers import encode_tokens, load_model, tokenize

logging.disable(logging.WARNING)  # open_clip says that weights are random
HERE = Path(__file__).resolve().parent
TOWERS = {'residual': 'clef-tiny', 'ViT': 'small-vit'}
OFF = dict(scale=(1, 1), rotate=0, flip=0, brightness=0, contrast=0, saturation=0, grey=0, hue=0)
TARGETS = {'residual': 1 / 5, 'ViT': 1 / 2.2, 'text tower': 1 / 20}
USUAL = 'open_clip as it comes'


def add_vit():
    "Make the small ViT known to open_clip, with clef-tiny's text tower"
    config = dict(
        embed_dim=128,
        vision_cfg=dict(image_size=64, patch_size=8, width=128, layers=4, head_width=64),
        text_cfg=open_clip.get_model_config('clef-tiny')['text_cfg'],
    )
    with tempfile.TemporaryDirectory() as folder:
        (file := Path(folder) / 'small-vit.json').write_text(json.dumps(config))
        open_clip.add_model_config(file)


def batch(n):
    "Images and their table: eight activities of four subjects in equal parts"
    texts = activity_texts('bp4d')
    k = len(texts)
    df = pd.DataFrame(
        dict(
            path=[f'{i}.jpg' for i in range(n)],
            subject=[f'F{i // k % 4:03}' for i in range(n)],
            activity=[list(texts)[i % k] for i in range(n)],
            frame=range(n),
        )
    )
    df['sequence'] = df['subject'] + '_' + df['activity']
    return np.random.default_rng(0).integers(0, 256, (n, 64, 64, 3), np.uint8), FrameTable(
        df, '.', 'noise', texts
    )


def usual_steps(name, images, table, steps):
    "open_clip's own defaults from the model to the optimiser"
    model = open_clip.create_model(name).train()
    x, tokens, loss = (
        normalise(to_float(images)),
        open_clip.tokenize([table.activities[a] for a in table.df['activity']]),
        ClipLoss(),
    )
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def run():
        for _ in range(steps):
            optimiser.zero_grad()
            loss(*model(x, tokens)).backward()
            optimiser.step()

    return run


def our_steps(name, images, table, steps, **settings):
    model = load_model(name, None)
    return lambda: pretrain(
        model, images, table, steps=steps, augmentation=OFF, progress=False, **settings
    )


def row(part, method, over, times, base, per=1, **more):
    return (
        dict(
            part=part,
            method=method,
            over=over,
            ratio=times[0] / base[0],
            cpu_ms=times[0] / per * 1e3,
            wall_ms=times[1] / per * 1e3,
        )
        | more
    )


def measure_steps(rounds, n, steps):
    "Whole steps"
    rows, (images, table) = [], batch(n)
    for tower, name in TOWERS.items():
        ways = {
            USUAL: usual_steps(name, images, table, steps),
            'clef_nb, images and texts': our_steps(name, images, table, steps, batch_size=n // 2),
            'clef_nb, texts': our_steps(
                name, images, table, steps, batch_size=n, image_pairs=False
            ),
            'clef_nb, texts, embedding frozen': our_steps(
                name,
                images,
                table,
                steps,
                batch_size=n,
                image_pairs=False,
                freeze=('token_embedding',),
            ),
        }
        times = alternate(ways, rounds)
        rows += [
            row(
                f'step, {tower}',
                w,
                USUAL,
                t,
                times[USUAL],
                steps,
                target=TARGETS[tower]
                if w in ('clef_nb, images and texts', 'clef_nb, texts')
                else None,
            )
            for w, t in times.items()
        ]
    return rows


def measure_parts(rounds, n):
    "Text tower and optimiser"
    _, table = batch(n)
    model = load_model('clef-tiny', None).train()
    names = sorted(table.activities)
    own = torch.tensor([names.index(a) for a in table.df['activity']])
    padded, trimmed = (
        open_clip.tokenize([table.activities[a] for a in table.df['activity']]),
        tokenize(model, [table.activities[a] for a in names]),
    )
    weights = [
        w for k, w in model.named_parameters() if not k.startswith('visual') and k != 'logit_scale'
    ]
    slope = torch.randn(n, 128, generator=torch.Generator().manual_seed(0))
    embed = {
        USUAL: lambda: F.normalize(model.encode_text(padded), dim=-1),
        'clef_nb': lambda: F.normalize(encode_tokens(model, trimmed), dim=-1)[own],
    }
    ways = {w: lambda f=f: torch.autograd.grad(f(), weights, slope) for w, f in embed.items()}
    a, b = (f().detach() for f in embed.values())
    times = alternate(ways, rounds)
    rows = [row('text tower', w, USUAL, t, times[USUAL]) for w, t in times.items()]
    rows[-1] |= dict(
        target=TARGETS['text tower'], difference=(a - b).abs().max().item(), difference_target=1e-5
    )
    for w in model.parameters():
        w.grad = torch.randn(w.shape, generator=torch.Generator().manual_seed(0))
    ways = {
        w: torch.optim.AdamW(model.parameters(), lr=1e-5, **more).step
        for w, more in ((USUAL, {}), ('fused', dict(fused=True)))
    }
    times = alternate(ways, rounds)
    return rows + [row('AdamW', w, USUAL, t, times[USUAL]) for w, t in times.items()]


def one_step(n, chunk):
    """One step with `n` images, of which `chunk` are worked on at once; the gradients it leaves,
    and its CPU time
    """
    add_vit()
    # code is loaded before
    our_steps('small-vit', *batch(32), 1, batch_size=16, chunk=chunk and 8)()
    model = load_model('small-vit', None)
    images, table = batch(n // 2)

    def run():
        start = time.process_time()
        pretrain(
            model,
            images,
            table,
            steps=1,
            batch_size=n // 2,
            augmentation=OFF,
            progress=False,
            chunk=chunk,
        )
        return {k: w.grad.numpy() for k, w in model.named_parameters()}, time.process_time() - start

    return run


def measure_memory(n, chunk):
    found = {c: resident_peak(one_step, n, c) for c in (None, chunk)}
    (whole, (a, seconds)), (less, (b, longer)) = found.values()
    over = f'all {n:,} images'
    most = max(np.abs(a[k] - b[k]).max() for k in a) / max(np.abs(v).max() for v in a.values())
    return [
        dict(
            part='memory, ViT',
            method=over,
            over=over,
            ratio=1,
            cpu_ms=seconds * 1e3,
            peak_mib=whole,
            peak_share=1,
        ),
        dict(
            part='memory, ViT',
            method=f'chunk={chunk}',
            over=over,
            ratio=longer / seconds,
            cpu_ms=longer * 1e3,
            peak_mib=less,
            peak_share=less / whole,
            difference=most,
            difference_target=1e-5,
        ),
    ]


def main(rounds=3, n=128, steps=10, large=1024, chunk=64, out=HERE / 'results' / 'step.csv'):
    add_vit()
    rows = measure_steps(rounds, n, steps) + measure_parts(rounds, n) + measure_memory(large, chunk)
    columns = [
        'part',
        'method',
        'over',
        'ratio',
        'target',
        'peak_mib',
        'peak_share',
        'difference',
        'difference_target',
        'cpu_ms',
        'wall_ms',
    ]
    table = pd.DataFrame(rows).reindex(columns=columns)
    show(table.drop(columns=['over', 'wall_ms']))
    facts = about(
        'torch',
        'open_clip_torch',
        'accelerate',
        'numpy',
        rounds=rounds,
        images=n,
        steps=steps,
        bf16_hardware=has_bf16(),
    )
    if out:
        save(table.assign(**facts), out)
    print('\n' + ', '.join(f'{k} {v}' for k, v in facts.items()))


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--quick', action='store_true', help='few images, one round, nothing saved')
    args = parser.parse_args()
    if args.quick:
        main(1, 32, 1, 64, 16, None)
    else:
        main(args.rounds)
