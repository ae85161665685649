"""Targets: predicted, given, one an image, functions for segmentation and detection."""

from __future__ import annotations

import math

import pytest
import torch
from explained_networks import Nested
from torch import Tensor, nn

from striate import explain
from striate.errors import ExplainError
from striate.explain.targets import guesses, probabilities_of


def test_the_predicted_class_is_the_default() -> None:
    model, x = Nested().eval(), torch.randn(6, 3, 16, 16)
    found = explain.saliency(model, x)
    logits = model(x).detach()
    assert found.classes == tuple(logits.argmax(1).tolist())
    assert torch.equal(found.map, explain.saliency(model, x, logits.argmax(1)).map)
    assert found.scores == pytest.approx(logits.amax(1).tolist())
    for row, guessed in zip(logits.softmax(1), found.predictions, strict=True):
        assert [g.category for g in guessed] == row.argsort(descending=True).tolist()
        assert sum(g.probability for g in guessed) == pytest.approx(1.0)


def test_a_function_is_the_class_that_it_takes() -> None:
    model, x = Nested().eval(), torch.randn(2, 3, 16, 16)
    found = explain.saliency(model, x, lambda output: output[:, 3])
    assert torch.equal(found.map, explain.saliency(model, x, 3).map)
    assert found.classes is None
    assert found.target_of(0) == "<lambda>"


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (5, "target: got class 5; needed 0 to 4"),
        (-1, "got class -1"),
        ([0, 9], "got class 9"),
        ([0, 1, 2], "got 3 classes; needed one, or one for each of 2 images"),
        (lambda output: output, r"<lambda>: gave a tensor of \(2, 5\)"),
        (lambda output: 3.0, "gave float"),
    ],
)
def test_targets_that_will_not_do(target: explain.targets.Target, message: str) -> None:
    with pytest.raises(ExplainError, match=message):
        explain.grad_cam(Nested(), torch.randn(2, 3, 16, 16), target)


def test_segmentation() -> None:
    model, x = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 2, 1)), torch.randn(2, 3, 8, 8)
    with pytest.raises(
        ExplainError, match=r"the network's output is a tensor of \(2, 2, 8, 8\); .*segmentation_target"
    ):
        explain.grad_cam(model, x)
    region = torch.zeros(8, 8, dtype=torch.bool)
    region[2, 3] = True
    found = explain.saliency(model, x, explain.segmentation_target(1, region))
    assert found.target_of(0) == "segmentation of class 1"
    assert found.predictions == ()
    rows, columns = found.map[0].nonzero().T
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (1, 3, 2, 4)  # what a 3x3 kernel sees
    whole = explain.segmentation_target(1)(model(x))
    logits = model(x)
    for image in range(2):
        mine = logits[image].argmax(0) == 1
        assert torch.isclose(whole[image], logits[image, 1][mine].sum())
    with pytest.raises(ExplainError, match="needed \\(N, classes, H, W\\) with that class"):
        explain.saliency(model, x, explain.segmentation_target(2))


class Detector(nn.Module):
    """Two boxes of each image, whose confidence is the brightness inside."""

    def forward(self, x: Tensor) -> list[dict[str, Tensor]]:
        boxes = torch.tensor([[0.0, 0, 4, 4], [4.0, 4, 8, 8]])
        return [
            {
                "boxes": boxes,
                "labels": torch.tensor([1, 2]),
                "scores": torch.stack([each[:, :4, :4].mean(), each[:, 4:, 4:].mean()]),
            }
            for each in x
        ]


def test_detection() -> None:
    x = torch.rand(2, 1, 8, 8)
    found = explain.saliency(Detector(), x, explain.detection_target(2, (4, 4, 8, 8)))
    assert found.map[:, 4:, 4:].min() > 0
    assert not found.map[:, :4].any()
    assert found.scores == pytest.approx(x[:, 0, 4:, 4:].mean((1, 2)).tolist())
    half = explain.detection_target(2, (4, 4, 8, 6))(Detector()(x))
    assert torch.allclose(half, x[:, 0, 4:, 4:].mean((1, 2)) / 2)
    elsewhere = explain.detection_target(1, (5, 5, 8, 8))
    with pytest.warns(explain.ExplainWarning, match="empty"):
        assert explain.saliency(Detector(), x, elsewhere).scores == (0.0, 0.0)


def test_probabilities() -> None:
    assert probabilities_of(torch.tensor([[0.0]])).item() == 0.5
    shares = torch.tensor([[0.2, 0.8]])
    assert torch.equal(probabilities_of(shares), shares.double())
    assert probabilities_of(torch.tensor([[0.0, math.log(3.0)]]))[0, 1].item() == pytest.approx(0.75)
    assert guesses({"out": shares}) == ()
