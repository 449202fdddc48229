"""Weights from elsewhere: layouts, FaRL's and OpenAI's files, and files that are refused.

The towers are tiny, nothing is fetched.
"""

import copy
import hashlib
import io
import json
import os
import pickle
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import open_clip
import pytest
import torch

from clef_nb.model import towers
from clef_nb.model.towers import embed_texts, load_model, save_model

CONFIG = dict(
    embed_dim=32,
    vision_cfg=dict(image_size=32, layers=2, width=64, patch_size=16),
    text_cfg=dict(context_length=77, vocab_size=49408, width=32, heads=2, layers=1),
)
TEXTS = ['a photo of a person', 'a face with raised cheeks']


@pytest.fixture(scope='module', autouse=True)
def towers_of_this_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp('configs')
    (folder / 'weights-vit.json').write_text(json.dumps(CONFIG))
    (folder / 'weights-vit-quickgelu.json').write_text(json.dumps(dict(CONFIG, quick_gelu=True)))
    for f in sorted(folder.iterdir()):
        open_clip.add_model_config(f)


@pytest.fixture(scope='module')
def quick(towers_of_this_file):
    return load_model('weights-vit-quickgelu', None, seed=1)


@pytest.fixture(scope='module')
def state(quick):
    return quick.state_dict()


@pytest.fixture
def images():
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def save(x, path, **kw):
    torch.save(x, path, **kw)
    return path


def message(path, name='weights-vit-quickgelu', exc=ValueError):
    "The one line with which a file is refused"
    with pytest.raises(exc) as e:
        load_model(name, path)
    assert '\n' not in str(e.value) and Path(str(path)).name in str(e.value)
    return str(e.value)


def same(a, b, images):
    with torch.no_grad():
        return torch.allclose(
            a.encode_image(images), b.encode_image(images), atol=1e-5
        ) and torch.allclose(embed_texts(a, TEXTS), embed_texts(b, TEXTS), atol=1e-5)


def farl(state):
    "As FaRL's files are: under state_dict, with the parts for masked patches, without the scale"
    extra = {
        'visual.mask_token': torch.zeros(64),
        'visual.lm_transformer.resblocks.0.ln_1.weight': torch.ones(64),
        'visual.ln_lm.weight': torch.ones(64),
        'visual.ln_lm.bias': torch.zeros(64),
        'visual.lm_head.weight': torch.zeros(8192, 64),
        'visual.lm_head.bias': torch.zeros(8192),
    }
    return dict(state_dict={**{k: v for k, v in state.items() if k != 'logit_scale'}, **extra})


@pytest.mark.parametrize(
    'wrap',
    [
        lambda s: s,
        lambda s: dict(state_dict=s),
        lambda s: dict(model=s, epoch=3),
        lambda s: dict(model=dict(state_dict=s)),
        lambda s: {'module.' + k: v for k, v in s.items()},
        lambda s: dict(state_dict={'module.' + k: v for k, v in s.items()}, args=dict(lr=0.1)),
    ],
)
@pytest.mark.parametrize('suffix', ['.pt', '.pth', '.bin'])
def test_layouts(quick, state, images, tmp_path, wrap, suffix):
    assert same(
        load_model('weights-vit-quickgelu', save(wrap(state), tmp_path / f'w{suffix}')),
        quick,
        images,
    )


def test_legacy_pickles_half_precision_and_a_scale_in_a_list(quick, state, images, tmp_path):
    half = {k: v.half() for k, v in state.items()}
    half['logit_scale'] = half['logit_scale'].reshape(1)
    m = load_model(
        'weights-vit-quickgelu',
        save(half, tmp_path / 'old.pt', _use_new_zipfile_serialization=False),
    )
    assert {p.dtype for p in m.parameters()} == {torch.float32} and m.logit_scale.ndim == 0
    torch.testing.assert_close(m.visual.proj, quick.visual.proj, atol=1e-3, rtol=1e-3)


def test_safetensors_under_any_name_and_a_folder(quick, state, images, tmp_path):
    folder = save_model(quick, tmp_path / 'm')
    odd = tmp_path / 'w.bin'
    odd.write_bytes((folder / 'model.safetensors').read_bytes())
    for how in (
        ('weights-vit-quickgelu', folder / 'model.safetensors'),
        ('weights-vit-quickgelu', str(odd)),
        ('clef-tiny', folder),
    ):
        assert same(load_model(*how), quick, images)


