"Faults of the RAF-DB loader, on a small layout written by hand, and its twin"

import warnings

import pandas as pd
import pytest
from faults import agree_with_truth, edit, refuses

from clef_nb.datasets.cache import frame_cache
from clef_nb.datasets.frames import FrameTable
from clef_nb.datasets.photographs import class_counts
from clef_nb.datasets.rafdb import rafdb, write_rafdb
from clef_nb.datasets.texts import RAFDB_EXPRESSIONS


@pytest.fixture(autouse=True)
def quiet():
    "A warning nobody expects is a fault"
    with warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)
        yield


LIST, ALIGNED = 'EmoLabel/list_patition_label.txt', 'Image/aligned'
RAF = [
    ('train_00001', 5),
    ('train_00002', 1),
    ('train_12271', 7),
    ('test_0001', 4),
    ('test_3068', 2),
]


@pytest.fixture
def raf(tmp_path):
    "Five images, three of them for training, aligned and original; no final newline"
    root = tmp_path / 'rafdb'
    for d in 'EmoLabel', ALIGNED, 'Image/original', 'Annotation/manual':
        (root / d).mkdir(parents=True)
    (root / LIST).write_text('\n'.join(f'{n}.jpg {c}' for n, c in RAF))
    for n, _ in RAF:
        (root / ALIGNED / f'{n}_aligned.jpg').touch()
        (root / f'Image/original/{n}.jpg').touch()
    return root


def test_rafdb_reads_the_layout(raf):
    t = rafdb(raf)
    assert (
        t.name == 'RAF-DB'
        and t.root == raf
        and t.notes == {}
        and t.splits == ['train', 'test']
        and not t.folds
        and not t.subjects
    )
    assert t.df['path'].tolist() == [f'{ALIGNED}/{n}_aligned.jpg' for n, _ in RAF] and all(
        p.is_file() for p in t.image_paths()
    )
    assert t.df['split'].tolist() == ['train'] * 3 + ['test'] * 2
    assert (
        t.df['expression'].tolist()
        == ['sadness', 'surprise', 'neutral', 'happiness', 'fear']
        == [RAFDB_EXPRESSIONS[c - 1] for _, c in RAF]
    )
    assert rafdb(raf, images='original').df['path'].tolist() == [
        f'Image/original/{n}.jpg' for n, _ in RAF
    ]


def test_rafdb_accepts_what_people_have(raf, monkeypatch):
    before = rafdb(raf).df
    for name in (
        'EmoLabel/list_partition_label.txt',
        'list_patition_label.txt',
        'list_partition_label.txt',
        LIST,
    ):
        next(raf.rglob('list_*')).rename(raf / name)
        pd.testing.assert_frame_equal(rafdb(raf).df, before)
    (raf / LIST).write_bytes(
        b'\xef\xbb\xbf'
        + (raf / LIST).read_text().replace(' ', '\t').replace('\n', ' \r\n').encode()
        + b'\r\n\r\n'
    )
    for junk in (
        f'{ALIGNED}/Thumbs.db',
        f'{ALIGNED}/._test_0001_aligned.jpg',
        'Image/.DS_Store',
        'readme.txt',
    ):
        (raf / junk).touch()
    pd.testing.assert_frame_equal(rafdb(raf).df, before)
    # as the archive unpacks
    (raf.parent / 'outer').mkdir()
    raf.rename(raf.parent / 'outer/basic')
    pd.testing.assert_frame_equal(rafdb(raf.parent / 'outer').df, before)
    monkeypatch.setenv('CLEF_RAFDB', str(raf.parent / 'outer'))
    assert len(rafdb()) == 5
    monkeypatch.delenv('CLEF_RAFDB')
    with pytest.raises(ValueError, match='CLEF_RAFDB'):
        rafdb()


def test_rafdb_names_need_no_padding(raf):
    "The list is taken at its word; the images must have the same names"
    edit(raf / LIST, 'test_0001', 'test_1')
    with pytest.raises(FileNotFoundError, match='test_1_aligned.jpg'):
        rafdb(raf)
    (raf / ALIGNED / 'test_0001_aligned.jpg').rename(raf / ALIGNED / 'test_1_aligned.jpg')
    assert rafdb(raf).df['path'].tolist()[3] == f'{ALIGNED}/test_1_aligned.jpg'


