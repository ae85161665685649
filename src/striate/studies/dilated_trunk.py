"""Segmentation with strides against dilation: the same layers and weights, at a finer or a coarser map."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from striate import nn
from striate.analysis import summarize
from striate.studies.panels import Bars
from striate.studies.scenes import SIZE, field_of, fit, map_loss, mean_iou, scenes, table
from striate.studies.study import Check, Finding, Measured, Say, study

_TRAIN, _TEST, _EPOCHS = 1000, 150, 8
_WIDTHS = (16, 32, 64, 96)


class Segmenter(torch.nn.Module):
    """Four stages of two convolutions, a 1x1 convolution, and bilinear enlargement.

    Args:
        dilated: the last two stages keep the map's size, and their convolutions see as far by dilation 2 and 4.
    """

    def __init__(self, classes: int, *, dilated: bool) -> None:
        super().__init__()
        stages: list[torch.nn.Module] = []
        before, dilation = 3, 1
        for number, width in enumerate(_WIDTHS):
            keeps = dilated and number >= 2
            stages.append(nn.ConvNormActivation(before, width, 3, 1 if keeps else 2, dilation=dilation))
            dilation *= 2 if keeps else 1
            stages.append(nn.ConvNormActivation(width, width, 3, dilation=dilation))
            before = width
        self.trunk, self.classifier = torch.nn.Sequential(*stages), nn.Conv2d(before, classes, 1)

    def forward(self, input: Tensor) -> dict[str, Tensor]:
        scores = self.classifier(self.trunk(input))
        return {"out": F.interpolate(scores, input.shape[-2:], mode="bilinear", align_corners=False)}


@study(
    "dilated-trunk",
    "Dilation in place of a trunk's last strides leaves its weights and its receptive field as they are and makes the "
    "map finer: outlines are more exact, and it costs more operations.",
)
def dilated_trunk(seeds: Sequence[int], say: Say) -> Finding:
    """Trains one network of strides up to 16 and one that stays at 4 by dilation, on 1,000 scenes of 64x64.

    Formula: S7.
    """
    kinds = {"strided": False, "dilated": True}
    found = {kind: [] for kind in kinds}  # type: dict[str, list[tuple[float, float]]]
    for seed in seeds:
        data = scenes(seed, _TRAIN, _TEST)
        for kind, dilated in kinds.items():
            torch.manual_seed(seed)
            network = Segmenter(len(data.train.map_classes), dilated=dilated)
            fit(network, data.train, map_loss, seed=seed, epochs=_EPOCHS)
            classes, ground = mean_iou(network, data.test)
            found[kind].append((classes, ground))
            say(f"seed {seed}: {kind}: mean IoU {classes:.1f} %, ground and digits {ground:.1f} %")
    measured = table(("mean IoU", "mean IoU of ground and digits"), found)
    networks = {kind: Segmenter(11, dilated=dilated).eval() for kind, dilated in kinds.items()}
    cost = {kind: summarize(network, (3, SIZE, SIZE)) for kind, network in networks.items()}
    field = {kind: field_of(network.trunk) for kind, network in networks.items()}
    rows = [
        row
        for kind in kinds
        for row in (
            Measured(f"{kind}: parameters", cost[kind].parameters),
            Measured(f"{kind}: a scene", cost[kind].macs, "MACs"),
            Measured(f"{kind}: receptive field of a place", field[kind], "pixels"),
            *measured[kind],
        )
    ]
    return Finding(
        tuple(rows),
        (
            Check("both have the same number of parameters", cost["strided"].parameters == cost["dilated"].parameters),
            Check("both have the same receptive field", field["strided"] == field["dilated"]),
            Check(
                "the dilated one tells digits from ground better, on average",
                measured["dilated"][1].value > measured["strided"][1].value,
            ),
            Check("its mean IoU is higher, on average", measured["dilated"][0].value > measured["strided"][0].value),
            Check("it takes more multiply-accumulates", cost["dilated"].macs > cost["strided"].macs),
        ),
        ("Both are trained for the same number of steps, so the dilated one had more arithmetic to learn with.",),
        (
            Bars(
                "Outlines of digits",
                "mean IoU of ground and digits, %",
                tuple(kinds),
                tuple(measured[kind][1].value for kind in kinds),
                tuple(measured[kind][1].spread for kind in kinds),
            ),
            Bars(
                "Cost of a scene",
                "multiply-accumulates",
                tuple(kinds),
                tuple(float(cost[kind].macs) for kind in kinds),
                (None,) * 2,
            ),
        ),
    )
