"""Scenes of digits and plain training loops for studies of detection and segmentation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from striate import ops
from striate.analysis import receptive_field
from striate.data import AnnotatedAugmentation, AnnotatedSet, Annotation, Detections, load
from striate.studies.study import Measured
from striate.tasks.maps import MapRecorder
from striate.tasks.objects import ObjectRecorder

#: Pixels a side, and the fewest and most digits of a scene. Digits are 11 to 24 pixels high.
SIZE: Final = 64
#: Pixels: of boxes with a smaller area than this square digits are called small, of others large.
SMALL: Final = 14

Change = Callable[[AnnotatedSet, int, int], tuple[Tensor, Annotation]]


@dataclass(frozen=True)
class Scenes:
    """Drawn scenes.

    Args:
        train: for learning.
        test: of other digits on other parts of the photographs.
    """

    train: AnnotatedSet
    test: AnnotatedSet


def scenes(seed: int, train: int, test: int) -> Scenes:
    """So many scenes of 64x64, drawn anew for each seed.

    >>> len(scenes(0, 5, 2).train)
    5
    """
    found = load(f"scenes:{SIZE},{train},{test},seed={seed}")
    assert isinstance(found.train, AnnotatedSet)
    assert isinstance(found.test, AnnotatedSet)
    return Scenes(found.train, found.test)


def fit(
    network: torch.nn.Module,
    images: AnnotatedSet,
    loss: Callable[[torch.nn.Module, list[Tensor], list[Annotation]], Tensor],
    *,
    seed: int,
    epochs: int,
    augment: str = "none",
    batch_size: int = 8,
    learning_rate: float = 2e-3,
) -> None:
    """Trains a network in place with AdamW and a rate that rises for a tenth of the steps and falls in a line to zero.

    Args:
        network: left in evaluation mode.
        images: annotated pictures of one size.
        loss: a scalar, from the network, pictures (C, H, W) from 0 to 1 and their annotations.
        seed: of the order and of what augmentation draws; weights are drawn by whoever makes the network.
        epochs: how often each picture is seen.
        augment: as ``striate train --augment``.
        batch_size: pictures a step.
        learning_rate: the highest one.
    """
    change = AnnotatedAugmentation(augment, seed)
    order = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=0.02)
    steps = epochs * -(-len(images) // batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / (0.1 * steps), (steps - step) / (0.9 * steps))
    )
    network.train()
    for epoch in range(epochs):
        for chosen in torch.randperm(len(images), generator=order).split(batch_size):
            samples = [change.sample(images, index, epoch) for index in chosen.tolist()]
            optimizer.zero_grad()
            loss(network, [picture.float() / 255 for picture, _ in samples], [truth for _, truth in samples]).backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 10.0)
            optimizer.step()
            schedule.step()
    network.eval()


def detection_loss(network: torch.nn.Module, pictures: list[Tensor], truths: list[Annotation]) -> Tensor:
    """The sum of the losses that a detector gives."""
    targets = [{"boxes": truth.boxes.float(), "labels": truth.labels + 1} for truth in truths]
    losses: dict[str, Tensor] = network(pictures, targets)
    return torch.stack(list(losses.values())).sum()


def map_loss(network: torch.nn.Module, pictures: list[Tensor], truths: list[Annotation]) -> Tensor:
    """Cross entropy of all pixels; ``network`` gives ``{"out": (N, K, H, W)}``."""
    maps = torch.stack([truth.class_map for truth in truths if truth.class_map is not None]).long()
    scores: dict[str, Tensor] = network(torch.stack(pictures))
    return torch.nn.functional.cross_entropy(scores["out"], maps)


@dataclass(frozen=True)
class Found:
    """How good a detector is.

    Args:
        ap50: average precision at an overlap of 0.5, in percent.
        small, large: the share of small and of large digits that were found, as the digits that they are, by
            detections with the least score that :func:`detected` was given, in percent.
    """

    ap50: float
    small: float
    large: float


def field_of(features: torch.nn.Module) -> float:
    """The largest side of the receptive field of any place on a map of a network of convolutions, pixels."""
    rows = receptive_field(features, (3, 512, 512)).rows
    return float(max(side for row in rows for side in row.size if side is not None))


@torch.no_grad()
def detected(network: torch.nn.Module, images: AnnotatedSet, score: float = 0.3) -> Found:
    """What a detector finds in scenes. Detections count from ``score`` on in the shares of small and large digits."""
    recorder = ObjectRecorder(images.classes)
    hits: dict[bool, list[bool]] = {True: [], False: []}
    for index in range(len(images)):
        picture, truth = images.sample(index)
        found: dict[str, Tensor] = network([picture.float() / 255])[0]
        guesses = Detections(truth.size, found["boxes"], found["labels"] - 1, found["scores"])
        recorder.add(Annotation(truth.size, truth.boxes, truth.labels, truth.crowd), guesses)
        for small, hit in _hits(truth, guesses.above(score)):
            hits[small].append(hit)
    ap50 = recorder.measures().boxes.ap50
    return Found(100 * (ap50 or 0.0), *(100 * float(np.mean(hits[small] or [False])) for small in (True, False)))


def table(names: Sequence[str], found: Mapping[str, Sequence[tuple[float, ...]]]) -> dict[str, list[Measured]]:
    """For each kind its measurements in percent: of ``found``, a tuple a seed, as means over the seeds."""
    return {
        kind: [
            Measured.of(f"{kind}: {name}", values, "%")
            for name, values in zip(names, zip(*rows, strict=True), strict=True)
        ]
        for kind, rows in found.items()
    }


def _hits(truth: Annotation, found: Detections) -> list[tuple[bool, bool]]:
    """For each object whether it is small, and whether a detection of its class overlaps it by half."""
    overlap = ops.box_iou(truth.boxes.float(), found.boxes)
    same = truth.labels[:, None] == found.labels[None, :]
    areas = (truth.boxes[:, 2:] - truth.boxes[:, :2]).prod(1)
    hit = ((overlap >= 0.5) & same).any(1)
    return [(bool(area < SMALL**2), bool(each)) for area, each in zip(areas, hit, strict=True)]


@torch.no_grad()
def mean_iou(network: torch.nn.Module, images: AnnotatedSet) -> tuple[float, float]:
    """The mean IoU of all classes, in percent, and that of digits against ground, whichever digits they are."""
    classes = images.map_classes
    recorder = MapRecorder(classes)
    kinds = MapRecorder(("ground", "digit"))
    for index in range(len(images)):
        picture, truth = images.sample(index)
        scores: dict[str, Any] = network(picture[None].float() / 255)
        map_ = scores["out"][0].argmax(0)
        assert truth.class_map is not None
        recorder.add(truth.class_map, map_)
        kinds.add(truth.class_map.clamp(max=1), map_.clamp(max=1))
    means = [each.measures().mean_iou for each in (recorder, kinds)]
    return 100 * (means[0] or 0.0), 100 * (means[1] or 0.0)
