"Faults of FrameTable that no reader of the notebook wants to see"

import os

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clef_nb.datasets.frames import FrameTable, subjects_disjoint


def frame(n_subjects=4, activities=('T1', 'T2'), n=3):
    rows = [
        dict(
            path=f's{s}/{a}/{f}.jpg',
            subject=f's{s}',
            activity=a,
            sequence=f's{s}_{a}',
            frame=f,
            AU6=f % 2,
            AU12=int(s % 2),
        )
        for s in range(n_subjects)
        for a in activities
        for f in range(1, n + 1)
    ]
    return pd.DataFrame(rows)


def changed(row, column, value, df=None):
    df = frame() if df is None else df
    df[column] = df[column].astype(object)
    df.loc[row, column] = value
    return df


@pytest.mark.parametrize(
    'row, column, value, words',
    [
        (5, 'AU6', 7, ['row 5', 's0/T2/3.jpg', 'AU6 is 7', 'missing']),
        (5, 'AU6', 9, ['row 5', 'AU6 is 9']),
        (5, 'AU6', -1, ['row 5', 'AU6 is -1']),
        (5, 'AU6', 0.5, ['row 5', 'AU6 is 0.5']),
        (5, 'AU6', 'yes', ['row 5', "'yes'"]),
        (2, 'path', '', ['row 2', 'empty']),
        (2, 'path', '/abs/1.jpg', ['row 2', 'relative']),
        (2, 'path', 'C:/abs/1.jpg', ['row 2', 'relative']),
        (2, 'path', 'a\\b.jpg', ['row 2', 'forward slashes']),
        (2, 'path', 's0/T1/1.jpg', ['row 2', 'row 0']),
        (2, 'frame', -3, ['row 2', 'frame is -3']),
        (2, 'frame', 1.5, ['row 2', 'frame is 1.5']),
        (2, 'frame', 1, ['row 2', 's0_T1', 'frame 1 twice']),
        (4, 'subject', 's3', ['row 4', 's0_T2', 's3']),
        (4, 'subject', '', ['row 4', 'subject is an empty text']),
    ],
)
def test_impossible_content_is_named_with_its_row(row, column, value, words):
    with pytest.raises(ValueError) as e:
        FrameTable(changed(row, column, value), '.')
    for w in words:
        assert w in str(e.value)


@pytest.mark.parametrize('value', [-0.1, 5.01, np.inf])
def test_intensity_range(value):
    df = frame()
    df['AU6_intensity'] = 2.5
    df.loc[3, 'AU6_intensity'] = value
    with pytest.raises(ValueError, match='row 3 .*between 0 and 5'):
        FrameTable(df, '.')


@pytest.mark.parametrize(
    'name, right',
    [
        ('au12', 'AU12'),
        ('AU_12', 'AU12'),
        ('AU06', 'AU6'),
        ('AU 9', 'AU9'),
        ('au6_intensity', 'AU6_intensity'),
        ('AU6_int', 'AU6_intensity'),
    ],
)
def test_misspelt_label_column(name, right):
    with pytest.raises(ValueError, match=f"rename it to '{right}'"):
        FrameTable(frame().drop(columns=['AU6', 'AU12']).assign(**{name: 0}), '.')


def test_other_columns_are_kept():
    t = FrameTable(frame().assign(age=30, author='x', expression='happiness', split='train'), '.')
    assert (
        t.labels == ['AU6', 'AU12']
        and {'age', 'author'} <= set(t.df)
        and 'expressions: happiness' in repr(t)
    )


def test_more_rows_are_counted():
    df = frame()
    df.loc[[3, 4, 9], 'AU12'] = 9
    with pytest.raises(ValueError, match=r'row 3 .*\(2 more rows like it\)'):
        FrameTable(df, '.')


def test_whole_arguments():
    with pytest.raises(TypeError, match='DataFrame'):
        FrameTable([1], '.')
    with pytest.raises(ValueError, match='column path'):
        FrameTable(frame().drop(columns='path'), '.')
    with pytest.raises(ValueError, match='AU6 occurs twice'):
        FrameTable(pd.concat([frame(), frame()[['AU6']]], axis=1), '.')
    with pytest.raises(ValueError, match='no text for T2'):
        FrameTable(frame(), '.', activities=dict(T1='Sing.'))
    with pytest.raises(ValueError, match='activity T2'):
        FrameTable(frame(), '.', activities=dict(T1='Sing.', T2=' '))


