"""Maps at another size, as feature pyramids and segmentation heads need them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import torch.nn.functional as F
from torch import Tensor

from striate.errors import GeometryError, OperandError
from striate.ops._calls import check_tensor, overridable

Mode = Literal["nearest", "nearest-exact", "linear", "bilinear", "trilinear", "bicubic", "area"]

#: The axes that a mode goes over; None: any number.
_MODES: Final[dict[str, int | None]] = {
    "nearest": None,
    "nearest-exact": None,
    "area": None,
    "linear": 1,
    "bilinear": 2,
    "bicubic": 2,
    "trilinear": 3,
}


@overridable
def interpolate(
    input: Tensor,
    size: int | Sequence[int] | None = None,
    scale_factor: float | Sequence[float] | None = None,
    mode: Mode = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Tensor:
    """Maps resampled to a size, or by a factor: :func:`torch.nn.functional.interpolate` with readable errors.

    Args:
        input: (N, C, L), (N, C, H, W) or (N, C, D, H, W).
        size: of the result, one number or one an axis.
        scale_factor: instead of a size; sizes are rounded down.
        mode: ``"nearest"`` takes input floor(o * scale) for output o, ``"bilinear"`` weights the two nearest along each
            axis; the others as in PyTorch.
        align_corners: of the linear modes, whether the centres of corner pixels stay where they are (else the edges).
        recompute_scale_factor, antialias: as in PyTorch.

    Returns:
        (N, C, ...) of that size.

    Raises:
        GeometryError: neither or both of size and factor, a mode that doesn't exist for this number of axes.
        OperandError: an input of another rank.

    >>> import torch
    >>> interpolate(torch.tensor([[[1.0, 2.0]]]), scale_factor=2)
    tensor([[[1., 1., 2., 2.]]])
    """
    check_tensor("interpolate", "input", input)
    axes = input.dim() - 2
    if not 1 <= axes <= 3:
        raise OperandError("interpolate", f"got an input of shape {tuple(input.shape)}", "needed (N, C, H, W)")
    if (size is None) == (scale_factor is None):
        got = "got neither size nor scale_factor" if size is None else "got size and scale_factor"
        raise GeometryError("interpolate", got, "needed one of them")
    if mode not in _MODES or _MODES[mode] not in (None, axes):
        fitting = [name for name, count in _MODES.items() if count in (None, axes)]
        raise GeometryError("interpolate", f"got mode {mode!r}", f"needed one of {', '.join(fitting)}")
    for name, given in (("size", size), ("scale_factor", scale_factor)):
        if isinstance(given, Sequence) and len(given) != axes:
            raise GeometryError("interpolate", f"got {name} {tuple(given)}", f"needed {axes} numbers or one")
    return F.interpolate(input, size, scale_factor, mode, align_corners, recompute_scale_factor, antialias)
