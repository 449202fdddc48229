"""Faults of the FERPlus loader, on small files written by hand, and the official vote table where
it is at hand
"""

import multiprocessing
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import clef_nb.datasets.ferplus as module
from clef_nb.datasets.cache import frame_cache
from clef_nb.datasets.ferplus import ferplus, ferplus_labels, write_ferplus
from clef_nb.datasets.texts import FERPLUS_EXPRESSIONS

pytestmark = pytest.mark.filterwarnings('ignore:The image decoding and encoding:DeprecationWarning')
REAL = Path(__file__).resolve().parents[3] / 'shared' / 'real' / 'ferplus_fer2013new.csv'
real = pytest.mark.skipif(not REAL.is_file(), reason=f'{REAL.name} is not beside the project')
COLUMNS = [*FERPLUS_EXPRESSIONS, 'unknown', 'NF']
FOLDER = dict(Training='FER2013Train', PublicTest='FER2013Valid', PrivateTest='FER2013Test')
# usage, image, votes in ten columns, expression by the majority rule
ROWS = [
    ('Training', 'fer0000000.png', '0,10,0,0,0,0,0,0,0,0', 'happiness'),
    ('Training', 'fer0000002.png', '5,5,0,0,0,0,0,0,0,0', None),
    ('Training', '', '0,0,0,0,0,0,0,0,0,10', None),
    ('Training', 'fer0000004.png', '2,0,5,1,1,1,0,0,0,0', 'surprise'),
    ('PublicTest', 'fer0000005.png', '1,0,0,2,0,0,0,0,7,0', None),
    ('PublicTest', 'fer0000007.png', '1,1,1,1,1,5,0,0,0,0', 'disgust'),
    ('PrivateTest', 'fer0000009.png', '0,0,0,0,0,0,3,7,0,0', 'contempt'),
    ('PrivateTest', 'fer0000008.png', '0,0,0,0,6,0,4,0,0,0', 'anger'),
]
KEPT = [i for i, r in enumerate(ROWS) if r[3]]
GREYS = np.random.default_rng(0).integers(0, 256, (len(ROWS), 48, 48), dtype=np.uint8)


def votes_text(rows=ROWS):
    return (
        '\n'.join(
            [','.join(['Usage', 'Image name', *COLUMNS])] + [f'{u},{i},{v}' for u, i, v, *_ in rows]
        )
        + '\n'
    )


def pixel_text(rows=ROWS, quote=''):
    return (
        '\n'.join(
            ['emotion,pixels,Usage']
            + [
                f'3,{quote}{" ".join(map(str, g.ravel()))}{quote},{r[0]}'
                for g, r in zip(GREYS, rows)
            ]
        )
        + '\n'
    )


@pytest.fixture
def root(tmp_path):
    "Eight rows: five with an expression, a tie, one unknown, one without face"
    root = tmp_path / 'ferplus'
    root.mkdir()
    (root / 'fer2013new.csv').write_text(votes_text())
    (root / 'fer2013.csv').write_text(pixel_text())
    return root


@pytest.fixture(
    params=['FER2013Train', 'Images/FER2013Train', 'data/FER2013Train', 'Images', 'alone']
)
def images(tmp_path, request):
    "The same as image files, in each place where they may be"
    root = tmp_path / 'ferplus'
    root.mkdir()
    (root / 'fer2013new.csv').write_text(votes_text())
    for g, (usage, name, *_) in zip(GREYS, ROWS):
        if not name:
            continue
        folder = root / request.param.replace('FER2013Train', FOLDER[usage]).replace('alone', '.')
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(g).save(folder / name)
    return root


def edit(file, old, new, times=1):
    text = file.read_bytes()
    assert old.encode() in text
    file.write_bytes(text.replace(old.encode(), new.encode(), times))


def listed(folder):
    return sorted(p.name for p in folder.iterdir())


# ---- what is read


def test_reads_both_files(root):
    t = ferplus(root)
    assert t.name == 'FERPlus' and t.root == root and t.splits == ['train', 'validation', 'test']
    assert (
        t.df['expression'].tolist() == [ROWS[i][3] for i in KEPT]
        and t.df['split'].tolist() == ['train'] * 2 + ['validation'] + ['test'] * 2
    )
    assert t.notes == {'dropped: no majority': 1, 'dropped: unknown': 1, 'dropped: not a face': 1}
    assert t.df[[f'votes_{c}' for c in COLUMNS]].astype(str).agg(','.join, axis=1).tolist() == [
        ROWS[i][2] for i in KEPT
    ]
    assert [int(p.split('#')[1]) for p in t.df['path']] == KEPT and t.df['path'].str.fullmatch(
        r'fer2013-[0-9a-f]{12}\.npy#\d'
    ).all()
    x = frame_cache(t, 48, folder=root / 'cache', progress=False)
    assert (x == GREYS[KEPT][..., None]).all()


