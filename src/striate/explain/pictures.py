"""Pictures in 0..1, and the network's input that is made of them."""

from __future__ import annotations

import torch
from torch import Tensor

from striate.analysis.probing import Prepare
from striate.errors import ExplainError


def check_picture(picture: Tensor) -> None:
    """Lets a picture (C, H, W) in 0..1 pass.

    Raises:
        ExplainError: anything else.
    """
    shape = "x".join(map(str, picture.shape))
    if picture.dim() != 3 or 0 in picture.shape or not picture.is_floating_point():
        kind = str(picture.dtype).removeprefix("torch.")
        raise ExplainError("picture", f"got {kind} of {shape}", "needed floats (C, H, W) in 0..1")
    low, high = float(picture.min()), float(picture.max())
    if not 0 <= low <= high <= 1:
        raise ExplainError("picture", f"got numbers from {low:.3g} to {high:.3g}", "needed 0..1", "prepare normalises")


def prepared(model: torch.nn.Module, pictures: Tensor, prepare: Prepare | None) -> Tensor:
    """Pictures (N, C, H, W) in 0..1 as the network's input, in its dtype, on its device; differentiable."""
    like = next((p for p in model.parameters() if p.is_floating_point()), pictures)
    pictures = pictures.to(like.device)
    return (pictures if prepare is None else prepare(pictures)).to(like.dtype)
