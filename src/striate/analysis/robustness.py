"""Accuracy of a classifier on images that are moved, turned, scaled, faded, covered, noisy or blurred."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from striate.analysis import arguments
from striate.analysis.arguments import Array
from striate.analysis.probing import Images, Prepare, Subject, evaluating, generator, labels_of, pixels_of
from striate.analysis.shifts import shifted
from striate.errors import AnalysisError


@dataclass(frozen=True)
class Disturbance:
    """A disturbance of images.

    Args:
        unit: of its strength.
        levels: default strengths.
        neutral: the strength that changes nothing.
        apply: from images (N, C, H, W) with pixels 0 to 1, a strength and a seed to disturbed images.
        least, most: range of valid strengths.
    """

    unit: str
    levels: tuple[float, ...]
    neutral: float
    apply: Callable[[Tensor, float, int], Tensor]
    least: float = -math.inf
    most: float = math.inf


@dataclass(frozen=True)
class RobustnessCurve:
    """Accuracy over the strength of one disturbance.

    Args:
        name: one of :data:`DISTURBANCES`.
        unit: of the levels.
        levels: strengths.
        accuracy: share of images whose class is right, 0 to 1, at each level.
        agreement: share of images whose predicted class is the same as without disturbance.
    """

    name: str
    unit: str
    levels: tuple[float, ...]
    accuracy: tuple[float, ...]
    agreement: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """All fields, for JSON."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in vars(self).items()}


@dataclass(frozen=True)
class Robustness:
    """Accuracy on undisturbed images, and the curves.

    Args:
        model: the network's name, its class by default.
        images: how many.
        accuracy: undisturbed, 0 to 1. The standard error of a share p over the images is sqrt(p (1 - p) / images).
        curves: one for each disturbance.
        seed: of what is drawn.
    """

    model: str
    images: int
    accuracy: float
    curves: tuple[RobustnessCurve, ...]
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {**vars(self), "curves": [curve.to_dict() for curve in self.curves]}


def robustness(
    model: torch.nn.Module,
    images: Images,
    labels: Array | Sequence[int],
    disturbances: Sequence[str] | Mapping[str, Sequence[float]] | None = None,
    *,
    input: str | int | None = None,
    prepare: Prepare | None = None,
    seed: int = 0,
    name: str | None = None,
) -> Robustness:
    """Accuracy, and agreement with the undisturbed answer, over the strength of disturbances.

    Args:
        model: a classifier, (N, C, H, W) to (N, K); it is left as it is.
        images: (N, C, H, W), pixels 0 to 1; among other inputs as a list or a dictionary.
        labels: (N,), whole numbers below K.
        disturbances: some of :data:`DISTURBANCES`, as names or with levels of one's own; all by default.
        input: which input the images are, by its name or number; by default the first with axes to look along.
        prepare: what the network gets of the disturbed images, a normalisation say.
        seed: of noise and of what is covered, which are the same ones at every level.
        name: of the network, for tables and pictures; its class by default.

    Raises:
        AnalysisError: an unknown disturbance or a level out of its range, images or labels that don't fit.

    >>> flat = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(1, 2))
    >>> found = robustness(flat, torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 0, 1]), {"brightness": [0, 0.5]})
    >>> found.curves[0].agreement[0], found.curves[0].accuracy[0] == found.accuracy
    (1.0, True)

    Formula: S26.
    """
    subject = Subject(model, images, input=input, prepare=prepare, name=name)
    pixels, levels = pixels_of(subject), _levels(disturbances)
    with evaluating(subject.model), torch.no_grad():
        logits = subject.logits(pixels)
        targets, clean = labels_of(labels, pixels, logits.shape[1]), logits.argmax(1)
        curves = []
        for kind, strengths in levels.items():
            given = [subject.logits(disturbed(pixels, kind, level, seed)).argmax(1) for level in strengths]
            curves.append(
                RobustnessCurve(
                    kind,
                    DISTURBANCES[kind].unit,
                    strengths,
                    tuple(_share(each == targets) for each in given),
                    tuple(_share(each == clean) for each in given),
                )
            )
    return Robustness(subject.name, len(pixels), _share(clean == targets), tuple(curves), seed)


def disturbed(images: Array, name: str, level: float, seed: int = 0) -> Tensor:
    """Images, (N, C, H, W) with pixels 0 to 1, after one disturbance.

    Raises:
        AnalysisError: no such images, an unknown disturbance, or a level out of its range.

    >>> disturbed(torch.tensor([[[[0.0, 0.5]]]]), "brightness", 0.25)
    tensor([[[[0.2500, 0.7500]]]])
    """
    pixels = arguments.tensor("images", images, "needed (N, C, H, W)")
    if pixels.dim() != 4 or not pixels.is_floating_point():
        raise AnalysisError(
            "images", f"got {'x'.join(map(str, pixels.shape))} of {pixels.dtype}", "needed (N, C, H, W), pixels 0 to 1"
        )
    found = DISTURBANCES[arguments.word("disturbance", name, DISTURBANCES)]
    strength, start = _level(name, level), arguments.whole("seed", seed)
    return pixels if strength == found.neutral else found.apply(pixels, strength, start)