def test_images_say_the_same(images, tmp_path):
    t = ferplus(images)
    assert t.df['expression'].tolist() == [ROWS[i][3] for i in KEPT] and t.root == images
    assert (
        frame_cache(t, 48, folder=tmp_path / 'cache', progress=False) == GREYS[KEPT][..., None]
    ).all()
    assert t.notes == {'dropped: no majority': 1, 'dropped: unknown': 1, 'dropped: not a face': 1}


def test_labels_alone(root):
    d = ferplus_labels(root / 'fer2013new.csv')
    assert d.columns.tolist() == ['row', 'image', 'split', 'expression', 'reason'] + [
        f'votes_{c}' for c in COLUMNS
    ]
    assert d['row'].tolist() == list(range(8)) and d['image'].isna().tolist() == [
        not r[1] for r in ROWS
    ]
    assert d['reason'].fillna('').tolist() == [
        '',
        'no majority',
        'not a face',
        '',
        'unknown',
        '',
        '',
        '',
    ]
    assert (d['expression'].isna() == d['reason'].notna()).all()


def test_a_row_without_name_is_dropped_whatever_its_votes(root):
    edit(root / 'fer2013new.csv', 'fer0000000.png', '')
    for rule in 'majority', 'plurality':
        assert ferplus_labels(root / 'fer2013new.csv', rule).loc[0, 'reason'] == 'not a face'


def test_rules():
    cases = {
        '0,10,0,0,0,0,0,0,0,0': ('happiness', 'happiness'),
        '0,0,0,0,0,0,0,0,0,0': (None, None),  # nobody voted
        # nothing but single votes
        '1,1,1,1,1,1,1,1,1,1': (None, None),
        '2,1,1,1,1,1,1,1,1,0': ('neutral', 'neutral'),  # two of two
        '4,0,0,4,0,0,0,0,0,0': (None, None),  # exactly half, twice
        # exactly half: the rest of all ten columns counts
        '4,0,0,2,0,0,0,0,2,0': (None, 'neutral'),
        '5,0,0,2,0,0,0,0,2,0': ('neutral', 'neutral'),
        '3,0,0,0,0,0,0,0,4,0': (None, None),  # unknown wins
        '0,0,0,0,0,0,0,2,1,6': (None, None),  # no face wins
        '1,0,0,0,0,0,0,1,0,0': (None, None),
        # a single vote is a slip to the one rule, most of the votes to the other
        '1,0,0,0,0,0,0,0,0,0': (None, 'neutral'),
    }
    for votes, expected in cases.items():
        v = np.array([votes.split(',')]).astype(int)
        for rule, e in zip(('majority', 'plurality'), expected):
            k = module._winner(v, rule)[0]
            assert (COLUMNS[k] if 0 <= k < 8 else None) == e, (votes, rule)


@real
def test_official_counts():
    d = ferplus_labels(REAL)
    assert (
        len(d) == 35_887
        and d['split'].value_counts().to_dict() == dict(train=28_709, validation=3_589, test=3_589)
        and d['image'].isna().sum() == 173
    )
    assert d.groupby('split')['expression'].count().to_dict() == dict(
        train=25_060, validation=3_199, test=3_153
    )
    plural = ferplus_labels(REAL, 'plurality')
    assert (
        (plural['expression'].notna() & d['expression'].notna()).sum()
        == d['expression'].notna().sum()
        < plural['expression'].notna().sum()
    )
    # more than half is most
    both = d['expression'].notna()
    assert (plural['expression'][both] == d['expression'][both]).all()


@real
def test_official_names_are_no_numbers_of_rows():
    "What the prose says of the names: they are not the rows' numbers, and some occur twice"
    d = ferplus_labels(REAL)
    number = d['image'].str[3:10].astype('Int64')
    assert (number.dropna() != d['row'][number.notna()]).any() and (
        number.dropna().diff().dropna() < 0
    ).any()
    assert d['image'].dropna().duplicated().sum() == 4


def test_environment(root, monkeypatch):
    monkeypatch.setenv('CLEF_FERPLUS', str(root))
    assert len(ferplus()) == 5
    monkeypatch.delenv('CLEF_FERPLUS')
    with pytest.raises(ValueError, match='CLEF_FERPLUS'):
        ferplus()


