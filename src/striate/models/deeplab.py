"""DeepLabv3: the surroundings of a position at several scales, by parallel dilated convolutions.

Source: Chen, Papandreou, Schroff & Adam, "Rethinking atrous convolution for semantic image segmentation" (2017),
section 3.3 and figure 5, with output stride 8 and rates 12, 24, 36; on MobileNetV3 stride 16. Names, results and
initial weights are torchvision's.
"""

from __future__ import annotations

from functools import partial
from typing import Final

import torch
from torch import Tensor

from striate import nn
from striate.errors import OperandError
from striate.models.dilated import MOBILENET, RESNET50, RESNET101, Trunk
from striate.models.fcn import CLASSES, FCNHead, Segmenter, grown
from striate.models.registry import register

#: How far apart the taps of the parallel convolutions are, positions.
RATES: Final = (12, 24, 36)


class ImagePooling(torch.nn.Sequential):
    """The mean over the image, a 1x1 convolution of it, and that at every position: (N, C_in, H, W) to (N, C, H, W)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(nn.GlobalAvgPool(), *nn.ConvNormActivation(in_channels, out_channels, 1))

    def forward(self, input: Tensor) -> Tensor:
        if self.training and len(input) == 1:
            raise OperandError(
                "deeplabv3",
                "got a batch of one image, whose mean has no variance for batch normalisation",
                "needed two or more",
                "a larger batch, or model.classifier.eval()",
            )
        return grown(super().forward(input), input.shape[-2:])


class ASPP(torch.nn.Module):
    """Atrous spatial pyramid pooling, (N, C_in, H, W) to (N, C, H, W).

    Args:
        in_channels: C_in.
        rates: the dilation of each 3x3 convolution.
        out_channels: C, also of each branch.
    """

    def __init__(self, in_channels: int, rates: tuple[int, ...] = RATES, out_channels: int = 256) -> None:
        super().__init__()
        self.convs = torch.nn.ModuleList(
            [
                nn.ConvNormActivation(in_channels, out_channels, 1),
                *(nn.ConvNormActivation(in_channels, out_channels, 3, dilation=rate) for rate in rates),
                ImagePooling(in_channels, out_channels),
            ]
        )
        self.project = torch.nn.Sequential(
            *nn.ConvNormActivation(len(self.convs) * out_channels, out_channels, 1), torch.nn.Dropout(0.5)
        )

    def forward(self, input: Tensor) -> Tensor:
        projected: Tensor = self.project(torch.cat([conv(input) for conv in self.convs], 1))
        return projected


class DeepLabHead(torch.nn.Sequential):
    """ASPP, a 3x3 convolution, scores: (N, C, H, W) to (N, K, H, W)."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__(ASPP(in_channels), *nn.ConvNormActivation(256, 256, 3), nn.Conv2d(256, num_classes, 1))


class DeepLabV3(Segmenter):
    """A dilated classifier with DeepLab's head, and an FCN's as the second one.

    Args:
        trunk: which classifier.
        num_classes: K.
        in_channels: of the images.
        aux_loss: whether there is a second head.
    """

    def __init__(self, trunk: Trunk, num_classes: int = CLASSES, in_channels: int = 3, aux_loss: bool = True) -> None:
        backbone = trunk.build(in_channels, aux_loss)
        aux = FCNHead(trunk.aux, num_classes) if aux_loss else None
        super().__init__(backbone, DeepLabHead(trunk.out, num_classes), aux)


for _name, _words, _trunk, _parameters in (
    ("resnet50", "ResNet-50, stride 8", RESNET50, 42_004_074),
    ("resnet101", "ResNet-101, stride 8", RESNET101, 60_996_202),
    ("mobilenet_v3_large", "MobileNetV3, stride 16", MOBILENET, 11_029_328),
):
    register(
        partial(DeepLabV3, _trunk),
        f"deeplabv3_{_name}",
        f"DeepLabv3 on {_words}; {_parameters:,} parameters, 520x520 images.",
        "semantic",
    )
