"Faults of the AffectNet loader, on small layouts of both forms written by hand, and its twins"

import warnings

import numpy as np
import pandas as pd
import pytest
from faults import agree_with_truth, edit, refuses

from clef_nb.datasets.affectnet import affectnet, write_affectnet
from clef_nb.datasets.frames import FrameTable
from clef_nb.datasets.texts import AFFECTNET_EXPRESSIONS


@pytest.fixture(autouse=True)
def quiet():
    "A warning nobody expects is a fault"
    with warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)
        yield


# AffectNet, lists
HEAD = (
    'subDirectory_filePath,face_x,face_y,face_width,face_height,facial_landmarks,expression,'
    'valence,arousal'
)
POINTS = ';'.join(f'{k / 4:g}' for k in range(136))
BASE = 'Manually_Annotated_Images'


def line(path, code, valence='0.5', arousal='-0.25', box='10,12,80,81', points=POINTS):
    return f'{path},{box},{points},{code},{valence},{arousal}'


TRAIN = [
    line('1/a.jpg', 0),
    line('1/b.jpg', 7, '-0.1', '1'),
    line('1/c.JPG', 10, '-2', '-2', 'NULL,NULL,NULL,NULL', 'NULL'),
    line('22/d.png', 1, '-2', '-2'),
    line('22/e.jpg', 8, '-2', '-2'),
    line('22/f.jpg', 9, '-2', '-2'),
]
VALID = [line('3/g.jpg', 6, box='NULL,NULL,NULL,NULL'), line('1/h.jpg', 3, points='')]
IMAGES = ['1/a.jpg', '1/b.jpg', '1/c.JPG', '22/d.png', '22/e.jpg', '22/f.jpg', '3/g.jpg', '1/h.jpg']


@pytest.fixture
def lists(tmp_path):
    root = tmp_path / 'affectnet'
    root.mkdir()
    (root / 'training.csv').write_text('\n'.join([HEAD, *TRAIN]) + '\n')
    # without header, as some copies
    (root / 'validation.csv').write_text('\n'.join(VALID))
    for i in IMAGES:
        (root / BASE / i).parent.mkdir(parents=True, exist_ok=True)
        (root / BASE / i).touch()
    return root


def same(t, before, prefix=f'{BASE}/'):
    assert t.df['path'].tolist() == [
        p.replace(f'{BASE}/', prefix) for p in before.df['path']
    ] and all(p.is_file() for p in t.image_paths())
    pd.testing.assert_frame_equal(
        t.df.drop(columns=['path', 'landmarks']), before.df.drop(columns=['path', 'landmarks'])
    )
    np.testing.assert_equal(np.stack(t.df['landmarks']), np.stack(before.df['landmarks']))


def test_affectnet_reads_the_lists(lists):
    t = affectnet(lists)
    assert t.name == 'AffectNet' and t.root == lists and t.splits == ['train', 'validation']
    assert t.df['path'].tolist() == [
        f'{BASE}/{p}' for p in ('1/a.jpg', '1/b.jpg', '22/d.png', '3/g.jpg', '1/h.jpg')
    ] and all(p.is_file() for p in t.image_paths())
    assert (
        t.df['expression'].tolist()
        == ['neutral', 'contempt', 'happiness', 'anger', 'surprise']
        == [AFFECTNET_EXPRESSIONS[c] for c in (0, 7, 1, 6, 3)]
    )
    assert t.notes == {'dropped: none': 1, 'dropped: uncertain': 1, 'dropped: no face': 1}
    np.testing.assert_equal(
        t.df[['valence', 'arousal']].to_numpy(),
        np.float32([[0.5, -0.25], [-0.1, 1], [np.nan, np.nan], [0.5, -0.25], [0.5, -0.25]]),
    )
    box = t.df[['face_x', 'face_y', 'face_width', 'face_height']].to_numpy()
    np.testing.assert_equal(
        box, np.float32([[10, 12, 80, 81]] * 3 + [[np.nan] * 4] + [[10, 12, 80, 81]])
    )
    marks = np.stack(t.df['landmarks'])
    assert marks.shape == (5, 136) and marks.dtype == np.float32 and np.isnan(marks[4]).all()
    np.testing.assert_equal(marks[:4], np.tile(np.float32(np.arange(136) / 4), (4, 1)))


