"""The command `clef data` and the check behind it: twins of every set, damaged copies, a copy of
RAF-DB's true size, and a table of BP4D's
"""

import inspect
import re
import runpy
import warnings
from pathlib import Path

import pandas as pd
import pytest

from clef_nb.cli import main, options_of
from clef_nb.datasets.registry import check_dataset, get_dataset, list_text, load_dataset
from clef_nb.datasets.texts import RAFDB_EXPRESSIONS, datasets, protocol

HERE = Path(__file__).resolve().parents[2]
SEGMENTS = HERE.parent / 'shared' / 'real' / 'bp4d_coded_segments.csv'
NAMES = list(datasets().index)
SMALL = dict(
    bp4d='--subjects 3 --frames 2 --size 32',
    bp4d_plus='--subjects 4 --frames 2 --size 32',
    disfa='--subjects 3 --frames 6 --size 32',
    rafdb='--train 30 --test 10 --size 32',
    affectnet='--train 30 --validation 10 --size 32',
    ferplus='--form images --train 24 --public 8 --private 8',
)


def write(name, root):
    return main(['data', 'write', name, str(root), *SMALL[name].split(), '--seed', '3'])


@pytest.fixture(scope='module')
def originals(tmp_path_factory):
    "Writes a twin of each set once"
    folder, there = tmp_path_factory.mktemp('twins'), {}

    def get(name):
        if name not in there:
            there[name] = get_dataset(name).write(folder / name, **arguments(name))
        return there[name]

    return get


def arguments(name):
    "SMALL and the seed, as the writer takes them"
    options = {option.flag: option.parameter for option in options_of(get_dataset(name).write)}
    words = SMALL[name].split() + ['--seed', '3']
    pairs = zip(words[::2], words[1::2])
    return {options[k.removeprefix('--')]: int(v) if v.isdigit() else v for k, v in pairs}


@pytest.fixture
def copy(originals, tmp_path):
    "A copy of a twin, to be damaged"
    import shutil

    return lambda name: Path(shutil.copytree(originals(name), tmp_path / name))


def check(root, *more, name=None):
    return main(['data', 'check', name or root.name, str(root), *more])


def deviating(name, root, **options):
    "{(part, what): found - expected} of what deviates"
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        r = check_dataset(name, root, **options)
    return {(p, w): int(f - e) for p, w, f, e, _ in r[r['fits'].eq(False)].itertuples(index=False)}


# Twins


@pytest.mark.parametrize('name', NAMES)
def test_a_twin_is_written_and_fits(name, tmp_path, capsys):
    root = tmp_path / 'my twins' / name
    assert write(name, root) == 0
    said = capsys.readouterr().out
    assert (
        f"clef data check {name} '{root}'" in said
        and f"load_dataset('{name}', '{root}')" in said
        and f'CLEF_{name.upper()} to this folder' in said
    )
    assert check(root, '--images') == 0
    out = capsys.readouterr().out
    assert (
        out.splitlines()[-1] == 'fits the protocol of the twin'
        and 'twin.json' in out
        and str(root) in out
        and '<-' not in out
    )
    assert re.search(r'images missing +0 +0\n', out) and re.search(
        r'images that cannot be read +0 +0\n', out
    )
    assert sorted(p.name for p in (tmp_path / 'my twins').iterdir()) == [name]


@pytest.mark.parametrize('name', NAMES)
def test_the_twin_says_what_the_protocol_says_of_the_real_set(name, originals):
    """Each number that is published for the real set is there for the twin, unless the twin holds
    none of that class
    """
    report = check_dataset(name, originals(name))
    there = set(zip(report['part'], report['what']))
    p = protocol(name)
    assert {(a, b) for a, b in zip(p['part'], p['what'])} <= there
    assert report['fits'].notna().sum() >= 3


@pytest.mark.parametrize('name', NAMES)
def test_without_its_record_a_twin_is_compared_with_the_protocol(name, copy, capsys):
    root = copy(name)
    (root / 'twin.json').unlink()
    assert check(root) == 1
    out = capsys.readouterr().out
    assert 'published protocol' in out and re.fullmatch(
        r'\d+ of \d+ numbers deviate', out.splitlines()[-1]
    )
    for _, r in protocol(name).iterrows():
        assert (f'about {r.expected:,}' if r.approximate else f'{r.expected:,}') in out


