"`clef leakage`: every kind of input, one clear line for every mistake, files whole or not at all."

import os
import re

import numpy as np
import pandas as pd
import pytest

from clef_nb.cli import main
from clef_nb.datasets.frames import FrameTable
from clef_nb.experiments import embeddings
from clef_nb.measure.leakage import leakage_report
from clef_nb.measure.measures import make_embeddings

THREE = ['id_accuracy', 'knn_id', 'id_preference']
QUICK = ['--measures', *THREE, '--n-boot', '50']


@pytest.fixture
def z():
    return make_embeddings(identity=0.5, n_subjects=6, n_activities=4, frames=3, dim=12)[0]


@pytest.fixture
def labels():
    df = make_embeddings(n_subjects=6, n_activities=4, frames=3, dim=12)[1][['subject', 'activity']]
    return df.assign(AU6=np.arange(len(df)) % 2, AU12=(np.arange(len(df)) // 2) % 2)


@pytest.fixture
def here(tmp_path, monkeypatch, z, labels):
    monkeypatch.chdir(tmp_path)
    labels.to_csv('frames.csv', index=False)
    np.save('z.npy', z)
    return tmp_path


def refused(capsys, *arguments, out='out'):
    "The one line of an error; nothing is written"
    before = sorted(os.listdir())
    assert main(['leakage', *arguments, '--out', out, '--n-boot', '50']) == 1
    err = capsys.readouterr().err
    assert err.startswith('clef: ') and err.count('\n') == 1, err
    assert sorted(os.listdir()) == before
    return err


def written(out='out'):
    return sorted(os.listdir(out))


# what is read


@pytest.mark.parametrize('kind', ['csv', 'bom', 'plain parquet', 'FrameTable'])
def test_tables(here, labels, z, kind):
    table = {'csv': 'a.csv', 'bom': 'a.CSV'}.get(kind, 'a.parquet')
    if kind == 'csv':
        labels.to_csv(table, index=False)
    elif kind == 'bom':
        labels.to_csv(table, index=False, encoding='utf-8-sig')
    elif kind == 'plain parquet':
        labels.to_parquet(table)
    else:
        FrameTable(labels.assign(path=[f'{i}.jpg' for i in range(len(labels))]), '.').save(table)
    df = embeddings.read_labels(table)
    assert list(df) == ['subject', 'activity', 'AU6', 'AU12'] and list(df.subject) == list(
        labels.subject
    )
    reports = embeddings.report_leakage(table, 'z.npy', 'out', THREE, 50, progress=False)
    expected = leakage_report(
        z, labels.subject.to_numpy(), labels.activity.to_numpy(), measures=THREE, n_boot=50
    )
    pd.testing.assert_frame_equal(
        reports['z'].reset_index(drop=True), expected.reset_index(drop=True)
    )


def test_subjects_stay_as_they_are_written(here, labels):
    labels.assign(subject=[f'00{s[-1]}' for s in labels.subject]).to_csv('a.csv', index=False)
    assert embeddings.read_labels('a.csv').subject[0] == '001'


def test_action_units_in_the_order_of_their_numbers_and_nothing_else(here, labels):
    labels.assign(AU12_intensity=3.5, remark='x', AU2=1)[
        ['AU12', 'remark', 'AU12_intensity', 'activity', 'AU6', 'AU2', 'subject']
    ].to_csv('a.csv', index=False)
    assert list(embeddings.read_labels('a.csv')) == ['subject', 'activity', 'AU2', 'AU6', 'AU12']


def test_action_units_that_are_not_coded(here, labels):
    labels.assign(AU12=[np.nan, *labels.AU12[1:]]).to_csv('a.csv', index=False)
    x = embeddings.read_labels('a.csv').AU12
    assert np.isnan(x[0]) and set(x[1:]) == {0, 1}


@pytest.mark.parametrize('kind', ['npy', 'npz', 'parquet', 'half', 'integers'])
def test_embeddings(here, z, kind):
    file = {'npz': 'e.npz', 'parquet': 'e.parquet'}.get(kind, 'e.npy')
    if kind == 'npz':
        np.savez(file, one=z, two=-z)
    elif kind == 'parquet':
        pd.DataFrame(z, columns=[f'd{i}' for i in range(z.shape[1])]).to_parquet(file)
    elif kind == 'half':
        np.save(file, z.astype(np.float16))
    elif kind == 'integers':
        np.save(file, (100 * z).astype(int))
    else:
        np.save(file, z)
    found = embeddings.read_embeddings(file)
    assert list(found) == (['one', 'two'] if kind == 'npz' else ['e'])
    assert np.allclose(
        list(found.values())[0] / (100 if kind == 'integers' else 1),
        z,
        atol=0.011 if kind == 'integers' else 1e-3,
    )


def test_the_folder_of_a_run(here, labels, z, capsys):
    os.mkdir('run')
    FrameTable(labels.assign(path=[f'{i}.jpg' for i in range(len(labels))]), '.').save(
        'run/test.parquet'
    )
    np.savez('run/embeddings.npz', **{'no stage 1': z, 'CLEF': -z})
    assert main(['leakage', 'run', '--out', 'out', *QUICK]) == 0
    assert '\nno stage 1\n' in capsys.readouterr().out and written() == [
        'compare.csv',
        'leakage.csv',
        'leakage.png',
    ]


# what is said and written


def test_one_embedding(here, capsys):
    assert main(['leakage', 'frames.csv', 'z.npy', '--out', 'deep/out', *QUICK]) == 0
    out = capsys.readouterr().out
    assert written('deep/out') == ['leakage.csv', 'leakage.png'] and out.startswith(
        '72 frames, 6 subjects, 4 activities, 2 AUs\n'
    )
    assert (
        all(
            w in out
            for w in (
                'ID accuracy',
                '[low, high]',
                'chance',
                '0.17',
                '95 %',
                'seed 0',
                'leakage.csv',
            )
        )
        and 'minus' not in out
    )
    saved = pd.read_csv('deep/out/leakage.csv')
    assert (
        list(saved) == ['embedding', 'measure', 'value', 'low', 'high', 'chance']
        and list(saved.measure) == THREE
        and set(saved.embedding) == {'z'}
    )
    assert open('deep/out/leakage.png', 'rb').read(8) == b'\x89PNG\r\n\x1a\n'


def test_everything_fits_80_columns(here, z, capsys):
    np.savez('e.npz', **{'first': z, 'second': np.random.default_rng(1).normal(size=z.shape)})
    assert main(['leakage', 'frames.csv', 'e.npz', '--out', 'out', '--n-boot', '50']) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert (
        out.count('ID accuracy') == 3
        and 'AU AUROC' in out
        and 'second minus first' in out
        and '_' not in out.replace('leakage_', '')
    )


def test_several_embeddings_are_compared(here, z, capsys):
    np.savez('e.npz', first=z, noise=np.random.default_rng(1).normal(size=z.shape))
    assert main(['leakage', 'frames.csv', 'e.npz', '--out', 'out', *QUICK]) == 0
    out = capsys.readouterr().out
    assert out.index('\nfirst\n') < out.index('\nnoise\n') < out.index('\nnoise minus first\n')
    saved, found = pd.read_csv('out/leakage.csv'), pd.read_csv('out/compare.csv')
    value = saved.set_index(['embedding', 'measure']).value
    assert (
        set(found.embedding) == {'noise'}
        and set(found.against) == {'first'}
        and list(found.measure) == THREE
    )
    for r in found.itertuples():
        assert r.low <= r.high and np.isclose(
            r.difference, value['noise', r.measure] - value['first', r.measure]
        )
    accuracy = next(
        line
        for line in out[out.index('minus first') :].splitlines()
        if line.startswith('ID accuracy')
    )
    assert accuracy.endswith('excludes 0') and re.search(r'-0\.\d\d', accuracy)


def test_an_earlier_comparison_goes(here, z, capsys):
    np.savez('e.npz', a=z, b=z)
    assert (
        main(['leakage', 'frames.csv', 'e.npz', '--out', 'out', *QUICK]) == 0
        and 'compare.csv' in written()
    )
    assert main(['leakage', 'frames.csv', 'z.npy', '--out', 'out', *QUICK]) == 0 and written() == [
        'leakage.csv',
        'leakage.png',
    ]


def test_action_units_are_used_where_there_are_any(here, labels, capsys):
    reports = embeddings.report_leakage('frames.csv', 'z.npy', 'out', n_boot=50, progress=False)
    assert 'au_auroc' in list(reports['z'].measure)
    labels[['subject', 'activity']].to_csv('bare.csv', index=False)
    assert 'au_auroc' not in list(
        embeddings.report_leakage('bare.csv', 'z.npy', 'out', n_boot=50)['z'].measure
    )
    assert 'no AUs' in capsys.readouterr().out


def test_seed_and_resamples(here, capsys):
    def low(*more):
        assert (
            main(['leakage', 'frames.csv', 'z.npy', '--out', 'out', '--measures', 'knn_id', *more])
            == 0
        )
        return float(pd.read_csv('out/leakage.csv').low.iloc[0])

    assert low('--n-boot', '40') == low('--n-boot', '40') and low(
        '--n-boot', '3', '--seed', '1'
    ) != low('--n-boot', '3', '--seed', '2')
    assert '3 resamples, seed 2' in capsys.readouterr().out


def test_help_names_what_the_report_has(here, capsys):
    with pytest.raises(SystemExit) as e:
        main(['leakage', '--help'])
    out = capsys.readouterr().out
    assert (
        e.value.code == 0
        and 'clef leakage runs/demo' in out
        and max(map(len, out.splitlines())) <= 80
    )
    reports = embeddings.report_leakage('frames.csv', 'z.npy', 'out', n_boot=20, progress=False)
    listed = (
        out[out.index('measures (') : out.index('writes OUT')]
        .split(':', 1)[1]
        .replace('and with AUs', '')
        .replace(',', '')
        .split()
    )
    assert listed == list(
        dict.fromkeys('variance' if m.startswith('variance_') else m for m in reports['z'].measure)
    )
    with pytest.raises(SystemExit) as e:
        main(['leakage'])
    assert e.value.code == 2


# nothing half-written


def test_a_failure_while_writing_leaves_what_was_there(here, monkeypatch, capsys):
    assert main(['leakage', 'frames.csv', 'z.npy', '--out', 'out', *QUICK]) == 0
    before = {f: open(f'out/{f}', 'rb').read() for f in written()}

    def full(figure, path, **options):
        path.write_bytes(b'half a fig')
        raise OSError('No space left on device')

    monkeypatch.setattr('matplotlib.figure.Figure.savefig', full)
    arguments = ['leakage', 'frames.csv', 'z.npy', '--out', 'out', '--n-boot', '50']
    assert main([*arguments, '--measures', 'knn_id']) == 1
    assert capsys.readouterr().err == 'clef: No space left on device\n'
    assert {f: open(f'out/{f}', 'rb').read() for f in written()} == before


def test_an_error_in_the_second_embedding_writes_nothing(here, z, capsys):
    bad = z.copy()
    bad[5, 2] = np.nan
    np.savez('e.npz', good=z, bad=bad)
    err = refused(capsys, 'frames.csv', 'e.npz', *QUICK[:4])
    assert 'bad in e.npz' in err and 'row 5' in err and 'not finite' in err


# mistakes


def test_missing_files(here, capsys):
    assert 'nowhere.csv does not exist' in refused(capsys, 'nowhere.csv', 'z.npy')
    assert 'nowhere.npy does not exist' in refused(capsys, 'frames.csv', 'nowhere.npy')
    assert 'no folder of a trained run' in refused(capsys, 'frames.csv')
    os.mkdir('empty')
    assert 'test.parquet does not exist' in refused(capsys, 'empty')
    assert 'is a folder' in refused(capsys, 'empty', 'z.npy') and 'is a folder' in refused(
        capsys, 'frames.csv', 'empty'
    )


def test_out_that_is_a_file(here, capsys):
    assert 'is a file' in refused(capsys, 'frames.csv', 'z.npy', out='z.npy')


def test_other_kinds_of_files(here, capsys):
    open('a.txt', 'w').write('x')
    open('z.pt', 'wb').write(b'x')
    assert 'a.txt' in (e := refused(capsys, 'a.txt', 'z.npy')) and '.csv' in e
    assert 'z.pt' in (e := refused(capsys, 'frames.csv', 'z.pt')) and '.npz' in e
    assert 'z.npy' in refused(capsys, 'z.npy', 'z.npy') and 'frames.csv' in refused(
        capsys, 'frames.csv', 'frames.csv'
    )


@pytest.mark.parametrize('name', ['a.parquet', 'a.npy', 'a.npz'])
@pytest.mark.parametrize(
    'content',
    [
        b'',
        b'not what the name says',
        b'PK\x03\x04broken',
        b'PAR1xxxxPAR1',
        b'\x93NUMPY\x01\x00v\x00{',
    ],
)
def test_damaged_files(here, capsys, name, content):
    open(name, 'wb').write(content)
    assert 'a.' in (e := refused(capsys, 'frames.csv', name)) and 'cannot be read' in e
    if name == 'a.parquet':
        assert 'cannot be read' in refused(capsys, name, 'z.npy')


def test_half_an_archive(here, z, capsys):
    np.savez_compressed('e.npz', z=z)
    data = open('e.npz', 'rb').read()
    for cut in (30, len(data) // 2, len(data) - 5):
        open('half.npz', 'wb').write(data[:cut])
        assert 'cannot be read' in refused(capsys, 'frames.csv', 'half.npz')
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 255
    open('flipped.npz', 'wb').write(flipped)
    assert 'cannot be read' in refused(capsys, 'frames.csv', 'flipped.npz')


def test_csv_that_is_none(here, capsys):
    open('empty.csv', 'w').close()
    open('binary.csv', 'wb').write(b'\xff\xfe\x00\x01' * 40)
    assert 'empty.csv cannot be read' in refused(capsys, 'empty.csv', 'z.npy')
    assert 'binary.csv' in refused(capsys, 'binary.csv', 'z.npy')


def test_objects_are_never_unpickled(here, z, capsys):
    np.save('o.npy', np.array([{'a': 1}], dtype=object), allow_pickle=True)
    np.savez('o.npz', z=z, names=np.array(['a', None], dtype=object))
    assert 'cannot be read' in refused(
        capsys, 'frames.csv', 'o.npy'
    ) and 'cannot be read' in refused(capsys, 'frames.csv', 'o.npz')


@pytest.mark.parametrize(
    'x',
    [np.zeros(72), np.zeros((72, 2, 2)), np.zeros((72, 2), complex), np.full((72, 2), 'x')],
    ids=['vector', 'cube', 'complex', 'text'],
)
def test_what_is_no_matrix(here, capsys, x):
    np.savez('e.npz', mine=x)
    assert 'mine in e.npz' in (e := refused(capsys, 'frames.csv', 'e.npz')) and 'matrix' in e


def test_no_array(here, capsys):
    np.savez('e.npz')
    assert 'no array' in refused(capsys, 'frames.csv', 'e.npz')


def test_parquet_with_a_column_of_text(here, labels, z, capsys):
    pd.DataFrame(z, columns=[f'd{i}' for i in range(z.shape[1])]).assign(
        subject=list(labels.subject)
    ).to_parquet('e.parquet')
    assert 'column subject' in refused(capsys, 'frames.csv', 'e.parquet')


def test_missing_columns(here, labels, capsys):
    labels.drop(columns='activity').to_csv('a.csv', index=False)
    assert (
        'no column activity' in (e := refused(capsys, 'a.csv', 'z.npy'))
        and 'subject, AU6, AU12' in e
    )
    labels.to_csv('semicolons.csv', index=False, sep=';')
    assert 'no column subject' in refused(capsys, 'semicolons.csv', 'z.npy')


def test_lengths(here, labels, z, capsys):
    np.savez('e.npz', good=z, short=z[:-1])
    assert 'frames.csv has 72 rows, but short in e.npz has 71' in refused(
        capsys, 'frames.csv', 'e.npz'
    )


def test_bad_cells(here, labels, z, capsys):
    labels.assign(AU12=[9, *labels.AU12[1:]]).to_csv('a.csv', index=False)
    assert 'row 0: AU12 is 9' in refused(capsys, 'a.csv', 'z.npy')
    labels.assign(AU6=[*labels.AU6[:3].astype(object), 'yes', *labels.AU6[4:]]).to_csv(
        'a.csv', index=False
    )
    assert 'row 3: AU6 is yes' in refused(capsys, 'a.csv', 'z.npy')
    for c in ('subject', 'activity'):
        labels.assign(**{c: [*labels[c][:7], None, *labels[c][8:]]}).to_csv('a.csv', index=False)
        assert f'row 7: {c} is empty' in refused(capsys, 'a.csv', 'z.npy')
    labels.assign(subject='F001').to_csv('a.csv', index=False)
    assert 'one subject' in refused(capsys, 'a.csv', 'z.npy')


def test_measures_that_do_not_exist(here, labels, capsys):
    assert 'speed' in refused(capsys, 'frames.csv', 'z.npy', '--measures', 'speed')
    labels[['subject', 'activity']].to_csv('bare.csv', index=False)
    assert 'au_auroc' in refused(capsys, 'bare.csv', 'z.npy', '--measures', 'au_auroc')


def test_what_cannot_be_asked_is_a_note(here, z, capsys):
    # one frame a sequence
    df = pd.DataFrame(
        {
            'subject': np.repeat(list('abcdef'), 12),
            'activity': np.tile([f't{i:02}' for i in range(12)], 6),
        }
    )
    df.to_csv('single.csv', index=False)
    np.savez('e.npz', one=z, two=-z)
    assert main(['leakage', 'single.csv', 'e.npz', '--out', 'out', '--n-boot', '50']) == 0
    said = capsys.readouterr()
    assert (
        said.err == ''
        and said.out.count('note: variance is nan') == 2
        and max(map(len, said.out.splitlines())) <= 80
        and 'nan,' not in said.out
    )
    line = next(line for line in said.out.splitlines() if line.startswith('variance: subject'))
    assert line.split()[2:] == ['-']
    assert (
        pd.read_csv('out/leakage.csv')
        .set_index(['embedding', 'measure'])
        .value.isna()['one', 'variance_subject']
    )
    assert 'every sequence has one frame' in refused(
        capsys, 'single.csv', 'e.npz', '--measures', 'variance'
    )
