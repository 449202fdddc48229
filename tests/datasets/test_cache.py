"""Faults of the cache (truncated images, full disks, several writers at once) and of the thread
that reads ahead
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
from PIL import Image

import clef_nb.datasets.cache as cache
from clef_nb.datasets.cache import fetch, frame_cache, prefetch
from clef_nb.datasets.frames import FrameTable

pytestmark = pytest.mark.filterwarnings('ignore:The image decoding and encoding:DeprecationWarning')


@pytest.fixture
def table(tmp_path):
    "Twelve small images on disk"
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
    monkeypatch.setattr(cache, '_decode', None)  # nothing is decoded a second time
    assert (frame_cache(table, 16, folder=folder) == x).all()


def test_impossible_tables_and_sizes(table, folder):
    with pytest.raises(ValueError, match='the table has no frames'):
        frame_cache(table.subset([]), folder=folder)
    with pytest.raises(ValueError, match='size is 0; it must be a number of pixels'):
        frame_cache(table, 0, folder=folder)
    assert not folder.exists()


def test_default_folder(table, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'data').rename(tmp_path / 'images')
    table.root = tmp_path / 'images'
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
        assert (x[i] == cache._decode(p, 16, boxes[i])).all()


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
    monkeypatch.setattr(cache, 'open', lambda p, mode: Full(open(p, mode), room), raising=False)
    monkeypatch.setattr(cache.os, 'cpu_count', lambda: 1)
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
        m.setattr(cache.os, 'fsync', fail)
        with pytest.raises(OSError, match='is full'):
            frame_cache(table, 16, folder=folder)
        assert left(folder) == []
    with monkeypatch.context() as m:
        m.setattr(Path, 'write_text', fail)
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


# ---- images in arrays


def pointing(folder, *names):
    return FrameTable(pd.DataFrame({'path': names}), folder)


@pytest.fixture(params=[(), (3,)], ids=['grey', 'colour'])
def array(tmp_path, request):
    "Nine images in one file, deeper in the folder"
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
    # as the same images in files of their own
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
        cache.np, 'load', lambda p, **kw: (opened.append(Path(p).name), load(p, **kw))[1]
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


def test_a_hash_in_the_name_of_an_image(tmp_path, folder):
    for name in 'a#1.png', 'b.npy#1.png':
        Image.new('RGB', (8, 8), 'white').save(tmp_path / name)
    assert frame_cache(pointing(tmp_path, 'a#1.png'), 8, folder=folder).min() == 255


ARRAYS = {
    'a.npy#9': 'row 1: .*a.npy#9: there is no image .9.; the file holds 9, counted from 0',
    'a.npy#-1': 'no image .-1.',
    'a.npy#': 'no image ..;',
    'a.npy#x': 'no image .x.',
    'a.npy#1.0': 'no image .1.0.',
    'a.npy#²': 'no image',
    'a.npy': 'row 1: .*a.npy is an array of images; say which one, for example a.npy#0',
    'float.npy#0': r'row 1: .*float.npy holds float64 \[2, 8, 8\]; images are uint8',
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


# ---- images of all kinds


def written(path, x, mode='RGB', **kw):
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
    p = written(tmp_path / name, x, mode)
    assert (
        np.abs(
            cache._decode(p, 32, None).astype(int) - np.array(Image.open(p).convert('RGB'))
        ).max()
        <= 2
    )


@pytest.mark.parametrize('keep', [0, 2, 300, 700])
def test_without_torchvision(table, folder, monkeypatch, keep):
    x = np.array(frame_cache(table, 16, folder=folder / 'a'))
    monkeypatch.setattr(cache, 'decode_image', None)
    assert np.abs(frame_cache(table, 16, folder=folder / 'b').astype(int) - x).max() <= 2
    p = table.image_paths()[7]
    p.write_bytes(p.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r'7\.jpg cannot be decoded'):
        frame_cache(table, 16, folder=folder / 'b')


def test_sixteen_bits(tmp_path):
    x = np.linspace(0, 65535, 1024).astype(np.uint16).reshape(32, 32)
    Image.fromarray(x).save(tmp_path / 'a.png')
    assert (
        np.abs(cache._decode(tmp_path / 'a.png', 32, None)[..., 0].astype(int) - x / 257).max() <= 1
    )


def test_boxes(tmp_path):
    x = np.arange(100 * 60 * 3, dtype=np.uint32).reshape(60, 100, 3).astype(np.uint8)
    p = written(tmp_path / 'a.png', x)
    assert (cache._decode(p, 60, 'centre') == x[:, 20:80]).all()
    assert (cache._decode(p, 30, (0.1, 0.5, 0.4, 1.0)) == x[30:, 10:40]).all()
    for box in (0.999, 0.999, 1, 1), (0, 0, 0.001, 0.001), (0.0, 0.0, 1.0, 1.0):
        assert cache._decode(p, 8, box).shape == (8, 8, 3)
    with pytest.raises(ValueError, match='100 x 60 pixels, which is not square'):
        cache._decode(p, 8, None)


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
        for _, x, _ in prefetch(items(), load, ahead):
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
