"Faults of the BP4D loader, on a small layout written by hand, and the real lengths of BP4D's sequences where they are at hand"
import warnings
from pathlib import Path
import numpy as np, pandas as pd, pytest
from clef_nb.frames import FrameTable
from clef_nb.lab import bp4d, bp4d_folds, BP4D_AUS, BP4D_PARTS

OCC = 'AUCoding/AU_OCC'
REAL = Path(__file__).resolve().parents[2]/'shared'/'real'/'bp4d_coded_segments.csv'
COLUMNS = [1, 2, 4, 5, 6, 7, 10, 12, 14, 15, 17, 23, 24, 28]

def codes(start, n, columns=COLUMNS):
    "Coded rows in which every column differs: AU a is on in the frames f where (f + a) % 3 == 0; 28 was not coded"
    rows = ['0,' + ','.join(map(str, columns))]
    rows += [f'{f},' + ','.join('9' if a == 28 else str(int((f + a) % 3 == 0)) for a in columns) for f in range(start, start + n)]
    return '\n'.join(rows) + '\n'

@pytest.fixture
def root(tmp_path):
    "Three subjects, one of each part; two tasks; four coded frames and one uncoded image on either side"
    root = tmp_path/'bp4d'; (root/OCC).mkdir(parents=True)
    for s, start in ('F001', 2440), ('M011', 7), ('F007', 99):
        for t in 'T1', 'T8':
            (root/s/t).mkdir(parents=True)
            (root/OCC/f'{s}_{t}.csv').write_text(codes(start, 4))
            for f in range(start - 1, start + 5): (root/s/t/(f'{f:04}.jpg' if t == 'T8' else f'{f}.jpg')).touch()
    return root

def test_reads_the_layout(root):
    t = bp4d(root)
    assert len(t) == 24 and t.subjects == ['F001', 'F007', 'M011'] and t.labels == [f'AU{a}' for a in BP4D_AUS]
    assert t.name == 'BP4D' and t.root == root and t.folds == [['F007'], ['M011'], ['F001']] and sorted(t.activities) == [f'T{i}' for i in range(1, 9)]
    assert t.df.iloc[0][['path', 'subject', 'activity', 'sequence', 'frame']].tolist() == ['F001/T1/2440.jpg', 'F001', 'T1', 'F001_T1', 2440]
    assert '0007.jpg' in ' '.join(t.df['path']) and all(p.is_file() for p in t.image_paths())
    f = t.df['frame'].to_numpy(dtype=int)
    for a in BP4D_AUS: assert (t.df[f'AU{a}'] == ((f + a) % 3 == 0).astype(int)).all()

def test_columns_go_by_header(root):
    "The same codes with the columns in another order give the same table"
    before = bp4d(root)
    (root/OCC/'F001_T1.csv').write_text(codes(2440, 4, COLUMNS[::-1]))
    pd.testing.assert_frame_equal(bp4d(root).df, before.df)

def test_nine_is_missing(root):
    t = bp4d(root, aus=[28, 12])
    assert t.labels == ['AU12', 'AU28'] and t.df['AU28'].isna().all() and np.isnan(t.label_matrix(['AU28'])).all() and not t.df['AU12'].isna().any()

def test_spreadsheet_leavings(root):
    before = bp4d(root); file = root/OCC/'F001_T1.csv'
    file.write_bytes(b'\xef\xbb\xbf' + file.read_text().replace('\n', '\r\n').replace(',', ', ').encode() + b'\r\n')
    pd.testing.assert_frame_equal(bp4d(root).df, before.df)

def test_junk_beside_the_data(root):
    before = bp4d(root)
    for p in 'F001/T1/Thumbs.db', 'F001/T1/._2440.jpg', 'F001/.DS_Store', 'readme.txt', f'{OCC}/._F001_T1.csv': (root/p).touch()
    for p in '3DFeatures', 'F001/notes': (root/p).mkdir()
    pd.testing.assert_frame_equal(bp4d(root).df, before.df)

def test_environment(root, monkeypatch):
    monkeypatch.setenv('CLEF_BP4D', str(root)); assert len(bp4d()) == 24
    monkeypatch.delenv('CLEF_BP4D')
    with pytest.raises(ValueError, match='CLEF_BP4D'): bp4d()

def edit(file, old, new):
    text = file.read_text(); assert old in text; file.write_text(text.replace(old, new, 1))

