"""Consistency under shifts: against its definition, exact before training where it must be, and sampled."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import striate.nn as snn
from striate.analysis import shift_consistency
from striate.errors import AnalysisError


def classifier(down: type | None = None) -> nn.Sequential:
    """Two halvings, each by a maximum of stride 2, or after a maximum of stride 1 by ``down``."""
    layers: list[nn.Module] = []
    for inside, outside in ((1, 8), (8, 16)):
        layers += [nn.Conv2d(inside, outside, 3, padding=1), nn.ReLU()]
        if down is None:
            layers.append(nn.MaxPool2d(2))
        else:
            layers += [snn.MaxPool2d(2, 1, "same"), down(outside) if down is snn.BlurPool2d else down()]
    return nn.Sequential(*layers, snn.GlobalMaxPool(), nn.Flatten(), nn.Linear(16, 10))


def contested(model: nn.Module, images: Tensor) -> nn.Module:
    """The same with biases that bring all classes into play, so that small changes matter."""
    with torch.no_grad():
        model[-1].bias -= model(images).mean(0)
    return model


@pytest.mark.slow
def test_polyphase_sampling_is_consistent_before_training_and_strides_are_not() -> None:
    torch.manual_seed(0)
    images = (torch.rand(12, 1, 16, 16) > 0.96).float()
    found = {}
    for down in (None, snn.BlurPool2d, snn.PolyphaseSampling2d):
        torch.manual_seed(4)
        found[down] = shift_consistency(contested(classifier(down), images), images)
    assert found[snn.PolyphaseSampling2d].value == 1
    assert found[None].value < 0.75
    assert found[None].value + 0.1 < found[snn.BlurPool2d].value < 1
    assert (found[None].shifts, found[None].pairs, found[None].standard_error) == (256, 0, 0)


def pairs_counted(model: nn.Module, images: Tensor, reach: range) -> float:
    """All pairs of shifts, one by one, with zeros coming in."""
    moved = []
    for dy in reach:
        for dx in reach:
            far = F.pad(images, (max(dx, 0), max(-dx, 0), max(dy, 0), max(-dy, 0)))
            height, width = images.shape[2:]
            top, left = max(-dy, 0), max(-dx, 0)
            moved.append(model(far[:, :, top : top + height, left : left + width]).argmax(1))
    agreed = [float((one == other).double().mean()) for one in moved for other in moved]
    return sum(agreed) / len(agreed)


def test_the_exact_value_is_the_mean_over_all_pairs() -> None:
    images = torch.rand(6, 1, 12, 12)
    model = contested(classifier(), images).eval()
    found = shift_consistency(model, images, 2, borders="zeros")
    assert found.shifts == 25
    assert found.value == pytest.approx(pairs_counted(model, images, range(-2, 3)))
    assert 0 < found.value < 1


def test_drawn_pairs_come_near_the_exact_value() -> None:
    images = torch.rand(16, 1, 16, 16)
    model = contested(classifier(), images)
    exact = shift_consistency(model, images, 5)
    drawn = shift_consistency(model, images, 5, pairs=150, seed=1)
    assert 0 < drawn.standard_error < 0.05
    assert abs(drawn.value - exact.value) < 4 * drawn.standard_error
    assert drawn == shift_consistency(model, images, 5, pairs=150, seed=1)
    assert drawn != shift_consistency(model, images, 5, pairs=150, seed=2)
    json.dumps(drawn.to_dict(), allow_nan=False)


def test_what_the_network_gets_is_prepared_and_the_network_stays() -> None:
    images = torch.rand(4, 1, 8, 8)
    model = classifier().train()
    seen = []
    shift_consistency(model, images, 1, prepare=lambda moved: seen.append(moved) or moved * 2 - 1)
    assert len(seen) == 9
    assert model.training


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"max_shift": 8}, "max_shift: got 8; needed 0 to 7"),
        ({"borders": "zeros"}, "max_shift: got none"),
        ({"borders": "same"}, "borders: got 'same'"),
        ({"pairs": 1}, "pairs: got 1; needed 2 or more"),
    ],
)
def test_mistakes(named: dict, message: str) -> None:
    with pytest.raises(AnalysisError, match=message):
        shift_consistency(classifier(), torch.rand(2, 1, 8, 8), **named)


def test_a_network_that_is_no_classifier_is_told_apart() -> None:
    with pytest.raises(AnalysisError, match=r"Conv2d: its answer isn't \(N, K\)"):
        shift_consistency(nn.Conv2d(1, 1, 3), torch.rand(2, 1, 8, 8), 1)
