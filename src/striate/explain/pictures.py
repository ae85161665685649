"""Pictures in 0..1, and their conversion to a network's input."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from striate.analysis.probing import Prepare
from striate.errors import ExplainError
from striate.explain.arguments import kind_of
from striate.explain.inputs import at_home, home_of


def check_picture(picture: Tensor) -> None:
    """Checks that this is a picture (C, H, W) in 0..1.

    Raises:
        ExplainError: it isn't.
    """
    if picture.dim() != 3 or 0 in picture.shape or not picture.is_floating_point():
        remedy = "" if picture.is_floating_point() else "picture / 255"
        raise ExplainError("picture", f"got {kind_of(picture)}", "needed floats (C, H, W) in 0..1", remedy)
    low, high = float(picture.min()), float(picture.max())
    if not 0 <= low <= high <= 1:
        raise ExplainError("picture", f"got numbers from {low:.3g} to {high:.3g}", "needed 0..1", "prepare normalises")


def prepared(model: torch.nn.Module, pictures: Tensor, prepare: Prepare | None) -> Any:
    """Pictures (N, C, H, W) in 0..1 as the network's input, in its dtype, on its device; differentiable.

    What ``prepare`` gives may be all inputs of a network that takes several: a tuple, or a dict of keywords.

    Raises:
        ExplainError: a ``prepare`` that can't take these pictures.
    """
    home = home_of(model)
    pictures = pictures if home is None else pictures.to(home.device)
    try:
        made: Any = pictures if prepare is None else prepare(pictures)
    except Exception as error:  # it is the caller's function, and may raise anything
        got = f"can't take {kind_of(pictures)} ({type(error).__name__}: {str(error).partition(chr(10))[0]})"
        raise ExplainError("prepare", got, "needed a function of pictures (N, C, H, W) in 0..1") from error
    if not isinstance(made, Tensor | tuple | Mapping):
        raise ExplainError(
            "prepare", f"gave {kind_of(made)}", "needed the network's input: a tensor, a tuple or a dict"
        )
    return at_home(made, home)
