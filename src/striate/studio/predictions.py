"""A detector's predictions at every position of its maps: reference boxes, scores, predicted boxes, and proposals.

The detector's own parts compute the numbers. Boxes are in pixels of the picture, as in its results.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from striate import ops
from striate.models import centers
from striate.models.centernet import STRIDE, CenterNet
from striate.models.one_stage import OneStageDetector
from striate.models.ssd import SSD
from striate.models.two_stage import TwoStageDetector

#: The kind of reference boxes, as the page names it.
ANCHORS: Final = "anchors"
SQUARES: Final = "squares"
HEAT: Final = "heat"


@dataclass(frozen=True, eq=False)
class Level:
    """A detector's predictions at the positions of one map of h by w, with B reference boxes at each.

    Args:
        references: (h, w, B, 4): the reference boxes, relative to which predictions are made.
        boxes: (h, w, B, 4): the predicted boxes.
        scores: (h, w, B), of the most likely class.
        labels: int64 (h, w, B): that class, from 1; 0 for an object of any class.
        cell: height and width of a position's cell in the picture, in pixels.
        higher: int64 (h, w): for heat maps, the neighbouring position, row * w + column, with a higher score of its
            class; -1 at peaks. None for other maps.
    """

    references: Tensor
    boxes: Tensor
    scores: Tensor
    labels: Tensor
    cell: tuple[float, float]
    higher: Tensor | None = None

    @property
    def heat(self) -> Tensor:
        """The largest score at each position, (h, w)."""
        return self.scores.amax(2)

    def to_dict(self) -> dict[str, Any]:
        """A summary of the level, for JSON."""
        height, width, count = self.scores.shape
        return {"size": [height, width], "count": count, "cell": list(self.cell), "most": float(self.scores.max())}


@dataclass(frozen=True, eq=False)
class Proposals:
    """The proposals of a two-stage detector before suppression, by falling score.

    Args:
        boxes: (N, 4).
        scores: (N,).
        levels: int64 (N,), the level of each proposal; each level is suppressed separately.
        overlap: the threshold of suppression.
        most: the most proposals that are passed to the second stage.
    """

    boxes: Tensor
    scores: Tensor
    levels: Tensor
    overlap: float
    most: int


@dataclass(frozen=True, eq=False)
class Predictions:
    """All levels of a detector, the finest first, the kind of reference boxes, and the proposals if there are any."""

    levels: tuple[Level, ...]
    kind: str
    proposals: Proposals | None = None


@torch.no_grad()
def predictions(model: nn.Module, image: Tensor) -> Predictions | None:
    """The predictions of a detector of the zoo for a picture (C, H, W) from 0 to 1; None for other networks."""
    if isinstance(model, OneStageDetector):
        return _one_stage(model, image)
    if isinstance(model, TwoStageDetector):
        return _two_stage(model, image)
    return _heat(model, image) if isinstance(model, CenterNet) else None


def _one_stage(model: OneStageDetector, image: Tensor) -> Predictions:
    batch, _ = model.transform([image])
    maps = list(model.backbone(batch.tensors).values())
    outputs = model.head(maps)
    anchors = model.anchor_generator(batch.size, maps)
    logits = outputs["cls_logits"][0]
    if isinstance(model, SSD):
        scores, labels = logits.softmax(1)[:, 1:].max(1)
        labels = labels + 1
    else:
        scores, labels = logits.sigmoid().max(1)
    squares = "bbox_ctrness" in outputs
    if squares:
        scores = (scores * outputs["bbox_ctrness"][0, :, 0].sigmoid()).sqrt()
    placed = _placed(model.transform, batch, image)
    counts = [len(level) for level in anchors]
    parts = zip(
        anchors,
        model.decoded(outputs, anchors)[0].split(counts),
        scores.split(counts),
        labels.split(counts),
        maps,
        strict=True,
    )
    levels = tuple(_level(image, *part, batch.size, placed) for part in parts)
    return Predictions(levels, SQUARES if squares else ANCHORS)


def _two_stage(model: TwoStageDetector, image: Tensor) -> Predictions:
    batch, _ = model.transform([image])
    features = model.backbone(batch.tensors)
    rpn, size = model.rpn, batch.image_sizes[0]
    logits, codes, anchors = rpn._said(batch, features)
    placed = _placed(model.transform, batch, image)
    levels = tuple(
        _level(
            image,
            some,
            rpn.box_coder.decode(differences[0], some),
            likely[0].sigmoid(),
            torch.zeros_like(likely[0], dtype=torch.int64),
            maps,
            batch.size,
            placed,
        )
        for some, differences, likely, maps in zip(anchors, codes, logits, features.values(), strict=True)
    )
    boxes, scores, ranks = (each[0] for each in rpn._likeliest(logits, codes, anchors))
    boxes = ops.clip_boxes(boxes, size)
    chosen = rpn._chosen(boxes, scores).nonzero().flatten()
    chosen = chosen[scores[chosen].argsort(descending=True, stable=True)]
    proposals = Proposals(
        placed(boxes[chosen]), scores[chosen].cpu(), ranks[chosen].cpu(), rpn.nms_thresh, rpn.post_nms_top_n[False]
    )
    return Predictions(levels, ANCHORS, proposals)


def _heat(model: CenterNet, image: Tensor) -> Predictions:
    maps: Any = model.maps(model.batch([image]))
    logits = maps["heat"]
    (height, width), device = logits.shape[2:], logits.device
    most, classes = logits[0].max(0)
    rows, columns = torch.meshgrid(
        torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij"
    )
    places = torch.stack([columns, rows], -1)
    _, around = nn.functional.max_pool2d(logits, 3, 1, 1, return_indices=True)
    higher = around[0].gather(0, classes[None])[0]
    highest = logits[0].flatten(1)[classes.flatten(), higher.flatten()].reshape(height, width)
    higher = higher.masked_fill(highest == most, -1)  # equal neighbours are all peaks, although pooling returns one
    boxes = centers.boxes_of(maps["box"][0].permute(1, 2, 0), places, STRIDE)
    level = Level(
        (torch.cat([places, places + 1], -1) * float(STRIDE))[:, :, None].cpu(),
        _within(boxes, image)[:, :, None].cpu(),
        most.sigmoid()[:, :, None].cpu(),
        (classes + 1)[:, :, None].cpu(),
        (float(STRIDE), float(STRIDE)),
        higher.cpu(),
    )
    return Predictions((level,), HEAT)


def _placed(transform: Any, batch: Any, image: Tensor) -> Callable[[Tensor], Tensor]:
    """A function that maps boxes on the network's input to the picture, as the detector does with its results."""

    def placed(boxes: Tensor) -> Tensor:
        (found,) = transform.results([{"boxes": boxes.reshape(-1, 4)}], batch, [_size(image)])
        moved: Tensor = found["boxes"].reshape(boxes.shape).cpu()
        return moved

    return placed


