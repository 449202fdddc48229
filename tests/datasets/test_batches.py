"""Faults of the cache (truncated images, full disks, several writers at once), the thread that
reads ahead, and the promises of augmentation and samplers, on tables made up at random
"""

import errno
import gc
import json
import os
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from clef_nb.datasets import cache as batches
from clef_nb.datasets.cache import fetch, frame_cache, prefetch
from clef_nb.datasets.frames import FrameTable
from clef_nb.datasets.sampling import ActivityBatches, ShuffledBatches
from clef_nb.model.augment import augment, sample_augmentation, to_float

pytestmark = pytest.mark.filterwarnings('ignore:The image decoding and encoding:DeprecationWarning')


def made(counts):
    "A table without images: counts[activity][subject] frames"
    rows = [
        dict(path=f'{s}/{a}/{i}.jpg', subject=s, activity=a, frame=i)
        for a, c in counts.items()
        for s, n in c.items()
        for i in range(n)
    ]
    return FrameTable(pd.DataFrame(rows), 'nowhere')


@pytest.fixture
def table(tmp_path):
    "Twelve small pictures on disk"
    rng, rows = np.random.default_rng(0), []
    (tmp_path / 'data').mkdir(exist_ok=True)
    for i in range(12):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).resize((40, 40)).save(
            tmp_path / 'data' / f'{i}.jpg'
        )
        rows.append(dict(path=f'{i}.jpg', subject=f's{i % 3}', activity=f'T{i % 2}', frame=i))
    return FrameTable(pd.DataFrame(rows), tmp_path / 'data')


@pytest.fixture
def folder(tmp_path):
    return tmp_path / 'cache'


def left(folder):
    return sorted(p.name for p in folder.iterdir()) if folder.exists() else []


# ---- the cache


def test_written_once(table, folder, monkeypatch):
    x = frame_cache(table, 16, folder=folder)
    assert (
        isinstance(x, np.memmap)
        and not x.flags.writeable
        and x.shape == (12, 16, 16, 3)
        and x.dtype == np.uint8
    )
    assert [Path(n).suffix for n in left(folder)] == ['.json', '.npy']
    about = json.loads(next(folder.glob('*.json')).read_text())
    assert (
        about['frames'] == 12 and about['size'] == 16 and about['root'] == str(table.root.resolve())
    )
    monkeypatch.setattr(batches, '_decode', None)  # nothing is decoded a second time
    assert (frame_cache(table, 16, folder=folder) == x).all()


def test_default_folder(table, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'data').rename(tmp_path / 'pictures')
    table.root = tmp_path / 'pictures'
    frame_cache(table, 8)
    assert len(left(tmp_path / 'data' / 'cache')) == 2


def test_rows_stand_in_the_order_of_the_table(table, folder):
    x = frame_cache(table, 16, folder=folder)
    order = np.random.default_rng(1).permutation(12)
    assert (frame_cache(table.subset(order), 16, folder=folder) == x[order]).all()


def test_changed_image_is_decoded_anew(table, folder):
    x = np.array(frame_cache(table, 16, folder=folder))
    p = table.image_paths()[3]
    Image.new('RGB', (40, 40), 'white').save(p)
    y = frame_cache(table, 16, folder=folder)
    assert y[3].min() > 250 and (np.delete(y, 3, 0) == np.delete(x, 3, 0)).all()


def test_same_length_changed_time_is_decoded_anew(table, folder):
    frame_cache(table, 16, folder=folder)
    p = table.image_paths()[3]
    s = p.stat()
    os.utime(p, ns=(s.st_atime_ns, s.st_mtime_ns + 1))
    frame_cache(table, 16, folder=folder)
    assert len(left(folder)) == 4


def test_same_time_changed_length_is_decoded_anew(table, folder):
    frame_cache(table, 16, folder=folder)
    p = table.image_paths()[3]
    s = p.stat()
    p.write_bytes(p.read_bytes() + b'more')
    os.utime(p, ns=(s.st_atime_ns, s.st_mtime_ns))
    frame_cache(table, 16, folder=folder)
    assert len(left(folder)) == 4


def test_crops_and_sizes_have_caches_of_their_own(table, folder):
    boxes = np.tile([0.1, 0.1, 0.9, 0.9], (12, 1))
    other = boxes.copy()
    other[11, 2] = 0.8
    for size, crop in (
        (16, None),
        (17, None),
        (16, 'centre'),
        (16, (0.1, 0.1, 0.9, 0.9)),
        (16, other),
    ):
        frame_cache(table, size, crop, folder)
    assert len(left(folder)) == 10
    frame_cache(table, 16, boxes, folder)  # one box for all, and the same box for each
    assert len(left(folder)) == 10


def test_each_row_has_its_own_box(table, folder):
    boxes = np.stack(
        [
            np.linspace(0, 0.4, 12),
            np.linspace(0.4, 0, 12),
            np.linspace(0.6, 1, 12),
            np.linspace(1, 0.6, 12),
        ],
        1,
    )
    x = frame_cache(table, 16, boxes, folder)
    for i, p in enumerate(table.image_paths()):
        assert (x[i] == batches._decode(p, 16, boxes[i])).all()


