"""How often a classifier gives an image the same class wherever it is moved."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from striate.analysis.probing import Prepare, evaluating, images_of, logits_of
from striate.analysis.shifts import CircularBorders, shifted
from striate.errors import AnalysisError


@dataclass(frozen=True)
class ShiftConsistency:
    """The probability that two random shifts of one image get the same class.

    Args:
        model: the network's class.
        borders: ``"circular"`` or ``"zeros"``.
        images: how many.
        shifts: among how many shifts the two are drawn, independently and each as likely as the others.
        value: the probability, 0 to 1, mean over images.
        standard_error: of ``value``, through the drawing of shifts; 0 where all were computed.
        pairs: of shifts drawn; 0 where all were computed.
    """

    model: str
    borders: str
    images: int
    shifts: int
    value: float
    standard_error: float
    pairs: int

    def to_dict(self) -> dict[str, Any]:
        """All fields, for JSON."""
        return vars(self).copy()


def shift_consistency(
    model: torch.nn.Module,
    images: Tensor,
    max_shift: int | None = None,
    *,
    borders: str = "circular",
    pairs: int | None = None,
    seed: int = 0,
    prepare: Prepare | None = None,
) -> ShiftConsistency:
    """The probability that a classifier gives two random shifts of an image the same class.

    Args:
        model: a classifier, (N, C, H, W) to (N, K); it is left as it is.
        images: (N, C, H, W).
        max_shift: pixels in both directions along both axes; None for all shifts of the circle.
        borders: ``"circular"``: images are rolled, and paddings in the network take the other end of the map;
            ``"zeros"``: zeros come in, and the network stays as it is.
        pairs: how many pairs of shifts to draw, all images moved alike; None computes all shifts, for the exact value.
        seed: of the drawing.
        prepare: what the network gets of the moved images; the images themselves by default.

    Raises:
        AnalysisError: images that don't fit, a shift out of range.

    Source: Zhang, "Making convolutional networks shift-invariant again" (2019), section 4.1, whose shifts are crops.

    >>> flat = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 5))
    >>> shift_consistency(flat, torch.rand(4, 3, 6, 6)).value
    1.0
    """
    source = images_of(images, seed)
    height, width = source.shape[2:]
    circular = borders == "circular"
    if borders not in ("circular", "zeros"):
        raise AnalysisError("borders", f"got {borders!r}", "needed 'circular' or 'zeros'")
    if max_shift is None and not circular:
        raise AnalysisError("max_shift", "got none", "needed a number of pixels where borders are zeros")
    if max_shift is not None and not 0 <= max_shift < min(height, width):
        raise AnalysisError("max_shift", f"got {max_shift}", f"needed 0 to {min(height, width) - 1} pixels")
    if pairs is not None and pairs < 2:
        raise AnalysisError("pairs", f"got {pairs}", "needed 2 or more, or None for all shifts")
    if max_shift is None:
        places = [(dy, dx) for dy in range(height) for dx in range(width)]
    else:
        reach = range(-max_shift, max_shift + 1)
        places = [(dy, dx) for dy in reach for dx in reach]

    def classes(place: tuple[int, int]) -> Tensor:
        moved = shifted(source, place, circular=(circular,) * 2)
        with CircularBorders() if circular else nullcontext():
            return logits_of(model, moved if prepare is None else prepare(moved)).argmax(1)

    with evaluating(model), torch.no_grad():
        if pairs is None:
            given = torch.stack([classes(place) for place in places], 1)
            # Where class k comes from n_k of S shifts, two drawn ones agree with probability sum (n_k / S)^2.
            shares = [row.unique(return_counts=True)[1].double() / len(places) for row in given]
            value, error = float(torch.stack([share.square().sum() for share in shares]).mean()), 0.0
        else:
            agreed = [float((classes(a) == classes(b)).double().mean()) for a, b in _drawn(places, pairs, seed)]
            found = torch.tensor(agreed, dtype=torch.float64)
            value, error = float(found.mean()), float(found.std()) / math.sqrt(pairs)
    return ShiftConsistency(type(model).__name__, borders, len(source), len(places), value, error, pairs or 0)


def _drawn(places: list[tuple[int, int]], pairs: int, seed: int) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    generator = torch.Generator().manual_seed(seed)
    for a, b in torch.randint(len(places), (pairs, 2), generator=generator).tolist():
        yield places[a], places[b]
