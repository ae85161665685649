"""Faster R-CNN on feature pyramids: boxes with classes, from proposals that the same network makes.

Sources: Ren, He, Girshick & Sun, "Faster R-CNN: Towards real-time object detection with region proposal networks"
(2015); on a feature pyramid Lin et al., "Feature pyramid networks for object detection" (2017), section 4; the deeper
heads of ``_v2`` Li et al., "Benchmarking detection transfer learning with vision transformers" (2021), section 3.
Names of parameters, results and losses are torchvision's.

Batch normalisation is frozen, except in ``_v2``, because these networks are meant to start from pretrained weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor

from striate import nn
from striate.models.initialisation import kaiming_fan_out
from striate.models.mobilenet_v3 import VARIANTS as MOBILENETS
from striate.models.mobilenet_v3 import MobileNetV3
from striate.models.registry import register
from striate.models.resnet import ResNet
from striate.models.two_stage import RoIHeads, TwoStageDetector
from striate.nn.pyramid import PyramidBackbone

#: Features of a region; positions along its sides.
FEATURES: Final = 1024
REGION: Final = 7
#: One size a level (Lin et al., section 4.1).
ANCHOR_SIZES: Final = ((32,), (64,), (128,), (256,), (512,))
#: All sizes at all three levels of MobileNetV3's pyramid, whose strides are hardly different.
MOBILE_ANCHOR_SIZES: Final = (tuple(size for (size,) in ANCHOR_SIZES),) * 3
#: Three channels have ImageNet's mean and deviation; others have the means of these.
GREY_MEAN: Final = sum(nn.IMAGENET_MEAN) / 3
GREY_STD: Final = sum(nn.IMAGENET_STD) / 3


def resnet50_pyramid(in_channels: int, *, frozen: bool) -> PyramidBackbone:
    """ResNet-50's four stages in a pyramid; batch normalisation is frozen, or an ordinary one, in the pyramid too."""
    network = ResNet(nn.Bottleneck, (3, 4, 6, 3), in_channels=in_channels)
    if frozen:
        nn.freeze_batch_norm(network)
    body = nn.FeatureMaps(network, {f"layer{index + 1}": str(index) for index in range(4)})
    return PyramidBackbone(body, (256, 512, 1024, 2048), (4, 8, 16, 32), None if frozen else torch.nn.BatchNorm2d)


def mobilenet_pyramid(in_channels: int) -> PyramidBackbone:
    """MobileNetV3-Large's last stage and last layer in a pyramid, batch normalisation frozen."""
    (large,) = (variant for variant in MOBILENETS if variant.name == "mobilenet_v3_large")
    network = MobileNetV3(large, in_channels=in_channels)
    # The frozen layers' own small number, not that of the network, which is a hundred times as large.
    nn.freeze_batch_norm(network, eps=1e-5)
    chosen = network.stages[-2:]
    body = nn.FeatureMaps(network.features, {str(layer): str(index) for index, layer in enumerate(chosen)})
    channels: list[Any] = [network.features[layer].out_channels for layer in chosen]
    return PyramidBackbone(body, tuple(channels), (32, 32))


class TwoMLPHead(torch.nn.Module):
    """Two linear layers, rectified, (R, C, h, w) to (R, F)."""

    def __init__(self, in_features: int, features: int) -> None:
        super().__init__()
        self.fc6 = torch.nn.Linear(in_features, features)
        self.fc7 = torch.nn.Linear(features, features)

    def forward(self, regions: Tensor) -> Tensor:
        features: Tensor = self.fc7(self.fc6(regions.flatten(1)).relu()).relu()
        return features


class ConvHead(torch.nn.Sequential):
    """Four 3x3 convolutions with batch normalisation and a linear layer, (R, C, h, w) to (R, F)."""

    def __init__(self, channels: int, size: int, features: int) -> None:
        super().__init__(
            *(nn.ConvNormActivation(channels, channels, 3) for _ in range(4)),
            torch.nn.Flatten(),
            torch.nn.Linear(channels * size**2, features),
            torch.nn.ReLU(),
        )
        kaiming_fan_out(self)


class BoxPredictor(torch.nn.Module):
    """Class logits (R, K) and differences of boxes for each class (R, 4K) from features (R, F)."""

    def __init__(self, features: int, num_classes: int) -> None:
        super().__init__()
        self.cls_score = torch.nn.Linear(features, num_classes)
        self.bbox_pred = torch.nn.Linear(features, 4 * num_classes)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        return self.cls_score(features), self.bbox_pred(features)


