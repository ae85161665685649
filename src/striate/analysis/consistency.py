"""How often a classifier gives an image the same class wherever it is moved."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from striate.analysis import arguments
from striate.analysis.probing import Images, Prepare, Subject, evaluating, generator, maps_of
from striate.analysis.shifts import CircularBorders, shifted
from striate.errors import AnalysisError


@dataclass(frozen=True)
class ShiftConsistency:
    """The probability that two random shifts of one image get the same class.

    Args:
        model: the network's name, its class by default.
        borders: ``"circular"`` or ``"zeros"``.
        images: number of images.
        shifts: number of shifts from which the two are drawn, independently and with equal probability.
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
    images: Images,
    max_shift: int | None = None,
    *,
    borders: str = "circular",
    pairs: int | None = None,
    seed: int = 0,
    input: str | int | None = None,
    prepare: Prepare | None = None,
    name: str | None = None,
) -> ShiftConsistency:
    """The probability that a classifier gives two random shifts of an image the same class.

    Args:
        model: a classifier, (N, C, H, W) to (N, K); it is left as it is.
        images: (N, C, H, W), among other inputs as a list or a dictionary; or a size, for eight images of normal noise.
        max_shift: pixels in both directions along both axes; None for all shifts of the circle.
        borders: ``"circular"``: images are rolled, and paddings in the network take the other end of the map;
            ``"zeros"``: zeros come in, and the network stays as it is.
        pairs: how many pairs of shifts to draw, all images moved alike; None computes all shifts, for the exact value.
        seed: of the drawing, and of noise.
        input: which input the images are, by its name or number; by default the first with axes to look along.
        prepare: from moved images to the network's input; by default the images themselves.
        name: of the network, for tables and pictures; its class by default.

    Raises:
        AnalysisError: images that don't fit, a shift out of range.

    Source: Zhang, "Making convolutional networks shift-invariant again" (2019), section 4.1, whose shifts are crops.

    >>> flat = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 5))
    >>> shift_consistency(flat, torch.rand(4, 3, 6, 6)).value
    1.0
    """
    subject = Subject(model, images, input=input, prepare=prepare, name=name, seed=seed)
    source = maps_of(subject)
    height, width = source.shape[2:]
    circular = arguments.word("borders", borders, ("circular", "zeros")) == "circular"
    if max_shift is None and not circular:
        raise AnalysisError("max_shift", "got none", "needed a number of pixels where borders are zeros")
    if pairs is not None:
        pairs = arguments.whole("pairs", pairs, 2)
    if max_shift is None:
        places = [(dy, dx) for dy in range(height) for dx in range(width)]
    else:
        most = arguments.whole("max_shift", max_shift, 0, min(height, width) - 1)
        reach = range(-most, most + 1)
        places = [(dy, dx) for dy in reach for dx in reach]

    def classes(place: tuple[int, int]) -> Tensor:
        moved = shifted(source, place, circular=(circular,) * 2)
        with CircularBorders() if circular else nullcontext():
            return subject.logits(moved).argmax(1)

    with evaluating(subject.model), torch.no_grad():
        if pairs is None:
            given = torch.stack([classes(place) for place in places], 1)
            # Where class k comes from n_k of S shifts, two drawn ones agree with probability sum (n_k / S)^2.
            shares = [row.unique(return_counts=True)[1].double() / len(places) for row in given]
            value, error = float(torch.stack([share.square().sum() for share in shares]).mean()), 0.0
        else:
            agreed = [float((classes(a) == classes(b)).double().mean()) for a, b in _drawn(places, pairs, seed)]
            found = torch.tensor(agreed, dtype=torch.float64)
            value, error = float(found.mean()), float(found.std()) / math.sqrt(pairs)
    return ShiftConsistency(subject.name, borders, len(source), len(places), value, error, pairs or 0)


def _drawn(places: list[tuple[int, int]], pairs: int, seed: int) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    for a, b in torch.randint(len(places), (pairs, 2), generator=generator(seed)).tolist():
        yield places[a], places[b]