def test_a_rough_number_is_no_verdict(copy):
    root = copy('bp4d_plus')
    (root / 'twin.json').unlink()
    r = check_dataset('bp4d_plus', root).set_index(['part', 'what'])
    assert (
        r.loc[('', 'frames'), 'expected'] == 197800
        and r.loc[('', 'frames'), 'found'] == 4 * 4 * 2
        and pd.isna(r.loc[('', 'frames'), 'fits'])
    )
    assert not r.loc[('', 'subjects'), 'fits'] and {f'fold {k}' for k in range(1, 5)} <= {
        p for p, _ in r.index
    }


# Damaged copies


def image_of(name, root, k=1):
    "An image that the table holds, and its row"
    t = load_dataset(name, root)
    return t.image_paths()[k], t.df.iloc[k]


@pytest.mark.parametrize('name', NAMES)
def test_a_lost_image(name, copy, capsys):
    root = copy(name)
    path, row = image_of(name, root)
    path.unlink()
    assert check(root) == 1
    out = capsys.readouterr().out
    assert (
        re.search(r'images missing +1 +0  <- 1 too many', out)
        and 'note: ' in out
        and re.search(r'^\d+ of \d+ numbers deviate$', out, re.M)
    )
    odd = deviating(name, root)
    assert odd['', 'images missing'] == 1
    if name in ('rafdb', 'affectnet', 'ferplus'):
        odd.pop((row['split'], row['expression']), None)
        assert odd == {('', 'images missing'): 1, (row['split'], 'frames'): -1}
    # its folds are our own draw, so nothing is prescribed
    else:
        assert odd['', 'frames'] == -1 and [v for (p, _), v in odd.items() if p] == (
            [] if name == 'bp4d_plus' else [-1]
        )


@pytest.mark.parametrize('name', NAMES)
def test_an_image_that_is_none(name, copy, capsys):
    root = copy(name)
    path, _ = image_of(name, root)
    path.write_bytes(path.read_bytes()[:60])
    assert check(root) == 0  # nobody looked
    assert check(root, '--images') == 1
    out = capsys.readouterr().out
    assert (
        re.search(r'images that cannot be read +1 +0  <- 1 too many', out)
        and f'the first being {path} (' in out
        and out.splitlines()[-1].startswith('1 of ')
    )


def moved_rafdb(root):
    file = root / 'EmoLabel/list_patition_label.txt'
    lines = file.read_text().split('\n')
    k = next(i for i, line in enumerate(lines) if line.startswith('train') and line.endswith(' 4'))
    lines[k] = lines[k][:-1] + '7'
    file.write_text('\n'.join(lines))


def moved_affectnet(root):
    file = root / 'training.csv'
    lines = file.read_text().splitlines(True)
    cells = [line.rsplit(',', 3) for line in lines]
    k = next(i for i, c in enumerate(cells) if c[1] == '1')
    lines[k] = ','.join([cells[k][0], '0', *cells[k][2:]])
    file.write_text(''.join(lines))


@pytest.mark.parametrize('name, move', [('rafdb', moved_rafdb), ('affectnet', moved_affectnet)])
def test_a_moved_class(name, move, copy, capsys):
    root = copy(name)
    move(root)
    assert deviating(name, root) == {('train', 'happiness'): -1, ('train', 'neutral'): 1}
    assert check(root) == 1
    out = capsys.readouterr().out
    assert (
        out.splitlines()[-1].startswith('2 of ')
        and re.search(r'happiness.*<- 1 too few', out)
        and re.search(r'neutral.*<- 1 too many', out)
    )


def test_disfa_counted_from_one(copy, capsys):
    root = copy('disfa')
    for folder in (root / 'Videos_LeftCamera').iterdir():
        for p in sorted(folder.iterdir(), key=lambda p: -int(p.stem)):
            p.rename(p.with_stem(str(int(p.stem) + 1)))
    assert check(root) == 1 and 'first_image=1' in capsys.readouterr().err
    assert check(root, '--first-image', '1') == 0 and deviating('disfa', root, first_image=1) == {}
    assert check(root, '--camera', 'right') == 1 and 'right camera' in capsys.readouterr().err


