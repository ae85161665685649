"""Parameters of convolutions against those of fully connected layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from striate import nn
from striate.studies.digits import accuracy, digits, train
from striate.studies.panels import Bars, Curve, Curves
from striate.studies.study import Check, Finding, Measured, Say, study

_SIDES = (4, 8, 16, 32, 64, 128, 224)


@study(
    "conv-vs-dense",
    "A convolution needs a small share of the parameters of a fully connected layer between the same maps, the same "
    "number at every image size, and a network of them learns as well with fewer parameters.",
)
def conv_vs_dense(seeds: Sequence[int], say: Say) -> Finding:
    """Counts both layers at several image sizes, then trains a small network of each kind on the digits.

    Formula: S1, S24.
    """
    convolutions = [_parameters(nn.Conv2d(3, 16, 3, padding=1)) for _ in _SIDES]
    with torch.device("meta"):  # the largest has 121 thousand million weights, and none of them is needed
        dense = [_parameters(torch.nn.Linear(3 * side**2, 16 * side**2)) for side in _SIDES]
    reached: dict[str, list[float]] = {"convolutional": [], "dense": []}
    sizes = {}
    for seed in seeds:
        data = digits(seed)
        for kind, build in (("convolutional", _convolutional), ("dense", _dense)):
            torch.manual_seed(seed)
            network = build()
            sizes[kind] = _parameters(network)
            train(network, data.images, data.labels, seed=seed, epochs=25)
            reached[kind].append(100 * accuracy(network, data.test_images, data.test_labels))
            say(f"seed {seed}: {kind} network, {sizes[kind]:,} parameters: {reached[kind][-1]:.2f} % right")
    scores = {kind: Measured.of(f"{kind} network: accuracy on held-out digits", reached[kind], "%") for kind in sizes}
    rows = [
        row
        for side, one, other in zip(_SIDES, convolutions, dense, strict=True)
        for row in (
            Measured(f"3x3 convolution, 3 to 16 channels, {side}x{side}", one, "parameters"),
            Measured(f"fully connected, the same maps, {side}x{side}", other, "parameters"),
        )
        if side in (8, 224)
    ]
    rows += [Measured(f"{kind} network", count, "parameters") for kind, count in sizes.items()]
    ratio = sizes["dense"] / sizes["convolutional"]
    margin = scores["convolutional"].value - scores["dense"].value
    return Finding(
        (*rows, *scores.values()),
        (
            Check("the convolution has under 1 % of the parameters from 8x8 on", 100 * convolutions[1] < dense[1]),
            Check("its number is the same at every size", len(set(convolutions)) == 1),
            Check(
                f"the convolutional network is within half a point of the dense one, or better, with {ratio:.1f} times "
                "fewer parameters",
                margin > -0.5 and ratio > 2,
            ),
        ),
        (
            "Fewer parameters aren't fewer operations: each weight of a convolution is used at every position.",
            "Digits are small and centred, where sharing weights over positions helps least.",
        ),
        (
            Curves(
                "One layer between the same maps",
                "side of the image, pixels",
                "parameters",
                (
                    Curve("fully connected", _SIDES, tuple(map(float, dense))),
                    Curve("3x3 convolution", _SIDES, tuple(map(float, convolutions))),
                ),
                log_x=True,
                log_y=True,
            ),
            Bars(
                "Small networks on digits",
                "held-out images predicted right, %",
                tuple(f"{kind}\n{count:,} parameters" for kind, count in sizes.items()),
                tuple(scores[kind].value for kind in sizes),
                tuple(scores[kind].spread for kind in sizes),
                span=(90, 100),
            ),
        ),
    )


def _parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _convolutional() -> torch.nn.Module:
    return torch.nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1),
        torch.nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(12, 24, 3, padding=1),
        torch.nn.ReLU(),
        nn.MaxPool2d(2),
        torch.nn.Flatten(),
        torch.nn.Linear(24 * 4, 10),
    )


def _dense() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10))
