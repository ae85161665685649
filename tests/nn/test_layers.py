"""Layers as drop-ins for torch.nn's: constructors, state, initial values, outputs; and what is wider."""

from __future__ import annotations

import copy
import inspect
import pickle

import pytest
import torch

from striate import nn
from striate.errors import GeometryError

DROP_INS = [name for name in nn.__all__ if hasattr(torch.nn, name)]

CALLS = [
    ("Conv1d", (4, 6, 3), {"stride": 2, "padding": 1, "groups": 2}),
    ("Conv1d", (4, 6, 3), {"padding": "same", "dilation": 2, "padding_mode": "replicate"}),
    ("Conv2d", (4, 6, 3), {}),
    ("Conv2d", (4, 6, (3, 2)), {"stride": (2, 1), "padding": (1, 0), "dilation": (1, 2), "bias": False}),
    ("Conv2d", (4, 4, 3), {"padding": 1, "groups": 4, "padding_mode": "circular"}),
    ("Conv2d", (4, 4, 3), {"padding": 2, "padding_mode": "reflect"}),
    ("Conv2d", (4, 4, 3), {"padding": "valid"}),
    ("Conv3d", (4, 6, 2), {"stride": 2, "padding": 1}),
    ("ConvTranspose1d", (4, 6, 3, 2), {"padding": 1, "output_padding": 1}),
    ("ConvTranspose2d", (4, 6, 3), {"stride": 2, "groups": 2, "dilation": 2}),
    ("ConvTranspose3d", (4, 6, 2), {"stride": 2, "bias": False}),
    ("MaxPool1d", (3,), {"stride": 2, "padding": 1}),
    ("MaxPool2d", ((3, 2),), {"ceil_mode": True, "return_indices": True}),
    ("MaxPool3d", (2,), {"dilation": 2, "stride": 1}),
    ("AvgPool1d", (3,), {"stride": 2, "padding": 1, "count_include_pad": False}),
    ("AvgPool2d", (3, 2, 1), {"ceil_mode": True, "divisor_override": 2}),
    ("AvgPool3d", (2,), {}),
    ("LPPool1d", (2, 3), {"stride": 2}),
    ("LPPool2d", (2, 3), {"ceil_mode": True}),
    ("LPPool3d", (2, 2), {}),
    ("AdaptiveAvgPool1d", (4,), {}),
    ("AdaptiveAvgPool2d", ((4, None),), {}),
    ("AdaptiveAvgPool3d", (2,), {}),
    ("AdaptiveMaxPool1d", (4,), {"return_indices": True}),
    ("AdaptiveMaxPool2d", ((4, 3),), {"return_indices": True}),
    ("AdaptiveMaxPool3d", (2,), {}),
]


def image_for(name: str) -> torch.Tensor:
    return torch.randn(2, 4, *[9, 8, 7][: int(name[-2])])


def test_every_drop_in_is_tried() -> None:
    assert {name for name, _, _ in CALLS} == set(DROP_INS)


@pytest.mark.parametrize(("name", "arguments", "named"), CALLS)
def test_same_seed_same_layer(name: str, arguments: tuple, named: dict) -> None:
    torch.manual_seed(7)
    theirs = getattr(torch.nn, name)(*arguments, **named)
    torch.manual_seed(7)
    mine = getattr(nn, name)(*arguments, **named)
    assert isinstance(mine, type(theirs))
    assert list(mine.state_dict()) == list(theirs.state_dict())
    for key, value in theirs.state_dict().items():
        assert torch.equal(mine.state_dict()[key], value)
    x = image_for(name)
    y, expected = mine(x), theirs(x)
    if isinstance(expected, tuple):
        assert torch.equal(y[1], expected[1])
        y, expected = y[0], expected[0]
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)
    # and it stays what it is through what users do with layers
    for again in (copy.deepcopy(mine), pickle.loads(pickle.dumps(mine))):
        repeated = again(x)
        torch.testing.assert_close(repeated[0] if isinstance(repeated, tuple) else repeated, y)
    assert type(mine).__name__ in repr(mine)


