"""Classifiers as backbones of semantic networks: dilated instead of strided, with two of their maps by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

import torch

from striate.models.mobilenet_v3 import VARIANTS as MOBILENETS
from striate.models.mobilenet_v3 import MobileNetV3
from striate.models.resnet import VARIANTS as RESNETS
from striate.models.resnet import ResNet
from striate.nn import FeatureMaps


@dataclass(frozen=True)
class Trunk:
    """A classifier without its head.

    Args:
        classifier: from the channels of the images to the network.
        layers: where its direct children run one after the other: in the network itself, or in its ``features``.
        last, earlier: which of them give the maps to score, and those further up.
        out, aux: their channels.
    """

    classifier: Callable[..., torch.nn.Module]
    layers: Callable[[torch.nn.Module], torch.nn.Module]
    last: str
    earlier: str
    out: int
    aux: int

    def build(self, in_channels: int, aux: bool, names: tuple[str, str] = ("out", "aux")) -> FeatureMaps:
        """The network up to its last map, with random weights.

        Args:
            in_channels: of the images.
            aux: whether it gives the maps further up as well.
            names: what the last maps and those further up are called.
        """
        layers = self.layers(self.classifier(in_channels=in_channels))
        return FeatureMaps(layers, ({self.earlier: names[1]} if aux else {}) | {self.last: names[0]})


def _resnet(name: str) -> Trunk:
    """The third and the fourth stage, both at a stride of 8."""
    variant = next(each for each in RESNETS if each.name == name)
    build = partial(ResNet, variant.block, variant.depths, replace_stride_with_dilation=(False, True, True))
    return Trunk(build, lambda network: network, "layer4", "layer3", 2048, 1024)


def _mobilenet() -> Trunk:
    """The last layer, at a stride of 16, and the last but one that begins a resolution, at a stride of 8."""
    variant = next(each for each in MOBILENETS if each.name == "mobilenet_v3_large")
    build = partial(MobileNetV3, variant, dilated=True)
    return Trunk(build, lambda network: network.get_submodule("features"), "16", "4", 960, 40)


RESNET50: Final = _resnet("resnet50")
RESNET101: Final = _resnet("resnet101")
MOBILENET: Final = _mobilenet()
