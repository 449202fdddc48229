"""Train clef-tiny as CLIP was (Radford et al. 2021), on rendered faces with everyday captions, and
write clef_nb/assets/clef-tiny.safetensors.

    python tools/pretrain_tiny.py --minutes 38

The faces belong to subjects that no twin of a data set uses. One core renders about 200 of them in
a second.
"""

import argparse
import json
import math
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tqdm.auto import tqdm

from clef_nb.datasets.files import write_atomically
from clef_nb.faces.captions import captioned_faces
from clef_nb.model.augment import Augmentation, to_float
from clef_nb.model.losses_fast import image_text
from clef_nb.model.towers import (
    embed_images,
    embed_texts,
    encode_tokens,
    export_half,
    load_model,
    model_input,
    tokenize,
)

ASSET = Path(__file__).resolve().parent.parent / 'clef_nb' / 'assets' / 'clef-tiny.safetensors'
HELD_OUT = 900_000  # seed of the faces that are looked at but never trained on
GENTLE = Augmentation(
    scale=(0.85, 1.0),
    rotate=5.0,
    flip=0.0,
    brightness=0.15,
    contrast=0.15,
    saturation=0.15,
    grayscale=0.0,
)
QUESTIONS = {  # question: words that a caption of the class contains, prompt
    'glasses': [('glasses', 'a photo of a person with glasses'), (None, 'a photo of a person')],
    'smiling': [
        ('smiling', 'a photo of a person, smiling'),
        ('frowning', 'a photo of a person, frowning'),
    ],
    'surprised': [
        ('looking surprised', 'a photo of a person, looking surprised'),
        ('looking angry', 'a photo of a person, looking angry'),
    ],
    'sex': [('woman', 'a photo of a woman'), (' man', 'a photo of a man')],
    'pose': [
        ('turned to the left', 'a photo of a person, turned to the left'),
        ('turned to the right', 'a photo of a person, turned to the right'),
    ],
}


def captioned(n, seed, folder, part=2000):
    """`captioned_faces` in parts, kept in a memory-mapped file: (uint8 [n, 64, 64, 3], captions)"""
    images, captions = folder / f'images-{n}-{seed}.npy', folder / f'captions-{n}-{seed}.json'
    if not captions.exists():
        texts = []
        with write_atomically(images) as file:
            out = np.lib.format.open_memmap(file, 'w+', np.uint8, (n, 64, 64, 3))
            for i in tqdm(range(0, n, part), desc='rendering', unit='part'):
                k = min(part, n - i)
                out[i : i + k], t = captioned_faces(k, seed + i // part, size=64, per_subject=8)
                texts += t
            out.flush()
            del out
        captions.write_text(json.dumps(texts))
    return np.load(images, mmap_mode='r'), json.loads(captions.read_text())


def encode_texts(model, tokens, lengths, groups=4):
    "`encode_tokens` in groups of similar length, so that short captions carry no padding"
    order = lengths.argsort()
    out = torch.cat(
        [
            encode_tokens(model, tokens[rows, : int(lengths[rows].max())])
            for rows in order.chunk(groups)
        ]
    )
    return out[order.argsort()]


def zero_shot(model, images, captions):
    """Share of held-out faces whose caption is found among the prompts of each question (mean over
    the classes; 0.5 by chance)
    """
    z, out = torch.from_numpy(embed_images(model, images)), {}
    for q, classes in QUESTIONS.items():
        near = (z @ embed_texts(model, [p for _, p in classes]).T).argmax(1).numpy()
        is_in = [np.array([w in c for c in captions]) if w else None for w, _ in classes]
        if is_in[1] is None:
            is_in[1] = ~is_in[0]
        if q == 'sex':
            is_in[1] &= ~is_in[0]
        hits = [(near[m & ~is_in[1 - i]] == i).mean() for i, m in enumerate(is_in)]
        out[q] = float(np.mean(hits))
    return out


@dataclass
class Captions:
    "The different captions of the training images, as tokens"

    which: np.ndarray  # [n], the caption of each image
    tokens: torch.Tensor  # [K, L]
    lengths: torch.Tensor  # [K]

    @classmethod
    def read(cls, model, captions):
        texts, which = np.unique(captions, return_inverse=True)
        tokens = tokenize(model, texts.tolist())
        return cls(which, tokens, (tokens != 0).sum(1))

    @property
    def used(self):
        "Ids of the tokens in use, with the two markers"
        markers = torch.arange(49406, 49408)
        return torch.unique(torch.cat([self.tokens.flatten(), markers])).tolist()


def make_optimiser(model, lr):
    decay = [w for k, w in model.named_parameters() if w.ndim > 1 and 'embedding' not in k]
    rest = [w for k, w in model.named_parameters() if w.ndim < 2 or 'embedding' in k]
    groups = [dict(params=decay, weight_decay=0.05), dict(params=rest, weight_decay=0)]
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98), fused=True)