def test_affectnet_seven(lists):
    t = affectnet(lists, classes=7)
    assert (
        'contempt' not in t.expressions
        and len(t) == 4
        and t.notes
        == {
            'dropped: contempt': 1,
            'dropped: none': 1,
            'dropped: uncertain': 1,
            'dropped: no face': 1,
        }
    )


def test_affectnet_save_and_load(lists, tmp_path):
    t = affectnet(lists)
    same(FrameTable.load(t.save(tmp_path / 't.parquet')), t)
    assert FrameTable.load(tmp_path / 't.parquet').notes == t.notes


def test_affectnet_accepts_what_people_have(lists, monkeypatch):
    before = affectnet(lists)
    for folder in 'Manually_Annotated_file_lists', 'Manually_Annotated':
        (lists / folder).mkdir()
        for f in lists.rglob('*.csv'):
            f.rename(lists / folder / f.name)
        same(affectnet(lists), before)
    where = lists / BASE
    for base in (
        'Manually_Annotated/Manually_Annotated_Images',
        'Manually_Annotated_compressed/Manually_Annotated_Images',
    ):
        (lists / base).parent.mkdir(exist_ok=True)
        where.rename(lists / base)
        where = lists / base
        same(affectnet(lists), before, base + '/')
    for i in ('1', '22', '3'):
        (where / i).rename(lists / 'Manually_Annotated' / i)
    same(affectnet(lists), before, 'Manually_Annotated/')
    for i in ('1', '22', '3'):
        (lists / 'Manually_Annotated' / i).rename(lists / i)
    same(affectnet(lists), before, '')
    monkeypatch.setenv('CLEF_AFFECTNET', str(lists))
    same(affectnet(), before, '')
    monkeypatch.delenv('CLEF_AFFECTNET')
    with pytest.raises(ValueError, match='CLEF_AFFECTNET'):
        affectnet()


def test_affectnet_flat_names(lists):
    for f in 'training.csv', 'validation.csv':
        (lists / f).write_text(
            ''.join(x.partition('/')[2] or x for x in (lists / f).read_text().splitlines(True))
        )
    for p in list((lists / BASE).glob('*/*')):
        p.rename(lists / BASE / p.name)
    for d in (lists / BASE).glob('[0-9]*'):
        d.rmdir()
    assert affectnet(lists).df['path'].tolist() == [
        f'{BASE}/{n}' for n in ('a.jpg', 'b.jpg', 'd.png', 'g.jpg', 'h.jpg')
    ]


def test_affectnet_spreadsheet_leavings(lists):
    before = affectnet(lists)
    for f in 'training.csv', 'validation.csv':
        (lists / f).write_bytes(
            b'\xef\xbb\xbf'
            + (lists / f).read_text().replace(',', ' , ').replace('\n', '\r\n').encode()
            + b'\r\n\r\n'
        )
    same(affectnet(lists), before)


def test_affectnet_columns_go_by_header(lists):
    "Other order and further columns change nothing"
    before = affectnet(lists)
    cells = [c.split(',') for c in (lists / 'training.csv').read_text().splitlines()]
    (lists / 'training.csv').write_text(
        '\n'.join(','.join([str(i) if i else '', *c[::-1], 'x']) for i, c in enumerate(cells))
    )
    same(affectnet(lists), before)