def test_moved_votes(copy):
    "Ten votes for 'unknown' take an image away"
    root = copy('ferplus')
    file = next(root.rglob('fer2013new.csv'))
    t = load_dataset('ferplus', root)
    row = t.df[(t.df['split'] == 'train') & (t.df['expression'] == 'happiness')].iloc[0]
    name = Path(row['path']).name
    lines = file.read_text().splitlines()
    k = next(i for i, line in enumerate(lines) if line.split(',')[1] == name)
    lines[k] = ','.join(lines[k].split(',')[:2] + ['0'] * 8 + ['10', '0'])
    file.write_text('\n'.join(lines) + '\n')
    odd = deviating('ferplus', root)
    assert odd.pop(('train', 'happiness'), -1) == -1 and odd == {('train', 'frames'): -1}


def test_a_code_that_drops_an_image(copy):
    "AffectNet's code 9 is legal and takes the image away"
    root = copy('affectnet')
    file = root / 'training.csv'
    lines = file.read_text().splitlines(True)
    k = next(i for i, line in enumerate(lines) if line.rsplit(',', 3)[1] == '1')
    a, _, v, w = lines[k].rsplit(',', 3)
    lines[k] = ','.join([a, '9', v, w])
    file.write_text(''.join(lines))
    odd = deviating('affectnet', root)
    assert (
        odd.pop(('', 'frames'), -1) == -1
        and odd.pop(('', 'dropped: uncertain'), 1) == 1
        and odd == {('train', 'frames'): -1, ('train', 'happiness'): -1}
    )


def edit(file, pattern, new):
    text = file.read_text()
    assert re.search(pattern, text, re.M), (file, pattern)
    file.write_text(re.sub(pattern, new, text, count=1, flags=re.M))


CODES = {
    'bp4d': (
        lambda r: edit(r / 'AUCoding/AU_OCC/F001_T1.csv', r'(\n\d+),[019],', r'\1,7,'),
        'F001_T1.csv',
    ),
    'bp4d_plus': (
        lambda r: edit(r / 'AUCoding/AU_OCC/F001_T6.csv', r'(\n\d+),[019],', r'\1,7,'),
        'F001_T6.csv',
    ),
    'disfa': (
        lambda r: edit(next(r.glob('ActionUnit_Labels/*/*_au1.txt')), r'^(\d+),\d', r'\1,7'),
        '_au1.txt',
    ),
    'rafdb': (
        lambda r: edit(r / 'EmoLabel/list_patition_label.txt', r'^(train_\d+\.jpg) \d', r'\1 8'),
        'list_patition_label.txt',
    ),
    'affectnet': (
        lambda r: edit(r / 'training.csv', r',(\d+)(,[-.\d]+,[-.\d]+)$', r',11\2'),
        'training.csv',
    ),
    'ferplus': (
        lambda r: edit(next(r.rglob('fer2013new.csv')), r',(\d+)$', ',x'),
        'fer2013new.csv',
    ),
}


@pytest.mark.parametrize('name', CODES)
def test_a_code_that_does_not_exist(name, copy, capsys):
    root = copy(name)
    change, file = CODES[name]
    change(root)
    assert check(root) == 1
    said = capsys.readouterr()
    assert (
        said.out == ''
        and said.err.startswith('clef: ')
        and said.err.count('\n') == 1
        and file in said.err
        and 'line' in said.err
    )


def test_images_without_a_label(copy):
    "Normal in a laboratory's film, a fault in a set of single images"
    root = copy('bp4d')
    r = check_dataset('bp4d', root).set_index(['part', 'what'])
    assert ('', 'images without a label') not in r.index or pd.isna(
        r.loc[('', 'images without a label'), 'fits']
    )
    root = copy('rafdb')
    (root / 'Image/aligned/train_99999_aligned.jpg').touch()
    assert deviating('rafdb', root) == {('', 'images without a label'): 1}


# A copy of RAF-DB's true size


@pytest.fixture(scope='module')
def rafdb_lines():
    p = protocol('rafdb')
    lines = []
    for split in 'train', 'test':
        n = dict(zip(p.loc[p['part'] == split, 'what'], p.loc[p['part'] == split, 'expected']))
        codes = [c for c, e in enumerate(RAFDB_EXPRESSIONS, 1) for _ in range(n[e])]
        assert len(codes) == n['frames']
        lines += [
            f'{split}_{i:05}.jpg {c}' if split == 'train' else f'{split}_{i:04}.jpg {c}'
            for i, c in enumerate(codes, 1)
        ]
    return lines