def _level(name: str, level: object) -> float:
    found = DISTURBANCES[name]
    return arguments.number(name, level, found.least, found.most)


def _levels(asked: object) -> dict[str, tuple[float, ...]]:
    """The strengths of each disturbance that is asked for."""
    if asked is None:
        return {name: each.levels for name, each in DISTURBANCES.items()}
    names = list(asked) if isinstance(asked, Mapping) else arguments.items(asked)
    if names is None:
        raise AnalysisError("disturbances", f"got {asked!r}", "needed a list of names, or levels by name")
    found = {}
    for each in names:
        name = arguments.word("disturbance", each, DISTURBANCES)
        own = arguments.items(asked[each]) if isinstance(asked, Mapping) else list(DISTURBANCES[name].levels)
        if own is None:
            raise AnalysisError(name, f"got {asked[each]!r}", "needed a list of levels")  # type: ignore[index]
        found[name] = tuple(_level(name, level) for level in own)
    return found


def _share(hits: Tensor) -> float:
    return float(hits.double().mean())


def _translated(images: Tensor, level: float, seed: int) -> Tensor:
    return shifted(images, (level, level))


def _turned(images: Tensor, level: float, seed: int) -> Tensor:
    return _seen_through(images, math.radians(level), 1)


def _scaled(images: Tensor, level: float, seed: int) -> Tensor:
    return _seen_through(images, 0, level)


def _seen_through(images: Tensor, angle: float, scale: float) -> Tensor:
    """Turned counter-clockwise by an angle and enlarged around the middle; zeros come in."""
    height, width = images.shape[2:]
    cosine, sine = math.cos(angle) / scale, math.sin(angle) / scale
    # Where each pixel comes from, in coordinates that run from -1 to 1 along both axes.
    rows = [[cosine, -sine * height / width, 0], [sine * width / height, cosine, 0]]
    matrix = torch.tensor(rows, dtype=images.dtype, device=images.device).expand(len(images), 2, 3)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _contrasted(images: Tensor, level: float, seed: int) -> Tensor:
    middle = images.mean((1, 2, 3), keepdim=True)
    return (middle + level * (images - middle)).clamp(0, 1)


def _brightened(images: Tensor, level: float, seed: int) -> Tensor:
    return (images + level).clamp(0, 1)


def _covered(images: Tensor, level: float, seed: int) -> Tensor:
    height, width = images.shape[2:]
    places = torch.rand(len(images), 2, 1, generator=generator(seed)).to(images.device)
    hidden = []
    for axis, length in enumerate((height, width)):
        side = round(level * length)
        first = (places[:, axis] * (length - side + 1)).floor()
        along = torch.arange(length, device=images.device)
        hidden.append((along >= first) & (along < first + side))
    square = hidden[0][:, None, :, None] & hidden[1][:, None, None, :]
    return images.masked_fill(square, 0)


def _noisy(images: Tensor, level: float, seed: int) -> Tensor:
    noise = torch.randn(images.shape, generator=generator(seed)).to(images)
    return (images + level * noise).clamp(0, 1)


def _blurred(images: Tensor, level: float, seed: int) -> Tensor:
    reach = math.ceil(3 * level)
    taps = torch.exp(-(torch.arange(-reach, reach + 1, dtype=torch.float64) ** 2) / (2 * level**2))
    row = (taps / taps.sum()).to(images)
    channels = images.shape[1]
    padded = F.pad(images, (reach,) * 4, mode="replicate")
    across = F.conv2d(padded, row.expand(channels, 1, 1, -1), groups=channels)
    return F.conv2d(across, row[:, None].expand(channels, 1, -1, 1), groups=channels)


#: All disturbances. Shifted, rotated and scaled images are interpolated linearly, with black outside; pixels are
#: clamped to 0 to 1.
DISTURBANCES: dict[str, Disturbance] = {
    "translation": Disturbance("pixels, right and down", tuple(range(-4, 5)), 0, _translated),
    "rotation": Disturbance(
        "degrees, counter-clockwise", (-90, -60, -45, -30, -15, 0, 15, 30, 45, 60, 90), 0, _turned, -360, 360
    ),
    "scale": Disturbance("times", (0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.1, 1.25, 1.5, 1.75, 2), 1, _scaled, 0.05, 20),
    "contrast": Disturbance("times, around each image's mean", (0.1, 0.25, 0.5, 0.75, 1, 1.5, 2, 4), 1, _contrasted, 0),
    "brightness": Disturbance("added to pixels 0 to 1", (-0.5, -0.25, -0.1, 0, 0.1, 0.25, 0.5), 0, _brightened, -1, 1),
    "occlusion": Disturbance(
        "of each side, one black box", (0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75), 0, _covered, 0, 1
    ),
    "noise": Disturbance("standard deviation, pixels 0 to 1", (0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5), 0, _noisy, 0),
    "blur": Disturbance("pixels, standard deviation", (0, 0.25, 0.5, 0.75, 1, 1.5, 2), 0, _blurred, 0),
}
