"""Faults of the laboratory's loaders, on small layouts written by hand, and the real lengths of
BP4D's sequences where they are at hand
"""

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from clef_nb.datasets.bp4d import bp4d, write_bp4d
from clef_nb.datasets.bp4d_plus import bp4d_plus
from clef_nb.datasets.cache import frame_cache
from clef_nb.datasets.disfa import disfa
from clef_nb.datasets.frames import FrameTable
from clef_nb.datasets.recordings import bp4d_folds, disfa_folds
from clef_nb.datasets.texts import BP4D_AUS, BP4D_PARTS, DISFA_AUS, DISFA_CODED, DISFA_PARTS

OCC = 'AUCoding/AU_OCC'
REAL = Path(__file__).resolve().parents[3] / 'shared' / 'real' / 'bp4d_coded_segments.csv'
COLUMNS = [1, 2, 4, 5, 6, 7, 10, 12, 14, 15, 17, 23, 24, 28]


def codes(start, n, columns=COLUMNS):
    """Coded rows in which every column differs: AU a is on in the frames f where (f + a) % 3 == 0;
    28 was not coded
    """
    rows = ['0,' + ','.join(map(str, columns))]
    rows += [
        f'{f},' + ','.join('9' if a == 28 else str(int((f + a) % 3 == 0)) for a in columns)
        for f in range(start, start + n)
    ]
    return '\n'.join(rows) + '\n'


def lay_bp4d(root):
    """Three subjects, one of each part; two tasks; four coded frames and one uncoded image on
    either side
    """
    (root / OCC).mkdir(parents=True)
    for s, start in ('F001', 2440), ('M011', 7), ('F007', 99):
        for t in 'T1', 'T8':
            (root / s / t).mkdir(parents=True)
            (root / OCC / f'{s}_{t}.csv').write_text(codes(start, 4))
            for f in range(start - 1, start + 5):
                (root / s / t / (f'{f:04}.jpg' if t == 'T8' else f'{f}.jpg')).touch()
    return root


def lay_bp4d_plus(root):
    "Three subjects; T1 and T8 coded, with the columns backwards, and T2 with images alone"
    (root / OCC).mkdir(parents=True)
    for s, start in ('F001', 2440), ('M011', 7), ('F082', 99):
        for t in 'T1', 'T2', 'T8':
            (root / s / t).mkdir(parents=True)
            if t != 'T2':
                (root / OCC / f'{s}_{t}.csv').write_text(codes(start, 4, COLUMNS[::-1]))
            for f in range(start - 1, start + 5):
                (root / s / t / f'{f:04}.jpg').touch()
    return root


def levels(au, n=6):
    return ''.join(f'{f},{(f + au) % 6}\n' for f in range(1, n + 1))


def lay_disfa(root):
    """Three subjects, one of each part; six frames, counted from 1 in the labels and from 0 in the
    images
    """
    for s in 'SN002', 'SN013', 'SN003':
        (root / 'ActionUnit_Labels' / s).mkdir(parents=True)
        (root / f'Videos_LeftCamera/LeftVideo{s}_comp').mkdir(parents=True)
        for au in DISFA_CODED:
            (root / f'ActionUnit_Labels/{s}/{s}_au{au}.txt').write_text(levels(au))
        for f in range(6):
            (root / f'Videos_LeftCamera/LeftVideo{s}_comp/{f}.jpg').touch()
    return root


LOAD = {'bp4d': bp4d, 'bp4d_plus': bp4d_plus, 'disfa': disfa}
LAY = {'bp4d': lay_bp4d, 'bp4d_plus': lay_bp4d_plus, 'disfa': lay_disfa}
# the label file that is broken
FILE = {
    'bp4d': f'{OCC}/M011_T8.csv',
    'bp4d_plus': f'{OCC}/M011_T8.csv',
    'disfa': 'ActionUnit_Labels/SN013/SN013_au12.txt',
}
# its images
PLACE = {
    'bp4d': 'M011/T8',
    'bp4d_plus': 'M011/T8',
    'disfa': 'Videos_LeftCamera/LeftVideoSN013_comp',
}
IMAGE = {'bp4d': '0009.jpg', 'bp4d_plus': '0009.jpg', 'disfa': '3.jpg'}


@pytest.fixture
def root(tmp_path):
    return lay_bp4d(tmp_path / 'bp4d')


@pytest.fixture
def plus(tmp_path):
    return lay_bp4d_plus(tmp_path / 'bp4d_plus')


@pytest.fixture
def film(tmp_path):
    return lay_disfa(tmp_path / 'disfa')


def edit(file, old, new):
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


def same(a, b, but=()):
    pd.testing.assert_frame_equal(a.df.drop(columns=list(but)), b.df.drop(columns=list(but)))


# --- the layouts
def test_reads_the_layout(root):
    t = bp4d(root)
    assert (
        len(t) == 24
        and t.subjects == ['F001', 'F007', 'M011']
        and t.labels == [f'AU{a}' for a in BP4D_AUS]
    )
    assert (
        t.name == 'BP4D'
        and t.root == root
        and t.folds == [['F007'], ['M011'], ['F001']]
        and sorted(t.activities) == [f'T{i}' for i in range(1, 9)]
    )
    assert t.df.iloc[0][['path', 'subject', 'activity', 'sequence', 'frame']].tolist() == [
        'F001/T1/2440.jpg',
        'F001',
        'T1',
        'F001_T1',
        2440,
    ]
    assert '0007.jpg' in ' '.join(t.df['path']) and all(p.is_file() for p in t.image_paths())
    f = t.df['frame'].to_numpy(dtype=int)
    for a in BP4D_AUS:
        assert (t.df[f'AU{a}'] == ((f + a) % 3 == 0).astype(int)).all()


