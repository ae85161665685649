"""Targets that a detector can't learn from: one line that names the image and the object."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from striate import nn
from striate.errors import ModelError

IMAGES = [torch.zeros(3, 10, 20), torch.zeros(3, 8, 8)]


def target(**parts: Any) -> nn.Target:
    good = {
        "boxes": torch.tensor([[0.0, 0, 8, 8], [1, 1, 4, 4]]),
        "labels": torch.tensor([1, 2]),
        "masks": torch.ones(2, 8, 8, dtype=torch.uint8),
    }
    return {name: part for name, part in (good | parts).items() if part is not None}


EMPTY = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "masks": torch.zeros(0, 10, 20)}


def changed(corner: int, value: float) -> torch.Tensor:
    boxes = target()["boxes"].clone()
    boxes[1, corner] = value
    return boxes


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no boxes": ({"boxes": None}, "target of image 1: has no tensor 'boxes'"),
    "no labels": ({"labels": None}, "target of image 1: has no tensor 'labels'"),
    "no masks": ({"masks": None}, "target of image 1: has no tensor 'masks'"),
    "fewer boxes": ({"boxes": torch.ones(1, 4)}, r"got boxes torch.float32 \(1, 4\); needed floating point \(2, 4\)"),
    "whole boxes": ({"boxes": torch.ones(2, 4, dtype=torch.int64)}, "got boxes torch.int64"),
    "labels as numbers": ({"labels": torch.ones(2)}, r"got labels torch.float32 \(2,\); needed torch.int64"),
    "other masks": ({"masks": torch.ones(2, 9, 8)}, r"got masks \(2, 9, 8\); needed \(2, 8, 8\)"),
    "no width": ({"boxes": changed(2, 1)}, r"image 1, object 1: got box \(1, 1, 1, 4\); needed x0 < x1"),
    "swapped": ({"boxes": changed(3, 0)}, "image 1, object 1: got box .*; needed x0 < x1 and y0 < y1"),
    "outside": ({"boxes": changed(2, 8.5)}, "image 1, object 1: got box .*; needed coordinates inside .* 8 wide"),
    "negative": ({"boxes": changed(0, -1)}, "image 1, object 1: got box .*; needed coordinates inside"),
    "not a number": ({"boxes": changed(0, torch.nan)}, "image 1, object 1: got box .nan, .*; needed finite numbers"),
    "infinite": ({"boxes": changed(2, torch.inf)}, "image 1, object 1: got box .*; needed finite numbers"),
    "background": ({"labels": torch.tensor([0, 1])}, "image 1, object 0: got label 0; needed 1 to 2"),
    "unknown class": ({"labels": torch.tensor([1, 3])}, "image 1, object 1: got label 3; needed 1 to 2"),
}


@pytest.mark.parametrize("what", WRONG)
def test_faults_are_told_with_image_and_object(what: str) -> None:
    parts, message = WRONG[what]
    with pytest.raises(ModelError, match=message) as caught:
        nn.check_targets([EMPTY, target(**parts)], IMAGES, 3, masks=True)
    assert "\n" not in str(caught.value)


def test_each_image_needs_a_target() -> None:
    for targets, got in ((None, "none"), ([target()], "1")):
        with pytest.raises(ModelError, match=f"got {got}; needed 2 in training"):
            nn.check_targets(targets, IMAGES, 3)


def test_good_targets_and_images_without_objects_pass() -> None:
    nn.check_targets([EMPTY, target()], IMAGES, 3, masks=True)
    nn.check_targets([EMPTY, target(masks=None, boxes=changed(2, 8.001))], IMAGES, 3)