def test_damaged_cache_is_made_anew(table, folder):
    x = np.array(frame_cache(table, 16, folder=folder))
    file = next(folder.glob('*.npy'))
    whole = file.read_bytes()
    for damage in (
        whole[:1000],
        b'',
        b'no array',
        whole[:60],
        np.zeros((3, 16, 16, 3), dtype=np.uint8),
        np.zeros((12, 16, 16, 3)),
    ):
        file.write_bytes(damage) if isinstance(damage, bytes) else np.save(file, damage)
        assert (frame_cache(table, 16, folder=folder) == x).all()


@pytest.mark.parametrize('keep', [0, 2, 200, -2])
def test_truncated_jpeg_is_named_and_nothing_left(table, folder, keep):
    p = table.image_paths()[7]
    p.write_bytes(p.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r'7\.jpg cannot be decoded .*original file') as e:
        frame_cache(table, 16, folder=folder)
    assert str(p) in str(e.value) and left(folder) == []


@pytest.mark.parametrize(
    'content', [b'<html>not found</html>', b'\x89PNG\r\n\x1a\nnonsense', b'BM', b'P5 3 3 255\n12']
)
def test_no_image_is_named(table, folder, content):
    table.image_paths()[0].write_bytes(content)
    with pytest.raises(ValueError, match=r'0\.jpg cannot be decoded'):
        frame_cache(table, 16, folder=folder)
    assert left(folder) == []


def test_missing_image_is_named_before_anything_is_written(table, folder):
    table.image_paths()[5].unlink()
    with pytest.raises(FileNotFoundError, match=r'row 5: .*5\.jpg does not exist'):
        frame_cache(table, 16, folder=folder)
    assert not folder.exists()


class Full:
    "A file on a disk that is full after `room` bytes"

    def __init__(self, f, room):
        self.f, self.room = f, room

    def write(self, b):
        self.room -= len(b)
        if self.room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self.f.write(b)

    def __getattr__(self, name):
        return getattr(self.f, name)

    def __enter__(self):
        return self

    def __exit__(self, *a):
        self.f.close()


@pytest.mark.parametrize('room', [0, 100, 300, 12 * 16 * 16 * 3 + 127])
def test_disk_full(table, folder, monkeypatch, room):
    monkeypatch.setattr(batches, 'open', lambda p, mode: Full(open(p, mode), room), raising=False)
    monkeypatch.setattr(batches.os, 'cpu_count', lambda: 1)
    with pytest.raises(OSError, match='is full: the cache of 12 frames needs .* MB') as e:
        frame_cache(table, 16, folder=folder)
    assert e.value.errno == errno.ENOSPC and left(folder) == []


def test_disk_full_at_the_last_moment(table, folder, monkeypatch):
    """Some file systems report a full disk only when the bytes leave for the disk, or when the
    second file is written
    """

    def fail(*a):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as m:
        m.setattr(batches.os, 'fsync', fail)
        with pytest.raises(OSError, match='is full'):
            frame_cache(table, 16, folder=folder)
        assert left(folder) == []
    with monkeypatch.context() as m:
        m.setattr(
            batches,
            'open',
            lambda p, mode: Full(open(p, mode), 10) if mode == 'w' else open(p, mode),
            raising=False,
        )
        with pytest.raises(OSError, match='is full'):
            frame_cache(table, 16, folder=folder)
        assert left(folder) == []
    frame_cache(table, 16, folder=folder)