@pytest.mark.parametrize(
    'change',
    [
        lambda t: t.replace('\n', '\r\n'),
        lambda t: '\ufeff' + t,
        lambda t: '\ufeff' + t.replace('\n', '\r\n').rstrip(),
        lambda t: t.rstrip('\n'),
        lambda t: t + '\n\r\n  \n',
        lambda t: t.replace('emotion,pixels', 'emotion, pixels'),
        lambda t: (
            t.replace('3,', '3, "', 3).replace(',Tr', '" , "Tr', 3).replace('ing\n', 'ing"\n', 3)
        ),
        lambda t: t.replace(' ', '  '),
        lambda t: t.replace(' ', '\t'),
        lambda t: t.replace('3,', '3, '),
        lambda t: t.replace(',P', ' ,P'),
        lambda t: t.replace(' 7 ', ' 007 ').replace(' 8 ', ' 0008 '),
    ],
    ids=[
        'CRLF',
        'byte-order mark',
        'both, no last line end',
        'no last line end',
        'blank lines at the end',
        'blank in header',
        'some quoted',
        'two blanks',
        'tabs',
        'blank before',
        'blank behind',
        'leading zeros',
    ],
)
def test_spellings_of_pixels(root, change):
    file = root / 'fer2013.csv'
    file.write_bytes(change(file.read_text()).encode())
    pixels, splits = module._parse(file)
    assert (pixels == GREYS).all() and splits == ['train'] * 4 + ['validation'] * 2 + ['test'] * 2


def test_quoted_pixels(root):
    (root / 'fer2013.csv').write_text(pixel_text(quote='"'))
    assert (module._parse(root / 'fer2013.csv')[0] == GREYS).all()


@pytest.mark.parametrize(
    'order',
    [
        ['emotion', 'Usage', 'pixels'],
        ['pixels', 'Usage', 'emotion'],
        ['Usage', 'pixels'],
        ['pixels', 'x', 'y', 'Usage'],
        ['x', 'Usage', 'y', 'pixels', 'emotion'],
    ],
)
@pytest.mark.parametrize('odd', [False, True])
def test_columns_go_by_header(root, order, odd):
    d = pd.read_csv(root / 'fer2013.csv').assign(x='a b', y=17)
    if odd:
        d.loc[2, 'x'] = 'a,b'
        d.loc[[0, 2, 7], 'pixels'] = d.loc[[0, 2, 7], 'pixels'].str.replace(' ', '\t')
    d[order].to_csv(root / 'fer2013.csv', index=False)
    pixels, splits = module._parse(root / 'fer2013.csv')
    assert (pixels == GREYS).all() and splits == ['train'] * 4 + ['validation'] * 2 + ['test'] * 2


def test_extra_columns_and_spreadsheet_leavings_in_votes(root):
    before = ferplus(root).df
    file = root / 'fer2013new.csv'
    d = pd.read_csv(file, dtype=str, keep_default_na=False)
    d[['contempt', 'Usage', *[c for c in COLUMNS if c != 'contempt'], 'Image name']].assign(
        note='x'
    ).to_csv(file, index=False)
    pd.testing.assert_frame_equal(ferplus(root).df, before)
    file.write_bytes(
        b'\xef\xbb\xbf' + votes_text().replace('\n', '\r\n').replace(',', ', ').encode() + b'\r\n'
    )
    pd.testing.assert_frame_equal(ferplus(root).df, before)


@pytest.mark.parametrize(
    'number',
    [
        '256',
        '257',
        '299',
        '300',
        '500',
        '999',
        '1000',
        '1001',
        '1255',
        '00256',
        '65536',
        '4294967297',
        '-1',
        '+1',
        '1.0',
        '1e1',
        '0x1',
        'x',
        '1x',
        'x1',
        '²',
        '1;',
        '1/',
        '1:',
    ],
)
def test_no_greys(root, number):
    "Wherever they stand in the line: nothing wraps round to a grey"
    lines = (root / FER).read_text().split('\n')
    for k in 0, 1, 1000, 2302, 2303:
        x = [str(v) for v in GREYS[2].ravel()]
        x[k] = number
        (root / FER).write_text('\n'.join(lines[:3] + [f'3,{" ".join(x)},Training'] + lines[4:]))
        with pytest.raises(
            ValueError, match=rf'fer2013\.csv, line 4, column 2 \(pixels\): number {k + 1} is'
        ):
            module._parse(root / FER)


@pytest.mark.parametrize(
    'number',
    [
        '0',
        '00',
        '000',
        '0000',
        '9',
        '09',
        '99',
        '100',
        '0100',
        '199',
        '200',
        '249',
        '250',
        '255',
        '0255',
    ],
)
def test_greys(root, number):
    lines = (root / FER).read_text().split('\n')
    for k in 0, 1, 1000, 2302, 2303:
        x = [str(v) for v in GREYS[2].ravel()]
        x[k] = number
        y = GREYS.copy()
        y[2].ravel()[k] = int(number)
        (root / FER).write_text('\n'.join(lines[:3] + [f'3,{" ".join(x)},Training'] + lines[4:]))
        assert (module._parse(root / FER)[0] == y).all()


