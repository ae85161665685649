"""Occlusion and RISE: against brute force, captum and linear networks."""

from __future__ import annotations

import pytest
import torch
from explained_networks import Nested
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from striate import explain
from striate.errors import ExplainError


@given(st.data())
@settings(max_examples=40)
def test_occlusion_against_brute_force(data: st.DataObject) -> None:
    height, width = data.draw(st.tuples(st.integers(3, 9), st.integers(3, 9)))
    window = (data.draw(st.integers(1, height)), data.draw(st.integers(1, width)))
    stride = (data.draw(st.integers(1, window[0])), data.draw(st.integers(1, window[1])))
    fill = data.draw(st.sampled_from([0.0, -1.5]))
    network = nn.Sequential(nn.Conv2d(2, 3, 2), nn.Tanh(), nn.Flatten(), nn.LazyLinear(2)).double()
    x = torch.randn(2, 2, height, width, dtype=torch.float64)
    network(x)
    found = explain.occlusion(network, x, [1, 0], window=window, stride=stride, fill=fill, batch_size=5)
    for image, category in enumerate([1, 0]):
        total, seen = torch.zeros(height, width).double(), torch.zeros(height, width)
        for row, top in enumerate(starts(height, window[0], stride[0])):
            for column, left in enumerate(starts(width, window[1], stride[1])):
                place = (slice(top, top + window[0]), slice(left, left + window[1]))
                covered = x[image : image + 1].clone()
                covered[(..., *place)] = fill
                fall = (network(x[image : image + 1]) - network(covered))[0, category].detach()
                assert torch.isclose(found.values[image, row, column], fall)
                total[place] += fall
                seen[place] += 1
        assert (seen > 0).all()
        assert torch.allclose(found.map[image], total / seen)


def starts(length: int, window: int, stride: int) -> list[int]:
    """Until one reaches the end."""
    found = [0]
    while found[-1] + window < length:
        found.append(found[-1] + stride)
    return found


def test_captum_agrees() -> None:
    captum = pytest.importorskip("captum.attr")
    model, x = Nested().double().eval(), torch.randn(2, 3, 14, 16, dtype=torch.float64)
    expected = captum.Occlusion(model).attribute(x, (3, 4, 5), (3, 3, 2), target=[0, 2])
    found = explain.occlusion(model, x, [0, 2], window=(4, 5), stride=(3, 2))
    assert torch.allclose(found.map, expected[:, 0].double(), atol=1e-6)  # captum adds up in float32


def test_rise_against_a_loop_over_its_masks() -> None:
    model, x = Nested().double().eval(), torch.randn(2, 3, 16, 20, dtype=torch.float64)
    from striate.explain.perturbation import _soft_masks

    found = explain.rise(model, x, [0, 2], masks=10, cells=4, keep=0.3, seed=5, batch_size=20)
    masks = _soft_masks(10, (16, 20), 4, 0.3, torch.Generator().manual_seed(5)).double()
    assert masks.shape == (10, 16, 20)
    assert ((masks >= 0) & (masks <= 1)).all()
    for image, category in enumerate([0, 2]):
        scores = [model(x[image : image + 1] * mask).softmax(1)[0, category].item() for mask in masks]
        mean = sum(scores) / 10
        plain = sum(score * mask for score, mask in zip(scores, masks, strict=True)) / 3
        centred = sum((score - mean) * mask for score, mask in zip(scores, masks, strict=True)) / 3
        assert torch.allclose(found.values[image], plain)
        assert torch.allclose(found.map[image], centred)


def test_rise_finds_the_one_pixel_that_counts() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(21 * 21, 1, bias=False))
    network[1].weight.data.zero_()
    network[1].weight.data[0, 5 * 21 + 15] = 1.0
    found = explain.rise(network, torch.ones(1, 21, 21), 0, masks=400)
    row, column = divmod(int(found.map[0].argmax()), 21)
    assert abs(row - 5) <= 2
    assert abs(column - 15) <= 2
    assert torch.equal(found.map, explain.rise(network, torch.ones(1, 21, 21), 0, masks=400).map)


def test_masks_show_their_share_and_are_soft() -> None:
    from striate.explain.perturbation import _soft_masks

    masks = _soft_masks(500, (24, 32), 6, 0.4, torch.Generator().manual_seed(0))
    assert masks.mean().item() == pytest.approx(0.4, abs=0.01)
    assert ((masks > 0.1) & (masks < 0.9)).float().mean() > 0.3


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("occlusion", {"window": 0}, "got window 0"),
        ("occlusion", {"window": 17}, "window <= 16"),
        ("occlusion", {"window": 2, "stride": 3}, "got window 2 with stride 3"),
        ("occlusion", {"window": (1, 2, 3)}, r"window: got \(1, 2, 3\)"),
        ("occlusion", {"batch_size": 0}, "batch_size: got 0"),
        ("rise", {"masks": 0}, "got 0 masks"),
        ("rise", {"keep": 1.0}, "keep 1.0"),
        ("rise", {"cells": 0}, "0 cells"),
    ],
)
def test_options_that_will_not_do(method: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(ExplainError, match=message):
        getattr(explain, method)(Nested(), torch.randn(1, 3, 16, 16), **options)