def test_affectnet_junk_beside_the_data(lists):
    before = affectnet(lists)
    for f in (
        f'{BASE}/1/Thumbs.db',
        f'{BASE}/1/._a.jpg',
        f'{BASE}/.DS_Store',
        'automatically_annotated.csv',
    ):
        (lists / f).touch()
    same(affectnet(lists), before)


CSV_FAULTS = {
    'no root': (
        lambda r: r.rename(r.parent / 'x'),
        FileNotFoundError,
        ['affectnet does not exist', 'train_set and val_set'],
    ),
    'nothing': (
        lambda r: [f.unlink() for f in r.glob('*.csv')],
        FileNotFoundError,
        ['neither training.csv and validation.csv', 'nor train_set'],
    ),
    'one list': (
        lambda r: (r / 'training.csv').unlink(),
        FileNotFoundError,
        ['training.csv is missing', 'put it there'],
    ),
    'both forms': (
        lambda r: (r / 'val_set').mkdir(),
        ValueError,
        ['both forms', 'val_set', 'move one'],
    ),
    'empty list': (
        lambda r: (r / 'validation.csv').write_text(''),
        ValueError,
        ['validation.csv is empty'],
    ),
    'header alone': (
        lambda r: (r / 'validation.csv').write_text(HEAD + '\n'),
        ValueError,
        ['validation.csv', 'no rows'],
    ),
    'binary list': (
        lambda r: (r / 'validation.csv').write_bytes(b'PK\xff\xfe,'),
        ValueError,
        ['validation.csv is no text'],
    ),
    'binary later': (
        lambda r: (r / 'validation.csv').write_bytes(
            (r / 'validation.csv').read_bytes() + b'\n\xff\xfe'
        ),
        ValueError,
        ['validation.csv is no text'],
    ),
    'wrong header': (
        lambda r: edit(r / 'training.csv', 'valence', 'valance'),
        ValueError,
        ['training.csv, line 1', "'valence'", HEAD],
    ),
    'header twice': (
        lambda r: edit(r / 'training.csv', 'face_y', 'face_x'),
        ValueError,
        ['training.csv, line 1', 'two columns are headed face_x'],
    ),
    'no header and ten cells': (
        lambda r: (r / 'validation.csv').write_text('\n'.join(v + ',1' for v in VALID)),
        ValueError,
        ['validation.csv, line 1', 'no column is headed'],
    ),
    'long line': (
        lambda r: edit(r / 'training.csv', ',7,', ',7,7,'),
        ValueError,
        ['training.csv, line 3', '10 cells', '9'],
    ),
    'short line': (
        lambda r: edit(r / 'training.csv', ',7,-0.1,1', ',7'),
        ValueError,
        ['training.csv, line 3, column valence', "''"],
    ),
    'code 11': (
        lambda r: edit(r / 'training.csv', ',7,', ',11,'),
        ValueError,
        ['training.csv, line 3, column expression', '11', 'from 0 (neutral) to 10 (no face)'],
    ),
    'code -1': (
        lambda r: edit(r / 'training.csv', ',7,', ',-1,'),
        ValueError,
        ['training.csv, line 3, column expression: -1'],
    ),
    'code 1.5': (
        lambda r: edit(r / 'training.csv', ',7,', ',1.5,'),
        ValueError,
        ['training.csv, line 3, column expression: 1.5'],
    ),
    'a word': (
        lambda r: edit(r / 'training.csv', ',7,', ',contempt,'),
        ValueError,
        ['training.csv, line 3, column expression', "'contempt'"],
    ),
    'no code': (
        lambda r: edit(r / 'training.csv', ',7,', ',,'),
        ValueError,
        ['training.csv, line 3, column expression', "''"],
    ),
    'valence 5': (
        lambda r: edit(r / 'training.csv', ',7,-0.1', ',7,5'),
        ValueError,
        ['training.csv, line 3, column valence: 5', '-2 for unknown'],
    ),
    'arousal word': (
        lambda r: edit(r / 'training.csv', ',7,-0.1,1', ',7,-0.1,high'),
        ValueError,
        ['training.csv, line 3, column arousal', "'high'"],
    ),
    'box word': (
        lambda r: edit(r / 'training.csv', '1/b.jpg,10', '1/b.jpg,left'),
        ValueError,
        ['training.csv, line 3, column face_x', "'left'", 'NULL'],
    ),
    'few landmarks': (
        lambda r: edit(r / 'training.csv', '1/b.jpg,10,12,80,81,0;', '1/b.jpg,10,12,80,81,'),
        ValueError,
        ['training.csv, line 3, column facial_landmarks: 135 numbers', '136'],
    ),
    'landmark word': (
        lambda r: edit(
            r / 'training.csv', '1/b.jpg,10,12,80,81,0;0.25;', '1/b.jpg,10,12,80,81,0;x;'
        ),
        ValueError,
        ['training.csv, line 3', 'facial_landmarks: number 2', "'x'"],
    ),
    'landmark gap': (
        lambda r: edit(
            r / 'training.csv', '1/b.jpg,10,12,80,81,0;0.25;', '1/b.jpg,10,12,80,81,0;;'
        ),
        ValueError,
        ['training.csv, line 3', 'facial_landmarks: number 2', "''"],
    ),
    'no name': (
        lambda r: edit(r / 'training.csv', '1/b.jpg', ''),
        ValueError,
        ['training.csv, line 3', "''"],
    ),
    'outside': (
        lambda r: edit(r / 'training.csv', '1/b.jpg', '../1/b.jpg'),
        ValueError,
        ['training.csv, line 3', "'../1/b.jpg'", 'outside'],
    ),
    'outside, later': (
        lambda r: edit(r / 'training.csv', '1/b.jpg', '1/../../b.jpg'),
        ValueError,
        ['training.csv, line 3', 'outside'],
    ),
    'outside, dropped row': (
        lambda r: edit(r / 'training.csv', '22/e.jpg', '../e.jpg'),
        ValueError,
        ['training.csv, line 6', 'outside'],
    ),
    'absolute': (
        lambda r: edit(r / 'validation.csv', '1/h.jpg', '/1/h.jpg'),
        ValueError,
        ['validation.csv, line 2', 'outside'],
    ),
    'drive': (
        lambda r: edit(r / 'validation.csv', '1/h.jpg', 'C:/h.jpg'),
        ValueError,
        ['validation.csv, line 2', 'outside'],
    ),
    'backslash': (
        lambda r: edit(r / 'validation.csv', '1/h.jpg', '1\\h.jpg'),
        ValueError,
        ['validation.csv, line 2', 'forward slashes'],
    ),
    'twice': (
        lambda r: edit(r / 'training.csv', '1/b.jpg', '1/a.jpg'),
        ValueError,
        ['training.csv, line 3', '1/a.jpg is labelled a second time', 'training.csv, line 2'],
    ),
    'in both lists': (
        lambda r: edit(r / 'validation.csv', '1/h.jpg', '22/e.jpg'),
        ValueError,
        ['validation.csv, line 2', 'second time', 'training.csv, line 6'],
    ),
    'no images': (
        lambda r: (r / BASE).rename(r / 'x'),
        FileNotFoundError,
        ['none of the folders of images', 'training.csv', 'unpack'],
    ),
    'no image': (
        lambda r: (r / BASE / '1/b.jpg').unlink(),
        FileNotFoundError,
        ['1 of the 5', '1/b.jpg', 'training.csv, line 3', "missing='drop'"],
    ),
    'no folder': (
        lambda r: (r / BASE / '3').rename(r / 'x'),
        FileNotFoundError,
        ['1 of the 5', '3/g.jpg', 'validation.csv, line 1'],
    ),
    'no label': (
        lambda r: (r / BASE / '1/z.jpg').touch(),
        ValueError,
        ['1 image has no label', '1/z.jpg', "missing='drop'"],
    ),
    'folder without labels': (
        lambda r: ((r / BASE / '44').mkdir(), (r / BASE / '44/z.jpg').touch()),
        ValueError,
        ['1 image has no label', '44/z.jpg'],
    ),
}


