"""Pooling against convolutions with a stride: accuracy, cost, and what a shift of one pixel does."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from striate import nn
from striate.analysis import disturbed, shift_consistency, summarize
from striate.data import load
from striate.studies.digits import accuracy, train
from striate.studies.panels import Bars
from striate.studies.study import Check, Finding, Measured, Say, study

_SIZE = (16, 16)


@study(
    "pooling-vs-stride",
    "Convolutions of stride 2 replace pooling without a loss of accuracy, at the price of weights and operations; "
    "pooling, which learns nothing, answers more steadily when the image moves by a pixel.",
)
def pooling_vs_stride(seeds: Sequence[int], say: Say) -> Finding:
    """Trains the same network with maxima, averages and strided convolutions to halve its maps, on digits of 16x16.

    Formula: S4, S18.
    """
    kinds: dict[str, Callable[[int], torch.nn.Module]] = {
        "maximum": lambda channels: nn.MaxPool2d(2),
        "average": lambda channels: nn.AvgPool2d(2),
        "strided convolution": lambda channels: torch.nn.Sequential(
            nn.Conv2d(channels, channels, 3, 2, padding=1), torch.nn.ReLU()
        ),
    }
    right: dict[str, list[float]] = {kind: [] for kind in kinds}
    moved: dict[str, list[float]] = {kind: [] for kind in kinds}
    steady: dict[str, list[float]] = {kind: [] for kind in kinds}
    cost = {kind: summarize(_network(halve), (1, *_SIZE)) for kind, halve in kinds.items()}
    for seed in seeds:
        data = load("digits", image_size=_SIZE, seed=seed)
        images, test = (part.gather(torch.arange(len(part))).float() / 255 for part in (data.train, data.test))
        for kind, halve in kinds.items():
            torch.manual_seed(seed)
            network = _network(halve)
            train(network, images, data.train.labels, seed=seed, epochs=10)
            right[kind].append(100 * accuracy(network, test, data.test.labels))
            shares = [accuracy(network, disturbed(test, "translation", by), data.test.labels) for by in (-1, 1)]
            moved[kind].append(50 * sum(shares))
            steady[kind].append(100 * shift_consistency(network, test, 1, borders="zeros").value)
            say(f"seed {seed}: {kind}: {right[kind][-1]:.2f} % right, {moved[kind][-1]:.2f} % moved by a pixel")
    scores = {kind: Measured.of(f"{kind}: accuracy on held-out digits", right[kind], "%") for kind in kinds}
    moves = {kind: Measured.of(f"{kind}: accuracy, moved by a pixel", moved[kind], "%") for kind in kinds}
    same = {kind: Measured.of(f"{kind}: consistency within a pixel", steady[kind], "%") for kind in kinds}
    rows = [
        row
        for kind in kinds
        for row in (
            Measured(f"{kind}: parameters", cost[kind].parameters),
            Measured(f"{kind}: an image", cost[kind].macs, "MACs"),
            scores[kind],
            moves[kind],
            same[kind],
        )
    ]
    strided = "strided convolution"
    return Finding(
        tuple(rows),
        (
            Check(
                "its mean accuracy is at most half a point below the maximum's",
                scores[strided].value > scores["maximum"].value - 0.5,
            ),
            Check(
                "it takes more parameters and multiply-accumulates",
                cost[strided].parameters > cost["maximum"].parameters and cost[strided].macs > cost["maximum"].macs,
            ),
            Check(
                "both kinds of pooling are more consistent within a pixel, on average",
                min(same["maximum"].value, same["average"].value) > same[strided].value,
            ),
            Check(
                "both are more accurate on digits moved by a pixel, on average",
                min(moves["maximum"].value, moves["average"].value) > moves[strided].value,
            ),
        ),
        (
            "The strided network has two layers more, so a difference may come from depth (Springenberg et al. 2015, "
            "section 3, compare several ways).",
            "Digits of 16x16 are enlarged ones of 8x8: they are smooth, which favours whatever skips positions.",
        ),
        (
            Bars(
                "Digits, and digits moved by a pixel",
                "held-out images predicted right, %",
                tuple(f"{kind}{word}" for kind in kinds for word in ("", ", moved")),
                tuple(each[kind].value for kind in kinds for each in (scores, moves)),
                tuple(each[kind].spread for kind in kinds for each in (scores, moves)),
                span=(60, 100),
            ),
            Bars(
                "Cost of an image",
                "multiply-accumulates",
                tuple(kinds),
                tuple(float(cost[kind].macs) for kind in kinds),
                (None,) * 3,
            ),
        ),
    )


def _network(halve: Callable[[int], torch.nn.Module]) -> torch.nn.Module:
    return torch.nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1),
        torch.nn.ReLU(),
        halve(12),
        nn.Conv2d(12, 24, 3, padding=1),
        torch.nn.ReLU(),
        halve(24),
        torch.nn.Flatten(),
        torch.nn.Linear(24 * 16, 10),
    )
