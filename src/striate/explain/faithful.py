"""Faithfulness of a map: does the network really use what it marks? Measured by deletion, and against known boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from striate.errors import ExplainError
from striate.explain.arguments import checked, kind_of
from striate.explain.inputs import Input
from striate.explain.result import Explanation
from striate.explain.subject import Subject, asking, in_batches
from striate.explain.targets import Target

#: Deviation of the blur that insertion begins with, as a share of the side: Petsiuk et al. take 5 for 224 pixels. Of
#: small images so weak a blur hides nothing: there it is 3 pixels, or an eighth of the side.
_BLUR: Final = 5 / 224
_SMALL: Final = 3.0
_CELLS: Final = 8


@dataclass(frozen=True)
class Curves:
    """The score while the strongest pixels are removed, or inserted, first; one row for each image.

    Args:
        shares: of the pixels, from 0 to 1.
        deletion: the score if this share is replaced by the fill; low is good.
        insertion: the score if only this share is sharp; high is good.
    """

    shares: tuple[float, ...]
    deletion: tuple[tuple[float, ...], ...]
    insertion: tuple[tuple[float, ...], ...]

    @property
    def deletion_auc(self) -> tuple[float, ...]:
        """Area under each image's deletion curve, by trapezoids."""
        return tuple(self._area(curve) for curve in self.deletion)

    @property
    def insertion_auc(self) -> tuple[float, ...]:
        """Area under each image's insertion curve, by trapezoids."""
        return tuple(self._area(curve) for curve in self.insertion)

    def _area(self, curve: tuple[float, ...]) -> float:
        return float(torch.trapezoid(torch.tensor(curve).double(), torch.tensor(self.shares).double()))

    def to_dict(self) -> dict[str, Any]:
        """The curves and their areas, for JSON."""
        return {
            "shares": list(self.shares),
            "deletion": [list(curve) for curve in self.deletion],
            "insertion": [list(curve) for curve in self.insertion],
            "deletion_auc": list(self.deletion_auc),
            "insertion_auc": list(self.insertion_auc),
        }


