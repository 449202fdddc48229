"""How fast images reach the encoders (towers): a batch from the cache beside Pillow's decoding,
augmentation beside torchvision's transforms and kornia, decoding once beside a loop over Pillow,
and what reading ahead saves.

    python benchmarks/data.py [--rounds 5] [--quick]

fetch: 256 images of 64 px, from the cache (its pages are in memory) and decoded by Pillow from
JPEG files of that size, both to uint8 and to floats. augmentation: the same batch, from uint8 to
float. torchvision's transforms v1, one image at a time, are the usual RandomResizedCrop,
RandomRotation (both bilinear, as ours), RandomHorizontalFlip, ColorJitter with hue and
RandomGrayscale, on PIL images and on uint8 tensors; `over` is the faster of the two. kornia does
the batch at once, with random parameters for each image. decoding: frames of BP4D's size (1040 x
1392, made up) to 64 and 224 px, central square. `difference` is the mean over pixels of the
absolute difference to Pillow, of 255, and `most` the largest. 'reduced' lets libjpeg shrink by 2, 4
or 8 while it decodes, to at least twice the size wanted; clef_nb does not do it, because of what it
changes. waiting: share of a loop spent waiting for images, where a batch is decoded by Pillow from
JPEG files and clef-tiny's image tower takes a forward and a backward pass; the first batch, for
which one always waits, is counted. Wall time, so it depends on the number of cores and on what else
runs. `ratio` is CPU time as a multiple of `over`'s, medians of alternated rounds, one thread: below
1 is faster, 1/ratio is how many times as fast.
"""

import argparse
import itertools
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from machine import about, alternate, one_thread, peer, save, show

one_thread()
import numpy as np
import pandas as pd
import torch

torch.set_num_threads(1)
from PIL import Image
from torchvision import transforms as T

from clef_nb.datasets.cache import fetch, frame_cache, prefetch
from clef_nb.datasets.frames import FrameTable
from clef_nb.faces.people import sample_subject
from clef_nb.faces.render import render, sample_shot
from clef_nb.model.augment import augment, to_float
from clef_nb.model.towers import load_model

HERE = Path(__file__).resolve().parent
TARGETS = {'fetch': 1 / 20, 'augmentation': 1 / 3}
PILLOW = 'Pillow'


def faces(n, size, seed=0):
    "`n` faces with the noise of a camera"
    rng = np.random.default_rng(seed)
    for i in range(n):
        x = render(
            sample_subject(rng, f'F{i:03}', 0.5),
            {12: rng.uniform(0, 5)},
            sample_shot(rng, 0.5),
            size,
        )
        yield (x + rng.normal(0, 3, x.shape)).clip(0, 255).astype(np.uint8)


def written(root, images, n):
    "A table of `n` JPEG files, which show the images in turn"
    root.mkdir()
    for x, i in zip(itertools.cycle(images), range(n)):
        Image.fromarray(x).save(root / f'{i}.jpg', quality=90)
    return FrameTable(pd.DataFrame(dict(path=[f'{i}.jpg' for i in range(n)])), root)


def row(part, method, over, time, base, target=None):
    return dict(
        part=part,
        method=method,
        over=over,
        ratio=time[0] / base[0],
        target=target,
        cpu_ms=time[0] * 1e3,
        wall_ms=time[1] * 1e3,
    )


def rows(part, methods, over, rounds, own=None):
    times = alternate(methods, rounds)
    return [
        row(part, m, over, t, times[over], TARGETS.get(part) if m == own else None)
        for m, t in times.items()
    ]


def pillow_batch(paths):
    return np.stack([np.array(Image.open(p).convert('RGB')) for p in paths])


def measure_fetch(rounds, table, images, n):
    paths = table.image_paths()
    at = np.sort(np.random.default_rng(0).choice(len(table), n, replace=False))
    assert np.abs(pillow_batch(paths[:8]).astype(int) - images[:8]).max() <= 2
    bytes_ = rows(
        'fetch',
        {
            PILLOW: lambda: torch.from_numpy(pillow_batch([paths[i] for i in at])),
            'clef_nb': lambda: fetch(images, at),
        },
        PILLOW,
        rounds,
        'clef_nb',
    )
    return bytes_ + rows(
        'fetch, as floats',
        {
            PILLOW: lambda: to_float(pillow_batch([paths[i] for i in at])),
            'clef_nb': lambda: to_float(fetch(images, at)),
        },
        PILLOW,
        rounds,
    )


def torchvision_methods(x):
    "The usual transforms v1, on each image alone"
    bilinear = T.InterpolationMode.BILINEAR
    size = x.shape[1]
    usual = [
        T.RandomResizedCrop(size, scale=(0.49, 1.0), ratio=(1.0, 1.0), interpolation=bilinear),
        T.RandomRotation(12, interpolation=bilinear),
        T.RandomHorizontalFlip(),
        T.ColorJitter(0.3, 0.3, 0.3, 0.03),
        T.RandomGrayscale(0.1),
    ]
    on_pil = T.Compose([*usual, T.ToTensor()])
    on_tensors = T.Compose([*usual, T.ConvertImageDtype(torch.float32)])
    pil = [Image.fromarray(v) for v in x.numpy()]
    tensors = x.permute(0, 3, 1, 2).contiguous()
    return {
        'torchvision, PIL images': lambda: torch.stack([on_pil(v) for v in pil]),
        'torchvision, tensors': lambda: torch.stack([on_tensors(v) for v in tensors]),
    }