def test_the_published_counts(rafdb_lines, tmp_path, capsys):
    root = tmp_path / 'rafdb'
    file = root / 'EmoLabel/list_patition_label.txt'
    (root / 'Image/aligned').mkdir(parents=True)
    file.parent.mkdir()
    for line in rafdb_lines:
        (root / 'Image/aligned' / line.split('.')[0]).with_name(
            line.split('.')[0] + '_aligned.jpg'
        ).touch()
    file.write_text('\n'.join(rafdb_lines))
    assert check(root) == 0
    out = capsys.readouterr().out
    assert (
        out.splitlines()[-1] == 'fits the protocol'
        and 'published protocol' in out
        and re.search(r'happiness +4,772 +4,772\n', out)
    )
    file.write_text('\n'.join(rafdb_lines).replace('train_00001.jpg 1', 'train_00001.jpg 2'))
    assert check(root) == 1
    out = capsys.readouterr().out
    assert (
        re.search(r'surprise +1,289 +1,290  <- 1 too few\n', out)
        and re.search(r'fear +282 +281  <- 1 too many\n', out)
        and out.count('<-') == 2
    )
    assert re.fullmatch(r'2 of \d\d numbers deviate', out.splitlines()[-1])


# Names, arguments, folders


@pytest.mark.parametrize(
    'line',
    [
        'data check fer2013 x',
        'data write BP4D x',
        'data dance',
        'data write bp4d',
        'data check rafdb x --fast',
        'data check rafdb x --camera left',
        'data check disfa x --first-image 2',
    ],
)
def test_wrong_arguments(line, capsys):
    with pytest.raises(SystemExit) as e:
        main(line.split())
    assert e.value.code == 2
    if 'fer2013' in line or 'BP4D' in line:
        err = capsys.readouterr().err
        assert all(name in err for name in NAMES)


def test_unknown_names():
    for f in load_dataset, check_dataset:
        with pytest.raises(
            ValueError,
            match=(
                'no data set .bp4d\\+.; choose one of bp4d, bp4d_plus, disfa, rafdb, affectnet,'
                ' ferplus'
            ),
        ):
            f('bp4d+', 'x')