FAULTS = {
    'no root':        (lambda r: r.rename(r.parent/'x'), FileNotFoundError, ['bp4d does not exist', 'give the folder']),
    'no AUCoding':    (lambda r: (r/'AUCoding').rename(r/'Coding'), FileNotFoundError, ['AU_OCC does not exist', 'Coding']),
    'no csv':         (lambda r: (r/OCC/'M011_T8.csv').unlink(), FileNotFoundError, ['M011_T8.csv is missing', '6 images', 'put the file there']),
    'no images':      (lambda r: (r/'M011/T8').rename(r/'M011/x'), FileNotFoundError, ['M011/T8 is missing', 'M011_T8.csv', "missing='drop'"]),
    'no AU':          (lambda r: edit(r/OCC/'M011_T8.csv', ',12,', ',13,'), ValueError, ['M011_T8.csv', 'headed 12', 'Leave AU 12 out']),
    'AU twice':       (lambda r: edit(r/OCC/'M011_T8.csv', ',28', ',12'), ValueError, ['M011_T8.csv', 'AU 12 heads two columns']),
    'no header':      (lambda r: edit(r/OCC/'M011_T8.csv', codes(7, 4).splitlines(True)[0], ''), ValueError, ['M011_T8.csv, line 1', 'header']),
    'label 7':        (lambda r: (r/OCC/'M011_T8.csv').write_text('0,' + ','.join(map(str, COLUMNS)) + '\n7' + ',0'*14 + '\n8' + ',0'*7 + ',7' + ',0'*6 + '\n'), ValueError, ['M011_T8.csv, line 3 (frame 8), column 9 (AU12)', 'label is 7']),
    'a word':         (lambda r: edit(r/OCC/'M011_T8.csv', '\n8,1', '\n8,x'), ValueError, ['M011_T8.csv, line 3, column 2 (AU1)', "'x'"]),
    'an empty cell':  (lambda r: edit(r/OCC/'M011_T8.csv', '\n8,1', '\n8,'), ValueError, ['M011_T8.csv, line 3, column 2 (AU1)', "''"]),
    'a short line':   (lambda r: edit(r/OCC/'M011_T8.csv', '\n8,1,', '\n8,'), ValueError, ['M011_T8.csv, line 3', '14 cells', '15']),
    'frame 0':        (lambda r: edit(r/OCC/'M011_T8.csv', '\n8,', '\n0,'), ValueError, ['M011_T8.csv, line 3', 'counted from 1']),
    'frame twice':    (lambda r: edit(r/OCC/'M011_T8.csv', '\n9,', '\n8,'), ValueError, ['M011_T8.csv, line 4', 'frame 8', 'second time']),
    'empty csv':      (lambda r: (r/OCC/'M011_T8.csv').write_text('\n'), ValueError, ['M011_T8.csv is empty']),
    'header alone':   (lambda r: (r/OCC/'M011_T8.csv').write_text(codes(7, 0)), ValueError, ['M011_T8.csv', 'no frames']),
    'binary csv':     (lambda r: (r/OCC/'M011_T8.csv').write_bytes(b'PK\xff\xfe'), ValueError, ['M011_T8.csv is no text']),
    'no image':       (lambda r: (r/'M011/T8/0009.jpg').unlink(), FileNotFoundError, ['M011/T8', 'frame 9', 'M011_T8.csv', '1 of its 4', 'put 9.jpg there']),
    'image twice':    (lambda r: (r/'M011/T8/9.jpg').touch(), ValueError, ['M011/T8', 'frame 9 twice', '0009.jpg', '9.jpg']),
    'image name':     (lambda r: (r/'M011/T8/copy.jpg').touch(), ValueError, ['M011/T8/copy.jpg', 'rename']),
    'strange subject':(lambda r: (r/'M011').rename(r/'F055'), ValueError, ['F055_T1', 'BP4D+?']),
    'strange task':   (lambda r: (r/'M011/T8').rename(r/'M011/T10'), ValueError, ['M011_T10', 'BP4D+?']),
}

@pytest.mark.parametrize('fault', FAULTS)
def test_each_fault_has_one_clear_error(root, fault):
    change, kind, words = FAULTS[fault]
    change(root)
    with pytest.raises(kind) as e: bp4d(root)
    for w in words: assert w in str(e.value), str(e.value)

def test_drop_counts(root):
    (root/'M011/T8/0009.jpg').unlink(); (root/'F001/T1/2440.jpg').unlink()
    with pytest.warns(UserWarning, match='2 coded frames.*frame 2440 of F001_T1') as w: t = bp4d(root, missing='drop')
    assert len(w) == 1 and len(t) == 22
    f = t.df['frame'].to_numpy(dtype=int); assert (t.df['AU12'] == ((f + 12) % 3 == 0).astype(int)).all()