@pytest.mark.parametrize('seed', range(20))
def test_agrees_with_splitting_the_text(tmp_path, seed):
    """Lengths, digits and places of faults at random: the pixels of the obvious way, or an error
    where that has none
    """
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 6))
    greys = rng.integers(0, rng.choice([2, 10, 100, 256]), (n, 2304))
    rows = [[str(v) for v in g] for g in greys]
    bad = None
    if seed % 2:
        r, k = int(rng.integers(n)), int(rng.choice([0, 1, 2302, 2303, rng.integers(2304)]))
        rows[r][k] = str(
            rng.choice(
                [
                    '256',
                    '300',
                    '999',
                    '1000',
                    '-1',
                    '+1',
                    '1.0',
                    'x',
                    '1x',
                    'x1',
                    '',
                    '²',
                    '1e1',
                    '0x1',
                    '4294967297',
                    '1\t',
                    '1;',
                ]
            )
        )
        bad = r, k
    (tmp_path / 'f.csv').write_text(
        'emotion,pixels,Usage\n'
        + ''.join(f'{i},{" ".join(r)},Training\n' for i, r in enumerate(rows))
    )
    if bad is None or rows[bad[0]][bad[1]] == '1\t':
        assert (
            module._parse(tmp_path / 'f.csv')[0].reshape(n, -1)
            == np.array([[int(v) for v in r] for r in rows])
        ).all()
    else:
        with pytest.raises(
            ValueError,
            match=(
                rf'f\.csv, line {bad[0] + 2}, column 2 \(pixels\): (number {bad[1] + 1} is|2,303'
                r' numbers)'
            ),
        ):
            module._parse(tmp_path / 'f.csv')


# ---- faults

LABELS, FER = 'fer2013new.csv', 'fer2013.csv'


def line(root, i, new):
    rows = (root / FER).read_text().split('\n')
    rows[i - 1] = new(rows[i - 1])
    (root / FER).write_text('\n'.join(rows))