@pytest.mark.parametrize(("name", "arguments", "named"), CALLS[:11])
def test_state_moves_in_both_directions(name: str, arguments: tuple, named: dict) -> None:
    mine, theirs = getattr(nn, name)(*arguments, **named), getattr(torch.nn, name)(*arguments, **named)
    x = image_for(name)
    mine.load_state_dict(theirs.state_dict())
    torch.testing.assert_close(mine(x), theirs(x), rtol=1e-4, atol=1e-5)
    other = getattr(nn, name)(*arguments, **named)
    theirs.load_state_dict(other.state_dict())
    torch.testing.assert_close(other(x), theirs(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", DROP_INS)
def test_constructors_have_torchs_arguments_first(name: str) -> None:
    def arguments(layer: type) -> list[str]:
        signature = inspect.signature(layer.__init__)
        return [key for key, value in signature.parameters.items() if value.kind is value.POSITIONAL_OR_KEYWORD]

    assert arguments(getattr(nn, name))[: len(arguments(getattr(torch.nn, name)))] == arguments(getattr(torch.nn, name))


def test_wider_padding() -> None:
    x = torch.randn(1, 2, 9, 8)
    assert nn.Conv2d(2, 3, 4, 2, "same")(x).shape == (1, 3, 5, 4)
    assert nn.Conv2d(2, 3, 4, 2, "same_lower")(x).shape == (1, 3, 5, 4)
    assert nn.Conv2d(2, 3, 3, padding="full")(x).shape == (1, 3, 11, 10)
    assert nn.Conv2d(2, 3, 3, padding=((0, 1), (2, 0)))(x).shape == (1, 3, 8, 8)
    assert nn.ConvTranspose2d(2, 3, 3, 2, "same")(x).shape == (1, 3, 18, 16)
    assert nn.MaxPool2d(3, 2, "same")(x).shape == (1, 2, 5, 4)
    assert nn.AvgPool1d(3, 2, "same", dilation=2)(x[0]).shape == (2, 9, 4)
    assert nn.AvgPool2d(3, 2, ((1, 0), (0, 1)), dilation=2)(x).shape == (1, 2, 3, 3)
    assert nn.LPPool2d(2, 3, 2, padding="same", dilation=2)(x).shape == (1, 2, 5, 4)


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_other_padding_modes_pad_by_the_same_windows(mode: str) -> None:
    x = torch.randn(1, 2, 9, 8)
    layer = nn.Conv2d(2, 3, 4, 2, "same", padding_mode=mode)
    (top, bottom), (left, right) = (window.pads(n) for window, n in zip(layer.windows, (9, 8), strict=True))
    padded = torch.nn.functional.pad(x, (left, right, top, bottom), mode=mode)
    torch.testing.assert_close(layer(x), torch.nn.functional.conv2d(padded, layer.weight, layer.bias, 2))


def test_output_size_picks_among_those_that_map_to_the_input() -> None:
    layer, theirs = nn.ConvTranspose2d(2, 3, 3, 2, 1), torch.nn.ConvTranspose2d(2, 3, 3, 2, 1)
    theirs.load_state_dict(layer.state_dict())
    x = torch.randn(1, 2, 5, 5)
    for size in ((9, 10), (1, 3, 10, 9)):
        torch.testing.assert_close(layer(x, size), theirs(x, size))
    with pytest.raises(GeometryError, match="output_padding"):
        layer(x, (12, 12))


@pytest.mark.formula("F30", "F31", "W17", "S16")
def test_depthwise_separable_convolution_counts_and_computes() -> None:
    layer = nn.DepthwiseSeparableConv2d(64, 128, 3, padding=1)
    assert layer.parameter_count() == 576 + 64 + 8192 + 128
    assert layer.standard_parameter_count() == sum(p.numel() for p in torch.nn.Conv2d(64, 128, 3).parameters())
    x = torch.randn(1, 64, 5, 5)
    # one convolution with the product of the two kernels
    product = layer.pointwise.weight * layer.depthwise.weight[:, 0]
    bias = layer.pointwise.bias + layer.pointwise.weight[:, :, 0, 0] @ layer.depthwise.bias
    torch.testing.assert_close(layer(x), torch.nn.functional.conv2d(x, product, bias, padding=1), rtol=1e-4, atol=1e-5)
    bare = nn.DepthwiseSeparableConv2d(8, 4, 5, bias=False)
    assert (bare.parameter_count(), bare.standard_parameter_count()) == (8 * 25 + 32, 800)


def test_wrong_geometry_is_told_when_the_layer_is_made() -> None:
    with pytest.raises(GeometryError, match="Conv2d, axis H: padding is -1"):
        nn.Conv2d(1, 1, 3, padding=-1)


def test_attributes_changed_later_are_heeded() -> None:
    """As segmentation networks do, which take a classifier's strides out and dilate instead."""
    x = torch.randn(1, 2, 9, 9)
    for made in (nn, torch.nn):
        torch.manual_seed(3)
        up = made.ConvTranspose2d(2, 3, 3, stride=2, padding=1)
        up.stride = (3, 3)
        assert up(x, output_size=(27, 26)).shape == (1, 3, 27, 26)
    conv = nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular")
    conv.padding, conv.dilation = (2, 2), (2, 2)
    assert conv(x).shape == (1, 3, 9, 9)


def test_an_output_size_of_the_wrong_length() -> None:
    with pytest.raises(GeometryError, match=r"ConvTranspose2d: got output_size \(18,\); needed 2 sizes"):
        nn.ConvTranspose2d(2, 3, 3, stride=2)(torch.randn(1, 2, 9, 9), output_size=(18,))


def test_padding_that_other_tools_read_is_torchs_own() -> None:
    theirs = torch.nn.Conv2d(1, 1, 3, padding=(1, 2), padding_mode="reflect")._reversed_padding_repeated_twice
    assert tuple(nn.Conv2d(1, 1, 3, padding=(1, 2))._reversed_padding_repeated_twice) == tuple(theirs)
    assert nn.Conv2d(1, 1, 3, padding=((0, 1), (2, 3)))._reversed_padding_repeated_twice == [2, 3, 0, 1]


def test_repr_tells_what_torch_has_not() -> None:
    assert "dilation=2" in repr(nn.AvgPool1d(2, dilation=2))
    assert "dilation=2" in repr(nn.AvgPool2d(2, dilation=2))
    assert "padding='same', dilation=(1, 2)" in repr(nn.LPPool2d(2, 3, padding="same", dilation=(1, 2)))
    assert "dilation" not in repr(nn.AvgPool2d(2))