def test_the_caller_s_frame_is_left_alone():
    df = frame()
    before = df.copy()
    t = FrameTable(df, '.')
    t.df['AU6'] = 1
    pd.testing.assert_frame_equal(df, before)


def test_only_paths():
    t = FrameTable(pd.DataFrame(dict(path=['a.jpg', 'b.jpg'])), '.')
    assert (
        len(t) == 2
        and t.label_matrix().shape == (2, 0)
        and 'no subjects' in repr(t)
        and len(t.describe()) == 0
    )
    with pytest.raises(ValueError, match='number of subjects, 0'):
        t.subject_folds(2)
    with pytest.raises(ValueError, match='2 frames have no subject'):
        subjects_disjoint(t, ['s1'])


def test_missing_stays_missing():
    df = frame()
    df['AU6'] = df['AU6'].astype('Int8')
    df.loc[0, 'AU6'] = pd.NA
    for x in (df, df.astype(dict(AU6='float')), df.astype(dict(AU6=object))):
        t = FrameTable(x, '.')
        assert (
            str(t.df['AU6'].dtype) == 'Int8'
            and np.isnan(t.label_matrix()[0, 0])
            and t.describe().loc['AU6', 'missing'] == 1
        )


@pytest.mark.parametrize(
    'folds, words',
    [
        ([['s0', 's1'], ['s1']], 'subject s1 is in fold 1 and again in fold 2'),
        ([['s0', 's0'], ['s1']], 'subject s0 is in fold 1 and a second time in it'),
        ([['s0'], ['s9']], 's9'),
    ],
)
def test_bad_folds(folds, words):
    with pytest.raises(ValueError, match=words):
        FrameTable(frame(), '.', folds=folds)


def test_fold_by_number():
    t = FrameTable(frame(), '.', folds=[['s0'], ['s1', 's2']])
    train, test = t.fold(2)
    assert test.subjects == ['s1', 's2'] and train.subjects == ['s0', 's3']
    for k in (0, 3):
        with pytest.raises(ValueError, match='from 1 to 2'):
            t.fold(k)
    with pytest.raises(ValueError, match='none of the subjects that fold 2'):
        train.fold(2)
    with pytest.raises(ValueError, match='every subject'):
        test.fold(2)
    with pytest.raises(ValueError, match='no folds'):
        FrameTable(frame(), '.').fold(1)
    with pytest.raises(ValueError, match='row 7 has no subject'):
        FrameTable(changed(7, 'subject', None), '.', folds=[['s0']]).fold(1)


@pytest.mark.parametrize('seed', range(5))
def test_subject_folds_test_each_subject_once(seed):
    t = FrameTable(frame(7), '.')
    for k in (2, 3, 7):
        seen = []
        for train, test in t.subject_folds(k, seed):
            subjects_disjoint(train, test)
            assert len(train) + len(test) == len(t)
            seen += test.subjects
        assert sorted(seen) == t.subjects
        assert seen == [s for _, test in t.subject_folds(k, seed) for s in test.subjects]


def test_guard_names_the_shared():
    a, b = FrameTable(frame(3), '.'), FrameTable(frame(4).query('subject >= "s2"'), '.')
    with pytest.raises(ValueError, match='both sides hold s2;'):
        subjects_disjoint(a, b)
    with pytest.raises(ValueError, match='s0'):
        subjects_disjoint(['s0', 's5'], a)
    assert subjects_disjoint(a, ['s3']) is None


def test_subset():
    t = FrameTable(frame(), '.')
    assert t.subset([-1]).df['path'].tolist() == ['s3/T2/3.jpg']
    assert len(t.subset([])) == 0 and len(t.subset(slice(2, 5))) == 3
    assert t.subset(np.array([5, 2])).df['path'].tolist() == t.df['path'].iloc[[5, 2]].tolist()
    masks = t.df['AU6'] == 1, (t.df['AU6'] == 1).to_numpy(dtype=bool), (t.df['AU6'] == 1).tolist()
    assert len({tuple(t.subset(m).df['path']) for m in masks}) == 1
    with pytest.raises(IndexError, match='24'):
        t.subset([24])
    with pytest.raises(IndexError):
        t.subset([-25])
    with pytest.raises(ValueError, match='twice'):
        t.subset([1, 1])
    with pytest.raises(ValueError, match='twice'):
        t.subset([0, -24])
    with pytest.raises(ValueError, match='mask'):
        t.subset(np.ones(23, bool))
    with pytest.raises(ValueError, match='float'):
        t.subset([1.5])