FAULTS = {
    'no root': (
        lambda r: r.rename(r.parent / 'x'),
        FileNotFoundError,
        ['ferplus does not exist', 'give the folder'],
    ),
    'no votes': (
        lambda r: (r / LABELS).unlink(),
        FileNotFoundError,
        ['fer2013new.csv does not exist', 'put it there'],
    ),
    'no pixels': (
        lambda r: (r / FER).unlink(),
        FileNotFoundError,
        ['ferplus holds no images', 'put fer2013.csv there'],
    ),
    'votes: no column': (
        lambda r: edit(r / LABELS, 'contempt', 'Contempt'),
        ValueError,
        ['fer2013new.csv, line 1', 'no column is called contempt', 'Contempt', 'original file'],
    ),
    'votes: column twice': (
        lambda r: edit(r / LABELS, 'fear', 'anger'),
        ValueError,
        ['fer2013new.csv, line 1', 'two columns are called anger'],
    ),
    'votes: no header': (
        lambda r: edit(r / LABELS, votes_text().split('\n')[0] + '\n', ''),
        ValueError,
        ['fer2013new.csv, line 1', 'no column is called Usage'],
    ),
    'votes: header alone': (
        lambda r: (r / LABELS).write_text(votes_text([])),
        ValueError,
        ['fer2013new.csv', 'no rows'],
    ),
    'votes: empty': (
        lambda r: (r / LABELS).write_text('\n'),
        ValueError,
        ['fer2013new.csv is empty'],
    ),
    'votes: binary': (
        lambda r: (r / LABELS).write_bytes(b'PK\xff\xfe'),
        ValueError,
        ['fer2013new.csv is no text'],
    ),
    'votes: short line': (
        lambda r: edit(r / LABELS, '5,5,0,', '5,5,'),
        ValueError,
        ['fer2013new.csv, line 3', '11 cells', '12'],
    ),
    'votes: usage': (
        lambda r: edit(r / LABELS, 'PublicTest', 'Test'),
        ValueError,
        ['fer2013new.csv, line 6, column 1 (Usage)', "'Test'", 'PublicTest'],
    ),
    'votes: no usage': (
        lambda r: edit(r / LABELS, 'PublicTest', ''),
        ValueError,
        ['fer2013new.csv, line 6, column 1 (Usage)', "''"],
    ),
    'votes: a word': (
        lambda r: edit(r / LABELS, '5,5,0,', '5,x,0,'),
        ValueError,
        ['fer2013new.csv, line 3, column 4 (happiness)', "'x'"],
    ),
    'votes: negative': (
        lambda r: edit(r / LABELS, '5,5,0,', '5,-5,0,'),
        ValueError,
        ['fer2013new.csv, line 3, column 4 (happiness)', "'-5'"],
    ),
    'votes: no number': (
        lambda r: edit(r / LABELS, '5,5,0,', '5,,0,'),
        ValueError,
        ['fer2013new.csv, line 3, column 4 (happiness)', "''"],
    ),
    'votes: a fraction': (
        lambda r: edit(r / LABELS, '5,5,0,', '5,5.0,0,'),
        ValueError,
        ['line 3, column 4 (happiness)', "'5.0'"],
    ),
    'votes: a huge number': (
        lambda r: edit(r / LABELS, '5,5,0,', '5,99999999999999999999,0,'),
        ValueError,
        ['line 3, column 4 (happiness)'],
    ),
    'name leads up': (
        lambda r: edit(r / LABELS, 'fer0000002.png', '../fer0000002.png'),
        ValueError,
        ['fer2013new.csv, line 3', '../fer0000002.png', 'another folder'],
    ),
    'name leads down': (
        lambda r: edit(r / LABELS, 'fer0000002.png', 'a/b.png'),
        ValueError,
        ['fer2013new.csv, line 3', 'another folder'],
    ),
    'name with backslash': (
        lambda r: edit(r / LABELS, 'fer0000002.png', '..\\b.png'),
        ValueError,
        ['fer2013new.csv, line 3', 'another folder'],
    ),
    'name with drive': (
        lambda r: edit(r / LABELS, 'fer0000002.png', 'C:b.png'),
        ValueError,
        ['fer2013new.csv, line 3', 'another folder'],
    ),
    'name of dots': (
        lambda r: edit(r / LABELS, 'fer0000002.png', '..'),
        ValueError,
        ['fer2013new.csv, line 3', 'another folder'],
    ),
    'pixels: empty': (lambda r: (r / FER).write_bytes(b''), ValueError, ['fer2013.csv is empty']),
    'pixels: blank': (
        lambda r: (r / FER).write_bytes(b'\n\n'),
        ValueError,
        ['fer2013.csv, line 1', 'no column is called pixels'],
    ),
    'pixels: mark alone': (
        lambda r: (r / FER).write_bytes(b'\xef\xbb\xbf'),
        ValueError,
        ['fer2013.csv, line 1', 'no column is called pixels'],
    ),
    'pixels: binary': (
        lambda r: (r / FER).write_bytes(b'PK\x03\x04\xff\xfe\x00'),
        ValueError,
        ['fer2013.csv is no text file', 'original file'],
    ),
    'pixels: header': (
        lambda r: edit(r / FER, 'Usage', 'usage'),
        ValueError,
        ['fer2013.csv, line 1', 'no column is called Usage', 'emotion, pixels, usage'],
    ),
    'pixels: no header': (
        lambda r: edit(r / FER, 'emotion,pixels,Usage\n', ''),
        ValueError,
        ['fer2013.csv, line 1', 'no column is called pixels'],
    ),
    'pixels: header twice': (
        lambda r: edit(r / FER, 'emotion', 'Usage'),
        ValueError,
        ['fer2013.csv, line 1', 'two columns are called Usage'],
    ),
    'pixels: header alone': (
        lambda r: (r / FER).write_text('emotion,pixels,Usage\n'),
        ValueError,
        ['fer2013.csv', 'no rows'],
    ),
    'pixels: 2,303': (
        lambda r: line(r, 4, lambda t: t.replace(' ', '', 1)),
        ValueError,
        ['fer2013.csv, line 4, column 2 (pixels)', '2,303 numbers', '2,304'],
    ),
    'pixels: 2,305': (
        lambda r: line(r, 9, lambda t: t.replace(' ', ' 1 ', 1)),
        ValueError,
        ['fer2013.csv, line 9, column 2 (pixels)', '2,305 numbers'],
    ),
    'pixels: none': (
        lambda r: line(r, 4, lambda t: '3,,Training'),
        ValueError,
        ['fer2013.csv, line 4, column 2 (pixels)', '0 numbers'],
    ),
    'pixels: 256': (
        lambda r: line(
            r,
            2,
            lambda t: (
                t.replace(' ', ' 256', 1).replace(' 256', ' 256 ', 1).rsplit(' ', 1)[0]
                + ',Training'
            ),
        ),
        ValueError,
        ['fer2013.csv, line 2, column 2 (pixels)', "number 2 is '256'", '0 to 255'],
    ),
    'pixels: a letter': (
        lambda r: line(r, 5, lambda t: t.replace(' ', ' a', 1)),
        ValueError,
        ['fer2013.csv, line 5, column 2 (pixels)', "number 2 is 'a"],
    ),
    'pixels: negative': (
        lambda r: line(r, 5, lambda t: t.replace(' ', ' -', 1)),
        ValueError,
        ['fer2013.csv, line 5, column 2 (pixels)', "number 2 is '-"],
    ),
    'pixels: comma': (
        lambda r: line(r, 5, lambda t: t.replace(' ', ', ', 1)),
        ValueError,
        ['fer2013.csv, line 5', '4 cells', '3'],
    ),
    'pixels: cut off': (
        lambda r: (r / FER).write_bytes((r / FER).read_bytes()[:-3000]),
        ValueError,
        ['fer2013.csv, line 9', '2 cells', '3'],
    ),
    'pixels: not utf-8': (
        lambda r: (r / FER).write_bytes((r / FER).read_bytes().replace(b' 1', b' \xff', 1)),
        ValueError,
        ['fer2013.csv, line 2', 'no line of text'],
    ),
    'pixels: zero byte': (
        lambda r: (r / FER).write_bytes((r / FER).read_bytes().replace(b' 1', b' \0', 1)),
        ValueError,
        ['fer2013.csv, line 2'],
    ),
    'pixels: blank line': (
        lambda r: line(r, 4, lambda t: t + '\n'),
        ValueError,
        ['fer2013.csv, line 5', '0 cells'],
    ),
    'pixels: usage': (
        lambda r: line(r, 4, lambda t: t.replace('Training', 'Train')),
        ValueError,
        ['fer2013.csv, line 4, column 3 (Usage)', "'Train'", 'PublicTest'],
    ),
    'pixels: no usage': (
        lambda r: line(r, 4, lambda t: t.replace('Training', '')),
        ValueError,
        ['fer2013.csv, line 4, column 3 (Usage)', "''"],
    ),
    'pixels: no usage column': (
        lambda r: line(r, 4, lambda t: t.replace(',Training', '')),
        ValueError,
        ['fer2013.csv, line 4', '2 cells', '3'],
    ),
    'usages differ': (
        lambda r: edit(r / LABELS, 'PublicTest', 'PrivateTest'),
        ValueError,
        [
            'fer2013.csv, line 6',
            'is validation',
            'fer2013new.csv, line 6',
            'says test',
            'row by row',
        ],
    ),
    'a row lost': (lambda r: line(r, 2, lambda t: ''), ValueError, ['fer2013.csv, line 2']),
    'a row doubled': (
        lambda r: line(r, 2, lambda t: t + '\n' + t),
        ValueError,
        ['fer2013.csv, line 6', 'is train', 'says validation', 'row by row'],
    ),
    'image missing': (
        lambda r: line(r, 9, lambda t: ''),
        FileNotFoundError,
        [
            'fer2013.csv has 7 rows',
            'fer2013new.csv 8',
            '1 rows of votes have no image, from line 9 on',
            "missing='drop'",
        ],
    ),
    'votes missing': (
        lambda r: edit(r / LABELS, votes_text().split('\n')[8] + '\n', ''),
        ValueError,
        [
            'fer2013.csv has 8 rows',
            'fer2013new.csv 7',
            '1 images have no votes, from line 9 on',
            "missing='drop'",
        ],
    ),
}


