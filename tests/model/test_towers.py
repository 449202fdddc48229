"""What the notebook of the towers does not show: damage, interrupted writes, towers of other
kinds
"""

import json
import os

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import load_file

from clef_nb.model import towers
from clef_nb.model.towers import (
    embed_images,
    embed_texts,
    encode_tokens,
    evaluating,
    export_half,
    load_model,
    save_model,
    tokenize,
)

TEXTS = [
    'a photo of a person',
    'a photo of an old woman with glasses, smiling and looking to the left, in bright light',
]


@pytest.fixture(scope='module')
def model():
    return load_model(pretrained=None)


@pytest.fixture(scope='module')
def images():
    return np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3), dtype=np.uint8)


def test_weights_without_token_rows_fit(model, tmp_path):
    used = list(range(300))  # far more words than our captions have
    assert export_half(model, tmp_path / 'w.safetensors', used).stat().st_size <= 5_000_000


def test_shipped_weights_fit():
    path = towers._ASSETS / 'clef-tiny.safetensors'
    if not path.is_file():
        pytest.skip(f'{path.name} is not made yet (tools/pretrain_tiny.py)')
    assert path.stat().st_size <= 5_000_000
    state = load_file(path)
    assert 'token_embedding.weight' not in state and all(
        v.dtype == torch.float16 for v in state.values() if v.is_floating_point()
    )
    assert all(torch.isfinite(v).all() for v in load_model().state_dict().values())


def test_half_precision_keeps_used_rows_and_fills_the_rest_alike(model, tmp_path):
    ids = tokenize(model, TEXTS).flatten().tolist()
    export_half(model, tmp_path / 'w.safetensors', ids)
    a, b = (load_model('clef-tiny', tmp_path / 'w.safetensors', seed=s) for s in (0, 1))
    assert all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())
    used, other = sorted(set(ids)), 20_000
    assert other not in ids
    torch.testing.assert_close(
        a.token_embedding.weight[used], model.token_embedding.weight[used], atol=1e-4, rtol=1e-3
    )
    assert not torch.equal(a.token_embedding.weight[other], model.token_embedding.weight[other])


def test_random_weights_follow_the_seed_and_leave_the_global_state_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    a, b, c = (load_model(pretrained=None, seed=s).visual.conv1.weight for s in (0, 0, 1))
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_text_is_read_at_its_last_token(model):
    "Trimmed equals padded for every text, alone and together, and order matters"
    with torch.no_grad():
        padded = model.encode_text(open_clip.tokenize(TEXTS), normalize=True)
    together = embed_texts(model, TEXTS)
    alone = torch.cat([embed_texts(model, [t]) for t in TEXTS])
    torch.testing.assert_close(together, padded, atol=1e-5, rtol=0)
    torch.testing.assert_close(alone, padded, atol=1e-5, rtol=0)
    assert not torch.allclose(together[0], together[1], atol=1e-3)


@pytest.mark.parametrize('change', [dict(custom_text=True), dict(no_causal_mask=True)])
def test_other_text_towers_get_all_their_padding(change):
    cfg = open_clip.get_model_config('clef-tiny')
    torch.manual_seed(0)
    if 'custom_text' in change:
        m = open_clip.CustomTextCLIP(**cfg)
    else:
        cfg['text_cfg'].update(change)
        m = open_clip.CLIP(**cfg)
    m.eval()
    with torch.no_grad():
        want = m.encode_text(open_clip.tokenize(TEXTS), normalize=True)
    torch.testing.assert_close(embed_texts(m, TEXTS), want, atol=1e-5, rtol=0)


def test_a_text_of_exactly_the_context_length_is_taken(model):
    text = ' '.join(['face'] * 75)  # 75 words and two markers
    assert tokenize(model, [text]).shape == (1, 77)
    with pytest.raises(ValueError, match='more than the 77 tokens'):
        tokenize(model, [text + ' face'])


def test_evaluating_restores_the_mode_after_an_error(model):
    layer = torch.nn.Dropout()
    with pytest.raises(KeyError), evaluating(layer):
        assert not layer.training and not torch.is_grad_enabled()
        raise KeyError('x')
    assert layer.training and torch.is_grad_enabled()


