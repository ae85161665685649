"""GoogLeNet: blocks of convolutions of several sizes side by side, with auxiliary classifiers in training.

Source: Szegedy, Liu, Jia, Sermanet, Reed, Anguelov, Erhan, Vanhoucke & Rabinovich, "Going deeper with convolutions"
(CVPR 2015), table 1 and figures 2 (b) and 3. Unlike the paper, but like torchvision, whose weights are the only common
ones: batch normalisation after each convolution, and 3x3 where the paper has 5x5. Names of parameters and initial
weights are torchvision's.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from striate import nn
from striate.models.auxiliary import WithAuxiliary
from striate.models.registry import register

#: Table 1: channels of the 1x1; of the two 3x3 branches, within and out; after pooling.
MIXED: Final = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}
#: Before which blocks maps are pooled, and after which an auxiliary head sees them.
POOLED: Final = {"4a": "maxpool3", "5a": "maxpool4"}
AUXILIARY: Final = {"4a": "aux1", "4d": "aux2"}


class ConvNorm(torch.nn.Module):
    """A convolution without bias, batch normalisation and ReLU: (N, C_in, H, W) to (N, C, H', W')."""

    def __init__(
        self,
        in_channels: int,
        channels: int,
        kernel_size: int | tuple[int, int] = 1,
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, kernel_size, stride, padding, bias=False)
        self.bn = torch.nn.BatchNorm2d(channels, eps=1e-3)
        self.relu = torch.nn.ReLU()

    def forward(self, input: Tensor) -> Tensor:
        output: Tensor = self.relu(self.bn(self.conv(input)))
        return output


class Inception(torch.nn.Module):
    """1x1, 3x3 twice and pooling side by side, (N, C_in, H, W) to (N, C, H, W).

    Source: figure 2 (b).
    """

    def __init__(self, in_channels: int, widths: tuple[int, int, int, int, int, int]) -> None:
        super().__init__()
        points, inner, windows, inner2, windows2, pooled = widths
        self.out_channels = points + windows + windows2 + pooled
        self.branch1 = ConvNorm(in_channels, points)
        self.branch2 = torch.nn.Sequential(ConvNorm(in_channels, inner), ConvNorm(inner, windows, 3, padding=1))
        self.branch3 = torch.nn.Sequential(ConvNorm(in_channels, inner2), ConvNorm(inner2, windows2, 3, padding=1))
        self.branch4 = torch.nn.Sequential(nn.MaxPool2d(3, 1, 1), ConvNorm(in_channels, pooled))

    def forward(self, input: Tensor) -> Tensor:
        return torch.cat([self.branch1(input), self.branch2(input), self.branch3(input), self.branch4(input)], 1)


class Auxiliary(torch.nn.Module):
    """Means of 4x4 parts, a 1x1 convolution and two linear layers: (N, C, H, W) to scores (N, K).

    Source: section 5.
    """

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d((4, 4))
        self.conv = ConvNorm(in_channels, 128)
        self.fc1 = torch.nn.Linear(128 * 4 * 4, 1024)
        self.relu = torch.nn.ReLU()
        self.dropout = torch.nn.Dropout(0.7)
        self.fc2 = torch.nn.Linear(1024, num_classes)

    def forward(self, input: Tensor) -> Tensor:
        inner = self.relu(self.fc1(self.conv(self.avgpool(input)).flatten(1)))
        scores: Tensor = self.fc2(self.dropout(inner))
        return scores


class GoogLeNet(WithAuxiliary):
    """Three convolutions, nine blocks with max pooling between, the mean over all places and a linear layer.

    Returns scores (N, K) in training and in evaluation. :meth:`loss` adds the losses of the two auxiliary heads.

    Args:
        num_classes: K.
        in_channels: of the images.
        aux_logits: with auxiliary heads, as files of weights have them.
        transform_input: for images that are normalised by ImageNet's mean and deviation, where the weights are for
            pixels from -1 to 1, as torchvision's are. Not needed with ``striate.models.imagenet_preprocessing``, which
            gives what the weights are for.
    """

    head_keys: Final = ("fc", "aux1.fc2", "aux2.fc2")

    def __init__(
        self, num_classes: int = 1000, in_channels: int = 3, aux_logits: bool = True, transform_input: bool = False
    ) -> None:
        super().__init__()
        self.input_size = (224, 224)
        self.transform_input = transform_input
        self.conv1 = ConvNorm(in_channels, 64, 7, 2, 3)
        self.maxpool1 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.conv2 = ConvNorm(64, 64)
        self.conv3 = ConvNorm(64, 192, 3, padding=1)
        self.maxpool2 = nn.MaxPool2d(3, 2, ceil_mode=True)
        channels, seen = 192, {}
        for name, widths in MIXED.items():
            if name in POOLED:
                self.add_module(POOLED[name], nn.MaxPool2d(3 if name == "4a" else 2, 2, ceil_mode=True))
            block = Inception(channels, widths)
            self.add_module(f"inception{name}", block)
            channels = seen[name] = block.out_channels
        for name, head in AUXILIARY.items() if aux_logits else ():
            self.add_module(head, Auxiliary(seen[name], num_classes))
        self.aux_logits = aux_logits
        self.avgpool = nn.GlobalAvgPool()
        self.dropout = torch.nn.Dropout(0.2)
        self.fc = torch.nn.Linear(channels, num_classes)
        truncated(self, 0.01)

    def forward(self, input: Tensor) -> Tensor:
        if self.transform_input:
            input = between_ones(input)
        maps = self.maxpool1(self.conv1(input))
        maps = self.maxpool2(self.conv3(self.conv2(maps)))
        heard = []
        for name in MIXED:
            if name in POOLED:
                maps = self.get_submodule(POOLED[name])(maps)
            maps = self.get_submodule(f"inception{name}")(maps)
            if self.training and self.aux_logits and name in AUXILIARY:
                heard.append(self.get_submodule(AUXILIARY[name])(maps))
        if heard:
            self.auxiliary = tuple(heard)
        scores: Tensor = self.fc(self.dropout(self.avgpool(maps).flatten(1)))
        return scores


def truncated(model: torch.nn.Module, std: float) -> None:
    """Gives convolutions and linear layers normal weights of deviation ``std``, or their own ``stddev``, up to 2."""
    for layer in model.modules():
        if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear):
            torch.nn.init.trunc_normal_(layer.weight, std=float(getattr(layer, "stddev", std)), a=-2, b=2)


def between_ones(input: Tensor) -> Tensor:
    """Images that are normalised by ImageNet's mean and deviation, as pixels from -1 to 1: (N, 3, H, W) as before."""
    mean, std = (input.new_tensor(each).view(3, 1, 1) for each in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return (input * std + mean - 0.5) / 0.5


register(GoogLeNet, "googlenet", "GoogLeNet, with its auxiliary heads; 13,004,888 parameters, 224x224 images.")