def test_columns_go_by_header(root):
    "The same codes with the columns in another order give the same table"
    before = bp4d(root)
    (root / OCC / 'F001_T1.csv').write_text(codes(2440, 4, COLUMNS[::-1]))
    pd.testing.assert_frame_equal(bp4d(root).df, before.df)


def test_nine_is_missing(root):
    t = bp4d(root, aus=[28, 12])
    assert (
        t.labels == ['AU12', 'AU28']
        and t.df['AU28'].isna().all()
        and np.isnan(t.label_matrix(['AU28'])).all()
        and not t.df['AU12'].isna().any()
    )


def test_junk_beside_the_data(root):
    before = bp4d(root)
    for p in (
        'F001/T1/Thumbs.db',
        'F001/T1/._2440.jpg',
        'F001/.DS_Store',
        'readme.txt',
        f'{OCC}/._F001_T1.csv',
    ):
        (root / p).touch()
    for p in '3DFeatures', 'F001/notes':
        (root / p).mkdir()
    pd.testing.assert_frame_equal(bp4d(root).df, before.df)


def test_reads_bp4d_plus(plus):
    t = bp4d_plus(plus)
    assert (
        len(t) == 24
        and t.subjects == ['F001', 'F082', 'M011']
        and t.labels == [f'AU{a}' for a in BP4D_AUS]
        and t.name == 'BP4D+'
    )
    assert sorted(t.df['activity'].unique()) == ['T1', 'T8'] and sorted(t.activities) == sorted(
        f'T{i}' for i in range(1, 11)
    )
    f = t.df['frame'].to_numpy(dtype=int)
    for a in BP4D_AUS:
        assert (t.df[f'AU{a}'] == ((f + a) % 3 == 0).astype(int)).all()
    # one on either side of six runs; T2 is not looked at
    assert t.notes == {'images missing': 0, 'images without a label': 12}


def test_bp4d_plus_below_2d3d(plus):
    "The images of the release lie below 2D+3D"
    before = bp4d_plus(plus)
    (plus / '2D+3D').mkdir()
    for s in 'F001', 'F082', 'M011':
        (plus / s).rename(plus / '2D+3D' / s)
    after = bp4d_plus(plus)
    same(after, before, ['path'])
    assert after.df['path'].tolist() == ['2D+3D/' + p for p in before.df['path']]
    (plus / 'F001/T1').mkdir(parents=True)
    with pytest.raises(ValueError, match='F001_T1 twice, in F001/T1 and in 2D.3D/F001/T1'):
        bp4d_plus(plus)


def test_bp4d_plus_folds(plus):
    t = bp4d_plus(plus)
    assert (
        len(t.folds) == 4
        and sorted(sum(t.folds, [])) == t.subjects
        and bp4d_plus(plus).folds == t.folds
    )
    assert len({str(bp4d_plus(plus, seed=s).folds) for s in range(8)}) > 2
    assert [len(f) for f in bp4d_plus(plus, folds=2).folds] == [2, 1]
    # M058 is not there
    assert bp4d_plus(plus, folds=[['M058', 'M011'], ['F001']]).folds == [['M011'], ['F001']]
    for folds, words in (
        (1, '2 or more'),
        (True, 'give a number'),
        ('F001', 'give a number'),
        (['F001'], 'give a number'),
        ([], 'give a number'),
        (2.5, 'give a number'),
        ([['F083']], "fold 1 names 'F083'"),
        ([['F001'], ['M011', 'F001']], 'F001 is in fold 1 and again in fold 2'),
    ):
        with pytest.raises(ValueError, match=words):
            bp4d_plus(plus, folds=folds)


def test_reads_disfa(film):
    t = disfa(film)
    assert (
        len(t) == 18
        and t.subjects == ['SN002', 'SN003', 'SN013']
        and t.labels == [f'AU{a}' for a in DISFA_AUS]
        and t.folds == [['SN003'], ['SN013'], ['SN002']]
    )
    assert t.df.iloc[0][['path', 'subject', 'sequence', 'frame']].tolist() == [
        'Videos_LeftCamera/LeftVideoSN002_comp/0.jpg',
        'SN002',
        'SN002_left',
        1,
    ]
    assert (
        t.df['activity'].isna().all()
        and t.activities == {}
        and t.notes == {'images missing': 0, 'images without a label': 0}
    )
    f = t.df['frame'].to_numpy(dtype=int)
    assert [int(Path(p).stem) for p in t.df['path']] == (f - 1).tolist()
    for a in DISFA_AUS:
        assert (t.df[f'AU{a}_intensity'] == (f + a) % 6).all() and (
            t.df[f'AU{a}'] == ((f + a) % 6 >= 2).astype(int)
        ).all()
    for threshold in 1, 5:
        assert (
            disfa(film, threshold=threshold).label_matrix()
            == (t.df[t.intensities].to_numpy() >= threshold)
        ).all()
    assert disfa(film, aus=[20, 5]).labels == ['AU5', 'AU20']
    assert [len(p) for p in DISFA_PARTS] == [9, 9, 9] and disfa_folds()[0] == DISFA_PARTS[2]


def test_lines_in_any_order(film):
    before = disfa(film)
    file = film / FILE['disfa']
    file.write_text('\n'.join(file.read_text().splitlines()[::-1]))
    same(disfa(film), before)


def test_a_shorter_video_is_normal(film):
    "SN010 has a frame fewer than the others; here it is SN013"
    for au in DISFA_CODED:
        (film / f'ActionUnit_Labels/SN013/SN013_au{au}.txt').write_text(levels(au, 5))
    assert len(disfa(film)) == 17 and disfa(film).notes['images without a label'] == 1
    (film / PLACE['disfa'] / '5.jpg').unlink()
    assert len(disfa(film)) == 17


