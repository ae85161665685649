"""Pictures with objects and detections, drawn by a seed, with all that goes wrong in evaluations."""

from __future__ import annotations

import torch

from striate.data import Annotation, Detections


def made(
    seed: int, pictures: int, classes: int, *, masks: bool, size: tuple[int, int] = (150, 200), many: bool = False
) -> tuple[list[Annotation], list[Detections]]:
    """Objects of all sizes, some crowds; detections that are shifted, of other classes, of nothing, of equal scores."""
    draw = torch.Generator().manual_seed(seed)
    truths, guesses = [], []
    for _ in range(pictures):
        count = int(torch.randint(0, 7, (), generator=draw))
        boxes = _boxes(count, size, draw)
        labels = torch.randint(0, max(classes - 1, 1), (count,), generator=draw)  # the last class has no objects
        crowd = torch.rand(count, generator=draw) < 0.15
        outlines = _ellipses(boxes, size) if masks else None
        truths.append(Annotation(size, boxes, labels, crowd, outlines))
        near = boxes.repeat(3, 1)
        near = near + torch.randn(near.shape, generator=draw) * 4
        further = _boxes(130 if many else int(torch.randint(0, 4, (), generator=draw)), size, draw)
        guessed = torch.cat([near, further])
        guessed = torch.cat([guessed[:, :2], torch.maximum(guessed[:, 2:], guessed[:, :2] + 1)], 1)
        right = torch.cat([labels.repeat(3), torch.randint(0, classes, (len(further),), generator=draw)])
        wrong = torch.randint(0, classes, right.shape, generator=draw)
        said = torch.where(torch.rand(right.shape, generator=draw) < 0.2, wrong, right)
        kept = torch.rand(right.shape, generator=draw) < 0.6
        scores = torch.randint(1, 8, right.shape, generator=draw) / 8  # many ties
        found = Detections(size, guessed, said, scores, _ellipses(guessed, size) if masks else None)
        guesses.append(_select(found, kept))
    return truths, guesses


def _select(found: Detections, chosen: torch.Tensor) -> Detections:
    masks = None if found.masks is None else found.masks[chosen]
    return Detections(found.size, found.boxes[chosen], found.labels[chosen], found.scores[chosen], masks)


def _boxes(count: int, size: tuple[int, int], draw: torch.Generator) -> torch.Tensor:
    sides = torch.rand(count, 2, generator=draw) ** 2 * torch.tensor([size[1] - 6.0, size[0] - 6.0]) + 4
    corners = torch.rand(count, 2, generator=draw) * (torch.tensor([float(size[1]), float(size[0])]) - sides)
    return torch.cat([corners, corners + sides], 1).float()


def _ellipses(boxes: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    y = torch.arange(size[0])[:, None] + 0.5
    x = torch.arange(size[1])[None, :] + 0.5
    x0, y0, x1, y1 = (each[:, None, None] for each in boxes.unbind(1))
    return ((2 * x - x0 - x1) / (x1 - x0)) ** 2 + ((2 * y - y0 - y1) / (y1 - y0)) ** 2 < 1
