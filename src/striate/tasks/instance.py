"""A mask for each object: like :mod:`striate.tasks.detection`, with masks in losses, measures and pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Final

import torch
from torch import Tensor

from striate.data import Annotation, Detections
from striate.tasks.detection import Detection

#: A pixel belongs to an object from this probability on.
_INSIDE: Final = 0.5


@dataclass(frozen=True)
class Instance(Detection):
    """A mask and a class for each object."""

    name: ClassVar[str] = "instance"
    holds: ClassVar[str] = "masks"

    def target(self, truth: Annotation, device: torch.device) -> dict[str, Tensor]:
        assert truth.crowd is not None
        assert truth.masks is not None
        masks = truth.masks[~truth.crowd].to(device, torch.uint8)
        return {**super().target(truth, device), "masks": masks}

    def detections(self, result: Mapping[str, Tensor], size: tuple[int, int]) -> Detections:
        masks = (result["masks"].detach()[:, 0] >= _INSIDE).cpu()
        return replace(super().detections(result, size), masks=masks)