@pytest.mark.parametrize('fault', FAULTS)
def test_each_fault_has_one_clear_error(root, fault):
    change, kind, words = FAULTS[fault]
    change(root)
    before = listed(root) if root.exists() else []
    with pytest.raises(kind) as e:
        ferplus(root)
    for w in words:
        assert w in str(e.value), str(e.value)
    assert str(root) in str(e.value) and len(str(e.value)) < 600
    # at most the whole array of a sound fer2013.csv is new
    if root.exists():
        assert [n for n in listed(root) if not n.startswith('fer2013-')] == before


def test_nothing_is_left_by_a_fault_in_the_pixels(root):
    line(root, 9, lambda t: t.replace(' ', ' x', 1))
    before = listed(root)
    with pytest.raises(ValueError, match='line 9'):
        ferplus(root)
    assert listed(root) == before


def test_arguments(root):
    with pytest.raises(ValueError, match="'error' or 'drop'"):
        ferplus(root, missing='skip')
    for call in (lambda: ferplus(root, 'mean')), (lambda: ferplus_labels(root / LABELS, 'mean')):
        with pytest.raises(
            ValueError, match="rule is 'mean'; it must be 'majority' or 'plurality'"
        ):
            call()
    with pytest.raises(FileNotFoundError, match='nowhere.csv does not exist'):
        ferplus_labels(root / 'nowhere.csv')


def test_drop_of_rows_at_the_end(root):
    line(root, 9, lambda t: '')
    with pytest.warns(UserWarning, match='has 7 rows.*left out') as w:
        t = ferplus(root, missing='drop')
    assert len(w) == 1 and len(t) == 4 and t.notes['images missing'] == 1
    (root / FER).write_text(pixel_text())
    edit(root / LABELS, '\n' + votes_text().split('\n')[8], '')
    with pytest.warns(UserWarning, match='1 images have no votes') as w:
        t = ferplus(root, missing='drop')
    assert len(w) == 1 and len(t) == 4 and t.notes['images without a label'] == 1