class FasterRCNN(TwoStageDetector):
    """A feature pyramid, proposals, and for each proposal a class and a box.

    Args:
        backbone: the pyramid.
        num_classes: K, with the background.
        in_channels: of the images.
        anchor_sizes: for each level of the pyramid.
        deep: two convolutions before proposals, and four before the features of a region, as in ``_v2``.
        settings: those that begin with ``rpn_`` are :class:`striate.nn.RegionProposalNetwork`'s
            (``rpn_post_nms_top_n_test=300``), those that begin with ``box_`` are :class:`RoIHeads`'
            (``box_score_thresh=0.5``), the others :class:`striate.nn.DetectionInput`'s (``min_size=400``).
    """

    def __init__(
        self,
        backbone: PyramidBackbone,
        num_classes: int = 91,
        in_channels: int = 3,
        anchor_sizes: tuple[tuple[int, ...], ...] = ANCHOR_SIZES,
        deep: bool = False,
        **settings: Any,
    ) -> None:
        anchors = nn.AnchorGenerator(anchor_sizes)
        head = nn.ProposalHead(backbone.out_channels, anchors.per_position[0], 2 if deep else 1)
        rpn = nn.RegionProposalNetwork(anchors, head, **_beginning_with("rpn_", settings))
        colour = {} if in_channels == 3 else {"mean": (GREY_MEAN,) * in_channels, "std": (GREY_STD,) * in_channels}
        others = {name: value for name, value in settings.items() if not name.startswith(("rpn_", "box_"))}
        super().__init__(
            backbone,
            rpn,
            self.heads(backbone, num_classes, deep, **_beginning_with("box_", settings)),
            nn.DetectionInput(**(colour | others)),
            num_classes,
            backbone.strides,
        )

    def heads(self, backbone: PyramidBackbone, num_classes: int, deep: bool, **settings: Any) -> RoIHeads:
        """The heads that turn proposals into detections."""
        return RoIHeads(*box_parts(backbone, num_classes, deep), **settings)


def box_parts(
    backbone: PyramidBackbone, num_classes: int, deep: bool
) -> tuple[torch.nn.Module, torch.nn.Module, torch.nn.Module]:
    """Pooling, head and predictor of boxes."""
    channels = backbone.out_channels
    head = ConvHead(channels, REGION, FEATURES) if deep else TwoMLPHead(channels * REGION**2, FEATURES)
    return nn.MultiScaleRoIAlign(backbone.body_strides, REGION), head, BoxPredictor(FEATURES, num_classes)


def _beginning_with(prefix: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in settings.items() if name.startswith(prefix)}


def resnet50(num_classes: int = 91, in_channels: int = 3, *, deep: bool = False, **settings: Any) -> FasterRCNN:
    """Faster R-CNN on ResNet-50; ``settings`` as in :class:`FasterRCNN`."""
    backbone = resnet50_pyramid(in_channels, frozen=not deep)
    return FasterRCNN(backbone, num_classes, in_channels, deep=deep, **settings)


def mobilenet(num_classes: int = 91, in_channels: int = 3, **settings: Any) -> FasterRCNN:
    """Faster R-CNN on MobileNetV3-Large; ``settings`` as in :class:`FasterRCNN`."""
    settings = {"rpn_score_thresh": 0.05} | settings
    return FasterRCNN(mobilenet_pyramid(in_channels), num_classes, in_channels, MOBILE_ANCHOR_SIZES, **settings)


def mobilenet_320(num_classes: int = 91, in_channels: int = 3, **settings: Any) -> FasterRCNN:
    """:func:`mobilenet` on images of 320 pixels, with fewer proposals."""
    fewer = {"rpn_pre_nms_top_n_test": 150, "rpn_post_nms_top_n_test": 150}
    return mobilenet(num_classes, in_channels, **({"min_size": 320, "max_size": 640} | fewer | settings))


for _builder, _name, _words, _parameters, _size in (
    (resnet50, "fasterrcnn_resnet50_fpn", "ResNet-50", 41_755_286, "800x1333"),
    (partial(resnet50, deep=True), "fasterrcnn_resnet50_fpn_v2", "ResNet-50, deeper heads", 43_712_278, "800x1333"),
    (mobilenet, "fasterrcnn_mobilenet_v3_large_fpn", "MobileNetV3-Large", 19_386_354, "800x1333"),
    (mobilenet_320, "fasterrcnn_mobilenet_v3_large_320_fpn", "MobileNetV3-Large", 19_386_354, "320x640"),
):
    register(
        _builder, _name, f"Faster R-CNN on {_words}; {_parameters:,} parameters, {_size} images.", task="detection"
    )
