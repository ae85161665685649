"""SqueezeNet: AlexNet's accuracy with a fiftieth of its parameters, by 1x1 convolutions that squeeze.

Source: Iandola, Han, Moskewicz, Ashraf, Dally & Keutzer, "SqueezeNet: AlexNet-level accuracy with 50x fewer parameters
and <0.5MB model size" (2016), table 1; version 1.1, with smaller kernels and earlier pooling, is from the authors'
code. Names of parameters and initial weights are torchvision's.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Final

import torch
from torch import Tensor

from striate import nn
from striate.models.registry import register


@dataclass(frozen=True)
class Variant:
    """A version: channels and kernel of the first convolution, fire modules after which maps are pooled, parameters."""

    name: str
    stem: int
    kernel_size: int
    pooled_after: tuple[int, ...]
    parameters: int


#: Table 1: channels that a fire module squeezes to, and channels of each of its two expansions.
FIRES: Final = ((16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256), (64, 256))

VARIANTS: Final = (
    Variant("squeezenet1_0", 96, 7, (3, 7), 1_248_424),
    Variant("squeezenet1_1", 64, 3, (2, 4), 1_235_496),
)


class Fire(torch.nn.Module):
    """1x1 to few channels, then 1x1 and 3x3 side by side: (N, C_in, H, W) to (N, 2 * expanded, H, W).

    Source: figure 1.
    """

    def __init__(self, in_channels: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(in_channels, squeezed, 1)
        self.squeeze_activation = torch.nn.ReLU()
        self.expand1x1 = nn.Conv2d(squeezed, expanded, 1)
        self.expand1x1_activation = torch.nn.ReLU()
        self.expand3x3 = nn.Conv2d(squeezed, expanded, 3, padding=1)
        self.expand3x3_activation = torch.nn.ReLU()

    def forward(self, input: Tensor) -> Tensor:
        inner = self.squeeze_activation(self.squeeze(input))
        points = self.expand1x1_activation(self.expand1x1(inner))
        windows = self.expand3x3_activation(self.expand3x3(inner))
        return torch.cat([points, windows], 1)


class SqueezeNet(torch.nn.Module):
    """A convolution, eight fire modules with max pooling between, and a 1x1 convolution whose maps' means are scores.

    Args:
        variant: a row of the table above.
        num_classes: K of the output (N, K).
        in_channels: of the images.
    """

    def __init__(self, variant: Variant, num_classes: int = 1000, in_channels: int = 3) -> None:
        super().__init__()
        self.input_size = (224, 224)
        pooling = partial(nn.MaxPool2d, 3, 2, ceil_mode=True)
        channels = variant.stem
        features = [nn.Conv2d(in_channels, channels, variant.kernel_size, stride=2), torch.nn.ReLU(), pooling()]
        for number, (squeezed, expanded) in enumerate(FIRES, 1):
            features.append(Fire(channels, squeezed, expanded))
            channels = 2 * expanded
            if number in variant.pooled_after:
                features.append(pooling())
        self.features = torch.nn.Sequential(*features)
        last = nn.Conv2d(channels, num_classes, 1)
        self.classifier = torch.nn.Sequential(torch.nn.Dropout(0.5), last, torch.nn.ReLU(), nn.GlobalAvgPool())
        for layer in self.modules():
            if isinstance(layer, torch.nn.Conv2d):
                if layer is last:
                    torch.nn.init.normal_(layer.weight, 0, 0.01)
                else:
                    torch.nn.init.kaiming_uniform_(layer.weight)
                torch.nn.init.zeros_(layer.get_parameter("bias"))

    def forward(self, input: Tensor) -> Tensor:
        scores: Tensor = self.classifier(self.features(input))
        return scores.flatten(1)


for _variant in VARIANTS:
    register(
        partial(SqueezeNet, _variant),
        _variant.name,
        f"SqueezeNet {_variant.name.removeprefix('squeezenet').replace('_', '.')}; "
        f"{_variant.parameters:,} parameters, 224x224 images.",
    )
