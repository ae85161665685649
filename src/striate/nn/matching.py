"""Training targets of detectors: which box each anchor is matched with, how it differs, and which anchors count.

Source: Ren et al., "Faster R-CNN" (2015), section 3.1.2 (matching, sampling, parameters of boxes); Girshick et al.,
"Rich feature hierarchies for accurate object detection" (2014), appendix C (the parameters).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

#: :class:`Matcher`'s numbers for anchors without a box, and for anchors that are left out of the loss.
BACKGROUND: Final = -1
BETWEEN: Final = -2
#: Sides of boxes count as at least this, in pixels, which keeps logarithms and quotients finite.
SMALLEST_SIDE: Final = 1e-3


@dataclass(frozen=True)
class BoxCoder:
    """Boxes as differences from anchors, and back: x and y in sides of the anchor, width and height as logarithms.

    Args:
        weights: factors for the differences in (x, y, width, height), so that they are of the same size in a loss.
        largest: the logarithm at which decoded sides are clamped.

    >>> coder, anchors = BoxCoder((10.0, 10.0, 5.0, 5.0)), torch.tensor([[0.0, 0.0, 10.0, 20.0]])
    >>> coder.encode(torch.tensor([[1.0, 0.0, 11.0, 20.0]]), anchors)
    tensor([[1., 0., 0., 0.]])
    """

    weights: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    largest: float = math.log(1000 / 16)

    def encode(self, boxes: Tensor, anchors: Tensor) -> Tensor:
        """The differences (..., 4) of ``boxes`` (..., 4) from ``anchors`` (..., 4).

        Sides count as at least :data:`SMALLEST_SIDE`, so that no difference is infinite.
        """
        (centre, side), (anchor_centre, anchor_side) = _centre_and_side(boxes), _centre_and_side(anchors)
        side, anchor_side = side.clamp(min=SMALLEST_SIDE), anchor_side.clamp(min=SMALLEST_SIDE)
        moved, grown = (centre - anchor_centre) / anchor_side, (side / anchor_side).log()
        return torch.cat([moved, grown], -1) * moved.new_tensor(self.weights)

    def decode(self, codes: Tensor, anchors: Tensor) -> Tensor:
        """The boxes (..., 4) that differ by ``codes`` (..., 4) from ``anchors`` (..., 4)."""
        moved, grown = (codes / codes.new_tensor(self.weights)).split(2, -1)
        anchor_centre, anchor_side = _centre_and_side(anchors.to(codes.dtype))
        centre = moved * anchor_side + anchor_centre
        half = grown.clamp(max=self.largest).exp() * anchor_side * 0.5
        return torch.cat([centre - half, centre + half], -1)


def _centre_and_side(boxes: Tensor) -> tuple[Tensor, Tensor]:
    first, last = boxes.split(2, -1)
    side = last - first
    return first + 0.5 * side, side


@dataclass(frozen=True)
class Matcher:
    """Matches every anchor with the box that it overlaps most, if the overlap is large enough.

    Args:
        high: overlaps from here on are matches.
        low: below this overlap, an anchor is background; between ``low`` and ``high`` it is neither.
        low_quality: for each box, the anchors that overlap it most count as matched, however small the overlap is.
            Such an anchor is matched with the box that it overlaps most, which may be another box.

    >>> matcher = Matcher(0.7, 0.3, low_quality=True)
    >>> matcher(torch.tensor([[0.8, 0.5, 0.1], [0.1, 0.4, 0.2]])).tolist()
    [0, 0, -1]
    """

    high: float
    low: float
    low_quality: bool = False

    def __call__(self, overlaps: Tensor) -> Tensor:
        """For each of A anchors the index of its box, :data:`BACKGROUND` or :data:`BETWEEN`, int64 (A,).

        Args:
            overlaps: of M boxes with A anchors, (M, A); M may be 0.
        """
        boxes, anchors = overlaps.shape
        if boxes == 0:
            return torch.full((anchors,), BACKGROUND, device=overlaps.device)
        best, matches = overlaps.max(0)
        wanted = best >= self.high
        if self.low_quality and anchors:
            largest = overlaps.amax(1, keepdim=True)
            wanted = wanted | ((overlaps == largest) & (largest > 0)).any(0)
        unmatched = torch.where(best < self.low, BACKGROUND, BETWEEN)
        return torch.where(wanted, matches, unmatched)


def matched(values: Tensor, matches: Tensor) -> Tensor:
    """For each anchor the entry of ``values`` (M, ...) for its box, zeros if it has none; (A, ...).

    >>> matched(torch.tensor([7, 8]), torch.tensor([1, BACKGROUND, BETWEEN, 0])).tolist()
    [8, 0, 0, 7]
    """
    # The row of zeros is the last, so BACKGROUND is its index, also where there are no boxes.
    return torch.cat([values, values.new_zeros(1, *values.shape[1:])])[matches.clamp(min=BACKGROUND)]


@dataclass(frozen=True)
class BalancedSampler:
    """Draws a number of anchors of one image, at most a share of them positive, by torch's global generator.

    Args:
        count: anchors to draw; fewer are drawn if there aren't enough.
        positive_fraction: the largest share of positive anchors; negative ones fill the rest.

    >>> positive, negative = BalancedSampler(4, 0.5)(torch.tensor([1, 0, 0, -1, 0, 0]))
    >>> len(positive), len(negative)
    (1, 3)
    """

    count: int
    positive_fraction: float

    def __call__(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Indices of the positive and of the negative ones that were drawn, in order, int64.

        Args:
            labels: (A,), above 0 for positive, 0 for negative, below 0 for anchors that are not drawn.
        """
        positive, negative = (labels > 0).nonzero().flatten(), (labels == 0).nonzero().flatten()
        some = min(len(positive), int(self.count * self.positive_fraction))
        rest = min(len(negative), self.count - some)
        return _draw(positive, some), _draw(negative, rest)


def _draw(indices: Tensor, count: int) -> Tensor:
    return indices[torch.randperm(len(indices), device=indices.device)[:count]].sort().values
