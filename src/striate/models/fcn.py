"""Fully convolutional networks: a classifier's maps, scored at every position and grown to the image.

Sources: Long, Shelhamer & Darrell, "Fully convolutional networks for semantic segmentation" (2015), section 3; on a
ResNet whose last two stages are dilated instead of strided, and with a second head on the third stage to learn by, as
Zhao et al., "Pyramid scene parsing network" (2017), section 3.3, have it. Names, results and initial weights are
torchvision's.
"""

from __future__ import annotations

from functools import partial
from typing import ClassVar, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from striate import nn
from striate.models.dilated import RESNET50, RESNET101, Trunk
from striate.models.registry import register

#: The classes of PASCAL VOC, with the background.
CLASSES: Final = 21


class Segmenter(torch.nn.Module):
    """Images (N, C, H, W) to ``{"out": scores}``, (N, K, H, W), larger is likelier; with a second head also ``aux``.

    Args:
        backbone: gives maps by name, ``out`` and, for the second head, ``aux``.
        classifier: from the maps ``out`` to scores at their size.
        aux_classifier: the same for ``aux``, the maps of an earlier layer. Its loss has a smaller weight and helps the
            layers up to there to learn; evaluation doesn't use it. None for none.
    """

    #: The layers that have an output for each class.
    head_keys: ClassVar[tuple[str, ...]] = ("classifier.4", "aux_classifier.4")
    #: Keys that weights may lack or have in addition: the head that only training needs.
    spare_parts: ClassVar[tuple[str, ...]] = ("aux_classifier",)

    #: (H, W) of the images that the network was made for.
    input_size: tuple[int, int] = (520, 520)

    def __init__(
        self, backbone: torch.nn.Module, classifier: torch.nn.Module, aux_classifier: torch.nn.Module | None = None
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.classifier = classifier
        self.aux_classifier = aux_classifier

    def forward(self, input: Tensor) -> dict[str, Tensor]:
        maps = self.backbone(input)
        size = input.shape[-2:]
        scores = {"out": grown(self.classifier(maps["out"]), size)}
        if self.aux_classifier is not None:
            scores["aux"] = grown(self.aux_classifier(maps["aux"]), size)
        return scores


class FCNHead(torch.nn.Sequential):
    """A 3x3 convolution to a quarter of the channels, then scores: (N, C, H, W) to (N, K, H, W)."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        inner = in_channels // 4
        super().__init__(
            nn.Conv2d(in_channels, inner, 3, padding=1, bias=False),
            torch.nn.BatchNorm2d(inner),
            torch.nn.ReLU(),
            torch.nn.Dropout(0.1),
            nn.Conv2d(inner, num_classes, 1),
        )


class FCN(Segmenter):
    """A ResNet with an FCN's head.

    Args:
        trunk: which ResNet.
        num_classes: K.
        in_channels: of the images.
        aux_loss: whether there is a second head, on the third stage.
    """

    def __init__(self, trunk: Trunk, num_classes: int = CLASSES, in_channels: int = 3, aux_loss: bool = True) -> None:
        backbone = trunk.build(in_channels, aux_loss)
        aux = FCNHead(trunk.aux, num_classes) if aux_loss else None
        super().__init__(backbone, FCNHead(trunk.out, num_classes), aux)


def grown(maps: Tensor, size: tuple[int, ...]) -> Tensor:
    """Maps (N, C, h, w) at another size (H, W), bilinear."""
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)


for _name, _words, _trunk, _parameters in (
    ("resnet50", "ResNet-50", RESNET50, 35_322_218),
    ("resnet101", "ResNet-101", RESNET101, 54_314_346),
):
    register(
        partial(FCN, _trunk),
        f"fcn_{_name}",
        f"FCN on {_words}, stride 8; {_parameters:,} parameters, 520x520 images.",
        "semantic",
    )
