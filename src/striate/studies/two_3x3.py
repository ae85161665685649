"""Two 3x3 convolutions in a row against one 5x5: what they see, what they cost, what they learn."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from striate import nn
from striate.analysis import receptive_field, summarize
from striate.studies.digits import accuracy, digits, train
from striate.studies.panels import Bars
from striate.studies.study import Check, Finding, Measured, Say, study

_CHANNELS = 16
_SIZE = (8, 8)


@study(
    "two-3x3",
    "Two 3x3 convolutions see as much as one 5x5, with 18/25 of its weights and multiply-accumulates, and with a "
    "nonlinearity between them they learn at least as well.",
)
def two_3x3(seeds: Sequence[int], say: Say) -> Finding:
    """Measures both as layers of 16 channels, then trains the same network around each.

    Formula: S8.
    """
    kinds = {"two 3x3": _two, "one 5x5": _one}
    seen, weights, macs = {}, {}, {}
    for kind, build in kinds.items():
        layers = build()
        shape = (1, _CHANNELS, *_SIZE)
        seen[kind] = [row.size for row in receptive_field(layers, shape)][-1]
        weights[kind] = sum(parameter.numel() for name, parameter in layers.named_parameters() if "weight" in name)
        macs[kind] = summarize(layers, shape).macs
    reached: dict[str, list[float]] = {kind: [] for kind in kinds}
    for seed in seeds:
        data = digits(seed)
        for kind, build in kinds.items():
            torch.manual_seed(seed)
            network = torch.nn.Sequential(
                nn.Conv2d(1, _CHANNELS, 1),
                torch.nn.ReLU(),
                build(),
                torch.nn.ReLU(),
                nn.MaxPool2d(2),
                torch.nn.Flatten(),
                torch.nn.Linear(_CHANNELS * 16, 10),
            )
            train(network, data.images, data.labels, seed=seed, epochs=10)
            reached[kind].append(100 * accuracy(network, data.test_images, data.test_labels))
            say(f"seed {seed}: {kind}: {reached[kind][-1]:.2f} % right")
    scores = {kind: Measured.of(f"{kind}: accuracy on held-out digits", reached[kind], "%") for kind in kinds}
    rows = [
        row
        for kind in kinds
        for row in (
            Measured(f"{kind}: side of the receptive field", float(seen[kind][0] or 0), "pixels"),
            Measured(f"{kind}: weights, {_CHANNELS} to {_CHANNELS} channels", weights[kind]),
            Measured(f"{kind}: on a map of 8x8", macs[kind], "MACs"),
            scores[kind],
        )
    ]
    difference = Measured.of(
        "two 3x3 less one 5x5: accuracy, seed by seed",
        [a - b for a, b in zip(reached["two 3x3"], reached["one 5x5"], strict=True)],
        "points",
    )
    return Finding(
        (*rows, difference),
        (
            Check("both see the same, 5x5", seen["two 3x3"] == seen["one 5x5"] == (5, 5)),
            Check("weights stand at 18 to 25", 25 * weights["two 3x3"] == 18 * weights["one 5x5"]),
            Check("so do multiply-accumulates", 25 * macs["two 3x3"] == 18 * macs["one 5x5"]),
            Check("the mean accuracy is at most half a point below that of one 5x5", difference.value > -0.5),
        ),
        (
            "18/25 is for as many channels between the two as around them.",
            "Two layers write their output twice, so they take more memory and not always less time.",
        ),
        (
            Bars(
                f"Weights, {_CHANNELS} to {_CHANNELS} channels",
                "weights",
                tuple(kinds),
                tuple(float(weights[kind]) for kind in kinds),
                (None, None),
            ),
            Bars(
                "The same network around each, on digits",
                "held-out images predicted right, %",
                tuple(kinds),
                tuple(score.value for score in scores.values()),
                tuple(score.spread for score in scores.values()),
                span=(90, 100),
            ),
        ),
    )


def _two() -> torch.nn.Module:
    return torch.nn.Sequential(
        nn.Conv2d(_CHANNELS, _CHANNELS, 3, padding=1), torch.nn.ReLU(), nn.Conv2d(_CHANNELS, _CHANNELS, 3, padding=1)
    )


def _one() -> torch.nn.Module:
    return torch.nn.Sequential(nn.Conv2d(_CHANNELS, _CHANNELS, 5, padding=2))