FOLDERS = {  # where public code keeps the frames -> the folder of SN013
    'like the video, capital': lambda r, s: r / f'Videos_LeftCamera/LeftVideo{s}_Comp',
    'like the video, no ending': lambda r, s: r / f'images/LeftVideo{s}',
    'one video': lambda r, s: r / f'Video_LeftCamera/LeftVideo{s}_comp',
    'frames': lambda r, s: r / f'Videos_LeftCamera_frames/LeftVideo{s}_comp',
    'like the subject': lambda r, s: r / f'Videos_LeftCamera/{s}',
    'Images': lambda r, s: r / f'Images/{s}',
    'Images/Left': lambda r, s: r / f'Images/Left/{s}',
    'img': lambda r, s: r / f'img/{s}',
    'root': lambda r, s: r / s,
    'root, like the video': lambda r, s: r / f'LeftVideo{s}_comp',
}


@pytest.mark.parametrize('place', FOLDERS)
def test_disfa_folders(film, place):
    before = disfa(film)
    for s in before.subjects:
        to = FOLDERS[place](film, s)
        to.parent.mkdir(parents=True, exist_ok=True)
        (film / f'Videos_LeftCamera/LeftVideo{s}_comp').rename(to)
    t = disfa(film)
    same(t, before, ['path'])
    assert all(p.is_file() for p in t.image_paths())


@pytest.mark.parametrize(
    'name',
    [
        '{:05}.jpg',
        'frame_{}.jpg',
        'frame{}.png',
        'LeftVideoSN013_comp_{:04}.png',
        'SN013_{:06}.JPG',
    ],
)
def test_disfa_names(film, name):
    before = disfa(film)
    folder = film / PLACE['disfa']
    for p in list(folder.iterdir()):
        p.rename(folder / name.format(int(p.stem)))
    same(disfa(film), before, ['path'])


def test_disfa_cameras(film):
    left = disfa(film)
    with pytest.raises(
        FileNotFoundError, match='no frames of the right camera.*RightVideoSN001_comp'
    ):
        disfa(film, camera='right')
    for s in left.subjects:
        (film / f'Video_RightCamera/RightVideo{s}_Comp').mkdir(parents=True)
        for f in range(6):
            (film / f'Video_RightCamera/RightVideo{s}_Comp/{f}.jpg').touch()
    right = disfa(film, camera='right')
    same(disfa(film), left)
    same(right, left, ['path', 'sequence'])
    assert all('Right' in p for p in right.df['path'])
    assert len(left.join(right)) == 36 and len(left.join(right).subjects) == 3
    for f in range(6):
        (film / 'img/SN013').mkdir(parents=True, exist_ok=True)
        (film / f'img/SN013/{f}.jpg').touch()
    # a folder that names the camera goes before one that names none
    same(disfa(film), left)
    (film / 'Videos_LeftCamera/SN013').mkdir()
    with pytest.raises(
        ValueError,
        match=(
            'SN013 twice, in Videos_LeftCamera/LeftVideoSN013_comp and in Videos_LeftCamera/SN013'
        ),
    ):
        disfa(film)


def test_folders_that_name_no_camera(film):
    "They are taken for the camera asked for, but not beside folders that name it"
    for s in 'SN002', 'SN003', 'SN013':
        (film / 'img').mkdir(exist_ok=True)
        (film / f'Videos_LeftCamera/LeftVideo{s}_comp').rename(film / f'img/{s}')
    same(disfa(film), disfa(film, camera='right'), ['sequence'])
    (film / 'Video_RightCamera').mkdir()
    (film / 'img/SN013').rename(film / 'Video_RightCamera/RightVideoSN013_Comp')
    with pytest.raises(
        FileNotFoundError, match='RightVideoSN002_comp is missing.*12 frames of 2 sequences'
    ):
        disfa(film, camera='right')


def count_from_one(folder):
    for p in sorted(folder.iterdir(), reverse=True):
        p.rename(folder / f'{int(p.stem) + 1}.jpg')


def test_images_counted_from_one_are_never_shifted_in_silence(film):
    before = disfa(film)
    folders = [film / f'Videos_LeftCamera/LeftVideo{s}_comp' for s in before.subjects]
    count_from_one(folders[2])
    for kw in {}, {'missing': 'drop'}:
        with pytest.raises(
            ValueError, match='LeftVideoSN013_comp begins with 1.jpg.*first_image=1.*first_image=0'
        ):
            disfa(film, **kw)
    with pytest.raises(
        ValueError, match='LeftVideoSN002_comp has an image 0 .0.jpg.*leave first_image out'
    ):
        disfa(film, first_image=1)
    for f in folders[:2]:
        count_from_one(f)
    same(disfa(film, first_image=1), before, ['path'])
    with pytest.warns(
        UserWarning, match='3 coded frames without an image, the first being frame 1 of SN002_left'
    ):
        t = disfa(film, first_image=0, missing='drop')
    assert t.df['frame'].min() == 2 and t.notes == {
        'images missing': 3,
        'images without a label': 3,
    }


def activities(film, text):
    (film / 'activities.csv').write_text(text)
    return film


def test_activities(film, tmp_path):
    plain = disfa(film)
    activities(
        film,
        '\ufeffstart,end,activity,task,emotion,film\r\n5,5,b,Wait,fear,x\r\n\r\n1,3,a,"Watch, and'
        ' rest.",happiness.,x\r\n',
    )
    t = disfa(film)
    assert t.df['activity'].isna().tolist() == [False, False, False, True, False, True] * 3
    assert t.df['activity'].dropna().tolist() == ['a', 'a', 'a', 'b'] * 3
    assert t.activities == {
        'a': 'Watch, and rest. The target emotion is happiness.',
        'b': 'Wait. The target emotion is fear.',
    }
    same(t, plain, ['activity'])
    (tmp_path / 'mine.csv').write_text('activity,start,end\nonly,2,2\n')
    # the table given goes before the one that lies there
    t = disfa(film, activities=tmp_path / 'mine.csv')
    assert t.activities == {} and t.df['frame'][t.df['activity'].notna()].tolist() == [2, 2, 2]
    with pytest.raises(FileNotFoundError, match='none.csv does not exist'):
        disfa(film, activities=tmp_path / 'none.csv')


