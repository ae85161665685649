"""Measures of class maps: as scikit-learn has them, the same however pictures are divided, defined where nothing is."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix, f1_score, jaccard_score

from striate.errors import DataError, RunError
from striate.tasks.maps import MapMeasures, MapRecorder, count_pixels, measure_maps


def made(seed: int, pictures: int, classes: int, ignored: float = 0.2) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    draw = torch.Generator().manual_seed(seed)
    truths, guesses = [], []
    for _ in range(pictures):
        size = (int(torch.randint(1, 9, (), generator=draw)), int(torch.randint(1, 9, (), generator=draw)))
        truth = torch.randint(0, classes, size, generator=draw)
        found = torch.where(
            torch.rand(size, generator=draw) < 0.6, truth, torch.randint(0, classes, size, generator=draw)
        )
        truth[torch.rand(size, generator=draw) < ignored] = 255
        truths.append(truth.byte())
        guesses.append(found)
    return truths, guesses


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 5))
def test_scikit_learn_agrees(seed: int, pictures: int, classes: int) -> None:
    truths, guesses = made(seed, pictures, classes)
    # One class more, which is nowhere.
    measures = measure_maps(truths, guesses, tuple(map(str, range(classes + 1))))
    truth = torch.cat([each.flatten() for each in truths]).numpy()
    found = torch.cat([each.flatten() for each in guesses]).numpy()[truth != 255]
    truth = truth[truth != 255]
    assert measures.iou[classes] is None
    if not len(truth):
        assert measures.mean_iou is measures.accuracy is measures.mean_accuracy is measures.mean_dice is None
        return
    labels = list(range(classes + 1))
    assert np.array_equal(measures.confusion, confusion_matrix(truth, found, labels=labels))
    present = sorted({*truth.tolist(), *found.tolist()})
    each_iou = jaccard_score(truth, found, labels=present, average=None, zero_division=0)
    assert [measures.iou[label] for label in present] == pytest.approx(each_iou)
    assert measures.mean_iou == pytest.approx(jaccard_score(truth, found, average="macro", zero_division=0))
    assert measures.mean_dice == pytest.approx(f1_score(truth, found, average="macro", zero_division=0))
    assert measures.accuracy == pytest.approx(accuracy_score(truth, found))
    with warnings.catch_warnings(action="ignore"):  # of classes that are only predicted
        assert measures.mean_accuracy == pytest.approx(balanced_accuracy_score(truth, found))
    for label in range(classes + 1):
        assert (measures.iou[label] is None) == (label not in present)
        assert (measures.recall[label] is None) == (label not in truth)
        assert (measures.precision[label] is None) == (label not in found)


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.integers(0, 5))
def test_parts_add_up(seed: int, cut: int) -> None:
    truths, guesses = made(seed, 5, 3)
    parts = [MapRecorder("abc"), MapRecorder("abc")]
    for number, (truth, found) in enumerate(zip(truths, guesses, strict=True)):
        parts[number >= cut].add(truth, found, f"{number}.png")
    parts[0].extend(parts[1])
    measures = parts[0].measures()
    assert measures == measure_maps(truths, guesses, "abc", [f"{n}.png" for n in range(5)])
    assert measures.pixels + measures.ignored == sum(each.numel() for each in truths)
    assert MapMeasures.from_dict(json.loads(json.dumps(measures.to_dict(), allow_nan=False))) == measures
    worst = [measures.pictures[number].iou for number in measures.worst(5)]
    assert worst == sorted(each.iou for each in measures.pictures if each.iou is not None and each.iou < 1)


def test_a_class_that_is_only_predicted_counts_as_nothing_right() -> None:
    measures = measure_maps([torch.tensor([[0, 0]])], [torch.tensor([[0, 1]])], ("a", "b", "c"))
    assert measures.iou == (0.5, 0.0, None)
    assert measures.mean_iou == 0.25
    assert measures.mean_accuracy == 0.5  # of the one class that there is
    assert measures.pictures[0].iou == 0.25


def test_nothing_to_measure() -> None:
    ignored = torch.full((2, 3), 255, dtype=torch.uint8)
    for measures in (measure_maps([ignored], [torch.zeros(2, 3).long()], "ab"), measure_maps([], [], "ab")):
        assert measures.mean_iou is None
        assert measures.accuracy is None
        assert measures.worst(3) == []
        assert MapMeasures.from_dict(json.loads(json.dumps(measures.to_dict()))) == measures


def test_batches_are_counted_at_once() -> None:
    truth, found = torch.randint(0, 4, (2, 3, 8, 9)).byte(), torch.randint(0, 4, (2, 3, 8, 9))
    truth[0, 0] = 255
    counts = count_pixels(truth, found, 4)
    assert counts.dtype == torch.int64
    assert counts.sum() == 5 * 72
    assert torch.equal(counts, sum(count_pixels(t, f, 4) for t, f in zip(truth, found, strict=True)))


@pytest.mark.parametrize(
    ("truth", "found", "message"),
    [
        ([[0, 1]], [[0]], "a.png: got a class map (1, 1); needed (1, 2), as the truth"),
        ([[0, 3]], [[0, 0]], "a.png: got class 3 in the truth; needed 0 to 1"),
        ([[0, 1]], [[0, 2]], "a.png: got class 2 in the prediction; needed 0 to 1"),
        ([[0, 1]], [[0, -1]], "a.png: got class -1 in the prediction; needed 0 to 1"),
    ],
)
def test_what_is_refused(truth: list[list[int]], found: list[list[int]], message: str) -> None:
    with pytest.raises(DataError) as refused:
        measure_maps([torch.tensor(truth)], [torch.tensor(found)], "ab", ["a.png"])
    assert str(refused.value) == message
    with pytest.raises(RunError, match="can't be read"):
        MapMeasures.from_dict({"classes": ["a"]})
