"""Deletion and insertion, faithfulness, pointing game: against loops and where the answer is known."""

from __future__ import annotations

import json

import pytest
import torch
from explained_networks import Nested
from scipy.ndimage import gaussian_filter1d
from scipy.stats import pearsonr
from torch import nn

from striate import explain
from striate.errors import ExplainError
from striate.explain.faithful import _blurred


def test_curves_against_a_loop() -> None:
    model, x, numbers = Nested().double().eval(), torch.randn(2, 3, 8, 8).double(), torch.rand(2, 8, 8)
    found = explain.deletion_insertion(model, x, numbers, [1, 4], steps=8, fill=0.5, batch_size=5)
    soft = _blurred(x)
    for image, category in enumerate([1, 4]):
        order = sorted(range(64), key=lambda place: -float(numbers[image].flatten()[place]))
        for step in range(9):
            first = order[: 8 * step]
            deleted, inserted = x[image].flatten(1).clone(), soft[image].flatten(1).clone()
            deleted[:, first] = 0.5
            inserted[:, first] = x[image].flatten(1)[:, first]
            for curve, altered in ((found.deletion, deleted), (found.insertion, inserted)):
                expected = model(altered.view(1, 3, 8, 8)).softmax(1)[0, category]
                assert curve[image][step] == pytest.approx(expected.item())
    assert found.deletion[0][0] == pytest.approx(found.insertion[0][-1])


def test_areas() -> None:
    curves = explain.Curves((0.0, 0.5, 1.0), ((1.0, 0.5, 0.0), (1.0, 0.0, 0.0)), ((0.0, 0.0, 1.0), (1.0, 1.0, 1.0)))
    assert curves.deletion_auc == (0.5, 0.25)
    assert curves.insertion_auc == (0.25, 1.0)
    json.dumps(curves.to_dict(), allow_nan=False)


def test_the_blur_is_scipys() -> None:
    x = torch.randn(1, 2, 20, 224).double()
    expected = gaussian_filter1d(x.numpy(), 2.5, axis=2, mode="nearest", radius=5)  # an eighth of a small image
    expected = gaussian_filter1d(expected, 5, axis=3, mode="nearest", radius=10)
    assert torch.allclose(_blurred(x), torch.from_numpy(expected))


def test_the_right_map_is_better_than_its_opposite() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(256, 2))
    x = torch.rand(1, 1, 16, 16) + 0.5
    good = explain.input_x_gradient(network, x, 1).map
    mine, other = (explain.deletion_insertion(network, x, each, 1) for each in (good, -good))
    assert mine.deletion_auc[0] < other.deletion_auc[0]
    assert explain.faithfulness(network, x, good, 1)[0] == pytest.approx(1, abs=1e-3)
    assert explain.faithfulness(network, x, -good, 1)[0] == pytest.approx(-1, abs=1e-3)


def test_faithfulness_is_pearsons() -> None:
    model, x, numbers = Nested().double().eval(), torch.randn(1, 3, 16, 16).double(), torch.rand(1, 16, 16).double()
    generator = torch.Generator().manual_seed(2)
    order = torch.rand(20, 64, generator=generator).argsort(1)
    sums, falls = [], []
    with torch.no_grad():
        for row in order:
            covered = (row < 16).view(8, 8).repeat_interleave(2, 0).repeat_interleave(2, 1)
            sums.append(numbers[0][covered].sum().item())
            falls.append((model(x) - model(x.masked_fill(covered, 0.0)))[0, 2].item())
    found = explain.faithfulness(model, x, numbers, 2, subsets=20, seed=2)
    assert found[0] == pytest.approx(pearsonr(sums, falls).statistic)
    assert explain.faithfulness(model, x, torch.zeros(1, 16, 16), 2) == (0.0,)


def test_pointing_game() -> None:
    found = explain.saliency(nn.Sequential(nn.Flatten(), nn.Linear(64, 2)), torch.rand(3, 1, 8, 8))
    found.map.zero_()
    found.map[0, 2, 5] = found.map[1, 7, 0] = 1.0
    boxes = [(5, 2, 6, 3), (1, 7, 3, 8), (0, 0, 8, 8)]
    assert explain.pointing_game(found, boxes) == (True, False, False)
    assert explain.pointing_game(found, boxes, tolerance=1) == (True, True, False)
    with pytest.raises(ExplainError, match=r"boxes: got \(2, 4\); needed \(3, 4\)"):
        explain.pointing_game(found, boxes[:2])


def test_maps_of_another_size_are_refused() -> None:
    with pytest.raises(ExplainError, match=r"map: got \(1, 8, 8\); needed \(1, 16, 16\)"):
        explain.deletion_insertion(Nested(), torch.randn(1, 3, 16, 16), torch.rand(1, 8, 8))