ACTIVITY_FAULTS = {
    'no column': ('start,end\n1,2\n', 'line 1: no column is headed activity'),
    'column twice': ('start,end,activity,end\n1,2,a,3\n', 'line 1: two columns are headed end'),
    'task alone': (
        'start,end,activity,task\n1,2,a,t\n',
        'line 1: there is a column task and no column emotion',
    ),
    'header alone': ('start,end,activity\n', 'no ranges'),
    'a short line': (
        'start,end,activity\n1,2,a\n3,4\n',
        'line 3: 2 cells where the first line has 3',
    ),
    'a word': ('start,end,activity\n1,2,a\n3,four,b\n', "line 3, column 2 .end.: 'four'"),
    'an empty cell': ('start,end,activity\n1,2,a\n3,4,\n', 'line 3, column 3 .activity. is empty'),
    'frame 0': ('start,end,activity\n0,2,a\n', 'line 2: the range starts at 0'),
    'backwards': ('start,end,activity\n4,2,a\n', 'line 2: the range ends at 2'),
    'overlap': (
        'start,end,activity\n4,6,a\n1,4,b\n',
        'lines 3 and 2: the ranges 1-4 and 4-6 overlap',
    ),
    'second text': (
        'start,end,activity,task,emotion\n1,2,a,t,fear\n3,4,a,t,joy\n',
        'line 3: the activity a has a second text',
    ),
    'no such frame': (
        'start,end,activity\n1,2,a\n7,9,b\n',
        'line 3: no coded frame lies in the range 7-9',
    ),
    'empty': ('', 'is empty'),
}


@pytest.mark.parametrize('fault', ACTIVITY_FAULTS)
def test_each_fault_of_the_activities(film, fault):
    text, words = ACTIVITY_FAULTS[fault]
    with pytest.raises(ValueError, match='activities.csv.*' + words):
        disfa(activities(film, text))


@pytest.mark.parametrize('name', LOAD)
def test_environment(tmp_path, monkeypatch, name):
    root, variable = LAY[name](tmp_path / name), f'CLEF_{name.upper()}'
    monkeypatch.setenv(variable, str(root))
    same(LOAD[name](), LOAD[name](root))
    monkeypatch.delenv(variable)
    with pytest.raises(ValueError, match=f'{variable}.*data write {name}'):
        LOAD[name]()


# --- what is harmless for every loader
def lines(text, end):
    return end.join(text.splitlines()) + end


HARMLESS = {  # change of the label file's bytes
    'carriage returns': lambda t: lines(t, '\r\n').encode(),
    'byte-order mark': lambda t: b'\xef\xbb\xbf' + t.encode(),
    'both, spaces and a blank line': lambda t: (
        b'\xef\xbb\xbf' + lines(t, '\r\n').replace(',', ', ').encode() + b'\r\n'
    ),
    'no final newline': lambda t: t.rstrip('\n').encode(),
}


@pytest.mark.parametrize('name', LOAD)
@pytest.mark.parametrize('change', HARMLESS)
def test_harmless_leavings(tmp_path, name, change):
    root = LAY[name](tmp_path / name)
    before = LOAD[name](root)
    file = root / FILE[name]
    text = file.read_text()
    file.write_bytes(HARMLESS[change](text))
    assert file.read_bytes() != text.encode()
    same(LOAD[name](root), before)


@pytest.mark.parametrize('name', LOAD)
@pytest.mark.parametrize('form', ['{}', '{:04}', '{:06}'])
def test_padded_or_not(tmp_path, name, form):
    root = LAY[name](tmp_path / name)
    before = LOAD[name](root)
    folder = root / PLACE[name]
    for p in list(folder.iterdir()):
        p.rename(folder / f'{form.format(int(p.stem))}.jpg')
    after = LOAD[name](root)
    same(after, before, ['path'])
    assert all(p.is_file() for p in after.image_paths())


@pytest.mark.parametrize('name', ['bp4d', 'bp4d_plus'])
def test_columns_that_nobody_asked_for(tmp_path, name):
    "Extra columns are fine where a header names them, whatever stands in them"
    root = LAY[name](tmp_path / name)
    before = LOAD[name](root)
    file = root / FILE[name]
    file.write_text(
        '\n'.join(
            line + (',gaze' if i == 0 else ',.25')
            for i, line in enumerate(file.read_text().splitlines())
        )
    )
    same(LOAD[name](root), before)


@pytest.mark.parametrize('name', LOAD)
def test_links_and_dots(tmp_path, name):
    """A root by way of '..', and folders that are links to another disk, are the user's own; no
    path of the table leaves root
    """
    root = LAY[name](tmp_path / name)
    before = LOAD[name](root)
    same(LOAD[name](root / '..' / name), before)
    away = tmp_path / 'elsewhere'
    (root / PLACE[name]).rename(away)
    (root / PLACE[name]).symlink_to(away, target_is_directory=True)
    same(LOAD[name](root), before)
    assert not any('..' in p or p.startswith('/') for p in LOAD[name](root).df['path'])
    away.rename(tmp_path / 'gone')
    with pytest.raises(FileNotFoundError, match=PLACE[name] + ' is missing'):
        LOAD[name](root)


