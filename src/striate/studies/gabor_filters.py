"""Filters that a first layer learns on digits, against Gabor functions."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import torch
from torch import Tensor

from striate import nn, ops
from striate.analysis import fit_gabor
from striate.studies.digits import digits, train
from striate.studies.panels import Bars, Pictures
from striate.studies.study import Check, Finding, Measured, Say, study

_FILTERS, _SIDE = 16, 7


@study(
    "gabor-filters",
    "The filters that a first convolution learns resemble Gabor functions, more than those it started from.",
)
def gabor_filters(seeds: Sequence[int], say: Say) -> Finding:
    """Fits Gabor functions to 7x7 filters after training, before it, and to noise as smooth as images are.

    Formula: S10.
    """
    scores: dict[str, list[float]] = {"learned": [], "before training": [], "smoothed noise": []}
    shown: tuple[Tensor, list[float]] | None = None
    for seed in seeds:
        data = digits(seed, (16, 16))
        torch.manual_seed(seed)
        first = nn.Conv2d(1, _FILTERS, _SIDE, padding=3)
        network = torch.nn.Sequential(
            first, torch.nn.ReLU(), nn.MaxPool2d(4), torch.nn.Flatten(), torch.nn.Linear(_FILTERS * 16, 10)
        )
        sets = {"before training": first.weight.detach().clone()[:, 0], "smoothed noise": _smooth_noise(seed)}
        train(network, data.images, data.labels, seed=seed, epochs=12)
        sets["learned"] = first.weight.detach()[:, 0]
        for kind, kernels in sets.items():
            fits = [fit_gabor(kernel) for kernel in kernels]
            found = [fit.r2 if fit.adjusted_r2 is None else fit.adjusted_r2 for fit in fits]
            scores[kind].append(statistics.median(found))
            say(f"seed {seed}: {kind}: median adjusted R2 {scores[kind][-1]:.3f}")
            if kind == "learned" and shown is None:
                shown = kernels, found
    assert shown is not None
    rows = {
        kind: Measured.of(f"{kind}: median adjusted R2 of the Gabor fit", values) for kind, values in scores.items()
    }
    return Finding(
        tuple(rows.values()),
        (
            Check("the median learned filter has an adjusted R2 above 0.7", rows["learned"].value > 0.7),
            Check(
                "it is above that of the filters before training, in every seed",
                all(a > b for a, b in zip(scores["learned"], scores["before training"], strict=True)),
            ),
            Check(
                "it is above that of smoothed noise, in every seed",
                all(a > b for a, b in zip(scores["learned"], scores["smoothed noise"], strict=True)),
            ),
        ),
        (
            "A Gabor function has eight parameters and meets every smooth 7x7 pattern in part: hence the noise.",
            "Digits of 8x8 pixels, enlarged, are no natural images, and a network of one convolution no deep one.",
        ),
        (
            Pictures(
                f"Learned filters, seed {seeds[0]}, with adjusted R2",
                tuple(kernel.numpy() for kernel in shown[0]),
                tuple(f"{score:.2f}" for score in shown[1]),
                4,
                signed=True,
            ),
            Bars(
                "Gabor fits of 16 filters",
                "median adjusted R2",
                tuple(rows),
                tuple(row.value for row in rows.values()),
                tuple(row.spread for row in rows.values()),
                span=(0, 1),
            ),
        ),
    )


def _smooth_noise(seed: int) -> Tensor:
    """White noise under a binomial blur, (filters, side, side)."""
    noise = torch.randn(_FILTERS, 1, _SIDE + 4, _SIDE + 4, generator=torch.Generator().manual_seed(seed))
    taps = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
    return ops.conv2d(noise, (taps[:, None] * taps)[None, None])[:, 0]
