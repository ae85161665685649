"""Depthwise separable convolutions: what they save in parameters and arithmetic, and how much of that in time."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from striate import nn
from striate.analysis import summarize
from striate.engine import tuning
from striate.studies.panels import Curve, Curves
from striate.studies.study import Check, Finding, Measured, Say, study

_CHANNELS = (16, 32, 64, 128)
_SIDE, _KERNEL = 28, 3


@study(
    "depthwise",
    "A depthwise separable convolution has K^2 + C_out weights a channel where a full one has K^2 C_out, with "
    "arithmetic to match, and time falls alike.",
)
def depthwise(seeds: Sequence[int], say: Say) -> Finding:
    """Counts 3x3 layers of 16 to 128 channels on 28x28 maps, and times them, once a seed.

    Formula: S16.
    """
    rows, exact, savings, faster = [], [], [], []
    for channels in _CHANNELS:
        full = nn.Conv2d(channels, channels, _KERNEL, padding=1, bias=False).eval()
        separable = nn.DepthwiseSeparableConv2d(channels, channels, _KERNEL, padding=1, bias=False).eval()
        shape = (1, channels, _SIDE, _SIDE)
        weights = [sum(parameter.numel() for parameter in layer.parameters()) for layer in (full, separable)]
        macs = [summarize(layer, shape).macs for layer in (full, separable)]
        by_formula = (_KERNEL**2 + channels) / (_KERNEL**2 * channels)
        exact.append(all(count[1] == count[0] * by_formula for count in (weights, macs)))
        savings.append(1 / by_formula)
        ratios = []
        with torch.no_grad():
            for seed in seeds:
                x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
                seconds = tuning.in_turns({"full": lambda: full(x), "separable": lambda: separable(x)})  # noqa: B023
                ratios.append(seconds["full"] / seconds["separable"])
        faster.append(Measured.of(f"{channels} channels: times faster, one image", ratios))
        say(f"{channels} channels: {savings[-1]:.2f} times fewer MACs, {faster[-1].value:.2f} times faster")
        rows += [
            Measured(f"{channels} channels: weights, full", weights[0]),
            Measured(f"{channels} channels: weights, separable", weights[1]),
            Measured(f"{channels} channels: times fewer weights and MACs", savings[-1]),
            faster[-1],
        ]
    return Finding(
        tuple(rows),
        (
            Check("weights and MACs stand at K^2 + C_out to K^2 C_out at every width, exactly", all(exact)),
            Check(
                "time falls by at least three quarters of that factor at every width",
                all(one.value >= 0.75 * saved for one, saved in zip(faster, savings, strict=True)),
            ),
        ),
        (
            "Times are of this machine and its load, and differ from run to run; the counts don't.",
            "A depthwise convolution does few operations for each byte, so memory and calls hold it up.",
        ),
        (
            Curves(
                f"{_KERNEL}x{_KERNEL} on {_SIDE}x{_SIDE}, one image",
                "channels",
                "full over separable, times",
                (
                    Curve("weights and MACs", _CHANNELS, tuple(savings)),
                    Curve(
                        "time",
                        _CHANNELS,
                        tuple(one.value for one in faster),
                        tuple(one.spread or 0.0 for one in faster),
                    ),
                ),
                log_x=True,
            ),
        ),
    )