# --- images that are none
@pytest.mark.parametrize('name', LOAD)
def test_an_image_that_is_no_image(tmp_path, name):
    root = LAY[name](tmp_path / name)
    for p in root.rglob('*.jpg'):
        Image.new('RGB', (16, 16)).save(p)
    t = LOAD[name](root)
    assert frame_cache(t, 16, folder=tmp_path / 'cache').shape == (len(t), 16, 16, 3)
    bad = root / PLACE[name] / IMAGE[name]
    for change, kind in (
        (lambda: bad.write_text('<html>'), ValueError),
        (lambda: bad.write_bytes(b''), ValueError),
        (lambda: (bad.unlink(), bad.symlink_to('nowhere.jpg')), FileNotFoundError),
    ):
        change()
        with pytest.raises(kind, match=f'{PLACE[name]}/{IMAGE[name]}'):
            frame_cache(LOAD[name](root), 16, folder=tmp_path / 'cache')


# --- labels without images, images without labels
def move(path):
    path.rename(path.with_name('was' + path.name))


# loader, change, what the error says, what the warning says, notes, frames left
UNPAIRED = {
    'bp4d: an image': (
        'bp4d',
        lambda r: (r / 'M011/T8/0009.jpg').unlink(),
        ['M011/T8 has no image of frame 9', '1 of its 4'],
        '1 coded frame without an image, the first being frame 9 of M011_T8',
        (1, 12),
        23,
    ),
    'bp4d: two images': (
        'bp4d',
        lambda r: [(r / p).unlink() for p in ('M011/T8/0009.jpg', 'F001/T1/2440.jpg')],
        ['F001/T1 has no image of frame 2440', '2 frames of 2 sequences'],
        '2 coded frames without',
        (2, 12),
        22,
    ),
    'bp4d: a folder': (
        'bp4d',
        lambda r: move(r / 'M011/T8'),
        ['M011/T8 is missing', 'M011_T8.csv codes 4 frames'],
        '4 coded frames without an image, the first being frame 7 of M011_T8',
        (4, 10),
        20,
    ),
    'bp4d: a label file': (
        'bp4d',
        lambda r: (r / FILE['bp4d']).unlink(),
        ['M011_T8.csv is missing', 'M011/T8 holds 6 images'],
        '6 images without labels, the first in M011/T8',
        (0, 16),
        20,
    ),
    'bp4d: both': (
        'bp4d',
        lambda r: [
            (r / p).unlink() for p in (FILE['bp4d'], f'{OCC}/F007_T1.csv', 'F001/T1/2440.jpg')
        ],
        ['F007_T1.csv is missing', '12 images in 2 such folders'],
        '1 coded frame without an image.*; 12 images without labels',
        (1, 20),
        15,
    ),
    'bp4d: an empty folder': (
        'bp4d',
        lambda r: [p.unlink() for p in (r / 'M011/T8').iterdir()],
        ['M011/T8 is missing or holds no images'],
        '4 coded frames',
        (4, 10),
        20,
    ),
    'bp4d_plus: an image': (
        'bp4d_plus',
        lambda r: (r / 'M011/T8/0009.jpg').unlink(),
        ['M011/T8 has no image of frame 9'],
        '1 coded frame without',
        (1, 12),
        23,
    ),
    'bp4d_plus: a subject': (
        'bp4d_plus',
        lambda r: move(r / 'F082'),
        ['F082/T1 is missing', '8 frames of 2 sequences'],
        '8 coded frames',
        (8, 8),
        16,
    ),
    'bp4d_plus: a label file': (
        'bp4d_plus',
        lambda r: (r / FILE['bp4d_plus']).unlink(),
        ['M011_T8.csv is missing'],
        '6 images without labels',
        (0, 16),
        20,
    ),
    'disfa: an image': (
        'disfa',
        lambda r: (r / PLACE['disfa'] / '3.jpg').unlink(),
        ['LeftVideoSN013_comp has no image of frame 4', '1 of its 6', 'put 3.jpg there'],
        '1 coded frame without an image, the first being frame 4 of SN013_left',
        (1, 0),
        17,
    ),
    'disfa: a folder': (
        'disfa',
        lambda r: move(r / PLACE['disfa']),
        ['Videos_LeftCamera/LeftVideoSN013_comp is missing', 'SN013 codes 6 frames'],
        '6 coded frames',
        (6, 0),
        12,
    ),
    'disfa: labels': (
        'disfa',
        lambda r: move(r / 'ActionUnit_Labels/SN013'),
        ['ActionUnit_Labels/SN013 is missing', 'holds 6 images'],
        '6 images without labels',
        (0, 6),
        12,
    ),
}


@pytest.mark.parametrize('case', UNPAIRED)
def test_labels_and_images_must_agree(tmp_path, case):
    name, change, words, warning, (lost, spare), left = UNPAIRED[case]
    root = LAY[name](tmp_path / name)
    before = LOAD[name](root)
    change(root)
    with pytest.raises(FileNotFoundError, match="missing='drop'") as e:
        LOAD[name](root)
    for w in words:
        assert w in str(e.value), str(e.value)
    with pytest.warns(UserWarning, match=warning) as w:
        t = LOAD[name](root, missing='drop')
    assert (
        len(w) == 1
        and w[0].filename == __file__
        and t.notes == {'images missing': lost, 'images without a label': spare}
        and len(t) == left
    )
    at = before.df['path'].isin(t.df['path'])  # what is left reads as before
    same(t, before.subset(at.to_numpy(dtype=bool)))


@pytest.mark.parametrize('name', LOAD)
def test_nothing_left(tmp_path, name):
    root = LAY[name](tmp_path / name)
    for p in list(root.rglob('*.jpg')):
        p.unlink()
    with pytest.raises(FileNotFoundError, match='no image of any coded frame'):
        LOAD[name](root, missing='drop')
    if name == 'disfa':
        return
    for p in (root / OCC).iterdir():
        p.unlink()
    with pytest.raises(FileNotFoundError, match='holds no csv'):
        LOAD[name](root, missing='drop')


# --- one clear error for each fault
def coded(r, *rows):
    (r / FILE['bp4d']).write_text('\n'.join(['0,' + ','.join(map(str, COLUMNS)), *rows]) + '\n')


