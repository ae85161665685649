"""Inversion: layers that lose nothing give the image back, others give what fits."""

from __future__ import annotations

import json

import pytest
import torch
from tangled import KINDS, Tangled, untouched
from torch import nn

from striate.errors import ExplainError
from striate.explain import invert


def test_an_invertible_linear_layer_is_inverted() -> None:
    layer = nn.Conv2d(1, 4, 2, 2, bias=False)
    nn.init.orthogonal_(layer.weight)
    image = torch.randn(1, 8, 8)
    found = invert(nn.Sequential(layer), image, "0", alpha_weight=0, variation_weight=0)
    torch.testing.assert_close(found.rows[0].image, image, rtol=1e-2, atol=1e-2)
    assert found.rows[0].image_error < 1e-5


def test_a_linear_layer_that_loses_gives_back_what_it_keeps() -> None:
    # From (almost) zero the way downhill stays within the rows of the matrix: the pseudoinverse's solution.
    weight = torch.randn(12, 36)
    network = nn.Sequential(nn.Flatten(), nn.Linear(36, 12, bias=False))
    network[1].weight.data.copy_(weight)
    image = torch.randn(1, 6, 6)
    found = invert(network, image, "1", alpha_weight=0, variation_weight=0, decay=0, steps=300).rows[0]
    expected = torch.linalg.pinv(weight) @ weight @ image.flatten()
    torch.testing.assert_close(found.image.flatten(), expected, rtol=0, atol=0.08)
    lost = (image.flatten() - found.image.flatten()).square().sum() / (image - image.mean()).square().sum()
    assert found.image_error == pytest.approx(float(lost), rel=1e-4)
    assert found.feature_error < 1e-4
    assert found.numbers == 12


def test_the_penalty_for_variation_is_the_linear_one() -> None:
    # |x - x0|^2 / |x0|^2 + w / (n b^2) sum (differences)^2 is quadratic: its minimum is a linear system's solution.
    size, weight = 6, 0.5
    image = torch.randn(1, size, size, dtype=torch.float64)
    network = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False)).double()
    nn.init.ones_(network[0].weight)
    found = invert(network, image, "0", alpha_weight=0, variation_weight=weight, steps=300).rows[0]
    one = torch.eye(size, dtype=torch.float64)
    step = one[1:] - one[:-1]
    differences = torch.cat([torch.kron(step, one), torch.kron(one, step)])
    penalty = weight / (size**2 * image.abs().max() ** 2) * differences.T @ differences
    expected = torch.linalg.solve(torch.eye(size**2) / image.square().sum() + penalty, image.flatten())
    expected = expected / image.square().sum()
    torch.testing.assert_close(found.image.flatten().double(), expected, rtol=0, atol=2e-3)


def test_deeper_layers_know_less() -> None:
    torch.manual_seed(3)
    network = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(3), nn.Flatten(), nn.Linear(72, 4))
    found = invert(network, torch.rand(1, 11, 11), ("0", "2", "4"), steps=100)
    errors = [row.image_error for row in found.rows]
    assert errors[0] < errors[1] < errors[2]
    assert [row.numbers for row in found.rows] == [648, 72, 4]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_network(kind: str) -> None:
    model, images = KINDS[kind]()
    with untouched(model):
        last, first = invert(model, images[0], ("again", "again@1"), steps=10).rows
    assert last.image.shape == images[0].shape
    for row in (last, first):
        assert 0 <= row.feature_error < 0.5
    assert not torch.allclose(last.image, first.image)


def test_results_can_be_kept(tmp_path: object) -> None:
    found = invert(Tangled(), torch.rand(1, 12, 12), ("stem", "relu", "deep.part", "head"), steps=5)
    json.dumps(found.to_dict(), allow_nan=False)
    found.save(f"{tmp_path}/inverted.png")


def test_same_seed_same_image() -> None:
    model, image = Tangled(), torch.rand(1, 12, 12)
    one, other, again = (invert(model, image, "head", steps=5, seed=seed).rows[0].image for seed in (1, 2, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


@pytest.mark.parametrize(
    ("image", "layer", "steps", "message"),
    [
        (torch.rand(1, 12, 12), "stom", 5, "near: stem"),
        (torch.rand(2, 1, 12, 12), "stem", 5, "got 2 images"),
        (torch.ones(1, 12, 12), "stem", 5, "one number everywhere"),
        (torch.rand(2, 12, 12), "stem", 5, "can't take 1x2x12x12"),
        (torch.rand(1, 12, 12), "stem", 0, "steps: got 0"),
    ],
)
def test_mistakes(image: torch.Tensor, layer: str, steps: int, message: str) -> None:
    model = Tangled()
    with untouched(model), pytest.raises(ExplainError, match=message):
        invert(model, image, layer, steps=steps)


def test_a_silent_layer_is_told() -> None:
    network = nn.Sequential(nn.Conv2d(1, 1, 3), nn.ReLU())
    nn.init.constant_(network[0].bias, -99)
    with pytest.raises(ExplainError, match="nothing but zeros"):
        invert(network, torch.rand(1, 8, 8), "1")