@pytest.mark.parametrize(
    'line, words',
    [
        ('rafdb x --subjects 3', ['rafdb has no --subjects', '--train', '--test', '--seed']),
        ('bp4d x --form npy', ['bp4d has no --form', '--subjects']),
        ('ferplus x --size 32', ['ferplus has no --size', '--form']),
        ('ferplus x --form npy', ['npy']),
        ('affectnet x --form images', ['images']),
        ('bp4d x --subjects 42', ['42']),
        ('disfa x --frames 0', ['0']),
        ('disfa x --cameras top', ['top']),
    ],
)
def test_write_refuses(line, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as e:
        main(['data', 'write', *line.split()])
    err = capsys.readouterr().err
    assert e.value.code == 2 and all(w in err for w in words), err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('name', NAMES)
def test_every_option_of_the_writers_can_be_said(name):
    write = get_dataset(name).write
    said = {option.parameter for option in options_of(write)}
    assert said == set(inspect.signature(write).parameters) - {'root'}


def test_write_leaves_a_folder_alone(tmp_path, capsys):
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine/holiday.jpg').touch()
    assert write('bp4d', tmp_path / 'mine') == 1
    assert 'exists' in capsys.readouterr().err and [p.name for p in tmp_path.rglob('*')] == [
        'mine',
        'holiday.jpg',
    ]


def test_no_folder(tmp_path, monkeypatch, capsys):
    assert check(tmp_path / 'bp4d') == 1
    assert 'does not exist' in capsys.readouterr().err
    monkeypatch.delenv('CLEF_DISFA', raising=False)
    assert main(['data', 'check', 'disfa']) == 1
    err = capsys.readouterr().err
    assert 'CLEF_DISFA' in err and 'clef data write disfa' in err and err.count('\n') == 1


def test_environment(originals, monkeypatch, capsys):
    monkeypatch.setenv('CLEF_RAFDB', str(originals('rafdb')))
    assert main(['data', 'check', 'rafdb']) == 0 and len(load_dataset('rafdb')) == 40


def test_another_set(copy, capsys):
    root = copy('bp4d')
    assert (
        check(root, name='bp4d_plus') == 1
        and 'holds a twin of bp4d, not of bp4d_plus' in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    'text',
    [
        '',
        '[]',
        '{"dataset": "rafdb"}',
        '{"dataset": "rafdb", "expected": [["train", "frames"]]}',
        '\xff',
    ],
)
def test_a_damaged_record(text, copy, capsys):
    root = copy('rafdb')
    (root / 'twin.json').write_bytes(text.encode('latin-1'))
    assert check(root) == 1
    err = capsys.readouterr().err
    assert 'twin.json' in err and 'write the twin anew' in err and err.count('\n') == 1


def test_the_check_leaves_the_folder_as_it_was(originals):
    for name in NAMES:
        root = originals(name)
        before = {p: p.stat().st_mtime_ns for p in root.rglob('*')}
        check_dataset(name, root, images=True)
        assert {p: p.stat().st_mtime_ns for p in root.rglob('*')} == before, name


def test_ferplus_as_csv_is_checked_without_a_trace(tmp_path, capsys):
    root = get_dataset('ferplus').write(
        tmp_path / 'ferplus', form='csv', n_train=24, n_public=8, n_private=8
    )
    before = sorted(root.rglob('*'))
    assert check(root, '--images') == 0 and sorted(root.rglob('*')) == before
    lines = (root / 'fer2013.csv').read_text().splitlines(True)
    (root / 'fer2013.csv').write_text(''.join(lines[:-2]))
    capsys.readouterr()
    assert check(root) == 1
    out = capsys.readouterr().out
    assert 'note: ' in out and 'no image' in out and re.search(r'test +frames .* too few', out)


# Texts


def test_list(capsys):
    assert main(['data', 'list']) == 0
    out = capsys.readouterr().out
    for name, d in datasets().iterrows():
        part = re.search(rf'^{name}: .*?\n(?=\n)', out, re.M | re.S)[0]
        assert (
            d['variable'] in part
            and d['ask'].split()[0] in part
            and d['licence'].split()[0] in part
        )
    assert all(len(line) <= 80 or 'http' in line for line in out.splitlines())
    narrow = list_text(60)
    assert all(len(line) <= 60 or 'http' in line for line in narrow.splitlines())
    # an address can be copied in one piece
    assert all(word in narrow.split() for ask in datasets()['ask'] for word in ask.split())


def test_readme_says_what_the_table_says():
    text = (HERE / 'data' / 'README.md').read_text(encoding='utf-8')
    lines = [
        [c.strip() for c in line.strip('|').split('|')]
        for line in text.splitlines()
        if line.startswith('|')
    ]
    heads = [i for i, line in enumerate(lines) if line[0] == 'data set']
    assert len(heads) == 2
    for name, d in datasets().iterrows():
        one, two = (
            dict(zip(lines[h], next(line for line in lines[h + 1 :] if f'`{name}`' in line[0])))
            for h in heads
        )
        assert (
            one['data set'] == f'{d["title"]} (`{name}`)'
            and two['environment variable'] == f'`{d["variable"]}`'
        )
        for c in ('subjects', 'frames', 'labels', 'folds', 'licence', 'source'):
            assert one[c] == d[c], (name, c)
        assert two['on disk'] == d['layout'] and two['ask here'] == ' and '.join(
            f'<{u}>' for u in d['ask'].split(' and ')
        )


# BP4D's true size


@pytest.mark.skipif(not SEGMENTS.is_file(), reason=f'{SEGMENTS.name} is not beside the project')
def test_a_table_of_true_size(monkeypatch):
    from clef_nb.datasets.frames import FrameTable
    from clef_nb.datasets.recordings import bp4d_folds
    from clef_nb.datasets.sampling import ActivityBatches
    from clef_nb.datasets.texts import activity_texts

    monkeypatch.syspath_prepend(HERE / 'benchmarks')
    df = runpy.run_path(str(HERE / 'benchmarks' / 'tables.py'))['coded_frames'](SEGMENTS)
    t = FrameTable(df, '.', 'BP4D', activity_texts('bp4d'), bp4d_folds())
    assert len(t) == 146_847 and len(t.labels) == 12 and t.df['sequence'].nunique() == 328
    folds = [t.fold(k) for k in (1, 2, 3)]
    assert [len(test) for _, test in folds[::-1]] == [50_631, 50_182, 46_034]
    train = folds[0][0]
    batches = ActivityBatches(train, 256)
    first = next(iter(batches))
    assert len(batches) == 394 and len(first) == 256
    assert (
        train.df['activity'].iloc[first].value_counts().tolist() == [32] * 8
        and train.df['subject'].iloc[first].nunique() == 28
    )
    # strings of Python, as pandas 2 keeps them, take the most
    assert t.df.memory_usage(deep=True).sum() < 120e6
