"""A tiny network for each task but classification: what trains in seconds, here and in processes that tests start."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor

from striate import models

#: Tasks, and their networks.
NETWORKS: Final = {"detection": "tiny_detector", "instance": "tiny_outliner", "semantic": "tiny_mapper"}
SOURCE: Final = "scenes:32,24,6"


class Detector(torch.nn.Module):
    """One box a picture, of the class that its mean brightness says: the contract of detectors, and nothing else."""

    input_size = (32, 32)
    dense = ("backbone",)
    masks = False

    def __init__(self, num_classes: int = 11, in_channels: int = 3) -> None:
        super().__init__()
        self.backbone = torch.nn.Sequential(
            torch.nn.Conv2d(in_channels, 8, 3, 2, 1), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(2)
        )
        self.head = torch.nn.Linear(32, num_classes + 4)

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None) -> Any:
        assert all(image.min() >= 0 and image.max() <= 1 for image in images)
        outputs = torch.stack([self.head(self.backbone(image[None]).flatten()) for image in images])
        scores, boxes = outputs[:, :-4], outputs[:, -4:].sigmoid()
        if targets is None:
            return [self.result(*each) for each in zip(images, scores.softmax(1), boxes, strict=True)]
        firsts = [target["labels"][0] if len(target["labels"]) else torch.tensor(0) for target in targets]
        wanted = [target["boxes"][:1].mean(0) / 32 if len(target["boxes"]) else torch.zeros(4) for target in targets]
        return {
            "classifier": torch.nn.functional.cross_entropy(scores, torch.stack(firsts)),
            "box": (boxes - torch.stack(wanted)).abs().mean(),
        }

    def result(self, image: Tensor, scores: Tensor, box: Tensor) -> dict[str, Tensor]:
        height, width = image.shape[-2:]
        low, high = box[:2] * 0.4, 0.6 + box[2:] * 0.4
        corners = torch.cat([low, high]) * torch.tensor([width, height, width, height])
        found = {"boxes": corners[None], "labels": scores[1:].argmax()[None] + 1, "scores": scores[1:].max()[None]}
        return found | ({"masks": torch.ones(1, 1, height, width)} if self.masks else {})


class Outliner(Detector):
    masks = True


class Mapper(torch.nn.Module):
    """A class for each pixel by one convolution, with an auxiliary head."""

    input_size = (32, 32)

    def __init__(self, num_classes: int = 11, in_channels: int = 3) -> None:
        super().__init__()
        self.backbone = torch.nn.Conv2d(in_channels, 8, 3, padding=1)
        self.head = torch.nn.Conv2d(8, num_classes, 1)
        self.extra = torch.nn.Conv2d(8, num_classes, 1)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        maps = self.backbone(images).relu()
        return {"out": self.head(maps), **({"aux": self.extra(maps)} if self.training else {})}


def register() -> None:
    """Makes the networks known by their names."""
    builders: dict[str, type[torch.nn.Module]] = {"detection": Detector, "instance": Outliner, "semantic": Mapper}
    for task, name in NETWORKS.items():
        models.register(builders[task], name, "For tests.", task)


def forget() -> None:
    """Forgets these names alone: networks that a test has imported stay registered."""
    for name in NETWORKS.values():
        del models.registry._ENTRIES[name]