def test_mode_and_gradients_come_back(model, images):
    model.train()
    try:
        z = embed_images(model, images)
        assert model.training and model.visual.bn1.training
    finally:
        model.eval()
    assert np.array_equal(z, embed_images(model, images))
    assert encode_tokens(model, tokenize(model, TEXTS)).requires_grad


def test_other_sizes_and_no_images(model, images):
    big = images.repeat(2, 1).repeat(2, 2)
    assert embed_images(model, big).shape == (6, 128)
    assert (embed_images(model, big) * embed_images(model, images)).sum(1).min() > 0.99
    assert embed_images(model, images[:0]).shape == (0, 128)


def test_damaged_and_foreign_files(model, tmp_path):
    bad = tmp_path / 'bad.safetensors'
    bad.write_bytes(b'\x10\0\0\0\0\0\0\0not safetensors at all')
    with pytest.raises(ValueError, match='bad.safetensors cannot be read'):
        load_model('clef-tiny', bad)
    save_model(model, tmp_path / 'saved')
    with pytest.raises(ValueError, match='does not fit RN50'):
        load_model('RN50', tmp_path / 'saved' / 'model.safetensors')
    (tmp_path / 'saved' / 'open_clip_config.json').write_text('{"model_cfg": {"embed_dim": 128}}')
    with pytest.raises(ValueError, match='open_clip_config.json describes no model'):
        load_model(pretrained=tmp_path / 'saved')
    (tmp_path / 'saved' / 'open_clip_config.json').write_text('{')
    with pytest.raises(ValueError, match='open_clip_config.json describes no model'):
        load_model(pretrained=tmp_path / 'saved')
    (tmp_path / 'saved' / 'model.safetensors').unlink()
    with pytest.raises(FileNotFoundError, match='model.safetensors'):
        load_model(pretrained=tmp_path / 'saved')


def test_a_tag_that_cannot_be_had_is_one_sentence(monkeypatch):
    def offline(*a, **k):
        raise RuntimeError('long trace of a download\nwith many lines')

    monkeypatch.setattr(open_clip, 'download_pretrained', offline)
    with pytest.raises(FileNotFoundError, match='could not be downloaded') as e:
        load_model('ViT-B-16', 'openai')
    assert '\n' not in str(e.value)


def test_openai_weights_get_their_activation(monkeypatch):
    seen = {}

    def create(name, tag, force_quick_gelu=None):
        seen.update(name=name, tag=tag, quick=force_quick_gelu)
        raise RuntimeError('stop')

    monkeypatch.setattr(open_clip, 'download_pretrained', lambda cfg: 'file')
    monkeypatch.setattr(open_clip, 'create_model', create)
    for tag, quick in (('openai', True), ('laion2b_s34b_b88k', False)):
        with pytest.raises(RuntimeError, match='stop'):
            load_model('ViT-B-16', tag)
        assert (seen['tag'], seen['quick']) == (tag, quick)


def test_an_interrupted_save_leaves_nothing_and_keeps_the_old(model, tmp_path, monkeypatch):
    folder = save_model(model, tmp_path / 'm')
    before = (folder / 'model.safetensors').read_bytes()

    def full(state, path):
        path.write_bytes(b'half')
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(towers, 'save_file', full)
    with pytest.raises(OSError, match='No space'):
        save_model(model, folder)
    assert (folder / 'model.safetensors').read_bytes() == before
    assert sorted(os.listdir(folder)) == ['model.safetensors', 'open_clip_config.json']


def test_a_model_from_elsewhere_is_not_saved(tmp_path):
    m = open_clip.create_model('clef-tiny')
    with pytest.raises(ValueError, match='load_model'):
        save_model(m, tmp_path / 'x')
    assert not (tmp_path / 'x').exists()


def test_saved_configuration_records_the_colour_scale(model, tmp_path):
    save_model(model, tmp_path)
    cfg = json.loads((tmp_path / 'open_clip_config.json').read_text())
    assert cfg['model_cfg']['embed_dim'] == 128 and cfg['preprocess_cfg']['mean'] == list(
        open_clip.OPENAI_DATASET_MEAN
    )
