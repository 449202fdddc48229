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
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tqdm.auto import tqdm

from clef_nb.faces import sequences as synthface
from clef_nb.model.augment import augment, to_float
from clef_nb.model.losses import image_text
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


def captioned(n, seed, folder, chunk=2000):
    """`synthface.captioned` in chunks, kept in a memory-mapped file: (uint8 [n, 64, 64, 3],
    captions)
    """
    images, captions = folder / f'images-{n}-{seed}.npy', folder / f'captions-{n}-{seed}.json'
    if not captions.exists():
        part, texts = images.with_suffix('.part'), []
        out = np.lib.format.open_memmap(part, 'w+', np.uint8, (n, 64, 64, 3))
        for i in tqdm(range(0, n, chunk), desc='rendering', unit='chunk'):
            k = min(chunk, n - i)
            out[i : i + k], t = synthface.captioned(
                k, seed=seed + i // chunk, size=64, per_subject=8
            )
            texts += t
        out.flush()
        del out
        os.replace(part, images)
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


def main(argv=None):
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument('--minutes', type=float, default=38, help='training time, without rendering')
    p.add_argument('--images', type=int, default=60_000, help='faces to render')
    p.add_argument('--batch', type=int, default=384)
    p.add_argument('--lr', type=float, default=1.5e-3)
    p.add_argument('--seed', type=int, default=1000, help='first seed of the faces')
    p.add_argument('--threads', type=int, default=os.cpu_count())
    p.add_argument(
        '--cache',
        type=Path,
        default=Path(tempfile.gettempdir()) / 'clef-pretrain',
        help='folder for the rendered faces',
    )
    p.add_argument('--out', type=Path, default=ASSET)
    a = p.parse_args(argv)
    torch.set_num_threads(a.threads)
    torch.manual_seed(0)
    a.cache.mkdir(parents=True, exist_ok=True)
    images, captions = captioned(a.images, a.seed, a.cache)
    held = captioned(3000, HELD_OUT, a.cache)

    texts, which = np.unique(captions, return_inverse=True)
    model = load_model('clef-tiny', pretrained=None)
    tokens = tokenize(model, texts.tolist())
    lengths = (tokens != 0).sum(1)
    used = torch.unique(torch.cat([tokens.flatten(), torch.arange(49406, 49408)])).tolist()
    print(
        f'{len(images):,} faces, {len(texts):,} different captions of up to {int(lengths.max())}'
        f' tokens, {len(used)} tokens in use'
    )
    decay = [w for k, w in model.named_parameters() if w.ndim > 1 and 'embedding' not in k]
    rest = [w for k, w in model.named_parameters() if w.ndim < 2 or 'embedding' in k]
    optimiser = torch.optim.AdamW(
        [dict(params=decay, weight_decay=0.05), dict(params=rest, weight_decay=0)],
        lr=a.lr,
        betas=(0.9, 0.98),
        fused=True,
    )
    generator, order = torch.Generator().manual_seed(0), np.random.default_rng(0)
    start = said = kept = time.time()
    step, seen, loss_mean, right = 0, 0, None, 0.0
    queue = np.zeros(0, dtype=int)
    model.train()
    while (done := (time.time() - start) / 60 / a.minutes) < 1:
        for g in optimiser.param_groups:
            g['lr'] = (
                a.lr * min(1, (step + 1) / 100) * (0.01 + 0.99 * (1 + math.cos(math.pi * done)) / 2)
            )
        if len(queue) < a.batch:
            queue = np.concatenate([queue, order.permutation(len(images))])
        rows, queue = np.sort(queue[: a.batch]), queue[a.batch :]
        x = augment(
            to_float(torch.from_numpy(images[rows])),
            generator,
            scale=(0.85, 1.0),
            rotate=5.0,
            flip=0.0,
            brightness=0.15,
            contrast=0.15,
            saturation=0.15,
            grey=0.0,
        )
        # one text each: the same caption twice is a positive, not a negative
        unique, labels = np.unique(which[rows], return_inverse=True)
        z = F.normalize(model.encode_image(model_input(model, x)), dim=-1)
        t = F.normalize(encode_texts(model, tokens[unique], lengths[unique]), dim=-1)
        labels = torch.from_numpy(labels)
        loss = image_text(z, t, labels, model.logit_scale.exp())
        if not torch.isfinite(loss):
            raise SystemExit(f'the loss is {loss.item()} at step {step}; try a lower --lr')
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
            hit = ((z @ t.T).argmax(1) == labels).float().mean().item()
        step += 1
        seen += len(rows)
        loss_mean = loss.item() if loss_mean is None else 0.98 * loss_mean + 0.02 * loss.item()
        right = hit if step == 1 else 0.98 * right + 0.02 * hit
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
            export_half(model, a.cache / 'checkpoint.safetensors', used)
            print(
                'held out:',
                {k: round(v, 3) for k, v in zero_shot(model, *held).items()},
                flush=True,
            )
    print(f'{step} steps, {seen:,} image passes, loss {loss_mean:.3f}')
    export_half(model, a.out, used)
    print(f'{a.out}: {a.out.stat().st_size / 1e6:.2f} MB')
    print(
        'held out, from the file:',
        {k: round(v, 3) for k, v in zero_shot(load_model('clef-tiny', a.out), *held).items()},
    )


if __name__ == '__main__':
    main()
