"""The pieces of the studies about moved images, each against what it claims to be."""

from __future__ import annotations

import pytest
import torch
from scipy import ndimage

from striate import nn, studies
from striate.studies.augmentation import _changed
from striate.studies.equivariance import _blurred, _everywhere, _network, _polyphase
from striate.studies.flipped_kernels import _Convolution
from striate.studies.flipped_kernels import _network as _convolutions

NAMES = ("augmentation", "equivariance", "flipped-kernels", "pooling-vs-stride", "vit-vs-cnn")


def test_all_are_registered() -> None:
    assert set(NAMES) <= set(studies.studies())


@pytest.mark.formula("F6", "S2")
@pytest.mark.parametrize("size", [3, 5])
def test_the_flipped_kernel_is_scipys_convolution(size: int) -> None:
    layer = _Convolution(1, 1, size, padding=size // 2).double()
    x = torch.randn(1, 1, 9, 8, dtype=torch.float64)
    kernel = layer.weight[0, 0].detach().numpy()
    expected = ndimage.convolve(x[0, 0].numpy(), kernel, mode="constant") + layer.bias.item()
    torch.testing.assert_close(layer(x)[0, 0].detach(), torch.from_numpy(expected))
    assert not torch.allclose(nn.Conv2d._conv_forward(layer, x, layer.weight, layer.bias), layer(x))
    assert type(_convolutions(_Convolution)[0]) is _Convolution


def test_the_halving_layers_are_one_maximum_thinned_out_in_three_ways() -> None:
    x = torch.randn(2, 16, 8, 8)
    everywhere = _everywhere()(x)
    torch.testing.assert_close(everywhere[:, :, ::2, ::2], nn.MaxPool2d(2)(x))
    assert _blurred(16)(x).shape == _polyphase(16)(x).shape == (2, 16, 4, 4)
    assert _network(_polyphase)(torch.randn(3, 1, 8, 8)).shape == (3, 10)


def test_changed_images_are_moved_by_what_is_said_and_each_by_itself() -> None:
    images = torch.zeros(400, 1, 16, 16)
    images[:, :, 7:9, 7:9] = 0.25
    changed = _changed(images, torch.Generator().manual_seed(0))
    places = torch.arange(16.0) - 7.5
    total = changed.sum((1, 2, 3))
    y, x = (changed.sum((1, dims)) @ places / total for dims in (3, 2))
    # the middle moves by up to 2 pixels along each axis, at a scale of up to 1.25
    assert 1.9 < float(y.abs().max()) < 2 * 1.25 * 2**0.5
    assert float(x.std()) == pytest.approx(2 / 3**0.5, rel=0.15)
    assert len({round(float(each), 5) for each in y}) > 300


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_two_seeds_give_a_verdict(name: str) -> None:
    outcome = studies.run(name, seeds=2)
    assert outcome.finding.verdict in ("holds", "holds in part", "does not hold")
    assert all(row.spread is None or row.n >= 2 for row in outcome.finding.rows)