def test_the_kernel_refuses_to_write(table, folder):
    resource = pytest.importorskip('resource')
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limits[1]))
    try:
        with pytest.raises(OSError, match='is full') as e:
            frame_cache(table, 16, folder=folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert e.value.errno == errno.EFBIG and left(folder) == []


def test_several_at_once(table, folder):
    "Whoever comes first: each gets the whole cache, and one file is left"
    with ThreadPoolExecutor(4) as pool:
        caches = list(pool.map(lambda _: np.array(frame_cache(table, 16, folder=folder)), range(4)))
    assert all((c == caches[0]).all() for c in caches) and len(left(folder)) == 2
    assert (caches[0] == frame_cache(table, 16, folder=folder)).all()


# ---- pictures in arrays


def pointing(folder, *names):
    return FrameTable(pd.DataFrame({'path': names}), folder)


@pytest.fixture(params=[(), (3,)], ids=['grey', 'colour'])
def array(tmp_path, request):
    "Nine pictures in one file, deeper in the folder"
    x = (
        np.random.default_rng(0)
        .integers(0, 256, (9, 16, 16, *request.param), dtype=np.uint8)
        .repeat(2, 1)
        .repeat(2, 2)
    )
    (tmp_path / 'data' / 'deep').mkdir(parents=True, exist_ok=True)
    np.save(tmp_path / 'data' / 'deep' / 'a.npy', x)
    return x if x.ndim == 4 else x[..., None].repeat(3, 3)


def test_rows_of_an_array(array, tmp_path, folder):
    order = [8, 0, 3]
    t = pointing(tmp_path / 'data', *(f'deep/a.npy#{i}' for i in order))
    assert (frame_cache(t, 32, folder=folder) == array[order]).all()
    # as the same pictures in files of their own
    for size, crop in (
        (16, None),
        (20, 'centre'),
        (20, (0.1, 0.5, 0.4, 1.0)),
        (20, [[0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1], [0, 0.2, 0.7, 1]]),
    ):
        for i in order:
            Image.fromarray(array[i]).save(tmp_path / 'data' / f'{i}.png')
        x, y = (
            frame_cache(u, size, crop, folder).astype(int)
            for u in (t, pointing(tmp_path / 'data', *(f'{i}.png' for i in order)))
        )
        assert np.abs(x - y).max() <= 1


def test_array_beside_files_and_arrays(array, table, folder):
    np.save(table.root / 'b.npy', array[::-1, :, :, 0])
    before = frame_cache(table, 32, folder=folder)
    x = frame_cache(
        pointing(table.root, 'deep/a.npy#2', '5.jpg', 'b.npy#2', 'deep/a.npy#8'), 32, folder=folder
    )
    assert (
        (x[0] == array[2]).all()
        and (x[1] == before[5]).all()
        and (x[2] == array[6][..., :1]).all()
        and (x[3] == array[8]).all()
    )


def test_many_rows_keep_their_order(tmp_path, folder, monkeypatch):
    "More than one block, and an array is opened once"
    x = np.arange(700, dtype=np.uint32).astype(np.uint8)[:, None, None].repeat(4, 1).repeat(4, 2)
    x[:, 0, 0] = np.arange(700) // 256
    np.save(tmp_path / 'a.npy', x)
    order = np.random.default_rng(0).permutation(700)
    opened, load = [], np.load
    monkeypatch.setattr(
        batches.np, 'load', lambda p, **kw: (opened.append(Path(p).name), load(p, **kw))[1]
    )
    c = frame_cache(pointing(tmp_path, *(f'a.npy#{i}' for i in order)), 4, folder=folder)
    assert (c[..., 0] == x[order]).all() and opened.count('a.npy') == 1


def test_changed_array_is_decoded_anew(array, tmp_path, folder):
    p, t = tmp_path / 'data' / 'deep' / 'a.npy', pointing(tmp_path / 'data', 'deep/a.npy#1')
    frame_cache(t, 32, folder=folder)
    s = p.stat()
    np.save(p, 255 - array)
    assert (frame_cache(t, 32, folder=folder)[0] == 255 - array[1]).all()
    n = len(left(folder))
    os.utime(p, ns=(s.st_atime_ns, s.st_mtime_ns + 7))
    frame_cache(t, 32, folder=folder)
    assert len(left(folder)) == n + 2


def test_a_hash_in_the_name_of_a_picture(tmp_path, folder):
    for name in 'a#1.png', 'b.npy#1.png':
        Image.new('RGB', (8, 8), 'white').save(tmp_path / name)
    assert frame_cache(pointing(tmp_path, 'a#1.png'), 8, folder=folder).min() == 255


ARRAYS = {
    'a.npy#9': 'row 1: .*a.npy#9: there is no picture .9.; the file holds 9, counted from 0',
    'a.npy#-1': 'no picture .-1.',
    'a.npy#': 'no picture ..;',
    'a.npy#x': 'no picture .x.',
    'a.npy#1.0': 'no picture .1.0.',
    'a.npy#²': 'no picture',
    'a.npy': 'row 1: .*a.npy is an array of pictures; say which one, for example a.npy#0',
    'float.npy#0': r'row 1: .*float.npy holds float64 \[2, 8, 8\]; pictures are uint8',
    'flat.npy#0': r'uint8 \[8, 8\]',
    'four.npy#0': r'uint8 \[2, 8, 8, 4\]',
    'text.npy#0': 'row 1: .*text.npy is no whole array file',
    'empty.npy#0': 'empty.npy is no whole array file',
    'cut.npy#0': 'cut.npy is no whole array file',
    'several.npy#0': 'several.npy holds several arrays',
    'objects.npy#0': 'objects.npy is no whole array file',
}


@pytest.mark.parametrize('name', ARRAYS)
def test_faults_of_arrays(tmp_path, folder, name):
    np.save(tmp_path / 'a.npy', np.zeros((9, 8, 8), np.uint8))
    np.save(tmp_path / 'float.npy', np.zeros((2, 8, 8)))
    np.save(tmp_path / 'flat.npy', np.zeros((8, 8), np.uint8))
    np.save(tmp_path / 'four.npy', np.zeros((2, 8, 8, 4), np.uint8))
    np.save(tmp_path / 'objects.npy', np.array([None, {}]), allow_pickle=True)
    np.savez(tmp_path / 'several', np.zeros((2, 8, 8), np.uint8))
    (tmp_path / 'several.npz').rename(tmp_path / 'several.npy')
    (tmp_path / 'text.npy').write_text('no array')
    (tmp_path / 'empty.npy').touch()
    (tmp_path / 'cut.npy').write_bytes((tmp_path / 'a.npy').read_bytes()[:300])
    with pytest.raises(ValueError, match=ARRAYS[name]):
        frame_cache(pointing(tmp_path, 'a.npy#0', name), 8, folder=folder)
    assert not folder.exists()


def test_absent_array(tmp_path, folder):
    with pytest.raises(FileNotFoundError, match=r'row 0: .*a\.npy does not exist'):
        frame_cache(pointing(tmp_path, 'a.npy#0'), 8, folder=folder)
    np.save(tmp_path / 'a.npy', np.zeros((2, 8, 12), np.uint8))
    with pytest.raises(ValueError, match=r'a\.npy#0 is 12 x 8 pixels, which is not square'):
        frame_cache(pointing(tmp_path, 'a.npy#0', 'a.npy#1'), 8, folder=folder)
    assert left(folder) == []


# ---- pictures of all kinds


def picture(path, x, mode='RGB', **kw):
    Image.fromarray(x).convert(mode).save(path, **kw)
    return path


@pytest.mark.parametrize(
    'name, mode',
    [
        ('a.png', 'RGB'),
        ('a.png', 'RGBA'),
        ('a.png', 'L'),
        ('a.png', 'P'),
        ('a.bmp', 'RGB'),
        ('a.pgm', 'L'),
        ('a.tif', 'RGB'),
        ('a.jpg', 'RGB'),
        ('a.jpg', 'L'),
        ('a.webp', 'RGB'),
    ],
)
def test_formats(tmp_path, name, mode):
    x = (
        np.random.default_rng(0)
        .integers(0, 256, (8, 8, 3), dtype=np.uint8)
        .repeat(4, 0)
        .repeat(4, 1)
    )
    p = picture(tmp_path / name, x, mode)
    assert (
        np.abs(
            batches._decode(p, 32, None).astype(int) - np.array(Image.open(p).convert('RGB'))
        ).max()
        <= 2
    )


@pytest.mark.parametrize('keep', [0, 2, 300, 700])
def test_without_torchvision(table, folder, monkeypatch, keep):
    x = np.array(frame_cache(table, 16, folder=folder / 'a'))
    monkeypatch.setattr(batches, 'decode_image', None)
    assert np.abs(frame_cache(table, 16, folder=folder / 'b').astype(int) - x).max() <= 2
    p = table.image_paths()[7]
    p.write_bytes(p.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r'7\.jpg cannot be decoded'):
        frame_cache(table, 16, folder=folder / 'b')


def test_sixteen_bits(tmp_path):
    x = np.linspace(0, 65535, 1024).astype(np.uint16).reshape(32, 32)
    Image.fromarray(x).save(tmp_path / 'a.png')
    assert (
        np.abs(batches._decode(tmp_path / 'a.png', 32, None)[..., 0].astype(int) - x / 257).max()
        <= 1
    )


def test_boxes(tmp_path):
    x = np.arange(100 * 60 * 3, dtype=np.uint32).reshape(60, 100, 3).astype(np.uint8)
    p = picture(tmp_path / 'a.png', x)
    assert (batches._decode(p, 60, 'centre') == x[:, 20:80]).all()
    assert (batches._decode(p, 30, (0.1, 0.5, 0.4, 1.0)) == x[30:, 10:40]).all()
    for box in (0.999, 0.999, 1, 1), (0, 0, 0.001, 0.001), (0.0, 0.0, 1.0, 1.0):
        assert batches._decode(p, 8, box).shape == (8, 8, 3)
    with pytest.raises(ValueError, match='100 x 60 pixels, which is not square'):
        batches._decode(p, 8, None)


@pytest.mark.parametrize(
    'crop',
    [
        'center',
        3,
        (0, 0, 1),
        (0, 0, 1, 1.1),
        (-0.1, 0, 1, 1),
        (0.5, 0, 0.5, 1),
        (0, np.nan, 1, 1),
        [[0, 0, 1, 1]] * 11,
        [[0, 0, 1], [1]],
    ],
)
def test_impossible_crops(table, folder, crop):
    with pytest.raises(ValueError, match='crop is|is impossible'):
        frame_cache(table, 16, crop, folder)
    assert not folder.exists()


def test_to_float_of_read_only_maps(table, folder, recwarn):
    x = frame_cache(table, 16, folder=folder)
    recwarn.clear()
    for part in x[2:5], x[[2, 3, 4]]:
        assert torch.allclose(
            to_float(part), torch.from_numpy(np.array(x[2:5])).permute(0, 3, 1, 2) / 255, atol=1e-7
        )
    assert len(recwarn) == 0


# ---- fetching


@pytest.mark.parametrize('rows', [[], [3], [2, 2, 9, 0], np.array([11, 0], np.uint8), range(12)])
def test_fetch(table, folder, rows, recwarn):
    images = frame_cache(table, 16, folder=folder)
    recwarn.clear()
    x = fetch(images, rows)
    assert (
        x.dtype == torch.uint8
        and x.is_contiguous()
        and x.shape == (len(rows), 16, 16, 3)
        and len(recwarn) == 0
    )
    assert (x.numpy() == np.array([images[i] for i in rows], np.uint8).reshape(x.shape)).all()
    # memory of its own
    before = np.array(images)
    x.fill_(7)
    assert (images == before).all()
    y = np.array(images)
    x = fetch(y, rows)
    y[:] = 0
    assert x.numel() == 0 or x.max() > 0


@pytest.mark.parametrize(
    'rows, error',
    [
        ([12], IndexError),
        ([-1], IndexError),
        ([0, 99], IndexError),
        ([0.5], ValueError),
        ([[1, 2]], ValueError),
        (3, ValueError),
        ([True] * 12, ValueError),
        (['a'], ValueError),
    ],
)
def test_impossible_rows(rows, error):
    with pytest.raises(error, match='rows go from|rows are'):
        fetch(np.zeros((12, 4, 4, 3), np.uint8), rows)


def threads():
    return [t for t in threading.enumerate() if t.name.startswith('prefetch')]


@pytest.mark.parametrize('n', [0, 1, 2, 50])
@pytest.mark.parametrize('ahead', [1, 2, 7])
def test_prefetch_keeps_the_order(n, ahead):
    rng, names = np.random.default_rng(0), set()

    def load(i):
        names.add(threading.current_thread().name)
        time.sleep(rng.random() / 1000)
        return i * i

    out = list(prefetch(iter(range(n)), load, ahead))
    assert [(i, x) for i, x, _ in out] == [(i, i * i) for i in range(n)] and all(
        w >= 0 for *_, w in out
    )
    assert (
        len(names) == min(n, 1) and threading.current_thread().name not in names and threads() == []
    )


@pytest.mark.parametrize('ahead', [1, 3])
def test_no_more_than_ahead_is_loaded_in_advance(ahead):
    loaded, drawn = [], []

    def items():
        for i in range(20):
            drawn.append(i)
            yield i

    for i, _, _ in prefetch(items(), loaded.append, ahead):
        end = time.monotonic() + 5
        # it does read so far ahead
        while len(loaded) < min(20, i + 1 + ahead) and time.monotonic() < end:
            time.sleep(0.001)
        # and no further
        time.sleep(0.005)
        assert len(loaded) == len(drawn) == min(20, i + 1 + ahead)
    assert loaded == list(range(20))


def test_loading_goes_on_beside_the_caller():
    going, free = threading.Event(), threading.Event()

    def load(i):
        if i == 1:
            going.set()
            assert free.wait(10)
        return i

    stream = prefetch(range(3), load)
    next(stream)
    # item 1 is being loaded while the caller has item 0
    assert going.wait(10)
    free.set()
    assert [i for i, _, _ in stream] == [1, 2]


def test_waiting_is_measured():
    waits = [w for *_, w in prefetch(range(3), lambda i: time.sleep(0.05))]
    # nothing is done between, so all of the loading is waited for
    assert min(waits) > 0.03
    # the caller's own time is not waiting
    stream = prefetch(range(2), lambda i: None)
    next(stream)
    time.sleep(0.2)
    assert next(stream)[2] < 0.1


class Broken(Exception):
    pass


@pytest.mark.parametrize('ahead', [1, 2, 9])
@pytest.mark.parametrize('at', [0, 1, 5])
@pytest.mark.parametrize('where', ['items', 'load'])
def test_errors_come_in_their_turn(where, at, ahead):
    def items():
        for i in range(8):
            if where == 'items' and i == at:
                raise Broken(i)
            yield i

    def load(i):
        if where == 'load' and i == at:
            raise Broken(i)
        return i

    seen = []
    with pytest.raises(Broken):
        for i, x, _ in prefetch(items(), load, ahead):
            seen.append(x)
    assert seen == list(range(at)) and threads() == []


@pytest.mark.parametrize('leave', ['close', 'break', 'forget'])
def test_leaving_early_ends_the_thread(leave):
    loaded = []

    def load(i):
        time.sleep(0.01)
        loaded.append(i)
        return i

    stream = prefetch(range(1000), load, 50)
    for i, _, _ in stream:
        if i == 2:
            break
    assert len(threads()) == 1
    if leave == 'close':
        stream.close()
    else:
        del stream
        gc.collect()
    assert threads() == []
    # nothing goes on
    n = len(loaded)
    assert n < 50
    time.sleep(0.05)
    assert len(loaded) == n


def test_not_begun_not_loaded():
    stream = prefetch([1], lambda i: pytest.fail('loaded'))
    assert threads() == []
    stream.close()


def test_used_batches_are_let_go():
    "What the caller has dropped is not kept while the next is loaded"

    class Batch:
        pass

    refs, kept = [], []

    def load(i):
        b, end = Batch(), time.monotonic() + 2
        while refs and refs[-1]() is not None and time.monotonic() < end:
            time.sleep(0.001)
        kept.append(bool(refs) and refs[-1]() is not None)
        refs.append(weakref.ref(b))
        return b

    for _, b, _ in prefetch(range(4), load, 1):
        del b
    assert kept == [False] * 4


@pytest.mark.parametrize('ahead', [0, -1, 1.5, True, None])
def test_impossible_ahead(ahead):
    # at once, not when the first item is asked for
    with pytest.raises(ValueError, match='ahead is'):
        prefetch([1], id, ahead)


# ---- augmentation

OFF = dict(
    scale=(1.0, 1.0),
    rotate=0.0,
    flip=0.0,
    brightness=0.0,
    contrast=0.0,
    saturation=0.0,
    hue=0.0,
    grey=0.0,
)
SCALE, ROTATE, FLIP, LEFT, TOP, BLUR, BRIGHTNESS, CONTRAST, SATURATION, GREY, HUE = range(11)


@pytest.fixture
def drawn(monkeypatch):
    "Choose the draws: drawn({SCALE: 0}) makes draw 0 zero and leaves the others in the middle"

    def choose(values):
        def rand(n, b, **kw):
            u = torch.full((n, b), 0.5)
            for k, v in values.items():
                u[k] = v
            return u

        monkeypatch.setattr(batches.torch, 'rand', rand)

    return choose


@pytest.mark.parametrize('h, w', [(16, 16), (17, 16), (12, 20)])
def test_quarter_turn(drawn, h, w):
    x, s = torch.rand(2, 3, h, w), min(h, w) - (h - w) % 2
    drawn({ROTATE: 1})
    y = augment(x, **(OFF | dict(rotate=90.0)))
    middle = lambda v: v[..., (h - s) // 2 : (h - s) // 2 + s, (w - s) // 2 : (w - s) // 2 + s]
    if (h - w) % 2 == 0:
        assert torch.allclose(middle(y), middle(x).rot90(1, (2, 3)), atol=1e-5) or torch.allclose(
            middle(y), middle(x).rot90(-1, (2, 3)), atol=1e-5
        )
    drawn({ROTATE: 1})
    assert torch.allclose(augment(x, **(OFF | dict(rotate=180.0))), x.flip((2, 3)), atol=1e-4)


@pytest.mark.parametrize('left, top', [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_crops_reach_every_corner(drawn, left, top):
    x = torch.rand(2, 3, 16, 16)
    drawn({LEFT: left, TOP: top})
    y = augment(x, **(OFF | dict(scale=(0.5, 0.5))))
    quarter = x[..., 8 * top : 8 * top + 8, 8 * left : 8 * left + 8]
    assert torch.allclose(
        y[..., 2:-2, 2:-2],
        F.interpolate(quarter, (16, 16), mode='bilinear', align_corners=False)[..., 2:-2, 2:-2],
        atol=1e-5,
    )


def test_crop_stays_inside(drawn):
    "Without rotation nothing beyond the edge is shown"
    x = torch.zeros(1, 3, 32, 32)
    x[..., 0, :] = 1  # only the first row is white
    for s in np.linspace(0, 1, 6):
        drawn({SCALE: s, TOP: 1})
        assert augment(x, **(OFF | dict(scale=(0.5, 0.9))))[0, 0].max() == 0


def test_settings_change_their_own_effect_alone():
    x, g = torch.rand(8, 3, 16, 16) * 0.4 + 0.3, lambda: torch.Generator().manual_seed(1)
    both = augment(x, g(), **(OFF | dict(flip=0.5, brightness=0.2)))
    assert torch.allclose(
        both,
        augment(augment(x, g(), **(OFF | dict(flip=0.5))), g(), **(OFF | dict(brightness=0.2))),
        atol=1e-5,
    )


def test_each_effect_has_a_row_of_its_own():
    "Changing one row of the draws changes the picture if, and only if, its effect is on"
    x, u = torch.rand(2, 3, 16, 16) * 0.4 + 0.3, torch.full((11, 2), 0.4)
    on = {
        SCALE: dict(scale=(0.5, 0.9)),
        ROTATE: dict(rotate=20.0),
        FLIP: dict(flip=0.5),
        LEFT: dict(scale=(0.5, 0.5)),
        TOP: dict(scale=(0.5, 0.5)),
        BLUR: dict(blur=0.5),
        BRIGHTNESS: dict(brightness=0.2),
        CONTRAST: dict(contrast=0.2),
        SATURATION: dict(saturation=0.2),
        GREY: dict(grey=0.5),
        HUE: dict(hue=0.1),
    }
    for row, setting in on.items():
        before = augment(x, draws=u, **(OFF | setting))
        for other in range(11):
            v = u.clone()
            v[other] = 0.9
            same = torch.allclose(augment(x, draws=v, **(OFF | setting)), before, atol=1e-6)
            assert same == (
                other != row
                and not (row in (LEFT, TOP) and other in (LEFT, TOP))
                and not (row == SCALE and other in (LEFT, TOP))
            ), (row, other)


def slow_hue(x, turn):
    "[3, H, W] in float64, pixel by pixel"
    m = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
    out = np.empty(x.shape)
    for i, j in np.ndindex(*x.shape[1:]):
        y, a, b = m @ x[:, i, j]
        out[:, i, j] = np.linalg.solve(
            m, [y, a * np.cos(turn) - b * np.sin(turn), a * np.sin(turn) + b * np.cos(turn)]
        )
    return out.clip(0, 1)


@pytest.mark.parametrize('hue', [0.03, 0.25, 0.5])
def test_hue_against_pixel_by_pixel(hue):
    x = torch.rand(5, 3, 6, 7, dtype=torch.float64)
    u = sample_augmentation(5, torch.Generator().manual_seed(0))
    u[HUE] = torch.linspace(0, 1, 5)
    y = augment(x, draws=u, **(OFF | dict(hue=hue)))
    for v, w, d in zip(x.numpy(), y.numpy(), u[HUE].tolist()):
        assert np.abs(slow_hue(v, 2 * np.pi * hue * (2 * d - 1)) - w).max() < 2e-6


def test_hue_keeps_luma_and_greys_and_turns_back():
    x, luma = torch.rand(4, 3, 8, 8) * 0.2 + 0.4, torch.tensor([0.299, 0.587, 0.114])
    u = sample_augmentation(4, torch.Generator().manual_seed(0))
    back = u.clone()
    back[HUE] = 1 - u[HUE]
    y = augment(x, draws=u, **(OFF | dict(hue=0.2)))
    assert (y - x).abs().max() > 0.01 and torch.allclose(
        torch.einsum('bchw,c->bhw', y - x, luma), torch.zeros(4, 8, 8), atol=1e-6
    )
    assert torch.allclose(augment(y, draws=back, **(OFF | dict(hue=0.2))), x, atol=1e-6)
    g = torch.rand(4, 1, 8, 8).expand(-1, 3, -1, -1)
    assert torch.allclose(augment(g, draws=u, **(OFF | dict(hue=0.5))), g, atol=1e-6)
    # grey has no hue
    y = augment(x, draws=u, **(OFF | dict(hue=0.5, grey=1.0)))
    assert torch.allclose(y, torch.einsum('bchw,c->bhw', x, luma)[:, None].expand_as(x), atol=1e-6)


def test_hue_of_zero_changes_nothing():
    "Colours as they were before there was a hue: the same first ten rows, the same matrix"
    x = torch.rand(16, 3, 8, 8)
    g = lambda: torch.Generator().manual_seed(3)
    old, new = torch.rand(10, 16, generator=g()), sample_augmentation(16, g())
    assert torch.equal(old, new[:10])
    b, c, q = (1 + 0.3 * (2 * v - 1) for v in old[6:9])
    q = torch.where(old[9] < 0.1, 0.0, q)
    luma = torch.tensor([0.299, 0.587, 0.114])
    mix = q[:, None, None] * torch.eye(3) + (1 - q)[:, None, None] * luma
    y = (
        torch.baddbmm(
            (b * (1 - c) * (x.mean((2, 3)) @ luma))[:, None, None],
            (b * c)[:, None, None] * mix,
            x.flatten(2),
        )
        .clamp(0, 1)
        .view_as(x)
    )
    assert torch.allclose(augment(x, g(), scale=(1, 1), rotate=0, flip=0, hue=0), y, atol=1e-7)


@pytest.mark.parametrize('parts', [[0, 20], [0, 7, 8, 20], [0, 0, 13, 20]])
def test_parts_of_a_batch_share_its_draws(parts):
    x, u = torch.rand(20, 3, 12, 12), sample_augmentation(20, torch.Generator().manual_seed(0))
    whole = augment(x, draws=u, blur=0.5)
    assert torch.equal(whole, augment(x, torch.Generator().manual_seed(0), blur=0.5))
    for a, b in zip(parts, parts[1:]):
        assert torch.allclose(augment(x[a:b], draws=u[:, a:b], blur=0.5), whole[a:b], atol=1e-6)
    order = torch.randperm(20)
    assert torch.allclose(augment(x[order], draws=u[:, order], blur=0.5), whole[order], atol=1e-6)
    kept = u.clone()
    augment(x, draws=u.double())
    assert torch.equal(u, kept)


def test_draws():
    u = sample_augmentation(3000, torch.Generator().manual_seed(0))
    assert u.shape == (11, 3000) and u.dtype == torch.float32 and 0 <= u.min() and u.max() < 1
    assert (u.mean(1) - 0.5).abs().max() < 0.03 and (
        torch.corrcoef(u) - torch.eye(11)
    ).abs().max() < 0.1
    assert sample_augmentation(0).shape == (11, 0)
    for wrong in u[:10], u[:, :4], u.T, u[:, 0]:
        with pytest.raises(ValueError, match=r'draws are \[.*5 pictures need \[11, 5\]'):
            augment(torch.rand(5, 3, 4, 4), draws=wrong)
    with pytest.raises(ValueError, match='both a generator and draws'):
        augment(torch.rand(5, 3, 4, 4), torch.Generator(), draws=u[:, :5])
    for hue in -0.1, 0.51, float('nan'):
        with pytest.raises(ValueError, match='hue is .* between 0 and 0.5'):
            augment(torch.rand(5, 3, 4, 4), hue=hue)


def test_draws_differ_between_pictures():
    x = torch.rand(1, 3, 16, 16).repeat(64, 1, 1, 1)
    for change in (
        dict(scale=(0.5, 1.0)),
        dict(rotate=20.0),
        dict(brightness=0.3),
        dict(contrast=0.3),
        dict(saturation=0.3),
        dict(hue=0.1),
    ):
        y = augment(x, torch.Generator().manual_seed(0), **(OFF | change))
        assert len(torch.unique((y * 1e5).round().flatten(1), dim=0)) > 60, change


def test_probabilities():
    x = torch.rand(1, 3, 8, 8).repeat(2000, 1, 1, 1)
    y = augment(x, torch.Generator().manual_seed(0), **(OFF | dict(flip=0.3)))
    assert abs((y - x.flip(-1)).abs().amax((1, 2, 3)).lt(1e-4).float().mean() - 0.3) < 0.04
    y = augment(x, torch.Generator().manual_seed(0), **(OFF | dict(grey=0.2)))
    assert abs((y[:, 0] - y[:, 1]).abs().amax((1, 2)).lt(1e-5).float().mean() - 0.2) < 0.04


def test_blur(drawn):
    x = torch.zeros(1, 3, 9, 9)
    x[..., 4, 4] = 0.9
    drawn({BLUR: 1})
    y = augment(x, **(OFF | dict(blur=1.0)))
    assert torch.allclose(y[0, 0, 3:6, 3:6], torch.full((3, 3), 0.1)) and abs(y.sum() - 2.7) < 1e-5
    # no dark rim
    x = torch.full((1, 3, 5, 5), 0.7)
    assert torch.allclose(augment(x, **(OFF | dict(blur=1.0))), x)


def test_beyond_the_edge_is_the_mirror_image(drawn):
    x = torch.rand(1, 3, 16, 16) * 0.5 + 0.5
    drawn({ROTATE: 1})
    assert augment(x, **(OFF | dict(rotate=45.0))).min() > 0.49


def test_range_shape_and_types():
    x = torch.rand(5, 3, 20, 14)
    for dtype in torch.float32, torch.float64:
        y = augment(
            x.to(dtype),
            torch.Generator().manual_seed(0),
            brightness=1.0,
            contrast=1.0,
            saturation=1.0,
            hue=0.5,
            grey=0.5,
            blur=1.0,
            rotate=180.0,
            scale=(0.01, 1.0),
        )
        assert y.shape == x.shape and y.dtype == dtype and 0 <= y.min() and y.max() <= 1
    # the input is left as it was
    before = x.clone()
    augment(x)
    assert torch.equal(x, before)
    assert augment(x[:0]).shape == (0, 3, 20, 14)


# ---- samplers


def fuzzed(seed):
    rng = np.random.default_rng(seed)
    A, S = rng.integers(2, 7), rng.integers(2, 9)
    counts = {
        f'T{a}': {
            f's{s}': int(rng.integers(1, 12)) for s in rng.permutation(S)[: rng.integers(2, S + 1)]
        }
        for a in range(A)
    }
    want = int(rng.integers(2, A + 1))
    most = min(sum(c.values()) for c in counts.values()) * want
    return (
        made(counts),
        counts,
        int(rng.integers(2 * want, most + 1)) if most > 2 * want else 2 * want,
        want,
    )


@pytest.mark.parametrize('seed', range(40))
def test_every_batch_keeps_its_promises(seed):
    table, counts, size, want = fuzzed(seed)
    if min(sum(c.values()) for c in counts.values()) < -(-size // want):
        pytest.skip('no such batch')
    b = ActivityBatches(table, size, want, seed)
    used = dict.fromkeys(counts, 0)
    assert len(list(b.set_epoch(0))) == len(b) == -(-len(table) // size)
    for rows in b.set_epoch(0):
        d = table.df.iloc[rows]
        assert len(rows) == size and d['activity'].nunique() == want
        per = d['activity'].value_counts()
        assert per.max() - per.min() <= 1
        for a, g in d.groupby('activity'):
            used[a] += 1
            n = g['subject'].value_counts().reindex(list(counts[a]), fill_value=0)
            assert n.max() - n.min() <= 1
            # a frame comes twice only where a subject's share is larger than its frames
            for s, rows_of in g.groupby('subject').groups.items():
                assert pd.Series(rows_of).value_counts().max() <= -(-len(rows_of) // counts[a][s])
    assert max(used.values()) - min(used.values()) <= 1


@pytest.mark.parametrize('seed', range(5))
def test_every_frame_is_shown_in_time(seed):
    table, counts, size, want = fuzzed(seed)
    b = (
        ActivityBatches(table, size, want)
        if min(sum(c.values()) for c in counts.values()) >= -(-size // want)
        else ActivityBatches(table, 2 * want, want)
    )
    seen = set()
    for _ in range(60):
        seen.update(np.concatenate(list(b)).tolist())
    assert seen == set(range(len(table))) and b.epoch == 60


def test_even_tables_are_covered_exactly():
    table = made({f'T{a}': {f's{s}': 6 for s in range(5)} for a in range(4)})
    for epoch in range(3):
        assert sorted(
            np.concatenate(list(ActivityBatches(table, 20, 2).set_epoch(epoch))).tolist()
        ) == list(range(120))


def test_seed_and_epoch_decide():
    table = made({f'T{a}': {f's{s}': 6 for s in range(5)} for a in range(4)})
    for make in (
        (lambda seed: ActivityBatches(table, 20, 2, seed)),
        (lambda seed: ShuffledBatches(table, 20, seed)),
    ):
        epochs = lambda b, n: [np.concatenate(list(b)).tolist() for _ in range(n)]
        first = epochs(make(0), 3)
        assert (
            first == epochs(make(0), 3)
            and first[0] != first[1]
            and first[0] != epochs(make(1), 1)[0]
        )
        assert first[2] == epochs(make(0).set_epoch(2), 1)[0]
        # a pass that was broken off counts as one
        b = make(0)
        next(iter(b))
        assert epochs(b, 1)[0] == first[1]
        state = np.random.get_state()[1].copy()
        torch_state = torch.get_rng_state()
        epochs(make(0), 1)
        # nobody else's randomness is touched
        assert (np.random.get_state()[1] == state).all() and torch.equal(
            torch.get_rng_state(), torch_state
        )


def test_impossible_samplers():
    ok = {f'T{a}': {'s0': 4, 's1': 4} for a in range(3)}
    for args, words in [
        ((12, 4), 'has 3 activities'),
        ((5, 3), 'batch_size=6 or more'),
        ((60, 3), 'T0 has 8 frames, fewer than its share of 20'),
        ((0, 3), 'batch_size is 0'),
        ((12, 1), 'activities_per_batch is 1'),
        ((12.5, 3), 'batch_size is 12.5'),
        ((12, True), 'activities_per_batch is True'),
        ((12, 3, -1), 'seed is -1'),
    ]:
        with pytest.raises(ValueError, match=words):
            ActivityBatches(made(ok), *args)
    with pytest.raises(ValueError, match='activity T9 has frames of one subject only'):
        ActivityBatches(made(ok | {'T9': {'s0': 8}}), 8, 2)
    for c in 'subject', 'activity':
        t = made(ok)
        t.df.loc[5, c] = pd.NA
        with pytest.raises(ValueError, match=f'row 5 .* has no {c}'):
            ActivityBatches(t, 6, 3)
    with pytest.raises(ValueError, match='epoch is -1'):
        ActivityBatches(made(ok), 6, 3).set_epoch(-1)


@pytest.mark.parametrize('n, size', [(1, 1), (1, 256), (7, 3), (100, 33), (256, 256)])
def test_shuffled(n, size):
    b = ShuffledBatches(n, size)
    parts = list(b)
    assert sorted(np.concatenate(parts).tolist()) == list(range(n)) and len(parts) == len(b)
    assert max(map(len, parts)) <= size and max(map(len, parts)) - min(map(len, parts)) <= 1