@pytest.mark.parametrize('fault', CSV_FAULTS)
def test_affectnet_list_faults(lists, fault):
    refuses(affectnet, lists, *CSV_FAULTS[fault])


def test_affectnet_line_numbers_beyond_the_first_piece(lists):
    rows = [line(f'1/{i}.jpg', 0) for i in range(10_500)]
    for change, words in (
        (lambda x: x.replace(',0,0.5', ',12,0.5'), 'line 10402, column expression: 12'),
        (lambda x: x + ',1', 'line 10402: 10 cells'),
        (lambda x: x.replace('0;0.25', '0;y'), "line 10402.*'y'"),
    ):
        (lists / 'training.csv').write_text(
            '\n'.join([HEAD, *rows[:10_400], change(rows[10_400]), *rows[10_401:]])
        )
        with pytest.raises(ValueError, match=words):
            affectnet(lists)


def test_affectnet_dropped_rows_need_no_image(lists):
    (lists / BASE / '22/e.jpg').unlink()
    assert len(affectnet(lists)) == 5
    with pytest.raises(FileNotFoundError, match='1 of the 4'):
        (lists / BASE / '1/a.jpg').unlink()
        affectnet(lists, classes=7)


def test_affectnet_drop(lists):
    (lists / BASE / '1/b.jpg').unlink()
    (lists / BASE / '3/g.jpg').unlink()
    (lists / BASE / '22/z.jpg').touch()
    with pytest.warns(
        UserWarning, match='2 of the 5 labelled images.*1/b.jpg.*1 image has no label.*22/z.jpg'
    ) as w:
        t = affectnet(lists, missing='drop')
    assert (
        len(w) == 1
        and w[0].filename == __file__
        and t.df['expression'].tolist() == ['neutral', 'happiness', 'surprise']
    )
    assert t.notes == {
        'images missing': 2,
        'images without a label': 1,
        'dropped: none': 1,
        'dropped: uncertain': 1,
        'dropped: no face': 1,
    }
    assert np.isnan(np.stack(t.df['landmarks'])).all(axis=1).tolist() == [False, False, True]


