"""Robustness to translation, rotation and scale, with and without images that are changed while training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from striate import nn
from striate.analysis import DISTURBANCES, robustness
from striate.data import load
from striate.studies.digits import train
from striate.studies.panels import Curve, Curves
from striate.studies.study import Check, Finding, Measured, Say, study

_SIZE: Final = (16, 16)
#: What training images are changed by, drawn evenly: pixels along each axis, degrees, times either way.
_PIXELS, _DEGREES, _TIMES = 2.0, 30.0, 1.25
_LEVELS: Final = {
    "translation": (-4.0, -3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0),
    "rotation": (-90.0, -60.0, -45.0, -30.0, -15.0, 0.0, 15.0, 30.0, 45.0, 60.0, 90.0),
    "scale": (0.5, 0.65, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0),
}
#: The ends of what training showed, and levels well beyond.
_INSIDE: Final = {"translation": (-2.0, 2.0), "rotation": (-30.0, 30.0), "scale": (0.8, 1.25)}
_BEYOND: Final = {"translation": (-4.0, 4.0), "rotation": (-60.0, 60.0), "scale": (0.5, 2.0)}


@study(
    "augmentation",
    "A convolutional network isn't by itself robust to translation, rotation and scale; changed training images make "
    "it so in the range that they show, hardly beyond it, and without a loss on images as they are.",
)
def augmentation(seeds: Sequence[int], say: Say) -> Finding:
    """Trains one network on digits of 16x16 as they are and one on changed ones, and tests both on both.

    Formula: S5.
    """
    kinds = ("plain", "augmented")
    clean: dict[str, list[float]] = {kind: [] for kind in kinds}
    right: dict[str, dict[str, list[tuple[float, ...]]]] = {kind: {name: [] for name in _LEVELS} for kind in kinds}
    for seed in seeds:
        data = load("digits", image_size=_SIZE, seed=seed)
        images, test = (part.gather(torch.arange(len(part))).float() / 255 for part in (data.train, data.test))
        for kind in kinds:
            torch.manual_seed(seed)
            network = _network()
            train(
                network,
                images,
                data.train.labels,
                seed=seed,
                epochs=20,
                augment=_changed if kind == "augmented" else None,
            )
            found = robustness(network, test, data.test.labels, _LEVELS)
            clean[kind].append(100 * found.accuracy)
            for curve in found.curves:
                right[kind][curve.name].append(tuple(100 * share for share in curve.accuracy))
            say(f"seed {seed}: {kind}: {clean[kind][-1]:.2f} % right undisturbed")

    def at(kind: str, name: str, levels: Sequence[float]) -> Measured:
        places = [_LEVELS[name].index(level) for level in levels]
        values = [sum(each[place] for place in places) / len(places) for each in right[kind][name]]
        shown = " and ".join(f"{level:g}" for level in levels)
        return Measured.of(f"{kind}: accuracy, {name} by {shown}", values, "%")

    inside = {(kind, name): at(kind, name, _INSIDE[name]) for name in _LEVELS for kind in kinds}
    beyond = {(kind, name): at(kind, name, _BEYOND[name]) for name in _LEVELS for kind in kinds}
    whole = {kind: Measured.of(f"{kind}: accuracy undisturbed", clean[kind], "%") for kind in kinds}
    lost = {name: whole["augmented"].value - beyond["augmented", name].value for name in _LEVELS}
    return Finding(
        (*whole.values(), *inside.values(), *beyond.values()),
        (
            *(
                Check(
                    f"{name}: the plain network loses 5 points or more at the ends of the range",
                    whole["plain"].value - inside["plain", name].value >= 5,
                )
                for name in _LEVELS
            ),
            *(
                Check(
                    f"{name}: augmented, it loses less than half of that",
                    2 * (whole["augmented"].value - inside["augmented", name].value)
                    < whole["plain"].value - inside["plain", name].value,
                )
                for name in _LEVELS
            ),
            Check("beyond the range the augmented one loses 10 points or more, each time", min(lost.values()) >= 10),
            Check(
                "undisturbed it is at most one point below the plain one",
                whole["augmented"].value > whole["plain"].value - 1,
            ),
        ),
        (
            "Digits fill their image: a shift of 4 of 16 pixels cuts strokes off, and nothing could be right on all.",
            "A six turned by 180 degrees is a nine: invariance to all rotations isn't wanted here.",
        ),
        tuple(
            Curves(
                name,
                DISTURBANCES[name].unit,
                "held-out images predicted right, %",
                tuple(
                    Curve(
                        kind,
                        _LEVELS[name],
                        tuple(sum(each) / len(seeds) for each in zip(*right[kind][name], strict=True)),
                        tuple(float(torch.tensor(each).std()) for each in zip(*right[kind][name], strict=True)),
                    )
                    for kind in kinds
                ),
            )
            for name in _LEVELS
        ),
    )


def _network() -> torch.nn.Module:
    return torch.nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        torch.nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        torch.nn.ReLU(),
        nn.MaxPool2d(2),
        torch.nn.Flatten(),
        torch.nn.Linear(32 * 16, 64),
        torch.nn.ReLU(),
        torch.nn.Linear(64, 10),
    )


def _changed(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image turned, scaled and moved by a draw of its own; black comes in."""
    draws = 2 * torch.rand(4, len(images), generator=generator) - 1
    angles, times = math.radians(_DEGREES) * draws[0], _TIMES ** draws[1]
    cosines, sines = angles.cos() / times, angles.sin() / times
    # Positions run from -1 to 1, so a pixel is 2 / side.
    moves = _PIXELS * 2 / _SIZE[0] * draws[2:]
    rows = torch.stack([torch.stack([cosines, -sines, moves[0]], 1), torch.stack([sines, cosines, moves[1]], 1)], 1)
    grid = F.affine_grid(rows, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