RAF_FAULTS = {
    'no root': (
        lambda r: r.rename(r.parent / 'x'),
        FileNotFoundError,
        ['rafdb does not exist', 'EmoLabel and Image'],
    ),
    'no list': (
        lambda r: (r / LIST).unlink(),
        FileNotFoundError,
        ['list_patition_label.txt does not exist', 'list_partition_label.txt', 'root must be'],
    ),
    'empty list': (
        lambda r: (r / LIST).write_text('\n \n'),
        ValueError,
        ['list_patition_label.txt is empty'],
    ),
    'binary list': (
        lambda r: (r / LIST).write_bytes(b'PK\xff\xfe'),
        ValueError,
        ['list_patition_label.txt is no text'],
    ),
    'a header': (
        lambda r: edit(r / LIST, 'train_00001', 'name label\ntrain_00001'),
        ValueError,
        ['line 1', "'name'", 'train_00001.jpg'],
    ),
    'extra column': (
        lambda r: edit(r / LIST, 'jpg 1', 'jpg 1 0.5'),
        ValueError,
        ['line 2', '3 cells', '2'],
    ),
    'no code': (lambda r: edit(r / LIST, 'jpg 1', 'jpg'), ValueError, ['line 2', '1 cells']),
    'code 0': (
        lambda r: edit(r / LIST, 'jpg 1', 'jpg 0'),
        ValueError,
        ['line 2 (train_00002.jpg)', "'0'", 'from 1 (surprise) to 7 (neutral)'],
    ),
    'code 8': (lambda r: edit(r / LIST, 'jpg 1', 'jpg 8'), ValueError, ['line 2', "'8'"]),
    'a word': (
        lambda r: edit(r / LIST, 'jpg 1', 'jpg surprise'),
        ValueError,
        ['line 2', "'surprise'"],
    ),
    'strange split': (
        lambda r: edit(r / LIST, 'test_0001', 'valid_0001'),
        ValueError,
        ['line 4', "'valid_0001.jpg'"],
    ),
    'outside': (
        lambda r: edit(r / LIST, 'test_0001', '../test_0001'),
        ValueError,
        ['line 4', 'another folder', 'the name alone'],
    ),
    'absolute': (
        lambda r: edit(r / LIST, 'test_0001', '/etc/test_0001'),
        ValueError,
        ['line 4', 'another folder'],
    ),
    'backslash': (
        lambda r: edit(r / LIST, 'test_0001', '..\\test_0001'),
        ValueError,
        ['line 4', 'another folder'],
    ),
    'twice': (
        lambda r: edit(r / LIST, 'train_12271', 'train_00001'),
        ValueError,
        ['line 3', 'train_1 is labelled a second time', 'line 1', 'keep one'],
    ),
    'twice, unpadded': (
        lambda r: edit(r / LIST, 'train_12271', 'train_1'),
        ValueError,
        ['line 3', 'train_1 is labelled a second time', 'line 1'],
    ),
    'no images': (
        lambda r: (r / ALIGNED).rename(r / 'Image/x'),
        FileNotFoundError,
        ['5 of the 5', 'train_00001_aligned.jpg', 'give the folder'],
    ),
    'no image': (
        lambda r: (r / ALIGNED / 'test_0001_aligned.jpg').unlink(),
        FileNotFoundError,
        [
            '1 of the 5',
            'test_0001_aligned.jpg',
            'list_patition_label.txt, line 4',
            "missing='drop'",
        ],
    ),
    'no label': (
        lambda r: [(r / ALIGNED / f'train_{i}_aligned.jpg').touch() for i in ('00003', '00004')],
        ValueError,
        ['2 images have no label', 'train_00003_aligned.jpg', "missing='drop'"],
    ),
}


@pytest.mark.parametrize('fault', RAF_FAULTS)
def test_rafdb_faults(raf, fault):
    refuses(rafdb, raf, *RAF_FAULTS[fault])


def test_rafdb_drop(raf):
    (raf / ALIGNED / 'test_0001_aligned.jpg').unlink()
    (raf / ALIGNED / 'train_00001_aligned.jpg').unlink()
    (raf / ALIGNED / 'train_00009_aligned.jpg').touch()
    with pytest.warns(
        UserWarning,
        match='2 of the 5 labelled images.*train_00001.*1 image has no label.*train_00009',
    ) as w:
        t = rafdb(raf, missing='drop')
    assert (
        len(w) == 1
        and w[0].filename == __file__
        and t.df['expression'].tolist() == ['surprise', 'neutral', 'fear']
    )
    assert t.notes == {'images missing': 2, 'images without a label': 1}
    (raf / ALIGNED).rename(raf / 'Image/x')
    with pytest.raises(FileNotFoundError, match='5 of the 5'):
        rafdb(raf, missing='drop')


def test_rafdb_arguments(raf):
    with pytest.raises(ValueError, match="'error' or 'drop'"):
        rafdb(raf, missing='skip')
    with pytest.raises(ValueError, match="'aligned' or 'original'"):
        rafdb(raf, images='cropped')


def test_an_image_that_is_none(tmp_path):
    "Loaders open no image; the cache names the one that is none"
    t = rafdb(write_rafdb(tmp_path / 'r', n_train=7, n_test=7, size=32))
    assert frame_cache(t, 32, folder=tmp_path / 'cache', progress=False).shape == (14, 32, 32, 3)
    (tmp_path / 'r' / t.df['path'][3]).write_text('<html>not found</html>')
    with pytest.raises(ValueError, match='train_00004_aligned.jpg cannot be decoded'):
        frame_cache(rafdb(tmp_path / 'r'), 32, folder=tmp_path / 'cache', progress=False)


def test_class_counts(raf):
    c = class_counts(rafdb(raf))
    assert list(c.index) == ['train', 'test'] and list(c.columns) == [
        'neutral',
        'happiness',
        'sadness',
        'surprise',
        'fear',
        'all',
    ]
    assert c.loc['train'].tolist() == [1, 0, 1, 1, 0, 3] and c.loc['test'].tolist() == [
        0,
        1,
        0,
        0,
        1,
        2,
    ]
    with pytest.raises(ValueError, match='no split'):
        class_counts(FrameTable(pd.DataFrame(dict(path=['a.jpg'], expression=['anger'])), '.'))


def test_rafdb_twin_agrees_with_its_truth(tmp_path):
    agree_with_truth(rafdb(write_rafdb(tmp_path / 'r', n_train=12, n_test=8, size=32, seed=3)))