@checked
def deletion_insertion(
    model: torch.nn.Module,
    image: Input,
    map_: Tensor,
    target: Target = None,
    *,
    steps: int = 32,
    fill: float = 0.0,
    batch_size: int = 32,
) -> Curves:
    """The effect of deleting or inserting pixels in a map's order on the score (a probability or a target function).

    Args:
        model: any network; it is left as it is.
        image: (C, H, W) or (N, C, H, W), as explained.
        map_: (N, H, W); pixels with the largest numbers come first, equal ones in the order of rows.
        target: as for :func:`striate.explain.saliency`.
        steps: equal shares of pixels.
        fill: the value of deleted pixels. Insertion begins with the image under a Gaussian blur.
        batch_size: altered images computed at once.

    Raises:
        ExplainError: a map that isn't the images'.

    Source: Petsiuk, Das & Saenko, "RISE: randomized input sampling for explanation of black-box models" (2018), section
    4.1.

    >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2))
    >>> deletion_insertion(network, torch.rand(1, 4, 4), torch.rand(1, 4, 4), steps=4).shares
    (0.0, 0.25, 0.5, 0.75, 1.0)
    """
    if steps < 1:
        raise ExplainError("steps", f"got {steps}", "needed 1 or more")
    with asking(model, image, target) as subject:
        images = subject.images
        order = _places(subject, map_).argsort(dim=1, descending=True, stable=True)
        rank = torch.empty_like(order).scatter_(1, order, torch.arange(order.shape[1]).expand_as(order))
        rank = rank.view(len(images), 1, *images.shape[2:]).to(images.device)
        counts = torch.linspace(0, order.shape[1], steps + 1).round().long().to(images.device)
        starts = {"deletion": torch.full_like(images, subject.fill(fill)), "insertion": _blurred(images)}
        curves = {}
        for name, start in starts.items():
            scores = torch.empty(len(images) * (steps + 1), dtype=torch.float64)
            for part in in_batches(len(scores), batch_size, name):
                which, step = (part // (steps + 1)).to(images.device), (part % (steps + 1)).to(images.device)
                first = rank[which] < counts[step].view(-1, 1, 1, 1)
                sharp = ~first if name == "deletion" else first
                altered = torch.where(sharp, images[which], start[which])
                scores[part] = subject.scores(altered, which, probabilities=True).cpu()
            curves[name] = tuple(map(tuple, scores.view(len(images), -1).tolist()))
        shares = tuple((counts / order.shape[1]).tolist())
        return Curves(shares, curves["deletion"], curves["insertion"])


@checked
def faithfulness(
    model: torch.nn.Module,
    image: Input,
    map_: Tensor,
    target: Target = None,
    *,
    subsets: int = 64,
    fill: float = 0.0,
    seed: int = 0,
    batch_size: int = 32,
) -> tuple[float, ...]:
    """How well a map predicts the fall of the score when parts are covered: a correlation, -1 to 1, for each image.

    It is Pearson's correlation between the map's sum over the covered cells and the fall of the score, over random
    quarters of an 8x8 grid of cells; 0 if either doesn't vary. Arguments are those of :func:`deletion_insertion`, and:

    Args:
        subsets: how many sets of cells are covered, one after the other.
        seed: of the sets.

    Source: Bhatt, Weller & Moura, "Evaluating and aggregating feature-based model explanations" (2020), definition 2,
    with cells for features.

    >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(256, 1)).double()
    >>> picture = torch.rand(1, 16, 16, dtype=torch.float64)
    >>> shares = (network[1].weight * picture.flatten()).view(1, 16, 16)
    >>> [round(each, 6) for each in faithfulness(network, picture, shares, target=0)]
    [1.0]
    """
    if subsets < 2:
        raise ExplainError("subsets", f"got {subsets}", "needed 2 or more")
    with asking(model, image, target) as subject:
        images = subject.images
        places = _places(subject, map_).double().to(images.device)
        generator = torch.Generator().manual_seed(seed)
        order = torch.rand(subsets, _CELLS**2, generator=generator).argsort(1)
        cells = (order < _CELLS**2 // 4).float().view(subsets, 1, _CELLS, _CELLS)
        covered = F.interpolate(cells, images.shape[2:], mode="nearest")[:, 0].bool().to(images.device)
        told = places @ covered.flatten(1).double().T
        falls = torch.empty(len(images) * subsets, dtype=torch.float64, device=images.device)
        before, fill = subject.scores(images, torch.arange(len(images))), subject.fill(fill)
        for part in in_batches(len(falls), batch_size, "faithfulness"):
            part = part.to(images.device)
            which = part // subsets
            altered = images[which].masked_fill(covered[part % subsets][:, None], fill)
            falls[part] = before[which] - subject.scores(altered, which)
        both = zip(told, falls.view(len(images), subsets), strict=True)
        return tuple(float(torch.corrcoef(torch.stack(pair))[0, 1].nan_to_num(0.0)) for pair in both)


@checked
def pointing_game(
    explanation: Explanation, boxes: Sequence[Sequence[float]] | Tensor, *, tolerance: float = 0.0
) -> tuple[bool, ...]:
    """Whether each map's strongest pixel lies in its image's box.

    Args:
        explanation: of N images.
        boxes: one an image, (left, top, right, bottom): columns from left up to and without right, rows likewise.
        tolerance: pixels beyond the box that count as well; 15 in the source.

    Returns:
        One answer an image; False where a map is zero. Their mean is the pointing game's accuracy.

    Raises:
        ExplainError: another number of boxes, or one that isn't four numbers.

    Source: Zhang, Bargal, Lin, Brandt, Shen & Sclaroff, "Top-down neural attention by excitation backprop" (2016),
    section 4.1.
    """
    if not isinstance(explanation, Explanation):
        raise ExplainError("explanation", f"got {kind_of(explanation)}", "needed what a method gives")
    try:
        frames = torch.as_tensor(boxes, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        needed = f"needed ({len(explanation)}, 4), left, top, right, bottom an image"
        raise ExplainError("boxes", f"got {kind_of(boxes)} ({error})", needed) from error
    if frames.shape != (len(explanation), 4):
        raise ExplainError(
            "boxes", f"got {tuple(frames.shape)}", f"needed ({len(explanation)}, 4), left, top, right, bottom an image"
        )
    width = explanation.map.shape[2]
    found = []
    for numbers, (left, top, right, bottom) in zip(explanation.map, frames.tolist(), strict=True):
        row, column = divmod(int(numbers.argmax()), width)
        inside = left - tolerance <= column < right + tolerance and top - tolerance <= row < bottom + tolerance
        found.append(inside and bool(numbers.any()))
    return tuple(found)


def _places(subject: Subject, map_: Tensor) -> Tensor:
    """A map as (N, H * W)."""
    count, _, height, width = subject.images.shape
    if map_.shape != (count, height, width):
        raise ExplainError("map", f"got {tuple(map_.shape)}", f"needed {(count, height, width)}, the images'")
    if not bool(map_.isfinite().all()):
        raise ExplainError("map", "got NaN or infinite numbers", "needed finite ones")
    return map_.detach().cpu().flatten(1)


def _blurred(images: Tensor) -> Tensor:
    """Under a Gaussian along each axis, to twice its deviation; edges repeat."""
    blurred = images.double()
    for dim in (2, 3):
        side = images.shape[dim]
        sigma = max(_BLUR * side, min(_SMALL, side / 8))
        reach = min(round(2 * sigma), side - 1)
        taps = torch.exp(-(torch.arange(-reach, reach + 1, device=images.device).double() ** 2) / (2 * sigma**2))
        shape = [1, 1, 1, 1]
        shape[dim] = len(taps)
        kernel = (taps / taps.sum()).view(shape).expand(images.shape[1], 1, *shape[2:])
        frame = (0, 0, reach, reach) if dim == 2 else (reach, reach, 0, 0)
        blurred = F.conv2d(F.pad(blurred, frame, mode="replicate"), kernel, groups=images.shape[1])
    return blurred.to(images)
