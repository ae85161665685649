"""LR-ASPP: a light head; the mean over the image gates its channels, and fine maps add their scores.

Source: Howard et al., "Searching for MobileNetV3" (2019), section 6.4 and figure 10, but with the mean over
the whole image instead of 49x49 windows. Names, results and initial weights are torchvision's.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from striate import nn
from striate.models.dilated import MOBILENET, Trunk
from striate.models.fcn import CLASSES, grown
from striate.models.registry import register


class LRASPPHead(torch.nn.Module):
    """Scores (N, K, h, w) of fine maps (N, C_low, h, w) and coarse ones (N, C_high, h', w').

    Args:
        low_channels, high_channels: C_low, C_high.
        num_classes: K.
        inter_channels: of the coarse maps when they are scored.
    """

    def __init__(self, low_channels: int, high_channels: int, num_classes: int, inter_channels: int = 128) -> None:
        super().__init__()
        self.cbr = nn.ConvNormActivation(high_channels, inter_channels, 1)
        self.scale = torch.nn.Sequential(
            nn.GlobalAvgPool(), nn.Conv2d(high_channels, inter_channels, 1, bias=False), torch.nn.Sigmoid()
        )
        self.low_classifier = nn.Conv2d(low_channels, num_classes, 1)
        self.high_classifier = nn.Conv2d(inter_channels, num_classes, 1)

    def forward(self, maps: dict[str, Tensor]) -> Tensor:
        low, high = maps["low"], maps["high"]
        gated = self.cbr(high) * self.scale(high)
        scores: Tensor = self.low_classifier(low) + self.high_classifier(grown(gated, low.shape[-2:]))
        return scores


class LRASPP(torch.nn.Module):
    """Images (N, C, H, W) to ``{"out": scores}``, (N, K, H, W), larger is likelier.

    Args:
        trunk: gives the coarse maps as its last, the fine ones further up.
        num_classes: K.
        in_channels: C.
    """

    #: The layers that have an output for each class.
    head_keys: ClassVar[tuple[str, ...]] = ("classifier.low_classifier", "classifier.high_classifier")

    def __init__(self, trunk: Trunk = MOBILENET, num_classes: int = CLASSES, in_channels: int = 3) -> None:
        super().__init__()
        self.input_size = (520, 520)
        self.backbone = trunk.build(in_channels, True, ("high", "low"))
        self.classifier = LRASPPHead(trunk.aux, trunk.out, num_classes)

    def forward(self, input: Tensor) -> dict[str, Tensor]:
        return {"out": grown(self.classifier(self.backbone(input)), input.shape[-2:])}


register(
    LRASPP,
    "lraspp_mobilenet_v3_large",
    "LR-ASPP on MobileNetV3, stride 16; 3,221,538 parameters, 520x520 images.",
    "semantic",
)
