"The command: help, exit codes, one clear line for what the user can mend."

import json

import pytest

from clef_nb.experiments.demo import demo as reproduce


def test_help_without_a_command(capsys):
    assert reproduce.main([]) == 0
    out = capsys.readouterr().out
    assert 'clef demo --quick' in out and 'demo' in out


def test_help_for_data(capsys):
    assert reproduce.main(['data']) == 0
    out = capsys.readouterr().out
    assert 'clef data check rafdb' in out and all(a in out for a in ('list', 'check', 'write'))
    with pytest.raises(SystemExit) as e:
        reproduce.main(['data', 'check', '--help'])
    assert e.value.code == 0 and 'Exit code 0' in ' '.join(capsys.readouterr().out.split())
    assert reproduce.main(['data', 'list']) == 0 and 'CLEF_BP4D' in capsys.readouterr().out


def test_an_error_is_one_line(tmp_path, capsys):
    assert reproduce.main(['data', 'check', 'bp4d', str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert (
        said.out == ''
        and said.err.startswith('clef: ')
        and said.err.count('\n') == 1
        and 'AU_OCC' in said.err
    )


def test_unknown_command(capsys):
    with pytest.raises(SystemExit) as e:
        reproduce.main(['dance'])
    assert e.value.code == 2


def test_folder_that_is_no_twin(tmp_path, capsys):
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine/holiday.jpg').write_bytes(b'')
    assert (
        reproduce.main(
            ['demo', '--quick', '--data', str(tmp_path / 'mine'), '--out', str(tmp_path / 'out')]
        )
        == 1
    )
    err = capsys.readouterr().err
    assert err.startswith('clef: ') and str(tmp_path / 'mine') in err and err.count('\n') == 1
    assert not (tmp_path / 'out').exists() and [p.name for p in (tmp_path / 'mine').iterdir()] == [
        'holiday.jpg'
    ]


def test_twin_is_reused(tmp_path):
    root = reproduce.twin(tmp_path / 'twin', 1, 1)
    before = {p: p.stat().st_mtime_ns for p in root.rglob('*')}
    assert reproduce.twin(root, 1, 1) == root
    assert {p: p.stat().st_mtime_ns for p in root.rglob('*')} == before
    with pytest.raises(ValueError, match='other settings'):
        reproduce.twin(root, 2, 1)
    (root / 'twin.json').write_text(json.dumps({}))
    with pytest.raises(ValueError, match='other settings'):
        reproduce.twin(root, 1, 1)


def test_unknown_row():
    with pytest.raises(ValueError, match='no stage 1'):
        reproduce.run_row('SimCLR', None, None, (None, None))
