"""SSDlite: SSD whose predictors and extra layers are depthwise separable, over MobileNetV3.

Sources: Sandler et al., "MobileNetV2" (2018), section 6.2, for the predictors; Howard et al., "Searching for
MobileNetV3" (2019), section 6.3 and table 6, for the two maps that are taken and the narrower tail; Liu et al., "SSD"
(2016). Names of parameters, initial weights, losses and results are torchvision's.
"""

from __future__ import annotations

from functools import partial
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from striate import nn
from striate.models.initialisation import normal_convolutions
from striate.models.mobilenet_v3 import VARIANTS, Block, MobileNetV3
from striate.models.registry import register
from striate.models.ssd import SSD, SSDHead

LARGE: Final = next(variant for variant in VARIANTS if variant.name == "mobilenet_v3_large")


class SparseBatchNorm2d(torch.nn.BatchNorm2d):
    """Batch normalisation that uses the running statistics if a channel has a single value, which has no variance.

    In training this happens on the last map, which has one position, for a batch of one image.
    """

    def forward(self, input: Tensor) -> Tensor:
        if self.training and input.numel() == input.shape[1]:
            return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(input)


NORM: Final = partial(SparseBatchNorm2d, eps=1e-3, momentum=0.03)

#: A convolution with the normalisation and the activation that SSDlite uses everywhere.
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
        normal_convolutions(network, 0.03)
        for layer in network.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.momentum = NORM.keywords["momentum"]
        layers, begin = list(network.features), network.stages[-2]
        block, last = layers[begin], layers[-1]
        assert isinstance(block, Block)
        expand = block.block[0]
        assert isinstance(expand, nn.ConvNormActivation)
        assert isinstance(last, nn.ConvNormActivation)
        self.features = torch.nn.Sequential(
            torch.nn.Sequential(*layers[:begin], expand),
            torch.nn.Sequential(block.block[1:], *layers[begin + 1 :]),
        )
        channels = last.out_channels
        self.channels = (expand.out_channels, channels, *EXTRA)
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

    head_keys = tuple(f"head.classification_head.module_list.{level}.1" for level in range(6))
    strides = (16, 32, 64, 107, 160, 320)

    def __init__(
        self,
        num_classes: int = 91,
        in_channels: int = 3,
        *,
        score_thresh: float = 0.001,
        nms_thresh: float = 0.55,
        detections_per_img: int = 300,
        topk_candidates: int = 300,
    ) -> None:
        default_boxes = nn.DefaultBoxes(((2, 3),) * 6, nn.linear_scales(6, 0.2, 0.95))
        backbone = MobileNetFeatures(in_channels)
        head = SSDHead(backbone.channels, default_boxes.per_position, num_classes, predictor)
        normal_convolutions(head, 0.03)
        half = (0.5,) * in_channels
        limits = (score_thresh, nms_thresh, detections_per_img, topk_candidates)
        super().__init__((320, 320), half, half, backbone, default_boxes, head, num_classes, *limits)


register(
    SSDLite320,
    "ssdlite320_mobilenet_v3_large",
    "SSDlite on MobileNetV3-Large; 3,440,060 parameters, 320x320 images.",
    task="detection",
)