def test_affectnet_arguments(lists):
    with pytest.raises(ValueError, match="'error' or 'drop'"):
        affectnet(lists, missing='skip')
    with pytest.raises(ValueError, match='classes is 6'):
        affectnet(lists, classes=6)


# AffectNet, npy
def put(root, split, stem, ending='jpg', **kinds):
    for d in 'images', 'annotations':
        (root / split / d).mkdir(parents=True, exist_ok=True)
    (root / split / f'images/{stem}.{ending}').touch()
    for kind, x in kinds.items():
        np.save(root / split / f'annotations/{stem}_{kind}.npy', x)


@pytest.fixture
def npy(tmp_path):
    "Numbers as text, integers and arrays of one, as they are found"
    root, points = tmp_path / 'affectnet', np.arange(136.0)
    put(
        root,
        'train_set',
        2,
        exp=np.array('6'),
        val=np.array('-0.5'),
        aro=np.array('0.25'),
        lnd=points,
    )
    put(
        root,
        'train_set',
        10,
        exp=np.array(7),
        val=np.array(0.5),
        aro=np.array(-2.0),
        lnd=points + 1,
    )
    put(
        root,
        'train_set',
        1,
        exp=np.array([0]),
        val=np.array([1]),
        aro=np.float32([-1]),
        lnd=points.reshape(68, 2).astype('<U8'),
        ending='png',
    )
    put(root, 'train_set', 3, exp=np.array('8'), val=np.array('-2'), aro=np.array('-2'), lnd=points)
    put(root, 'val_set', 2, exp=np.array('1'), val=np.array('0'), aro=np.array('0'), lnd=points)
    return root


