"""Checks of a detector's input before it computes. An error is one line that names the image and the object."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from striate.errors import ModelError

#: What is known or found on one image: tensors by name.
Target = dict[str, Tensor]
#: How many pixels a box may extend beyond its image, because of float32 rounding.
SLACK: Final = 1e-2


def check_images(images: Sequence[Tensor], channels: int | None = None) -> None:
    """Refuses anything that isn't a list of images.

    Args:
        images: (C, H, W), floating point.
        channels: C; None for any.

    Raises:
        ModelError: none, or one of another rank, dtype or number of channels, or without pixels.
    """
    if len(images) == 0:
        raise ModelError("images", "got none", "needed a list of at least one image")
    for index, image in enumerate(images):
        shape = tuple(getattr(image, "shape", ()))
        if len(shape) != 3 or 0 in shape or channels not in (None, shape[0]):
            got = f"got {shape}" if shape else f"got {type(image).__name__}"
            raise ModelError(f"image {index}", got, f"needed ({channels or 'C'}, H, W)")
        if not image.is_floating_point():
            raise ModelError(f"image {index}", f"got {image.dtype}", "needed a floating point type, values from 0 to 1")


def check_targets(
    targets: Sequence[Target] | None, images: Sequence[Tensor], num_classes: int, *, masks: bool = False
) -> None:
    """Refuses targets that a detector can't learn from. Images without objects are legal.

    Args:
        targets: for each image ``boxes`` (M, 4), ``labels`` (M,) and, if ``masks``, ``masks`` (M, H, W).
        images: (C, H, W).
        num_classes: K, with the background: labels go from 1 to K - 1.
        masks: whether masks are needed.

    Raises:
        ModelError: what is missing or does not fit together; boxes without area, outside of their image or not finite;
            labels out of range; images that are none.
    """
    check_images(images)
    if targets is None or len(targets) != len(images):
        got = "none" if targets is None else f"{len(targets)}"
        raise ModelError("targets", f"got {got}", f"needed {len(images)} in training, one for each image")
    for index, (target, image) in enumerate(zip(targets, images, strict=True)):
        _check_parts(index, target, image, masks)
        _check_values(index, target, image, num_classes)


def _check_parts(index: int, target: Target, image: Tensor, masks: bool) -> None:
    for name in ("boxes", "labels", *(["masks"] if masks else [])):
        if not isinstance(target.get(name), Tensor):
            raise ModelError(f"target of image {index}", f"has no tensor {name!r}", "needed " + name)
    boxes, labels = target["boxes"], target["labels"]
    count = len(labels) if labels.dim() else 0
    where = f"target of image {index}"
    if boxes.shape != (count, 4) or not boxes.is_floating_point():
        got = f"got boxes {boxes.dtype} {tuple(boxes.shape)}"
        raise ModelError(where, got, f"needed floating point ({count}, 4), a row for each label")
    if labels.dtype != torch.int64 or labels.dim() != 1:
        raise ModelError(where, f"got labels {labels.dtype} {tuple(labels.shape)}", "needed torch.int64 (M,)")
    if masks and target["masks"].shape != (count, *image.shape[-2:]):
        shape = tuple(target["masks"].shape)
        raise ModelError(where, f"got masks {shape}", f"needed {(count, *image.shape[-2:])}, each of the image's size")


def _check_values(index: int, target: Target, image: Tensor, num_classes: int) -> None:
    boxes, labels = target["boxes"], target["labels"]
    height, width = image.shape[-2:]
    most = boxes.new_tensor((width, height, width, height)) + SLACK
    faults = {
        "needed finite numbers": ~boxes.isfinite().all(1),
        "needed x0 < x1 and y0 < y1": (boxes[:, 2:] <= boxes[:, :2]).any(1),
        f"needed coordinates inside of the image, which is {width} wide and {height} high": (
            (boxes < -SLACK) | (boxes > most)
        ).any(1),
    }
    for needed, wrong in faults.items():
        if wrong.any():
            at = int(wrong.nonzero()[0])
            raise ModelError(f"image {index}, object {at}", f"got box {_told(boxes[at])}", needed)
    strange = (labels < 1) | (labels >= num_classes)
    if strange.any():
        at = int(strange.nonzero()[0])
        needed = f"needed 1 to {num_classes - 1}, since 0 is the background"
        raise ModelError(f"image {index}, object {at}", f"got label {int(labels[at])}", needed)


def _told(box: Tensor) -> str:
    return "(" + ", ".join(f"{value:g}" for value in box.tolist()) + ")"
