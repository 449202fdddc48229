"The command: help, exit codes, one clear line for what the user can mend."

import json

import pytest

from clef_nb.cli import main
from clef_nb.experiments.sources import open_twin
from clef_nb.experiments.variants import demo_settings, run_variant
from clef_nb.model.towers import load_model, save_model


def test_help_without_a_command(capsys):
    assert main([]) == 0
    out = capsys.readouterr().out
    assert 'clef demo --quick' in out and 'demo' in out


def test_help_for_data(capsys):
    assert main(['data']) == 0
    out = capsys.readouterr().out
    assert 'clef data check rafdb' in out and all(a in out for a in ('list', 'check', 'write'))
    with pytest.raises(SystemExit) as e:
        main(['data', 'check', '--help'])
    assert e.value.code == 0 and 'Exit code 0' in ' '.join(capsys.readouterr().out.split())
    assert main(['data', 'list']) == 0 and 'CLEF_BP4D' in capsys.readouterr().out


def test_an_error_is_one_line(tmp_path, capsys):
    assert main(['data', 'check', 'bp4d', str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert (
        said.out == ''
        and said.err.startswith('clef: ')
        and said.err.count('\n') == 1
        and 'AU_OCC' in said.err
    )


def test_unknown_command(capsys):
    with pytest.raises(SystemExit) as e:
        main(['dance'])
    assert e.value.code == 2


def test_folder_that_is_no_twin(tmp_path, capsys):
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine/holiday.jpg').write_bytes(b'')
    assert (
        main(['demo', '--quick', '--data', str(tmp_path / 'mine'), '--out', str(tmp_path / 'out')])
        == 1
    )
    err = capsys.readouterr().err
    assert err.startswith('clef: ') and str(tmp_path / 'mine') in err and err.count('\n') == 1
    assert not (tmp_path / 'out').exists() and [p.name for p in (tmp_path / 'mine').iterdir()] == [
        'holiday.jpg'
    ]


def test_twin_is_reused(tmp_path):
    sizes = dict(n_subjects=1, frames_per_sequence=1)
    root = open_twin('bp4d', tmp_path / 'twin', **sizes)
    before = {p: p.stat().st_mtime_ns for p in root.rglob('*')}
    assert open_twin('bp4d', root, **sizes) == root
    assert {p: p.stat().st_mtime_ns for p in root.rglob('*')} == before
    with pytest.raises(ValueError, match='other settings'):
        open_twin('bp4d', root, n_subjects=2, frames_per_sequence=1)
    (root / 'twin.json').write_text(json.dumps({'n_subjects': 3}))
    with pytest.raises(ValueError, match='other settings'):
        open_twin('bp4d', root, **sizes)


def test_unknown_variant():
    with pytest.raises(ValueError, match='no variant .SimCLR.; choose from'):
        run_variant('SimCLR', None, demo_settings(quick=True))


def test_a_saved_folder_is_a_model_with_its_weights(tmp_path):
    save_model(load_model('clef-tiny'), tmp_path / 'mine')
    folder = str(tmp_path / 'mine')
    for said in (dict(model=folder), dict(pretrained=folder)):
        recipe = demo_settings(quick=True, **said).recipe
        assert recipe['model'] == recipe['clip'] == folder
    with pytest.raises(ValueError, match='holds a model of its own'):
        demo_settings(model='RN50', pretrained=folder)
    with pytest.raises(ValueError, match='leave pretrained out'):
        demo_settings(model=folder, pretrained='openai')


def test_a_missing_extra_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr('clef_nb.datasets.extras.find_spec', lambda name: None)
    assert main(['leakage', 'faces.csv', 'z.npy', '--out', str(tmp_path / 'out')]) == 1
    err = capsys.readouterr().err
    assert err.startswith('clef: ') and "pip install 'clef_nb[plots]'" in err
    assert err.count('\n') == 1