FAULTS = {  # of both BP4D and BP4D+
    'no root': (
        lambda r: r.rename(r.parent / 'x'),
        FileNotFoundError,
        ['does not exist', 'give the folder'],
    ),
    'no AUCoding': (
        lambda r: (r / 'AUCoding').rename(r / 'Coding'),
        FileNotFoundError,
        ['AU_OCC does not exist', 'Coding'],
    ),
    'no csv': (
        lambda r: (r / FILE['bp4d']).unlink(),
        FileNotFoundError,
        ['M011_T8.csv is missing', '6 images', 'put the file there'],
    ),
    'no images': (
        lambda r: (r / 'M011/T8').rename(r / 'M011/x'),
        FileNotFoundError,
        ['M011/T8 is missing', 'M011_T8.csv', "missing='drop'"],
    ),
    'no AU': (
        lambda r: edit(r / FILE['bp4d'], ',12,', ',13,'),
        ValueError,
        ['M011_T8.csv', 'headed 12', 'Leave AU 12 out'],
    ),
    'AU twice': (
        lambda r: edit(r / FILE['bp4d'], ',5,', ',12,'),
        ValueError,
        ['M011_T8.csv', 'AU 12 heads two columns'],
    ),
    'no header': (
        lambda r: edit(r / FILE['bp4d'], (r / FILE['bp4d']).read_text().splitlines(True)[0], ''),
        ValueError,
        ['M011_T8.csv, line 1', 'header'],
    ),
    'label 7': (
        lambda r: coded(r, '7' + ',0' * 14, '8' + ',0' * 7 + ',7' + ',0' * 6),
        ValueError,
        ['M011_T8.csv, line 3 (frame 8), column 9 (AU12)', 'label is 7'],
    ),
    'a word': (
        lambda r: coded(r, '7' + ',0' * 14, '8,x' + ',0' * 13),
        ValueError,
        ['M011_T8.csv, line 3, column 2 (AU1)', "'x'"],
    ),
    'an empty cell': (
        lambda r: coded(r, '7' + ',0' * 14, '8,' + ',0' * 13),
        ValueError,
        ['M011_T8.csv, line 3, column 2 (AU1)', "''"],
    ),
    'a short line': (
        lambda r: coded(r, '7' + ',0' * 14, '8' + ',0' * 13),
        ValueError,
        ['M011_T8.csv, line 3', '14 cells', '15'],
    ),
    'frame 0': (
        lambda r: edit(r / FILE['bp4d'], '\n8,', '\n0,'),
        ValueError,
        ['M011_T8.csv, line 3', 'counted from 1'],
    ),
    'frame twice': (
        lambda r: edit(r / FILE['bp4d'], '\n9,', '\n8,'),
        ValueError,
        ['M011_T8.csv, line 4', 'frame 8', 'second time'],
    ),
    'empty csv': (
        lambda r: (r / FILE['bp4d']).write_text('\n'),
        ValueError,
        ['M011_T8.csv is empty'],
    ),
    'header alone': (
        lambda r: (r / FILE['bp4d']).write_text(codes(7, 0)),
        ValueError,
        ['M011_T8.csv', 'no frames'],
    ),
    'binary csv': (
        lambda r: (r / FILE['bp4d']).write_bytes(b'PK\xff\xfe'),
        ValueError,
        ['M011_T8.csv is no text'],
    ),
    'no image': (
        lambda r: (r / 'M011/T8/0009.jpg').unlink(),
        FileNotFoundError,
        ['M011/T8', 'frame 9', 'M011_T8.csv', '1 of its 4', 'put 9.jpg there'],
    ),
    'image twice': (
        lambda r: (r / 'M011/T8/9.jpg').touch(),
        ValueError,
        ['M011/T8', 'frame 9 twice', '0009.jpg', '9.jpg'],
    ),
    'image name': (
        lambda r: (r / 'M011/T8/copy.jpg').touch(),
        ValueError,
        ['M011/T8/copy.jpg', 'rename'],
    ),
}
BP4D_FAULTS = {
    'strange subject': (
        lambda r: (r / 'M011').rename(r / 'F055'),
        ValueError,
        ['F055_T1', 'BP4D+?'],
    ),
    'strange task': (
        lambda r: (r / 'M011/T8').rename(r / 'M011/T10'),
        ValueError,
        ['M011_T10', 'BP4D+?'],
    ),
}


def both(table):
    return {
        f'{name}, {fault}': (name, *row)
        for name in ('bp4d', 'bp4d_plus')
        for fault, row in table.items()
    }


def swap(r, old, new):
    edit(r / FILE['disfa'], old, new)


