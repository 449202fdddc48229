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
micro_batch=64; difference is the largest of any gradient over the largest gradient. `ratio` is CPU
time as a multiple of `over`'s, medians of alternated rounds, one thread: below 1 is faster, 1/ratio
is how many times as fast.
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
from clef_nb.model.training import TrainSettings

logging.disable(logging.WARNING)  # open_clip says that weights are random
HERE = Path(__file__).resolve().parent
TOWERS = {'residual': 'clef-tiny', 'ViT': 'small-vit'}
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
    images = np.random.default_rng(0).integers(0, 256, (n, 64, 64, 3), np.uint8)
    return images, FrameTable(df, '.', 'noise', texts)


def usual_steps(name, images, table, steps):
    "open_clip's own defaults from the model to the optimiser"
    model = open_clip.create_model(name).train()
    x = normalise(to_float(images))
    tokens = open_clip.tokenize([table.activities[a] for a in table.df['activity']])
    loss = ClipLoss()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def run():
        for _ in range(steps):
            optimiser.zero_grad()
            loss(*model(x, tokens)).backward()
            optimiser.step()

    return run


def our_steps(name, images, table, steps, image_pairs=True, **settings):
    "`pretrain`, without augmentation"
    model = load_model(name, None)
    settings = TrainSettings(steps, progress=False, **settings)

    def run():
        pretrain(
            model, images, table, image_pairs=image_pairs, settings=settings, augmentation=None
        )

    return run


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
    rows = []
    images, table = batch(n)
    texts = dict(image_pairs=False, batch_size=n)
    for tower, name in TOWERS.items():
        runs = {
            USUAL: usual_steps(name, images, table, steps),
            'clef_nb, images and texts': our_steps(name, images, table, steps, batch_size=n // 2),
            'clef_nb, texts': our_steps(name, images, table, steps, **texts),
            'clef_nb, texts, embedding frozen': our_steps(
                name, images, table, steps, freeze=('token_embedding',), **texts
            ),
        }
        times = alternate(runs, rounds)
        aimed = ('clef_nb, images and texts', 'clef_nb, texts')
        for method, t in times.items():
            target = TARGETS[tower] if method in aimed else None
            one = row(f'step, {tower}', method, USUAL, t, times[USUAL], steps, target=target)
            rows.append(one)
    return rows


def measure_texts(rounds, n, model):
    "The text tower: eight texts, trimmed, against a padded one for each image"
    _, table = batch(n)
    names = sorted(table.activities)
    own = torch.tensor([names.index(a) for a in table.df['activity']])
    padded = open_clip.tokenize([table.activities[a] for a in table.df['activity']])
    trimmed = tokenize(model, [table.activities[a] for a in names])
    weights = [
        w for k, w in model.named_parameters() if not k.startswith('visual') and k != 'logit_scale'
    ]
    slope = torch.randn(n, 128, generator=torch.Generator().manual_seed(0))
    embed = {
        USUAL: lambda: F.normalize(model.encode_text(padded), dim=-1),
        'clef_nb': lambda: F.normalize(encode_tokens(model, trimmed), dim=-1)[own],
    }
    runs = {k: lambda f=f: torch.autograd.grad(f(), weights, slope) for k, f in embed.items()}
    a, b = (f().detach() for f in embed.values())
    times = alternate(runs, rounds)
    rows = [row('text tower', k, USUAL, t, times[USUAL]) for k, t in times.items()]
    rows[-1] |= dict(
        target=TARGETS['text tower'], difference=(a - b).abs().max().item(), difference_target=1e-5
    )
    return rows


def measure_parts(rounds, n):
    "Text tower and optimiser"
    model = load_model('clef-tiny', None).train()
    rows = measure_texts(rounds, n, model)
    for w in model.parameters():
        w.grad = torch.randn(w.shape, generator=torch.Generator().manual_seed(0))
    runs = {
        name: torch.optim.AdamW(model.parameters(), lr=1e-5, **more).step
        for name, more in ((USUAL, {}), ('fused', dict(fused=True)))
    }
    times = alternate(runs, rounds)
    return rows + [row('AdamW', k, USUAL, t, times[USUAL]) for k, t in times.items()]


def one_step(n, micro_batch):
    """One step with `n` images, of which `micro_batch` are worked on at once; the gradients it
    leaves, and its CPU time
    """
    add_vit()
    # code is loaded before
    our_steps('small-vit', *batch(32), 1, batch_size=16, micro_batch=micro_batch and 8)()
    model = load_model('small-vit', None)
    images, table = batch(n // 2)
    settings = TrainSettings(1, n // 2, progress=False, micro_batch=micro_batch)

    def run():
        start = time.process_time()
        pretrain(model, images, table, settings=settings, augmentation=None)
        took = time.process_time() - start
        return {k: w.grad.numpy() for k, w in model.named_parameters()}, took

    return run


def measure_memory(n, micro_batch):
    found = {c: resident_peak(one_step, n, c) for c in (None, micro_batch)}
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
            method=f'micro_batch={micro_batch}',
            over=over,
            ratio=longer / seconds,
            cpu_ms=longer * 1e3,
            peak_mib=less,
            peak_share=less / whole,
            difference=most,
            difference_target=1e-5,
        ),
    ]


def main(rounds=3, n=128, steps=10, large=1024, micro_batch=64, out=HERE / 'results' / 'step.csv'):
    add_vit()
    rows = measure_steps(rounds, n, steps) + measure_parts(rounds, n)
    rows += measure_memory(large, micro_batch)
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
