"""Equivariance of layers under shifts, and its effect on a classifier's answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import torch

from striate import nn
from striate.analysis import equivariance, shift_consistency
from striate.studies.digits import accuracy, digits, train
from striate.studies.panels import Bars, Curve, Curves
from striate.studies.study import Check, Finding, Measured, Say, study

_SHIFTS: Final = tuple(half / 2 for half in range(1, 9))
_ODD: Final = tuple(place for place, shift in enumerate(_SHIFTS) if shift in (1, 3))
_WHOLE: Final = tuple(place for place, shift in enumerate(_SHIFTS) if shift == int(shift))
_ROUNDING: Final = 1e-5
_IMAGES: Final = 60


@study(
    "equivariance",
    "Convolution moves with the image; a maximum with stride 2 doesn't, a blur before the stride helps, and sampling "
    "the strongest phase makes a classifier's answer independent of circular shifts, before training and after.",
)
def layers_that_follow(seeds: Sequence[int], say: Say) -> Finding:
    """Measures each way to halve a map, then trains the same small network around each, with circular borders.

    Formula: S3.
    """
    kinds: dict[str, Callable[[int], torch.nn.Module]] = {
        "maximum, stride 2": _strided,
        "blurred maximum": _blurred,
        "strongest phase": _polyphase,
    }
    errors: dict[str, list[tuple[float, ...]]] = {kind: [] for kind in ("convolution", *kinds)}
    aligned: list[tuple[float, ...]] = []
    fresh: dict[str, list[float]] = {kind: [] for kind in kinds}
    taught: dict[str, list[float]] = {kind: [] for kind in kinds}
    right: dict[str, list[float]] = {kind: [] for kind in kinds}
    for seed in seeds:
        data = digits(seed)
        images = data.test_images[:_IMAGES]
        for kind, halve in kinds.items():
            torch.manual_seed(seed)
            network = _network(halve)
            found = equivariance(network, images, _SHIFTS)
            errors[kind].append(_known(found.at("halve1").error))
            if kind == "strongest phase":
                aligned.append(_known([found.at("halve1").aligned[place] for place in _WHOLE]))
            else:
                errors["convolution"].append(_known(found.at("conv1").error))
            fresh[kind].append(100 * shift_consistency(network, images).value)
            train(network, data.images, data.labels, seed=seed, epochs=10, learning_rate=1e-2)
            taught[kind].append(100 * shift_consistency(network, images).value)
            right[kind].append(100 * accuracy(network, data.test_images, data.test_labels))
            say(
                f"seed {seed}: {kind}: consistent {fresh[kind][-1]:.1f} % untrained, {taught[kind][-1]:.1f} % trained; "
                f"{right[kind][-1]:.2f} % right"
            )
    odd = {kind: [max(each[place] for place in _ODD) for each in found] for kind, found in errors.items()}
    worst = max(map(max, aligned))
    rows = [Measured.of(f"{kind}: largest error at shifts of 1 and 3 pixels", odd[kind]) for kind in errors]
    rows.append(Measured("strongest phase: largest error up to whole shifts of the map", worst))
    rows += [Measured.of(f"{kind}: consistency untrained", fresh[kind], "%") for kind in kinds]
    rows += [Measured.of(f"{kind}: consistency trained", taught[kind], "%") for kind in kinds]
    rows += [Measured.of(f"{kind}: accuracy on held-out digits", right[kind], "%") for kind in kinds]
    phase, blurred, strided = "strongest phase", "blurred maximum", "maximum, stride 2"
    consistent = {kind: Measured.of(kind, taught[kind], "%") for kind in kinds}
    return Finding(
        tuple(rows),
        (
            Check(
                "convolution's error is rounding at every shift, half pixels too",
                max(map(max, errors["convolution"])) < _ROUNDING,
            ),
            Check("the maximum's error is above 0.1 at odd shifts, for every seed", min(odd[strided]) > 0.1),
            Check(
                "blurring lowers it, for every seed",
                all(a < b for a, b in zip(odd[blurred], odd[strided], strict=True)),
            ),
            Check("the strongest phase's map is exact up to whole shifts", worst < _ROUNDING),
            Check(
                "it gives 100 % consistency for every seed, untrained and trained",
                min(fresh[phase] + taught[phase]) == 100,
            ),
            Check(
                "trained, blurring is more consistent than the plain maximum on average",
                consistent[blurred].value > consistent[strided].value,
            ),
        ),
        (
            "Shifts and borders are circular here; with real borders something always enters or leaves.",
            "The strongest phase moves its map by whole positions, so at odd shifts it isn't where half a position "
            "would be: its error looks large unless the map may move as it likes.",
            "Consistent answers may be consistently wrong: accuracy is another measure.",
        ),
        (
            Curves(
                "First layers of fresh networks",
                "shift along both axes, pixels",
                "relative error",
                (
                    *(Curve(kind, _SHIFTS, _means(found)) for kind, found in errors.items()),
                    Curve(
                        "strongest phase, any whole shift", tuple(_SHIFTS[place] for place in _WHOLE), _means(aligned)
                    ),
                ),
            ),
            Bars(
                "All circular shifts of digits, trained",
                "two shifts of an image get the same class, %",
                tuple(kinds),
                tuple(each.value for each in consistent.values()),
                tuple(each.spread for each in consistent.values()),
                span=(0, 102),
            ),
        ),
    )


def _known(errors: Sequence[float | None]) -> tuple[float, ...]:
    return tuple(error for error in errors if error is not None)


def _means(found: Sequence[Sequence[float]]) -> tuple[float, ...]:
    return tuple(sum(each) / len(each) for each in zip(*found, strict=True))


def _network(halve: Callable[[int], torch.nn.Module]) -> torch.nn.Module:
    network = torch.nn.Sequential()
    inside = 1
    for stage, outside in enumerate((16, 32), start=1):
        network.add_module(f"conv{stage}", nn.Conv2d(inside, outside, 3, padding=1, padding_mode="circular"))
        network.add_module(f"relu{stage}", torch.nn.ReLU())
        network.add_module(f"halve{stage}", halve(outside))
        inside = outside
    network.add_module("pool", nn.GlobalAvgPool())
    network.add_module("flatten", torch.nn.Flatten())
    network.add_module("classify", torch.nn.Linear(inside, 10))
    return network


def _strided(channels: int) -> torch.nn.Module:
    return nn.MaxPool2d(2)


def _blurred(channels: int) -> torch.nn.Module:
    return torch.nn.Sequential(_everywhere(), nn.BlurPool2d(channels, 3, padding_mode="circular"))


def _polyphase(channels: int) -> torch.nn.Module:
    return torch.nn.Sequential(_everywhere(), nn.PolyphaseSampling2d())


def _everywhere() -> torch.nn.Module:
    """The maximum of the same windows, at every position."""
    return nn.MaxPool2d(2, 1, "same")  # type: ignore[arg-type]  # torch.nn's constructor, which knows no words