@pytest.mark.parametrize('name', ['weights-vit', 'weights-vit-quickgelu'])
def test_farl_gets_its_activation_under_either_name(quick, state, images, tmp_path, name):
    m = load_model(name, save(farl(state), tmp_path / 'FaRL.pth'))
    assert same(m, quick, images) and m.config['model_cfg']['quick_gelu'] is True
    # log(1/.07), where CLIP begins
    assert m.logit_scale.item() == pytest.approx(2.6593, abs=1e-3)
    assert same(load_model(pretrained=save_model(m, tmp_path / 'saved')), quick, images)


def test_a_state_dict_does_not_record_its_activation(quick, state, images, tmp_path):
    plain = load_model('weights-vit', save(state, tmp_path / 'w.pt'))
    assert not plain.config['model_cfg'].get('quick_gelu') and not same(plain, quick, images)


def test_only_farls_parts_are_dropped_and_only_the_scale_may_be_missing(state, tmp_path):
    def without(k):
        return {n: v for n, v in state.items() if n != k}

    load_model('weights-vit', save(without('logit_scale'), tmp_path / 'a.pt'))
    assert 'it has no visual.proj' in message(save(without('visual.proj'), tmp_path / 'b.pt'))
    assert 'the model has no visual.lm_extra' in message(
        save({**state, 'visual.lm_extra': torch.zeros(2)}, tmp_path / 'c.pt')
    )
    assert 'the model has no visual.mask_tokens' in message(
        save({**state, 'visual.mask_tokens': torch.zeros(2)}, tmp_path / 'd.pt')
    )
    # a saved model is whole
    folder = save_model(load_model('weights-vit', None), tmp_path / 'm')
    towers.save_file(
        {k: v.contiguous() for k, v in without('logit_scale').items()}, folder / 'model.safetensors'
    )
    with pytest.raises(ValueError, match='it has no logit_scale'):
        load_model(pretrained=folder)


def test_another_architecture_names_the_key_and_both_shapes(tmp_path):
    m = message(save(load_model(pretrained=None).state_dict(), tmp_path / 'tiny.pt'))
    assert (
        'positional_embedding is [77, 128] in the file and [77, 32] in the model' in m
        and 'weights-vit-quickgelu' in m
    )


def test_what_is_no_state_dict(state, tmp_path):
    assert 'the keys epoch, optimizer' in message(
        save(dict(epoch=1, optimizer={}), tmp_path / 'a.pt')
    )
    assert 'list' in message(save([1, 2], tmp_path / 'b.pt'))
    assert 'empty' in message(save({}, tmp_path / 'c.pt'))
    assert 'the keys state_dict' in message(
        save(dict(state_dict=list(state.values())), tmp_path / 'd.pt')
    )


class Payload:
    "Makes a folder where it is unpickled"

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


@pytest.mark.parametrize('zipped', [True, False])
@pytest.mark.parametrize('suffix', ['.pt', '.bin', '.pth', '.ckpt', ''])
def test_a_payload_is_refused_and_does_not_run(state, tmp_path, zipped, suffix):
    marker = tmp_path / 'marker'
    file = save(
        dict(state_dict=dict(state), extra=Payload(marker)),
        tmp_path / f'gift{suffix}',
        _use_new_zipfile_serialization=zipped,
    )
    assert 'mkdir' in message(file) and not marker.exists()
    # the payload does work where nobody looks
    if zipped and suffix == '.pt':
        torch.load(file, weights_only=False)
        assert marker.exists()


@pytest.mark.filterwarnings('ignore:Detected pickle protocol')
def test_a_bare_pickle_and_a_tar(tmp_path):
    marker = tmp_path / 'marker'
    (tmp_path / 'bare.pt').write_bytes(pickle.dumps(Payload(marker)))
    # torch of long ago unpacked these
    with tarfile.open(tmp_path / 'old.pt', 'w', format=tarfile.GNU_FORMAT) as tar:
        data = pickle.dumps(Payload(marker))
        info = tarfile.TarInfo('\udc80../pickle')
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
    for f in ('bare.pt', 'old.pt'):
        message(tmp_path / f)
    assert (
        'no file of weights' in message(tmp_path / 'old.pt')
        and (tmp_path / 'old.pt').read_bytes()[:1] == b'\x80'
        and not marker.exists()
    )