def kornia_method(x):
    "The same transforms on the batch at once"
    import kornia.augmentation as K

    size = x.shape[1]
    batched = K.AugmentationSequential(
        K.RandomResizedCrop((size, size), scale=(0.49, 1.0), ratio=(1.0, 1.0)),
        K.RandomRotation(12.0, p=1.0),
        K.RandomHorizontalFlip(),
        K.ColorJitter(0.3, 0.3, 0.3, 0.03, p=1.0),
        K.RandomGrayscale(p=0.1),
        same_on_batch=False,
    )
    return lambda: batched(to_float(x))


def measure_augmentation(rounds, images, n):
    x = fetch(images, np.arange(n))
    others = torchvision_methods(x)
    methods = others | {'clef_nb': lambda: augment(to_float(x))}
    if peer('kornia'):
        methods['kornia'] = kornia_method(x)
    times = alternate(methods, rounds)
    over = min(others, key=lambda m: times[m])
    part = 'augmentation'
    return [
        row(part, m, over, t, times[over], TARGETS[part] if m == 'clef_nb' else None)
        for m, t in times.items()
    ]


def pillow_frame(path, size, reduced=False):
    "The central square of a JPEG file, shrunk"
    with Image.open(path) as im:
        if reduced:
            least = 2 * size
            im.draft('RGB', [side * least // min(im.size) for side in im.size])
        im = im.convert('RGB')
        s = min(im.size)
        left, top = (im.width - s) // 2, (im.height - s) // 2
        return np.asarray(
            im.resize((size, size), Image.BILINEAR, box=(left, top, left + s, top + s))
        )


def measure_decoding(rounds, table, size, folder):
    paths, part = table.image_paths(), f'decoding to {size} px'

    def cache():
        shutil.rmtree(folder, ignore_errors=True)
        return frame_cache(table, size, 'centre', folder, progress=False)

    methods = {
        PILLOW: lambda: np.stack([pillow_frame(p, size) for p in paths]),
        'Pillow, reduced': lambda: np.stack([pillow_frame(p, size, True) for p in paths]),
        'clef_nb': cache,
    }
    found = rows(part, methods, PILLOW, rounds)
    whole = methods[PILLOW]().astype(int)
    for r in found:
        apart = np.abs(methods[r['method']]() - whole)
        r |= dict(
            difference=apart.mean(), most=apart.max(), images_per_s=len(paths) / r['cpu_ms'] * 1e3
        )
    return found


def one_by_one(items, load):
    "As `prefetch`, without a thread"
    for item in items:
        start = time.perf_counter()
        loaded = load(item)
        yield item, loaded, time.perf_counter() - start


def measure_waiting(rounds, table, n, steps):
    paths, model = table.image_paths(), load_model('clef-tiny', None).train()
    todo = [np.random.default_rng(i).choice(len(table), n, replace=False) for i in range(steps)]

    def load(at):
        return torch.from_numpy(pillow_batch([paths[i] for i in at]))

    loops = {'one by one': one_by_one, 'prefetch': prefetch}
    share, took = ({k: [] for k in loops} for _ in range(2))
    for _ in range(rounds):
        for name, loop in loops.items():
            waited, start = 0, time.perf_counter()
            for _, x, w in loop(todo, load):
                waited += w
                model.encode_image(to_float(x)).square().sum().backward()
            took[name].append((time.perf_counter() - start) / steps)
            share[name].append(waited / steps / took[name][-1])
    return [
        dict(
            part='waiting',
            method=k,
            over='one by one',
            waited=statistics.median(share[k]),
            wall_ms=statistics.median(took[k]) * 1e3,
        )
        for k in loops
    ]


COLUMNS = [
    'part',
    'method',
    'over',
    'ratio',
    'target',
    'images_per_s',
    'difference',
    'most',
    'waited',
    'cpu_ms',
    'wall_ms',
]


def measure_all(root, rounds, n, frames, steps):
    "All parts, with files in `root`"
    small = written(root / 'small', list(faces(min(n, 32), 64)), 2 * n)
    images = frame_cache(small, 64, folder=root / 'cache', progress=False)
    found = measure_fetch(rounds, small, images, n) + measure_augmentation(rounds, images, n)
    wide = [
        np.pad(x, ((176, 176), (0, 0), (0, 0)), mode='reflect') for x in faces(min(frames, 4), 1040)
    ]
    large = written(root / 'large', wide, frames)
    for size in (64, 224):
        found += measure_decoding(rounds, large, size, root / 'decoded')
    return found + measure_waiting(rounds, small, n, steps)


def main(rounds=5, n=256, frames=64, steps=10, out=HERE / 'results' / 'data.csv'):
    with tempfile.TemporaryDirectory() as folder:
        found = measure_all(Path(folder), rounds, n, frames, steps)
    table = pd.DataFrame(found).reindex(columns=COLUMNS)
    show(table.drop(columns=['over']))
    facts = about(
        'torch', 'torchvision', 'pillow', 'kornia', 'numpy', rounds=rounds, images=n, frames=frames
    )
    if out:
        save(table.assign(**facts), out)
    print('\n' + ', '.join(f'{k} {v}' for k, v in facts.items()))


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--quick', action='store_true', help='few images, one round, nothing saved')
    args = parser.parse_args()
    if args.quick:
        main(1, 32, 4, 3, None)
    else:
        main(args.rounds)