def test_nothing_left_to_read(root):
    (root / LABELS).write_text(votes_text([(u, i, '0,0,0,0,0,0,0,0,0,10') for u, i, *_ in ROWS]))
    with pytest.raises(ValueError, match='majority leaves no row'):
        ferplus(root)


# ---- images as files


def test_image_missing(images):
    path = next(images.rglob('fer0000007.png'))
    path.unlink()
    with pytest.raises(FileNotFoundError) as e:
        ferplus(images)
    for w in '1 of the 5', str(path), 'fer2013new.csv, line 7', "missing='drop'":
        assert w in str(e.value)
    with pytest.warns(UserWarning, match='left out') as w:
        t = ferplus(images, missing='drop')
    assert len(w) == 1 and len(t) == 4 and t.notes['images missing'] == 1


def test_image_without_votes(images):
    path = next(images.rglob('fer0000007.png')).with_name('fer0000099.png')
    path.touch()
    with pytest.raises(ValueError) as e:
        ferplus(images)
    for w in '1 image has no label', str(path), "missing='drop'":
        assert w in str(e.value)
    with pytest.warns(UserWarning, match='left out') as w:
        t = ferplus(images, missing='drop')
    assert len(w) == 1 and len(t) == 5 and t.notes['images without a label'] == 1


def test_dropped_rows_need_no_image(images):
    next(images.rglob('fer0000002.png')).unlink()
    assert len(ferplus(images)) == 5


def test_junk_beside_the_images(images):
    folder = next(images.rglob('fer0000007.png')).parent
    for n in 'Thumbs.db', '._fer0000007.png', 'label.csv':
        (folder / n).touch()
    assert len(ferplus(images)) == 5


def test_image_in_the_folder_of_another_split(tmp_path):
    (tmp_path / LABELS).write_text(votes_text())
    for g, (usage, name, *_) in zip(GREYS, ROWS):
        if name:
            (tmp_path / FOLDER[usage]).mkdir(exist_ok=True)
            Image.fromarray(g).save(tmp_path / FOLDER[usage] / name)
    (tmp_path / 'FER2013Valid/fer0000007.png').rename(tmp_path / 'FER2013Train/fer0000007.png')
    with pytest.raises(FileNotFoundError, match='FER2013Valid/fer0000007.png'):
        ferplus(tmp_path)


def test_no_image(images, tmp_path):
    path = next(images.rglob('fer0000007.png'))
    path.write_text('<html>not found</html>')
    with pytest.raises(ValueError, match=r'fer0000007\.png cannot be decoded'):
        frame_cache(ferplus(images), 48, folder=tmp_path / 'cache')
    assert not (tmp_path / 'cache').exists() or listed(tmp_path / 'cache') == []


def test_a_name_used_again_is_one_image(images, root_rows=ROWS):
    "As in the official table: two rows, one name. The file shows the later row's image"
    rows = [list(r) for r in ROWS]
    rows[0][1] = rows[3][1]
    (images / LABELS).write_text(votes_text(rows))
    next(images.rglob('fer0000000.png')).unlink()
    t = ferplus(images)
    assert (
        len(t) == 4
        and t.notes['dropped: name used again'] == 1
        and t.df['expression'].tolist() == ['surprise', 'disgust', 'contempt', 'anger']
    )


def test_a_name_used_again_is_two_rows_of_pixels(root):
    edit(root / LABELS, 'fer0000000.png', 'fer0000004.png')
    assert len(ferplus(root)) == 5


# ---- the array


def arrays(folder):
    return sorted(p.name for p in folder.glob('fer2013-*'))


def test_written_once(root, monkeypatch):
    a = ferplus(root)
    assert len(arrays(root)) == 2 and not [p for p in listed(root) if p.startswith('.')]
    monkeypatch.setattr(module, '_parse', None)  # nothing is parsed a second time
    pd.testing.assert_frame_equal(ferplus(root).df, a.df)
    ferplus(root, 'plurality')


def test_stale_after_the_file_changes(root, tmp_path):
    first = ferplus(root).df['path'][0]
    s = (root / FER).stat()
    edit(root / FER, f'3,{GREYS[0, 0, 0]} ', f'3,{(int(GREYS[0, 0, 0]) + 1) % 256:03} ')
    t = ferplus(root)
    assert (
        t.df['path'][0] != first
        and frame_cache(t, 48, folder=tmp_path / 'c')[0, 0, 0, 0] == (int(GREYS[0, 0, 0]) + 1) % 256
    )
    # same size, other time
    (root / FER).write_text(pixel_text())
    os.utime(root / FER, ns=(s.st_atime_ns, s.st_mtime_ns + 1))
    assert ferplus(root).df['path'][0] not in (first, t.df['path'][0])
    os.utime(root / FER, ns=(s.st_atime_ns, s.st_mtime_ns))
    assert ferplus(root).df['path'][0] == first
    # other size, same time
    (root / FER).write_text(pixel_text() + '\n')
    os.utime(root / FER, ns=(s.st_atime_ns, s.st_mtime_ns))
    assert ferplus(root).df['path'][0] != first


