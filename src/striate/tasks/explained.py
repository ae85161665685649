"""Networks that find objects or classes of pixels, as networks with one score for each class: what explanations ask.

An explanation answers why a score is as high as it is. Of a detector the score of a class is that of the place which is
surest of it; of a segmentation network it is the mean score over the pixels that are taken for the class.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from striate.errors import RunError
from striate.models.dense import called_by


def object_scores(model: torch.nn.Module) -> torch.nn.Module:
    """A detector's layers under the same names, from pictures (N, C, H, W) of values from 0 to 1 to scores (N, K).

    Args:
        model: a detector with a method ``class_scores``, which gives the score of each class at its surest place.

    Raises:
        RunError: a detector whose scores belong to proposals, which depend on the picture themselves.
    """
    scores = getattr(type(model), "class_scores", None)
    if scores is None:
        got = f"{type(model).__name__} scores proposals, not places"
        raise RunError(
            "explain", got, "needed a detector that scores every place", "as centernet_small or ssd300_vgg16"
        )
    return called_by(model, scores)


def pixel_scores(model: torch.nn.Module) -> torch.nn.Module:
    """A segmentation network's layers under the same names, from (N, C, H, W) to scores (N, K).

    A class that no pixel is taken for has the score of the pixel that is nearest to it.
    """
    whole = type(model).forward

    def forward(self: Any, images: Tensor) -> Tensor:
        outputs: Mapping[str, Tensor] = whole(self, images)
        scores = outputs["out"].flatten(2)
        best = scores.argmax(1, keepdim=True)
        taken = (best == torch.arange(scores.shape[1], device=best.device)[:, None]).to(scores.dtype)
        count = taken.sum(2)
        mean = (scores * taken).sum(2) / count.clamp(min=1)
        return torch.where(count > 0, mean, scores.amax(2))

    return called_by(model, forward)


def map_scores(model: torch.nn.Module) -> torch.nn.Module:
    """A segmentation network's layers under the same names, from (N, C, H, W) to scores (N, K, H, W) alone."""
    whole = type(model).forward

    def forward(self: Any, images: Tensor) -> Tensor:
        outputs: Mapping[str, Tensor] = whole(self, images)
        return outputs["out"]

    return called_by(model, forward)