def _size(image: Tensor) -> tuple[int, int]:
    return image.shape[-2], image.shape[-1]


def _within(boxes: Tensor, image: Tensor) -> Tensor:
    return ops.clip_boxes(boxes.reshape(-1, 4), _size(image)).reshape(boxes.shape)


def _level(
    image: Tensor,
    anchors: Tensor,
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    maps: Tensor,
    batch: tuple[int, int],
    placed: Callable[[Tensor], Tensor],
) -> Level:
    height, width = maps.shape[-2:]
    shape = (height, width, len(anchors) // (height * width))
    whole = placed(torch.tensor([[0.0, 0.0, batch[1] / width, batch[0] / height]]))[0]
    return Level(
        placed(anchors.to(boxes.dtype)).reshape(*shape, 4),
        _within(placed(boxes), image).reshape(*shape, 4),
        scores.reshape(shape).cpu(),
        labels.reshape(shape).cpu(),
        (float(whole[3]), float(whole[2])),
    )


def at(predicted: Predictions, level: int, row: int, column: int) -> dict[str, Any]:
    """The predictions at one position: each reference box with its score, class and predicted box."""
    found = predicted.levels[level]
    told: dict[str, Any] = {
        "level": level,
        "at": [row, column],
        "boxes": [
            {"reference": reference, "box": box, "score": score, "label": label}
            for reference, box, score, label in zip(
                *(each[row, column].tolist() for each in (found.references, found.boxes, found.scores, found.labels)),
                strict=True,
            )
        ],
    }
    if found.higher is not None:
        over = int(found.higher[row, column])
        width = found.higher.shape[1]
        told["higher"] = None if over < 0 else [over // width, over % width]
    return told


def heats(levels: Iterable[Level]) -> dict[str, Tensor]:
    """The heat of each level, by the name that the page uses."""
    return {f"heat{number}": level.heat[None] for number, level in enumerate(levels)}
