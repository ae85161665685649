"""SSDlite: SSD whose predictors and extra layers are depthwise separable, over MobileNetV3.

Sources: Sandler et al., "MobileNetV2" (2018), section 6.2, for the predictors; Howard et al., "Searching for MobileNetV3"
(2019), section 6.3 and table 6, for the two maps that are taken and the narrower tail; Liu et al., "SSD" (2016). Names of
parameters, initial weights, losses and results are torchvision's.
"""

from __future__ import annotations

from functools import partial
from typing import Final

import torch
from torch import Tensor

from striate import nn
from striate.models.initialisation import normal_convolutions
from striate.models.mobilenet_v3 import VARIANTS, MobileNetV3
from striate.models.registry import register
from striate.models.ssd import SSD, SSDHead
from striate.nn.default_boxes import DefaultBoxes, linear_scales

LARGE: Final = next(variant for variant in VARIANTS if variant.name == "mobilenet_v3_large")

NORM: Final = partial(torch.nn.BatchNorm2d, eps=1e-3, momentum=0.03)

#: A convolution with what follows it everywhere in SSDlite.
LAYER: Final = partial(nn.ConvNormActivation, norm=NORM, activation=torch.nn.ReLU6)

#: Channels of the extra layers.
EXTRA: Final = (512, 256, 256, 128)


class MobileNetFeatures(torch.nn.Module):
    """MobileNetV3 and smaller maps after it, (N, C, 320, 320) to maps of 20, 10, 5, 3, 2 and 1 a side.

    The first map is the expanded one of the block in which stride 32 begins, before that stride.
    """

    def __init__(self, in_channels: int = 3) -> None:
        super().__init__()
        network = MobileNetV3(LARGE, in_channels=in_channels, reduced_tail=True)
        layers = network.features
        normal_convolutions(layers, 0.03)
        for layer in layers.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.momentum = NORM.keywords["momentum"]
        last_stage = network.stages[-2]
        expanded, *rest = layers[last_stage].block.named_children()
        after = torch.nn.Sequential()
        for name, child in rest:  # under the names that they have in the block
            after.add_module(name, child)
        self.features = torch.nn.Sequential(
            torch.nn.Sequential(*layers[:last_stage], expanded[1]),
            torch.nn.Sequential(after, *layers[last_stage + 1 :]),
        )
        channels = layers[-1].out_channels
        self.channels = (expanded[1].out_channels, channels, *EXTRA)
        blocks = []
        for wide in EXTRA:
            narrow = wide // 2
            blocks.append(
                torch.nn.Sequential(
                    LAYER(channels, narrow, 1), LAYER(narrow, narrow, 3, 2, narrow), LAYER(narrow, wide, 1)
                )
            )
            channels = wide
        self.extra = torch.nn.ModuleList(blocks)
        normal_convolutions(self.extra, 0.03)

    def forward(self, input: Tensor) -> dict[str, Tensor]:
        levels = {}
        for index, block in enumerate((*self.features, *self.extra)):
            input = block(input)
            levels[str(index)] = input
        return levels


def predictor(in_channels: int, out_channels: int) -> torch.nn.Sequential:
    """A depthwise 3x3 convolution and a 1x1 one that predicts, (N, C_in, H, W) to (N, C_out, H, W)."""
    return torch.nn.Sequential(
        LAYER(in_channels, in_channels, 3, groups=in_channels), nn.Conv2d(in_channels, out_channels, 1)
    )


class SSDLite320(SSD):
    """SSDlite over MobileNetV3-Large, for images of 320x320.

    Args:
        num_classes: K, with the background.
        in_channels: of the images.
        score_thresh, nms_thresh, detections_per_img, topk_candidates: as in :class:`SSD`.
    """

    def __init__(
        self,
        num_classes: int = 91,
        in_channels: int = 3,
        score_thresh: float = 0.001,
        nms_thresh: float = 0.55,
        detections_per_img: int = 300,
        topk_candidates: int = 300,
    ) -> None:
        default_boxes = DefaultBoxes(((2, 3),) * 6, linear_scales(6, 0.2, 0.95))
        backbone = MobileNetFeatures(in_channels)
        head = SSDHead(backbone.channels, default_boxes.per_position, num_classes, predictor)
        normal_convolutions(head, 0.03)
        half = (0.5,) * in_channels
        limits = (score_thresh, nms_thresh, detections_per_img, topk_candidates)
        super().__init__((320, 320), half, half, backbone, default_boxes, head, num_classes, *limits)
        self.strides = (16, 32, 64, 107, 160, 320)


register(
    SSDLite320,
    "ssdlite320_mobilenet_v3_large",
    "SSDlite over MobileNetV3-Large; 3,440,060 parameters, 320x320 images.",
    "detection",
)