def test_affectnet_reads_npy(npy):
    for junk in (
        'train_set/images/Thumbs.db',
        'train_set/annotations/._2_exp.npy',
        'train_set/.DS_Store',
    ):
        (npy / junk).touch()
    t = affectnet(npy)
    assert (
        t.name == 'AffectNet'
        and t.splits == ['train', 'validation']
        and t.notes == {'dropped: none': 1}
    )
    assert t.df['path'].tolist() == [
        'train_set/images/1.png',
        'train_set/images/2.jpg',
        'train_set/images/10.jpg',
        'val_set/images/2.jpg',
    ] and all(p.is_file() for p in t.image_paths())
    assert (
        t.df['expression'].tolist() == ['neutral', 'anger', 'contempt', 'happiness']
        and 'face_x' not in t.df
    )
    np.testing.assert_equal(
        t.df[['valence', 'arousal']].to_numpy(),
        np.float32([[1, -1], [-0.5, 0.25], [0.5, np.nan], [0, 0]]),
    )
    np.testing.assert_equal(
        np.stack(t.df['landmarks']), np.arange(136) + np.float32([[0], [0], [1], [0]])
    )
    assert affectnet(npy, classes=7).notes == {'dropped: contempt': 1, 'dropped: none': 1}


NPY_FAULTS = {
    'no val_set': (
        lambda r: (r / 'val_set').rename(r / 'x'),
        FileNotFoundError,
        ['val_set/images does not exist', 'images and annotations'],
    ),
    'no annotations': (
        lambda r: (r / 'train_set/annotations').rename(r / 'x'),
        FileNotFoundError,
        ['train_set/annotations does not exist'],
    ),
    'none of them': (
        lambda r: (r / 'val_set/annotations/2_exp.npy').unlink(),
        FileNotFoundError,
        ['val_set/annotations holds no file such as 0_exp.npy'],
    ),
    'code 11': (
        lambda r: np.save(r / 'train_set/annotations/2_exp.npy', np.array('11')),
        ValueError,
        ['train_set/annotations/2_exp.npy', '11', 'from 0 (neutral)'],
    ),
    'code nan': (
        lambda r: np.save(r / 'train_set/annotations/2_exp.npy', np.array(np.nan)),
        ValueError,
        ['2_exp.npy', 'nan'],
    ),
    'a word': (
        lambda r: np.save(r / 'train_set/annotations/2_exp.npy', np.array('anger')),
        ValueError,
        ['2_exp.npy', "'anger'", 'no number'],
    ),
    'two numbers': (
        lambda r: np.save(r / 'train_set/annotations/2_exp.npy', np.array([1, 2])),
        ValueError,
        ['2_exp.npy', '2 numbers', 'must be 1'],
    ),
    'landmarks': (
        lambda r: np.save(r / 'train_set/annotations/2_lnd.npy', np.arange(10.0)),
        ValueError,
        ['2_lnd.npy', '10 numbers', 'must be 136'],
    ),
    'valence 3': (
        lambda r: np.save(r / 'train_set/annotations/2_val.npy', np.array('3')),
        ValueError,
        ['2_val.npy', 'column valence: 3', '-2 for unknown'],
    ),
    'pickle': (
        lambda r: np.save(r / 'train_set/annotations/2_exp.npy', np.array([{}], dtype=object)),
        ValueError,
        ['2_exp.npy cannot be read', 'pickle'],
    ),
    'empty file': (
        lambda r: (r / 'train_set/annotations/2_val.npy').write_bytes(b''),
        ValueError,
        ['2_val.npy cannot be read', 'empty'],
    ),
    'cut file': (
        lambda r: (r / 'train_set/annotations/2_lnd.npy').write_bytes(
            (r / 'train_set/annotations/2_lnd.npy').read_bytes()[:-8]
        ),
        ValueError,
        ['2_lnd.npy cannot be read'],
    ),
    'cut, header met before': (
        lambda r: (r / 'train_set/annotations/10_lnd.npy').write_bytes(
            (r / 'train_set/annotations/10_lnd.npy').read_bytes()[:-8]
        ),
        ValueError,
        ['10_lnd.npy cannot be read'],
    ),
    'no image': (
        lambda r: (r / 'train_set/images/2.jpg').unlink(),
        FileNotFoundError,
        ['1 of the 4', 'train_set/images/2.jpg', '2_exp.npy', "missing='drop'"],
    ),
    'no label': (
        lambda r: [(r / f'train_set/images/{i}.jpg').touch() for i in (77, 78)],
        ValueError,
        ['2 images have no label', 'train_set/images/77.jpg'],
    ),
    'padded images': (
        lambda r: (r / 'train_set/images/2.jpg').rename(r / 'train_set/images/000002.jpg'),
        FileNotFoundError,
        ['1 of the 4', 'train_set/images/2.jpg'],
    ),
}