DISFA_FAULTS = {
    'no root': (
        lambda r: r.rename(r.parent / 'x'),
        FileNotFoundError,
        ['disfa does not exist', 'ActionUnit_Labels'],
    ),
    'no labels': (
        lambda r: (r / 'ActionUnit_Labels').rename(r / 'Labels'),
        FileNotFoundError,
        ['ActionUnit_Labels does not exist', 'Labels'],
    ),
    'empty labels': (
        lambda r: [move(r / 'ActionUnit_Labels' / s) for s in ('SN002', 'SN013', 'SN003')],
        FileNotFoundError,
        ['ActionUnit_Labels holds no folders'],
    ),
    'no label file': (
        lambda r: (r / FILE['disfa']).unlink(),
        FileNotFoundError,
        ['SN013_au12.txt is missing', 'leave AU 12 out'],
    ),
    'a header': (
        lambda r: swap(r, '1,', 'frame,intensity\n1,'),
        ValueError,
        ['SN013_au12.txt, line 1, column 1 (frame)', "'frame'", 'without a header'],
    ),
    'a third column': (
        lambda r: swap(r, '3,3', '3,3,1'),
        ValueError,
        ['SN013_au12.txt, line 3', '3 cells where there must be 2'],
    ),
    'spaces instead': (
        lambda r: (r / FILE['disfa']).write_text('1 0\n2 0\n'),
        ValueError,
        ['SN013_au12.txt, line 1', '1 cells'],
    ),
    'intensity 6': (
        lambda r: swap(r, '3,3', '3,6'),
        ValueError,
        ['SN013_au12.txt, line 3 (frame 3), column 2', '6; it must be 0 to 5'],
    ),
    'intensity 9': (
        lambda r: swap(r, '3,3', '3,9'),
        ValueError,
        ['line 3 (frame 3)', '9; it must be 0 to 5'],
    ),
    'a fraction': (
        lambda r: swap(r, '3,3', '3,2.5'),
        ValueError,
        ['SN013_au12.txt, line 3, column 2 (intensity)', "'2.5'"],
    ),
    'an empty cell': (
        lambda r: swap(r, '3,3', '3,'),
        ValueError,
        ['line 3, column 2 (intensity)', "''"],
    ),
    'frame 0': (
        lambda r: swap(r, '1,1', '0,1'),
        ValueError,
        ['SN013_au12.txt, line 1', 'counted from 1'],
    ),
    'frame twice': (
        lambda r: swap(r, '3,3', '2,3'),
        ValueError,
        ['SN013_au12.txt, line 3', 'frame 2', 'second time'],
    ),
    'a line less': (
        lambda r: swap(r, '3,3\n', ''),
        ValueError,
        ['SN013_au12.txt', 'code different frames', 'frame 3 is in one alone', 'leave AU 12 out'],
    ),
    'empty file': (
        lambda r: (r / FILE['disfa']).write_text('\n'),
        ValueError,
        ['SN013_au12.txt is empty'],
    ),
    'binary file': (
        lambda r: (r / FILE['disfa']).write_bytes(b'PK\xff\xfe'),
        ValueError,
        ['SN013_au12.txt is no text'],
    ),
    'only videos': (
        lambda r: (
            move(r / 'Videos_LeftCamera'),
            (r / 'Videos_LeftCamera').mkdir(),
            (r / 'Videos_LeftCamera/LeftVideoSN013_comp.avi').touch(),
        ),
        FileNotFoundError,
        ['no frames of the left camera', 'extract the frames', '0.jpg'],
    ),
    'image twice': (
        lambda r: (r / PLACE['disfa'] / '03.jpg').touch(),
        ValueError,
        ['LeftVideoSN013_comp', 'frame 3 twice'],
    ),
    'image name': (
        lambda r: (r / PLACE['disfa'] / 'copy.jpg').touch(),
        ValueError,
        ['LeftVideoSN013_comp/copy.jpg', 'frame_12.jpg', 'rename'],
    ),
    'names of two kinds': (
        lambda r: (r / PLACE['disfa'] / 'crop_3.jpg').touch(),
        ValueError,
        ['LeftVideoSN013_comp', 'two kinds', 'crop_3.jpg'],
    ),
    'strange subject': (
        lambda r: (r / PLACE['disfa']).rename(r / 'Videos_LeftCamera/LeftVideoSN014_comp'),
        ValueError,
        ['LeftVideoSN014_comp', 'SN014', '27', 'rename or move'],
    ),
    'strange labels': (
        lambda r: (r / 'ActionUnit_Labels/SN013').rename(r / 'ActionUnit_Labels/SN033'),
        ValueError,
        ['ActionUnit_Labels/SN033', '27'],
    ),
    'unpadded subject': (
        lambda r: (r / 'ActionUnit_Labels/SN002').rename(r / 'ActionUnit_Labels/SN2'),
        ValueError,
        ['ActionUnit_Labels/SN2', 'rename'],
    ),
}
PLUS_FAULTS = {
    'strange subject': (
        lambda r: (r / 'M011').rename(r / 'F083'),
        ValueError,
        ['F083_T1', 'F001-F082', 'BP4D?'],
    ),
    'strange task': (
        lambda r: (r / 'M011/T8').rename(r / 'M011/T11'),
        ValueError,
        ['M011_T11', 'T1-T10'],
    ),
    'strange labels': (
        lambda r: (r / FILE['bp4d']).rename(r / OCC / 'M059_T8.csv'),
        ValueError,
        ['M059_T8.csv', 'M001-M058'],
    ),
    'labels of T2': (
        lambda r: (r / FILE['bp4d']).rename(r / OCC / 'M011_T2.csv'),
        ValueError,
        ['M011_T2.csv', 'T1, T6, T7, T8 alone', 'BP4D?'],
    ),
}
CASES = (
    both(FAULTS)
    | {f'bp4d, {k}': ('bp4d', *v) for k, v in BP4D_FAULTS.items()}
    | {f'bp4d_plus, {k}': ('bp4d_plus', *v) for k, v in PLUS_FAULTS.items()}
    | {f'disfa, {k}': ('disfa', *v) for k, v in DISFA_FAULTS.items()}
)


@pytest.mark.parametrize('case', CASES)
def test_each_fault_has_one_clear_error(tmp_path, case):
    name, change, kind, words = CASES[case]
    root = LAY[name](tmp_path / name)
    LOAD[name](root)
    change(root)
    with pytest.raises(kind) as e:
        LOAD[name](root)
    for w in words:
        assert w in str(e.value), str(e.value)


@pytest.mark.parametrize('name', LOAD)
def test_arguments(tmp_path, name):
    root = LAY[name](tmp_path / name)
    with pytest.raises(ValueError, match="'error' or 'drop'"):
        LOAD[name](root, missing='skip')
    for aus in ([], [12, 12], ['AU12']):
        with pytest.raises(ValueError, match='FACS numbers'):
            LOAD[name](root, aus=aus)