def batches(n, size):
    "Sorted rows of batches, epoch after epoch, without end"
    order, queue = np.random.default_rng(0), np.zeros(0, dtype=int)
    while True:
        if len(queue) < size:
            queue = np.concatenate([queue, order.permutation(n)])
        yield np.sort(queue[:size])
        queue = queue[size:]


def rate(step, done):
    "Share of the highest learning rate; `done` is the share of the time that has passed"
    return min(1, (step + 1) / 100) * (0.01 + 0.99 * (1 + math.cos(math.pi * done)) / 2)


def train_step(model, optimiser, images, captions, rows, generator):
    "(loss, share of the images whose caption is the nearest)"
    x = to_float(torch.from_numpy(images[rows]))
    x = GENTLE(x, GENTLE.sample(len(x), generator))
    # one text each: the same caption twice is a positive, not a negative
    unique, labels = np.unique(captions.which[rows], return_inverse=True)
    z = F.normalize(model.encode_image(model_input(model, x)), dim=-1)
    t = encode_texts(model, captions.tokens[unique], captions.lengths[unique])
    t = F.normalize(t, dim=-1)
    labels = torch.from_numpy(labels)
    loss = image_text(z, t, labels, model.logit_scale.exp())
    if torch.isfinite(loss):
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
    hit = ((z @ t.T).argmax(1) == labels).float().mean()
    return loss.item(), hit.item()


def smooth(mean, value):
    return value if mean is None else 0.98 * mean + 0.02 * value


def show_held_out(model, held, where='held out:'):
    print(where, {k: round(v, 3) for k, v in zero_shot(model, *held).items()}, flush=True)


def train(model, images, captions, held, args):
    "Train for `args.minutes`"
    optimiser = make_optimiser(model, args.lr)
    generator = torch.Generator().manual_seed(0)
    rows_of = batches(len(images), args.batch)
    loss_mean = right = None
    step = seen = 0
    start = said = kept = time.time()
    model.train()
    while (done := (time.time() - start) / 60 / args.minutes) < 1:
        for group in optimiser.param_groups:
            group['lr'] = args.lr * rate(step, done)
        rows = next(rows_of)
        loss, hit = train_step(model, optimiser, images, captions, rows, generator)
        if not math.isfinite(loss):
            raise SystemExit(f'the loss is {loss} at step {step}; try a lower --lr')
        step += 1
        seen += len(rows)
        loss_mean, right = smooth(loss_mean, loss), smooth(right, hit)
        if time.time() - said > 30:
            said = time.time()
            print(
                f'{(said - start) / 60:5.1f} min, step {step}, epoch {seen / len(images):.2f},'
                f' {seen / (said - start):.0f} img/s, loss {loss_mean:.3f}, caption found'
                f' {right:.3f}, scale {model.logit_scale.exp().item():.1f}',
                flush=True,
            )
        if time.time() - kept > 300:
            kept = time.time()
            export_half(model, args.cache / 'checkpoint.safetensors', captions.used)
            show_held_out(model, held)
    print(f'{step} steps, {seen:,} image passes, loss {loss_mean:.3f}')


def options(argv=None):
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument('--minutes', type=float, default=38, help='training time, without rendering')
    p.add_argument('--images', type=int, default=60_000, help='faces to render')
    p.add_argument('--batch', type=int, default=384)
    p.add_argument('--lr', type=float, default=1.5e-3)
    p.add_argument('--seed', type=int, default=1000, help='first seed of the faces')
    p.add_argument('--threads', type=int, default=os.cpu_count())
    cache = Path(tempfile.gettempdir()) / 'clef-pretrain'
    p.add_argument('--cache', type=Path, default=cache, help='folder for the rendered faces')
    p.add_argument('--out', type=Path, default=ASSET)
    return p.parse_args(argv)


def main(argv=None):
    args = options(argv)
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    images, captions = captioned(args.images, args.seed, args.cache)
    held = captioned(3000, HELD_OUT, args.cache)
    model = load_model('clef-tiny', pretrained=None)
    captions = Captions.read(model, captions)
    print(
        f'{len(images):,} faces, {len(captions.tokens):,} different captions of up to'
        f' {int(captions.lengths.max())} tokens, {len(captions.used)} tokens in use'
    )
    train(model, images, captions, held, args)
    export_half(model, args.out, captions.used)
    print(f'{args.out}: {args.out.stat().st_size / 1e6:.2f} MB')
    show_held_out(load_model('clef-tiny', args.out), held, 'held out, from the file:')


if __name__ == '__main__':
    main()
