"""Targets: predicted, given, one an image, functions for segmentation and detection."""

from __future__ import annotations

import math
import warnings
from types import SimpleNamespace
from typing import Any

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


@pytest.mark.parametrize(
    ("typed", "classes", "number"),
    [
        ("cat", ("Cat", "cat"), 1),
        ("Cat", ("Cat", "cat"), 0),
        ("DOG", ("cat", "dog"), 1),
        ("1", ("cat", "dog"), 1),
        (" 1 ", ("cat", "dog"), 1),
        ("7", (), 7),
        ("golden-retriever", ("tabby", "Golden Retriever"), 1),
        ("3", tuple("0123456789"), 3),
    ],
)
def test_a_class_by_name_or_number(typed: str, classes: tuple[str, ...], number: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert explain.class_named(typed, classes) == number


def test_a_name_that_is_another_classs_number_is_taken_and_told() -> None:
    with pytest.warns(explain.ExplainWarning, match="took the class of that name, number 2; number 1 is '4'"):
        assert explain.class_named("1", ("0", "4", "1")) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert explain.class_named("10", ("5", "10")) == 1  # there is no class number 10


@pytest.mark.parametrize(
    ("typed", "classes", "message"),
    [
        ("CAT", ("Cat", "cat"), "target: got 'CAT'; needed one of 'Cat', 'cat'"),
        ("kat", ("Cat", "dog"), "target: got 'kat'; needed a class's name or 0 to 1; near: Cat"),
        ("2", ("cat", "dog"), "target: got class 2; needed 0 to 1"),
        ("-1", (), "target: got '-1'; needed a class's number"),
    ],
)
def test_names_of_no_class(typed: str, classes: tuple[str, ...], message: str) -> None:
    with pytest.raises(ExplainError, match=message):
        explain.class_named(typed, classes)


@pytest.mark.parametrize(
    ("output", "got"),
    [
        ({"out": torch.zeros(1, 2), "aux": torch.zeros(1, 2)}, "a dict of out, aux"),
        ((torch.zeros(1, 2),), "a tuple"),
        (SimpleNamespace(logits=torch.zeros(1, 2)), "a SimpleNamespace"),
        (torch.zeros(1, 2, dtype=torch.int64), "int64 of 1x2"),
        (torch.zeros(2), r"a tensor of \(2,\)"),
        (None, "None"),
    ],
)
def test_outputs_of_other_kinds_need_a_function(output: Any, got: str) -> None:
    class Gives(nn.Module):
        def forward(self, x: Tensor) -> Any:
            self.seen = x
            return output

    for target in (None, 1):
        with pytest.raises(ExplainError, match=f"the network's output is {got}; .*pass a function of the output"):
            explain.saliency(Gives(), torch.rand(1, 1, 4, 4), target)
    with pytest.raises(ExplainError, match=r"the network's output has 1 rows for 2 images"):
        explain.saliency(nn.Sequential(nn.Flatten(0), nn.Unflatten(0, (1, -1))), torch.rand(2, 1, 4, 4), 1)
    found = explain.occlusion(Gives(), torch.rand(2, 1, 4, 4), lambda _: torch.ones(2), batch_size=2)
    assert found.scores == (1.0, 1.0)


def test_a_function_that_does_not_fit_is_told() -> None:
    model, x = Nested(), torch.randn(2, 3, 16, 16)
    for function, message in (
        (lambda output: output[:, 99], r"can't take a tensor of \(2, 5\) \(IndexError: .*; needed a function"),
        (lambda output: output.logits, r"can't take a tensor of \(2, 5\) \(AttributeError"),
        (lambda output: output[:1, 0], "gave 1 numbers for 2 images"),
        (explain.detection_target(1, (0, 0, 2, 2)), r"got a tensor of \(2, 5\) as output; needed a list of dicts"),
        (explain.segmentation_target(1), r"got a tensor of \(2, 5\) as output; needed \(N, classes, H, W\)"),
    ):
        with pytest.raises(ExplainError, match=message):
            explain.saliency(model, x, function)


def test_probabilities() -> None:
    assert probabilities_of(torch.tensor([[0.0]])).item() == 0.5
    shares = torch.tensor([[0.2, 0.8]])
    assert torch.equal(probabilities_of(shares), shares.double())
    assert probabilities_of(torch.tensor([[0.0, math.log(3.0)]]))[0, 1].item() == pytest.approx(0.75)
    assert guesses({"out": shares}) == ()