def test_damaged_files(state, tmp_path):
    whole = save(state, tmp_path / 'w.pt').read_bytes()
    old = save(state, tmp_path / 'o.pt', _use_new_zipfile_serialization=False).read_bytes()
    for name, data in dict(
        half=whole[: len(whole) // 2], start=whole[:600], old=old[: len(old) // 2]
    ).items():
        (tmp_path / f'{name}.pt').write_bytes(data)
        assert 'cut short' in message(tmp_path / f'{name}.pt')
    for name, data, why in (
        ('empty.pt', b'', 'is empty'),
        ('page.pt', b'\n <!DOCTYPE html><html>404', 'web page'),
        ('page.safetensors', b'<html>', 'web page'),
        ('notes.pt', b'the weights are elsewhere', 'no file of weights'),
        ('lfs.bin', b'version https://git-lfs.github.com/spec/v1\noid', 'Git LFS'),
    ):
        (tmp_path / name).write_bytes(data)
        assert why in message(tmp_path / name)


def script(model, path):
    "As OpenAI's archives are: traced, three numbers among the weights, the mask not"
    model = copy.deepcopy(model)
    del model.attn_mask
    model.attn_mask = None
    for k in ('input_resolution', 'context_length', 'vocab_size'):
        if hasattr(model, k):
            delattr(model, k)
        model.register_buffer(k, torch.tensor(32))
    torch.jit.save(
        torch.jit.trace_module(
            model, dict(encode_image=torch.rand(1, 3, 32, 32)), check_trace=False
        ),
        path,
    )
    return path


@pytest.mark.filterwarnings('ignore')
def test_torchscript_only_with_a_known_hash(quick, images, tmp_path, monkeypatch):
    file = script(quick, tmp_path / 'ViT.pt')
    opened = []
    load = torch.jit.load
    monkeypatch.setattr(torch.jit, 'load', lambda *a, **k: opened.append(a) or load(*a, **k))
    assert 'TorchScript' in message(file) and 'state_dict()' in message(file) and not opened
    monkeypatch.setattr(
        towers, '_openai_hashes', lambda: {hashlib.sha256(file.read_bytes()).hexdigest()}
    )
    m = load_model('weights-vit', file)
    assert opened and same(m, quick, images) and m.config['model_cfg']['quick_gelu'] is True


def test_torchscript_is_seen_by_its_records(state, tmp_path, monkeypatch):
    "Code beside ordinary tensors is enough; nothing gets to torch.load"
    monkeypatch.setattr(torch, 'load', lambda *a, **k: pytest.fail('read before it was refused'))
    for record in ('constants.pkl', 'code/__torch__.py'):
        file = save(state, tmp_path / 'w.pt')
        with zipfile.ZipFile(file, 'a') as z:
            z.writestr('w/' + record, b'x')
        assert 'TorchScript' in message(file)


def test_the_hashes_are_those_of_openais_archives():
    found = towers._openai_hashes()
    assert (
        len(found) >= 9
        and '5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f' in found
    )


@pytest.mark.parametrize(
    'name,tag,local',
    [('ViT-B-16', 'openai', 'ViT-B-16-quickgelu'), ('ViT-B-16', 'laion2b_s34b_b88k', 'ViT-B-16')],
)
def test_offline_says_the_command_and_the_name(monkeypatch, name, tag, local):
    def offline(cfg):
        raise ConnectionError('a long trace\nof many lines')

    monkeypatch.setattr(open_clip, 'download_pretrained', offline)
    with pytest.raises(FileNotFoundError) as e:
        load_model(name, tag)
    said = str(e.value)
    assert '\n' not in said and said.endswith(f'with the name {local!r}')
    command = said.split('run: python -c "')[1].split('" and give')[0]
    # the command is Python that asks for these weights
    got = {}
    monkeypatch.setattr(open_clip, 'download_pretrained', lambda cfg: got.update(cfg) or 'file')
    exec(command)
    assert got == open_clip.get_pretrained_cfg(name, tag)


def test_offline_for_real_is_the_same_line(tmp_path):
    code = (
        "from clef_nb.model.towers import load_model\ntry: load_model('ViT-B-16',"
        " 'laion2b_s34b_b88k')\nexcept FileNotFoundError as e: print('LINE', e)"
    )
    env = dict(os.environ, HF_HUB_OFFLINE='1', HF_HOME=str(tmp_path), HOME=str(tmp_path))
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, env=env)
    assert 'LINE the weights' in out.stdout and out.stdout.count('\n') == 1, out.stderr


def test_a_tag_wins_over_a_folder_of_that_name(tmp_path, monkeypatch):
    (tmp_path / 'openai').mkdir()
    monkeypatch.chdir(tmp_path)
    seen = []
    monkeypatch.setattr(
        open_clip,
        'download_pretrained',
        lambda cfg: seen.append(cfg) or (_ for _ in ()).throw(OSError()),
    )
    with pytest.raises(FileNotFoundError, match='could not be downloaded'):
        load_model('ViT-B-16', 'openai')
    assert seen
    with pytest.raises(FileNotFoundError, match='save_model wrote'):
        load_model('ViT-B-16', Path('openai'))