def test_drop_of_whole_sequences(root):
    for t in 'T1', 'T8': (root/'F007'/t).rename(root/'F007'/f'was{t}')
    with pytest.warns(UserWarning, match='8 coded frames'): t = bp4d(root, missing='drop')
    assert t.subjects == ['F001', 'M011'] and t.folds == [[], ['M011'], ['F001']]
    for s in 'F001', 'M011': (root/s).rename(root/f'was{s}')
    with pytest.raises(FileNotFoundError, match='no image of any coded frame'): bp4d(root, missing='drop')

def test_arguments(root):
    with pytest.raises(ValueError, match="'error' or 'drop'"): bp4d(root, missing='skip')
    for aus in ([], [12, 12], ['AU12']):
        with pytest.raises(ValueError, match='FACS numbers'): bp4d(root, aus=aus)

def intensity(root, text, name='M011_T8', au=12):
    (root/f'AUCoding/AU_INT/AU{au:02}').mkdir(parents=True, exist_ok=True)
    (root/f'AUCoding/AU_INT/AU{au:02}/{name}_AU{au:02}.csv').write_text(text)

def test_intensities(root):
    for s, start in ('F001', 2440), ('M011', 7), ('F007', 99):
        for t in 'T1', 'T8': intensity(root, f'{start + 2},5\n{start},0.5\r\n{start + 3},9\n', f'{s}_{t}')
    intensity(root, '\ufeff2442,5\n2440,0.5\n2443,9\n', 'F001_T1')   # a spreadsheet's byte-order mark
    with warnings.catch_warnings():
        warnings.simplefilter('error'); t = bp4d(root)
    assert t.intensities == ['AU12_intensity']
    np.testing.assert_equal(t.df['AU12_intensity'].to_numpy().reshape(6, 4), np.tile(np.float32([.5, np.nan, 5, np.nan]), (6, 1)))

def test_intensity_faults(root):
    intensity(root, '7,3\n')
    with pytest.warns(UserWarning, match='5 intensity files are missing.*F001_T1_AU12.csv'): bp4d(root)
    for text, words in ('7,3\n8,6\n', 'line 2 .frame 8., column 2'), ('7,3,1\n', '3 cells'), ('7,a\n', "line 1, column 2 .intensity.: 'a'"), ('7,1\n7,1\n', 'second time'):
        intensity(root, text, 'F001_T1')
        with pytest.raises(ValueError, match='F001_T1_AU12.csv.*' + words): bp4d(root)

def test_a_subject_in_two_folds(root):
    t = bp4d(root)
    with pytest.raises(ValueError, match='subject M011 is in fold 1 and again in fold 2'): FrameTable(t.df, t.root, folds=[['F007', 'M011'], ['M011']])

@pytest.mark.skipif(not REAL.is_file(), reason=f'{REAL.name} is not beside the project')
def test_real_lengths():
    seg = pd.read_csv(REAL)
    assert len(seg) == 328 and (seg['last_frame'] - seg['first_frame'] + 1 >= seg['n']).all()
    n = seg['n'].to_numpy()
    frame = np.concatenate([np.arange(a, a + k) for a, k in zip(seg['first_frame'], n)])
    df = pd.DataFrame(dict(subject=np.repeat(seg['subject'].to_numpy(), n), activity=np.repeat(seg['task'].to_numpy(), n), frame=frame))
    df['sequence'] = df['subject'] + '_' + df['activity']
    df['path'] = df['subject'] + '/' + df['activity'] + '/' + df['frame'].astype(str) + '.jpg'
    t = FrameTable(df, '.', 'BP4D', folds=bp4d_folds())
    assert len(t) == 146_847 and len(t.subjects) == 41 and [len(f) for f in t.folds] == [13, 14, 14]
    assert [len(t.fold(k)[1]) for k in (3, 2, 1)] == [50_631, 50_182, 46_034]
    assert all(sum(map(len, t.fold(k))) == 146_847 for k in (1, 2, 3))
    assert [len(p) for p in BP4D_PARTS] == [14, 14, 13]

def test_twin_agrees_with_its_truth(tmp_path):
    write_bp4d = pytest.importorskip('clef_nb.synthface').write_bp4d
    t = bp4d(write_bp4d(tmp_path/'twin', n_subjects=2, frames_per_sequence=2, size=32, seed=1))
    assert len(t) == 2 * 8 * 2 and t.intensities == [f'{c}_intensity' for c in t.labels]
    x = t.df[t.intensities].to_numpy()
    assert np.isfinite(x).all() and all(p.stat().st_size for p in t.image_paths())
    for k, c in enumerate(t.labels):   # a present AU is never weaker than an absent one
        on = (t.df[c] == 1).to_numpy(dtype=bool)
        if on.any() and not on.all(): assert x[on, k].min() >= x[~on, k].max()