def test_subset_does_not_share_rows():
    t = FrameTable(frame(), '.')
    u = t.subset(slice(None))
    u.df.loc[0, 'AU6'] = 0
    assert t.df.loc[0, 'AU6'] == 1


def test_join_of_roots(tmp_path):
    t = FrameTable(frame(2), tmp_path / 'a', 'a', folds=[['s0'], ['s1']])
    inner = FrameTable(
        frame(2)
        .replace({'subject': {'s0': 'x0', 's1': 'x1'}})
        .assign(sequence=lambda d: d['subject'] + d['activity']),
        tmp_path / 'a' / 'b',
        'b',
        folds=[['x0'], ['x1']],
    )
    both = t.join(inner)
    assert (
        both.root == tmp_path / 'a'
        and both.df['path'].iloc[-1] == 'b/s1/T2/3.jpg'
        and both.folds == [['s0', 'x0'], ['s1', 'x1']]
        and both.name == 'a and b'
    )
    assert both.image_paths() == t.image_paths() + inner.image_paths()


def test_join_warns_and_refuses(tmp_path):
    t, u = FrameTable(frame(2), '.', folds=[['s0'], ['s1']]), FrameTable(frame(2, ('T3',)), '.')
    with pytest.warns(UserWarning, match='folds are dropped'):
        assert t.join(u).folds is None
    with pytest.raises(ValueError, match='share|hold'):
        FrameTable(frame(2), '.', 'a').join(FrameTable(frame(2), 'b', 'b'))
    with pytest.raises(ValueError, match='two texts'):
        FrameTable(frame(1), '.', activities=dict(T1='a', T2='b')).join(
            FrameTable(frame(1, ('T1',)), 'b', activities=dict(T1='c'))
        )
    with pytest.raises(ValueError, match='prefix needs'):
        t.join(u, prefix=True)
    with pytest.raises(TypeError, match='FrameTable'):
        t.join(frame())


def test_save_leaves_nothing_half_written(tmp_path, monkeypatch):
    t = FrameTable(frame(), '.', 'x')
    file = t.save(tmp_path / 't.parquet')
    before = file.read_bytes()

    def full(table, where, *a, **k):
        open(where, 'wb').write(b'half')
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(pq, 'write_table', full)
    with pytest.raises(OSError, match='No space'):
        t.save(file)
    assert os.listdir(tmp_path) == ['t.parquet'] and file.read_bytes() == before


def test_load_refuses(tmp_path):
    t = FrameTable(frame(), 'old', 'x', folds=[['s0']])
    file = t.save(tmp_path / 't.parquet')
    assert FrameTable.load(file, root='new').root.name == 'new'
    with pytest.raises(FileNotFoundError, match='none.parquet'):
        FrameTable.load(tmp_path / 'none.parquet')
    with pytest.raises(FileNotFoundError, match='no_such'):
        t.save(tmp_path / 'no_such' / 't.parquet')
    (tmp_path / 'cut.parquet').write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match='cut.parquet cannot be read'):
        FrameTable.load(tmp_path / 'cut.parquet')
    frame().to_parquet(tmp_path / 'other.parquet')
    with pytest.raises(ValueError, match='no saved FrameTable'):
        FrameTable.load(tmp_path / 'other.parquet')
    data = pq.read_table(file)
    wrong = data.set_column(data.column_names.index('AU6'), 'AU6', pa.array([7] * len(data)))
    pq.write_table(wrong, tmp_path / 'wrong.parquet')
    with pytest.raises(ValueError, match='AU6 is 7'):
        FrameTable.load(tmp_path / 'wrong.parquet')


def test_empty_table_survives(tmp_path):
    t = FrameTable(frame(), '.').subset([])
    assert len(FrameTable.load(t.save(tmp_path / 'e.parquet'))) == 0
