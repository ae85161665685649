"""Filters: known waves are found at their frequency, like stands beside like, and the network isn't touched."""

from __future__ import annotations

import io
import itertools
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from torch import nn

from striate.analysis import Gabor
from striate.errors import ExplainError
from striate.explain import filters
from striate.report import filters as report


def layer_of(kernels: torch.Tensor) -> nn.Conv2d:
    """A convolution with these kernels (F, C, H, W)."""
    count, channels, *size = kernels.shape
    layer = nn.Conv2d(channels, count, tuple(size), bias=False)
    layer.weight.data.copy_(kernels)
    return layer


@pytest.mark.formula("S27")
@pytest.mark.parametrize(("fy", "fx"), [(0, 8), (8, 0), (12, 20), (-4, 16), (3, 5)])
def test_a_wave_is_found_at_its_frequency(fy: int, fx: int) -> None:
    # A cosine over whole periods of a 64-pixel kernel: its transform is zero everywhere else.
    y, x = np.mgrid[:64, :64]
    kernel = torch.from_numpy(np.cos(2 * math.pi * (fy * y + fx * x) / 64))
    found = filters(layer_of(kernel[None, None].float()), fit=False).filters[0]
    assert found.frequency == pytest.approx(math.hypot(fy, fx) / 64)
    assert found.orientation == pytest.approx(math.atan2(fy, fx) % math.pi)


def test_responses_are_the_sum_over_pixels() -> None:
    kernels = torch.randn(2, 3, 5, 4)
    found = filters(layer_of(kernels), fit=False)
    for v, u in ((32, 32), (40, 19), (0, 63)):
        wave = torch.tensor(
            [[np.exp(-2j * math.pi * ((v - 32) * y + (u - 32) * x) / 64) for x in range(4)] for y in range(5)]
        )
        expected = (kernels.double() * wave).sum((2, 3)).abs().square().mean(1).sqrt()
        torch.testing.assert_close(found.responses[:, v, u], expected)


def test_bandwidth_of_a_gabor_is_the_closed_form() -> None:
    # Its transform is a Gaussian around f with deviation 1 / (2 pi sigma): half at f -+ sqrt(2 ln 2) / (2 pi sigma).
    sigma, frequency = 6.0, 0.125
    kernel = Gabor(0.0, frequency, 0.0, sigma, sigma).sample((63, 63))
    half = math.sqrt(2 * math.log(2)) / (2 * math.pi * sigma)
    found = filters(layer_of(kernel[None, None].float()), fit=False).filters[0]
    assert found.bandwidth == pytest.approx(math.log2((frequency + half) / (frequency - half)), abs=0.03)


def test_a_blob_passes_low_frequencies() -> None:
    found = filters(layer_of(torch.ones(1, 3, 5, 5)), fit=False).filters[0]
    assert (found.frequency, found.orientation, found.bandwidth) == (0, None, None)


def test_one_pattern_in_one_colour_is_found() -> None:
    pattern, colour = torch.randn(5, 5), torch.tensor([0.9, 0.5, -0.2])
    found = filters(layer_of((colour[:, None, None] * pattern)[None]), fit=False)
    assert found.filters[0].share == pytest.approx(1)
    torch.testing.assert_close(found.patterns[0], (pattern * colour.norm()).double(), rtol=1e-5, atol=1e-5)
    assert filters(layer_of(torch.randn(1, 3, 5, 5)), fit=False).filters[0].share < 0.9


def test_gabors_are_fitted_and_noise_is_not() -> None:
    made = Gabor(0.7, 0.2, 0.5, 1.6, 2.0)
    kernels = torch.stack([made.sample((9, 9)), torch.randn(9, 9, dtype=torch.float64)])[:, None]
    wave, noise = (each.fit for each in filters(layer_of(kernels)).filters)
    assert wave is not None
    assert noise is not None
    assert wave.r2 > 0.9999
    assert wave.gabor.orientation == pytest.approx(0.7, abs=1e-3)
    assert noise.r2 < 0.5


def test_like_stands_beside_like() -> None:
    kinds = torch.randn(4, 1, 5, 5)
    shuffled = [3, 0, 2, 1, 0, 3, 1, 2, 2, 0]
    signs = torch.tensor([1.0, -1, 1, 1, 1, -1, 1, 1, -1, 1])  # the same up to sign is alike
    kernels = torch.stack([kinds[kind] for kind in shuffled]) * signs[:, None, None, None]
    found = filters(layer_of(kernels + 0.01 * torch.randn_like(kernels)), fit=False)
    assert sorted(found.order) == list(range(10))
    kinds_in_order = [shuffled[place] for place in found.order]
    assert sum(a != b for a, b in itertools.pairwise(kinds_in_order)) == 3


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv2d(4, 6, 3, groups=2), (6, 2, 3, 3)),
        pytest.param(nn.Conv2d(8, 8, 5, groups=8), (8, 1, 5, 5), marks=pytest.mark.slow),
        (nn.Conv1d(2, 5, 7), (5, 2, 1, 7)),
        pytest.param(nn.ConvTranspose2d(4, 6, 3), (4, 6, 3, 3), marks=pytest.mark.slow),
        (nn.Conv2d(3, 4, 1), (4, 3, 1, 1)),
        pytest.param(nn.Conv2d(3, 4, 3).half(), (4, 3, 3, 3), marks=pytest.mark.slow),
        (nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3)), (4, 3, 3, 3)),
    ],
)
def test_every_convolution_of_one_or_two_axes(layer: nn.Module, shape: tuple[int, ...]) -> None:
    found = filters(layer)
    assert tuple(found.kernels.shape) == shape
    json.dumps(found.to_dict(), allow_nan=False)
    found.figure()
    text = io.StringIO()
    Console(file=text, width=120).print(report.table(found))
    assert f"{shape[0]} filters of" in text.getvalue()


def test_the_strongest_are_kept_and_dead_ones_are_zero() -> None:
    kernels = torch.randn(6, 1, 3, 3) * torch.tensor([1, 2, 3, 4, 5, 1e-8])[:, None, None, None]
    norms = kernels.flatten(1).norm(dim=1)
    found = filters(layer_of(kernels), fit=False, most=3)
    assert [each.index for each in found.filters] == sorted(norms.topk(3).indices.tolist())
    assert found.total == 6
    dead = filters(layer_of(kernels)).filters[5]
    assert (dead.frequency, dead.orientation, dead.fit) == (0, None, None)


@pytest.mark.slow
def test_the_picture_is_written(tmp_path: object) -> None:
    path = filters(nn.Conv2d(3, 5, 5)).save(f"{tmp_path}/filters.png")
    with Image.open(path) as picture:
        assert picture.size[0] > 500


@pytest.mark.parametrize(
    ("model", "layer", "message"),
    [
        (nn.Sequential(nn.Conv2d(1, 1, 3), nn.ReLU()), "1", "is a ReLU; needed a convolution"),
        (nn.Sequential(nn.Conv2d(1, 1, 3), nn.ReLU()), "2", "needed a layer"),
        (nn.Linear(3, 3), None, "has no convolution"),
        (nn.Conv3d(1, 1, 3), None, "has 3 axes"),
    ],
)
def test_mistakes(model: nn.Module, layer: str | None, message: str) -> None:
    with pytest.raises(ExplainError, match=message):
        filters(model, layer)


def test_weights_that_are_no_numbers() -> None:
    layer = nn.Conv2d(1, 1, 3)
    layer.weight.data[0, 0, 0, 0] = math.nan
    with pytest.raises(ExplainError, match="NaN"):
        filters(layer)