def test_damaged_array_is_made_anew(root, tmp_path):
    t = ferplus(root)
    array = root / t.df['path'][0].split('#')[0]
    about = array.with_suffix('.json')
    whole, said = array.read_bytes(), about.read_text()
    for damage in whole[:5000], b'', b'no array', whole[:60]:
        array.write_bytes(damage)
        ferplus(root)
        assert array.read_bytes() == whole
    for x in (
        np.zeros((3, 48, 48), np.uint8),
        np.zeros((8, 48, 48)),
        np.zeros((8, 48, 47), np.uint8),
    ):
        np.save(array, x)
        ferplus(root)
        assert array.read_bytes() == whole
    for damage in '', '{', '[]', '{}', '{"splits": 3}', '{"splits": [["train", 3]]}', 'null':
        about.write_text(damage)
        ferplus(root)
        assert about.read_text() == said
    about.unlink()
    ferplus(root)
    assert about.read_text() == said


def test_cache_elsewhere(root, tmp_path):
    before = listed(root)
    t = ferplus(root, cache=tmp_path / 'a' / 'b')
    assert (
        listed(root) == before
        and t.root == tmp_path / 'a' / 'b'
        and len(arrays(t.root)) == 2
        and all(p.parent == t.root for p in t.image_paths())
    )


@pytest.mark.parametrize('step', ['mkdir', 'write_text', 'save', 'fsync', 'replace'])
def test_a_folder_that_cannot_be_written(root, tmp_path, monkeypatch, step):
    "As on a read-only or a full disk: the mend is said, nothing is left"

    def fail(*a, **k):
        raise PermissionError(13, 'Permission denied')

    before = listed(root)
    with monkeypatch.context() as m:
        m.setattr(
            {'mkdir': Path, 'write_text': Path, 'save': np, 'fsync': os, 'replace': os}[step],
            step,
            fail,
        )
        with pytest.raises(
            PermissionError,
            match='cannot be kept there .Permission denied.*another folder as cache',
        ):
            ferplus(root)
    assert listed(root) == before
    (tmp_path / 'file').touch()
    with pytest.raises(OSError, match='file: the pixels of .* cannot be kept there'):
        ferplus(root, cache=tmp_path / 'file')
    assert len(ferplus(root, cache=tmp_path / 'other')) == 5


def test_several_at_once(root):
    with ThreadPoolExecutor(4) as pool:
        tables = list(pool.map(lambda _: ferplus(root), range(4)))
    assert (
        len(arrays(root)) == 2
        and all(t.df.equals(tables[0].df) for t in tables)
        and not [p for p in listed(root) if p.startswith('.')]
    )


def _stopped(root, ready):
    parse = module._parse

    def slow(file):
        out = parse(file)
        ready.set()
        time.sleep(60)
        return out

    module._parse = slow
    ferplus(root)


def test_killed_while_parsing_leaves_nothing(root):
    before, context = listed(root), multiprocessing.get_context('spawn')
    ready = context.Event()
    p = context.Process(target=_stopped, args=(root, ready))
    p.start()
    assert ready.wait(120)
    os.kill(p.pid, signal.SIGKILL)
    p.join()
    assert listed(root) == before and len(ferplus(root)) == 5


@pytest.mark.parametrize('after', ['save', 'replace'])
def test_interrupted_while_writing_leaves_no_half_array(root, monkeypatch, after):
    real_replace = os.replace

    def save(f, x):
        f.write(b'\x93NUMPY half')
        raise KeyboardInterrupt

    def replace(a, b):
        real_replace(a, b)
        raise KeyboardInterrupt

    with monkeypatch.context() as m:
        m.setattr(np, 'save', save) if after == 'save' else m.setattr(os, 'replace', replace)
        with pytest.raises(KeyboardInterrupt):
            ferplus(root)
    assert [n for n in listed(root) if n.endswith('.npy') or n.startswith('.')] == []
    t = ferplus(root)
    assert (np.load(root / t.df['path'][0].split('#')[0]) == GREYS).all() and not [
        n for n in listed(root) if n.startswith('.')
    ]


def test_twin(tmp_path):
    for form in 'csv', 'images':
        t = ferplus(
            write_ferplus(tmp_path / form, form=form, n_train=40, n_public=8, n_private=8, seed=1)
        )
        truth = pd.read_parquet(tmp_path / form / 'truth.parquet')
        truth = truth[truth['coded']]
        assert (
            t.df['expression'].tolist() == truth['label'].tolist()
            and sum(t.notes.values()) + len(t) == 56
        )
        assert frame_cache(t, 48, folder=tmp_path / f'cache-{form}', progress=False).std() > 10
