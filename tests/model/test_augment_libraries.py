"""Augmentations are callables from a batch to a batch: ours, torchvision's v2, and kornia's where
it is installed
"""

import dataclasses

import pytest
import torch
from torchvision.transforms import v2

from clef_nb.model.augment import Augmentation, augment, sample_augmentation


def torchvision_v2():
    pipeline = v2.Compose(
        [v2.RandomResizedCrop(16, scale=(0.5, 1.0), antialias=True), v2.RandomHorizontalFlip()]
    )
    return lambda x: torch.stack([pipeline(v) for v in x])


def kornia():
    K = pytest.importorskip('kornia.augmentation', reason='kornia is not installed')
    return torch.nn.Sequential(
        K.RandomResizedCrop((16, 16), scale=(0.5, 1.0)), K.RandomHorizontalFlip()
    )


@pytest.mark.parametrize('make', [Augmentation, torchvision_v2, kornia])
def test_a_batch_becomes_a_batch_and_each_image_is_sampled_for_itself(make):
    torch.manual_seed(0)
    x = torch.rand(1, 3, 16, 16).repeat(6, 1, 1, 1)
    before = x.clone()
    y = make()(x)
    assert y.shape == x.shape and y.dtype == x.dtype
    assert 0 <= y.min() and y.max() <= 1
    assert len(y.flatten(1).unique(dim=0)) == 6
    assert torch.equal(x, before)


def test_settings_are_frozen_and_compared_by_value():
    settings = Augmentation(scale=[0.5, 0.9])
    assert settings == Augmentation(scale=(0.5, 0.9)) and hash(settings) == hash(
        Augmentation(scale=(0.5, 0.9))
    )
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.hue = 0.2
    with pytest.raises(TypeError, match='sharpness'):
        augment(torch.rand(2, 3, 8, 8), sharpness=1.0)


@pytest.mark.parametrize(
    'settings, words',
    [
        (dict(scale=(0.9, 0.7)), r'scale is \(0.9, 0.7\)'),
        (dict(scale=(0.0, 0.7)), r'scale is \(0.0, 0.7\)'),
        (dict(flip=1.5), 'flip is 1.5'),
        (dict(rotate=-1), 'rotate is -1'),
        (dict(hue=0.6), 'hue is 0.6; it must lie between 0 and 0.5'),
        (dict(grayscale=float('nan')), 'grayscale is nan'),
    ],
)
def test_settings_out_of_range_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        Augmentation(**settings)


def test_numbers_are_sampled_ahead_or_by_torch():
    x, ours = torch.rand(9, 3, 12, 12), Augmentation(blur=0.5)
    draws = ours.sample(9, torch.Generator().manual_seed(3))
    assert torch.equal(draws, sample_augmentation(9, torch.Generator().manual_seed(3)))
    assert torch.equal(ours(x, draws), augment(x, torch.Generator().manual_seed(3), blur=0.5))
    torch.manual_seed(3)
    assert torch.equal(ours(x), ours(x, draws))
    with pytest.raises(ValueError, match=r'draws are \[11, 8\]; 9 images need \[11, 9\]'):
        ours(x, draws[:, :8])
