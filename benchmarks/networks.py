"""Networks as plain PyTorch modules, for timing what :func:`striate.accelerate` makes of anybody's model.

ResNet-18 (He et al. 2016), MobileNetV2 (Sandler et al. 2018, table 2), ConvNeXt-T (Liu et al. 2022, table 9), with
torchvision's choices where papers leave some; LeNet-5 and the two-convolution network are striate.models' own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from striate import models


def _conv_norm(inner: int, outer: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(inner, outer, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outer)]


class Residual(nn.Module):
    """A body and a way around it, added; then what comes after."""

    def __init__(self, body: nn.Module, around: nn.Module, after: nn.Module) -> None:
        super().__init__()
        self.body, self.around, self.after = body, around, after

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.after(self.body(x) + self.around(x))
        return result


def resnet18(classes: int = 1000) -> nn.Sequential:
    layers = [*_conv_norm(3, 64, 7, 2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]
    inner = 64
    for outer, first in ((64, 1), (128, 2), (256, 2), (512, 2)):
        for stride in (first, 1):
            body = [*_conv_norm(inner, outer, 3, stride), nn.ReLU(inplace=True), *_conv_norm(outer, outer, 3)]
            alike = stride == 1 and inner == outer
            around = nn.Identity() if alike else nn.Sequential(*_conv_norm(inner, outer, 1, stride))
            layers.append(Residual(nn.Sequential(*body), around, nn.ReLU(inplace=True)))
            inner = outer
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, classes))


def textbook_lenet(classes: int = 10) -> nn.Sequential:
    """LeNet-5 as textbooks draw it: tanh and average pooling instead of the ReLU and max pooling of today."""
    return nn.Sequential(
        *(nn.Conv2d(1, 6, 5, padding=2), nn.Tanh(), nn.AvgPool2d(2)),
        *(nn.Conv2d(6, 16, 5), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten()),
        *(nn.Linear(400, 120), nn.Tanh(), nn.Linear(120, 84), nn.Tanh(), nn.Linear(84, classes)),
    )


def mobilenet_v2(classes: int = 1000) -> nn.Sequential:
    layers = [*_conv_norm(3, 32, 3, 2), nn.ReLU6(inplace=True)]
    inner = 32
    rows = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    for expansion, outer, repeats, first in rows:
        for stride in (first, *[1] * (repeats - 1)):
            wide = inner * expansion
            body = [*_conv_norm(inner, wide, 1), nn.ReLU6(inplace=True)] if expansion > 1 else []
            body += [*_conv_norm(wide, wide, 3, stride, wide), nn.ReLU6(inplace=True), *_conv_norm(wide, outer, 1)]
            block: nn.Module = nn.Sequential(*body)
            if stride == 1 and inner == outer:
                block = Residual(block, nn.Identity(), nn.Identity())
            layers.append(block)
            inner = outer
    layers += [*_conv_norm(inner, 1280, 1), nn.ReLU6(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Dropout(0.2), nn.Linear(1280, classes))


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation over channels of (N, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class LayerScale(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((channels, 1, 1), 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class ChannelLinear(nn.Linear):
    """A linear layer over channels of (N, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def convnext_tiny(classes: int = 1000) -> nn.Sequential:
    layers: list[nn.Module] = []
    inner = 3
    for outer, repeats in ((96, 3), (192, 3), (384, 9), (768, 3)):
        first = inner == 3
        down = nn.Conv2d(inner, outer, *((4, 4) if first else (2, 2)))
        layers += [down, ChannelNorm(outer, 1e-6)] if first else [ChannelNorm(inner, 1e-6), down]
        for _ in range(repeats):
            body = [nn.Conv2d(outer, outer, 7, padding=3, groups=outer), ChannelNorm(outer, 1e-6)]
            body += [ChannelLinear(outer, 4 * outer), nn.GELU(), ChannelLinear(4 * outer, outer), LayerScale(outer)]
            layers.append(Residual(nn.Sequential(*body), nn.Identity(), nn.Identity()))
        inner = outer
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), ChannelNorm(768, 1e-6), nn.Flatten(), nn.Linear(768, classes)
    )


class UNet(nn.Module):
    """Ronneberger et al. 2015, figure 1, as it is written today: padded, normalised, half as wide.

    Maps grow by transposed convolutions and are concatenated with those of the way down.
    """

    def __init__(self, classes: int = 21, width: int = 32, depth: int = 4) -> None:
        super().__init__()

        def twice(inner: int, outer: int) -> nn.Sequential:
            first, second = _conv_norm(inner, outer, 3), _conv_norm(outer, outer, 3)
            return nn.Sequential(*first, nn.ReLU(inplace=True), *second, nn.ReLU(inplace=True))

        widths = [width * 2**level for level in range(depth + 1)]
        self.down = nn.ModuleList(twice(*each) for each in zip([3, *widths], widths, strict=False))
        self.grow = nn.ModuleList(nn.ConvTranspose2d(2 * each, each, 2, 2) for each in widths[-2::-1])
        self.join = nn.ModuleList(twice(2 * each, each) for each in widths[-2::-1])
        self.out = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        beside: list[Tensor] = []
        for level, twice in enumerate(self.down):
            x = twice(x if level == 0 else nn.functional.max_pool2d(x, 2))
            beside.append(x)
        beside.pop()
        for grow, join in zip(self.grow, self.join, strict=True):
            x = join(torch.cat([beside.pop(), grow(x)], 1))
        result: Tensor = self.out(x)
        return result


class Work(NamedTuple):
    """A network and the images it is trained on for timing."""

    build: Callable[[], nn.Module]
    batch: int
    image: tuple[int, int, int]


NETWORKS = {
    "LeNet-5": Work(lambda: models.create("lenet5"), 128, (1, 28, 28)),
    "LeNet-5, tanh and average pooling": Work(textbook_lenet, 128, (1, 28, 28)),
    "simple_cnn": Work(lambda: models.create("simple_cnn"), 128, (1, 28, 28)),
    "ResNet-18": Work(resnet18, 16, (3, 64, 64)),
    "MobileNetV2": Work(mobilenet_v2, 16, (3, 96, 96)),
    "ConvNeXt-T": Work(convnext_tiny, 4, (3, 64, 64)),
}