def test_arguments_of_disfa(film):
    for kw, words in (
        (dict(aus=[12, 7]), 'no AU 7'),
        (dict(threshold=0), '1 to 5'),
        (dict(threshold=6), '1 to 5'),
        (dict(threshold=True), '1 to 5'),
        (dict(camera='top'), "'left' or 'right'"),
        (dict(first_image=2), '0 or 1'),
        (dict(first_image=True), '0 or 1'),
    ):
        with pytest.raises(ValueError, match=words):
            disfa(film, **kw)


def test_one_set_read_as_another(root, plus):
    with pytest.raises(ValueError, match='is this BP4D.?'):
        bp4d(plus)
    (root / OCC / 'F001_T1.csv').rename(root / OCC / 'F001_T2.csv')
    (root / 'F001/T1').rename(root / 'F001/T2')
    with pytest.raises(ValueError, match='is this BP4D'):
        bp4d_plus(root)


def test_drop_counts(root):
    (root / 'M011/T8/0009.jpg').unlink()
    (root / 'F001/T1/2440.jpg').unlink()
    with pytest.warns(UserWarning, match='2 coded frames.*frame 2440 of F001_T1') as w:
        t = bp4d(root, missing='drop')
    assert len(w) == 1 and len(t) == 22
    f = t.df['frame'].to_numpy(dtype=int)
    assert (t.df['AU12'] == ((f + 12) % 3 == 0).astype(int)).all()


def test_drop_of_whole_sequences(root):
    for t in 'T1', 'T8':
        (root / 'F007' / t).rename(root / 'F007' / f'was{t}')
    with pytest.warns(UserWarning, match='8 coded frames'):
        t = bp4d(root, missing='drop')
    assert t.subjects == ['F001', 'M011'] and t.folds == [[], ['M011'], ['F001']]
    for s in 'F001', 'M011':
        (root / s).rename(root / f'was{s}')
    with pytest.raises(FileNotFoundError, match='no image of any coded frame'):
        bp4d(root, missing='drop')


def intensity(root, text, name='M011_T8', au=12):
    (root / f'AUCoding/AU_INT/AU{au:02}').mkdir(parents=True, exist_ok=True)
    (root / f'AUCoding/AU_INT/AU{au:02}/{name}_AU{au:02}.csv').write_text(text)


def test_intensities(root):
    for s, start in ('F001', 2440), ('M011', 7), ('F007', 99):
        for t in 'T1', 'T8':
            intensity(root, f'{start + 2},5\n{start},0.5\r\n{start + 3},9\n', f'{s}_{t}')
    # a spreadsheet's byte-order mark
    intensity(root, '\ufeff2442,5\n2440,0.5\n2443,9\n', 'F001_T1')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        t = bp4d(root)
    assert t.intensities == ['AU12_intensity']
    np.testing.assert_equal(
        t.df['AU12_intensity'].to_numpy().reshape(6, 4),
        np.tile(np.float32([0.5, np.nan, 5, np.nan]), (6, 1)),
    )


def test_intensity_faults(root):
    intensity(root, '7,3\n')
    with pytest.warns(UserWarning, match='5 intensity files are missing.*F001_T1_AU12.csv'):
        bp4d(root)
    for text, words in (
        ('7,3\n8,6\n', 'line 2 .frame 8., column 2'),
        ('7,3,1\n', '3 cells'),
        ('7,a\n', "line 1, column 2 .intensity.: 'a'"),
        ('7,1\n7,1\n', 'second time'),
    ):
        intensity(root, text, 'F001_T1')
        with pytest.raises(ValueError, match='F001_T1_AU12.csv.*' + words):
            bp4d(root)


def test_a_subject_in_two_folds(root):
    t = bp4d(root)
    with pytest.raises(ValueError, match='subject M011 is in fold 1 and again in fold 2'):
        FrameTable(t.df, t.root, folds=[['F007', 'M011'], ['M011']])


@pytest.mark.skipif(not REAL.is_file(), reason=f'{REAL.name} is not beside the project')
def test_real_lengths():
    seg = pd.read_csv(REAL)
    assert len(seg) == 328 and (seg['last_frame'] - seg['first_frame'] + 1 >= seg['n']).all()
    n = seg['n'].to_numpy()
    frame = np.concatenate([np.arange(a, a + k) for a, k in zip(seg['first_frame'], n)])
    df = pd.DataFrame(
        dict(
            subject=np.repeat(seg['subject'].to_numpy(), n),
            activity=np.repeat(seg['task'].to_numpy(), n),
            frame=frame,
        )
    )
    df['sequence'] = df['subject'] + '_' + df['activity']
    df['path'] = df['subject'] + '/' + df['activity'] + '/' + df['frame'].astype(str) + '.jpg'
    t = FrameTable(df, '.', 'BP4D', folds=bp4d_folds())
    assert len(t) == 146_847 and len(t.subjects) == 41 and [len(f) for f in t.folds] == [13, 14, 14]
    assert [len(t.fold(k)[1]) for k in (3, 2, 1)] == [50_631, 50_182, 46_034]
    assert all(sum(map(len, t.fold(k))) == 146_847 for k in (1, 2, 3))
    assert [len(p) for p in BP4D_PARTS] == [14, 14, 13]


def test_twin_agrees_with_its_truth(tmp_path):
    t = bp4d(write_bp4d(tmp_path / 'twin', n_subjects=2, frames_per_sequence=2, size=32, seed=1))
    assert len(t) == 2 * 8 * 2 and t.intensities == [f'{c}_intensity' for c in t.labels]
    x = t.df[t.intensities].to_numpy()
    assert np.isfinite(x).all() and all(p.stat().st_size for p in t.image_paths())
    for k, c in enumerate(t.labels):  # a present AU is never weaker than an absent one
        on = (t.df[c] == 1).to_numpy(dtype=bool)
        if on.any() and not on.all():
            assert x[on, k].min() >= x[~on, k].max()