@pytest.mark.parametrize('fault', NPY_FAULTS)
def test_affectnet_npy_faults(npy, fault):
    refuses(affectnet, npy, *NPY_FAULTS[fault])


def test_affectnet_npy_drop(npy):
    (npy / 'train_set/images/2.jpg').unlink()
    (npy / 'val_set/images/5.jpg').touch()
    with pytest.warns(UserWarning, match='1 of the 4.*1 image has no label') as w:
        t = affectnet(npy, missing='drop')
    assert len(w) == 1 and t.notes == {
        'images missing': 1,
        'images without a label': 1,
        'dropped: none': 1,
    }
    # rows stay together
    np.testing.assert_equal(np.stack(t.df['landmarks'])[:, 0], [0, 1, 0])
    np.testing.assert_equal(t.df['valence'].to_numpy(), np.float32([1, 0.5, 0]))


def test_affectnet_npy_without_some_values(npy):
    before = affectnet(npy)
    (npy / 'train_set/annotations/2_val.npy').unlink()
    (npy / 'train_set/annotations/10_lnd.npy').unlink()
    with pytest.warns(
        UserWarning, match='2 annotation files are missing, the first being .*2_val.npy'
    ) as w:
        t = affectnet(npy)
    assert (
        len(w) == 1
        and len(t) == len(before)
        and t.df['valence'].isna().tolist() == [False, True, False, False]
    )
    assert np.isnan(np.stack(t.df['landmarks'])).all(axis=1).tolist() == [False, False, True, False]


def test_affectnet_npy_with_expressions_alone(npy):
    for kind in 'val', 'aro', 'lnd':
        for f in npy.rglob(f'*_{kind}.npy'):
            f.unlink()
    with pytest.warns(UserWarning, match='annotation files are missing'):
        t = affectnet(npy)
    assert (
        t.df['expression'].tolist() == ['neutral', 'anger', 'contempt', 'happiness']
        and 'landmarks' not in t.df
        and t.df['valence'].isna().all()
    )


# twins
@pytest.mark.parametrize('form', ['csv', 'npy'])
def test_affectnet_twin_agrees_with_its_truth(tmp_path, form):
    root = write_affectnet(
        tmp_path / form, form, n_train=16, n_validation=8, size=32, header=form != 'csv', seed=3
    )
    d, truth = agree_with_truth(affectnet(root))
    for c in ('valence', 'arousal'):
        np.testing.assert_allclose(d[c], truth[c], atol=1e-6)
    np.testing.assert_allclose(np.stack(d['landmarks']), np.stack(truth['landmarks']), rtol=1e-6)
    if form == 'csv':
        box = ['face_x', 'face_width']
        np.testing.assert_equal(d[box].to_numpy(), truth[box].to_numpy())
