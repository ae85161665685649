"""Finds the image sizes that a network takes, by tracing it without computing anything."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from striate.errors import AnalysisError, RunError

if TYPE_CHECKING:
    import torch

#: Number of neighbouring sizes that are tried before larger steps.
_BESIDE: Final = 4
#: Strides that a network's sides may have to be multiples of.
_STEPS: Final = (2, 4, 8, 16, 32, 64)
#: Sides that stand for all that are larger.
_LARGE: Final = 4


def check_size(network: torch.nn.Module, name: str, shape: tuple[int, int, int], own: tuple[int, int]) -> None:
    """Refuses images that a network doesn't take; the one-line error names sizes that it does take.

    Args:
        network: any network.
        name: what the user calls it.
        shape: (C, H, W) that was asked for.
        own: height and width that the network was made for.

    Raises:
        RunError: the network takes images of its own size, but none of this one.
    """
    if _takes(network, shape) or not _takes(network, (shape[0], *own)):
        return  # a network that can't be traced at all reports its own error later
    got, kept = ("x".join(map(str, each)) for each in (shape, (shape[0], *own)))
    raise RunError("--size", f"got {got}", f"{name} takes {_sides(network, shape[0], own)}", f"such as {kept}")


def _sides(network: torch.nn.Module, channels: int, own: tuple[int, int]) -> str:
    """In words, the square images around its own size that a network takes."""
    middle = own[0]
    if own[0] != own[1]:
        return "images of " + "x".join(map(str, own))

    def takes(side: int) -> bool:
        return _takes(network, (channels, side, side))

    if not takes(middle - 1) and not takes(middle + 1):
        for step in _STEPS:
            if middle % step == 0 and takes(middle - step) and takes(middle + step):
                return f"height and width that are multiples of {step}"
    least = _edge(takes, middle, 1)
    most = _edge(takes, middle, _LARGE * middle)
    if least == most:
        return f"height and width of {middle}"
    if most == _LARGE * middle:
        return f"height and width of {least} or more"
    return f"height and width of {least} to {most}"


def _edge(takes: Callable[[int], bool], inside: int, far: int) -> int:
    """The last side from ``inside`` towards ``far`` that is taken, if those that are lie together."""
    step = 1 if far > inside else -1
    for side in range(inside + step, inside + step * (_BESIDE + 1), step):
        if (far - side) * step < 0:
            return far
        if not takes(side):
            return side - step
    if takes(far):
        return far
    known, beyond = inside + step * _BESIDE, far
    while abs(beyond - known) > 1:
        between = (known + beyond) // 2
        known, beyond = (between, beyond) if takes(between) else (known, between)
    return known


def _takes(network: torch.nn.Module, shape: tuple[int, int, int]) -> bool:
    from striate.analysis.trace import trace

    try:
        trace(network, shape)
    except AnalysisError:
        return False
    return True
