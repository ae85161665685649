"""Well-known networks in plain torch, small enough to read, for whoever measures networks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Residual(nn.Module):
    """A basic or bottleneck block, with the stride on the 3x3 (torchvision) or on the first 1x1 (the paper)."""

    def __init__(self, inside: int, wide: int, stride: int, bottleneck: bool, early: bool) -> None:
        super().__init__()
        outside = 4 * wide if bottleneck else wide
        if bottleneck:
            first, second = (stride, 1) if early else (1, stride)
            self.conv1, self.bn1 = nn.Conv2d(inside, wide, 1, first, bias=False), nn.BatchNorm2d(wide)
            self.conv2, self.bn2 = nn.Conv2d(wide, wide, 3, second, 1, bias=False), nn.BatchNorm2d(wide)
            self.conv3, self.bn3 = nn.Conv2d(wide, outside, 1, bias=False), nn.BatchNorm2d(outside)
        else:
            self.conv1, self.bn1 = nn.Conv2d(inside, wide, 3, stride, 1, bias=False), nn.BatchNorm2d(wide)
            self.conv2, self.bn2 = nn.Conv2d(wide, wide, 3, 1, 1, bias=False), nn.BatchNorm2d(wide)
        self.bottleneck = bottleneck
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or inside != outside:
            self.downsample = nn.Sequential(nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside))

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        if self.bottleneck:
            out = self.bn3(self.conv3(self.relu(out)))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


class ResNet(nn.Module):
    """He et al. 2016, table 1."""

    def __init__(self, depth: int, early: bool = False, width: int = 64, classes: int = 1000) -> None:
        super().__init__()
        bottleneck = depth >= 50
        blocks = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}[depth]
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        inside = width
        for number, count in enumerate(blocks):
            layers = []
            for block in range(count):
                stride = 2 if block == 0 and number > 0 else 1
                layers.append(Residual(inside, width << number, stride, bottleneck, early))
                inside = (width << number) * (4 if bottleneck else 1)
            self.add_module(f"layer{number + 1}", nn.Sequential(*layers))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(inside, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for number in range(1, 5):
            x = getattr(self, f"layer{number}")(x)
        return self.fc(torch.flatten(self.avgpool(x), 1))


class SlimResNet(ResNet):
    """TensorFlow-Slim's ResNets: the stride in each stage's last unit, TensorFlow's padding in the first pooling."""

    def __init__(self, depth: int) -> None:
        super().__init__(depth, width=4, classes=3)
        self.maxpool = nn.Sequential(SamePad(3, 2), nn.MaxPool2d(3, 2))
        stages = [getattr(self, f"layer{number}") for number in range(1, 5)]
        for number, stage in enumerate(stages):
            first, last = stage[0], stage[-1]
            first.conv2.stride = first.downsample[0].stride = (1, 1)
            if number < 3:
                last.conv2.stride = (2, 2)
                last.downsample = nn.MaxPool2d(1, 2)


def vgg16(width: int = 64, classes: int = 1000, hidden: int = 4096) -> nn.Module:
    """Simonyan & Zisserman 2015, configuration D."""
    layers: list[nn.Module] = []
    inside = 3
    for number, count in enumerate((2, 2, 3, 3, 3)):
        wide = width * min(1 << number, 8)
        for _ in range(count):
            layers += [nn.Conv2d(inside, wide, 3, padding=1), nn.ReLU(inplace=True)]
            inside = wide
        layers.append(nn.MaxPool2d(2))
    head = nn.Sequential(
        nn.Linear(inside * 49, hidden), nn.ReLU(True), nn.Dropout(), nn.Linear(hidden, hidden), nn.ReLU(True),
        nn.Dropout(), nn.Linear(hidden, classes),
    )  # fmt: skip
    network = nn.Sequential()
    for name, part in (
        ("features", nn.Sequential(*layers)), ("avgpool", nn.AdaptiveAvgPool2d(7)), ("flatten", nn.Flatten()),
        ("classifier", head),
    ):  # fmt: skip
        network.add_module(name, part)
    return network


def alexnet(first_padding: int = 2, classes: int = 1000) -> nn.Module:
    """Krizhevsky 2014, one tower."""
    sizes = (
        (3, 64, 11, 4, first_padding),
        (64, 192, 5, 1, 2),
        (192, 384, 3, 1, 1),
        (384, 256, 3, 1, 1),
        (256, 256, 3, 1, 1),
    )
    layers: list[nn.Module] = []
    for number, (inside, wide, kernel, stride, padding) in enumerate(sizes):
        layers += [nn.Conv2d(inside, wide, kernel, stride, padding), nn.ReLU(inplace=True)]
        if number in (0, 1, 4):
            layers.append(nn.MaxPool2d(3, 2))
    head = nn.Sequential(
        nn.Dropout(), nn.Linear(256 * 36, 4096), nn.ReLU(True), nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU(True),
        nn.Linear(4096, classes),
    )  # fmt: skip
    return nn.Sequential(nn.Sequential(*layers), nn.AdaptiveAvgPool2d(6), nn.Flatten(), head)


class SamePad(nn.Module):
    """TensorFlow's padding: as much as makes the output ceil(n / stride), an odd cell at the end."""

    def __init__(self, kernel: int, stride: int) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        pad = []
        for n in reversed(x.shape[2:]):
            cells = max((-(-n // self.stride) - 1) * self.stride + self.kernel - n, 0)
            pad += [cells // 2, cells - cells // 2]
        return F.pad(x, pad)


def mobilenet_v1(width: int = 32) -> nn.Module:
    """Howard et al. 2017, table 1, with TensorFlow's padding."""
    layers: list[nn.Module] = [SamePad(3, 2), nn.Conv2d(3, width, 3, 2)]
    inside = width
    strides = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)
    wides = (2, 4, 4, 8, 8, 16, 16, 16, 16, 16, 16, 32, 32)
    for stride, times in zip(strides, wides, strict=True):
        layers += [
            SamePad(3, stride), nn.Conv2d(inside, inside, 3, stride, groups=inside), nn.BatchNorm2d(inside), nn.ReLU6(),
            nn.Conv2d(inside, width * times, 1), nn.BatchNorm2d(width * times), nn.ReLU6(),
        ]  # fmt: skip
        inside = width * times
    return nn.Sequential(*layers)


class Inception(nn.Module):
    """Branches as in Szegedy et al. 2016, figures 5 to 7: 3x3, two 3x3, 1x7 and 7x1, 1x3 beside 3x1, pooling."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, 2)
        self.one = nn.Conv2d(width, width, 1)
        self.twice = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1))
        self.long = nn.Sequential(
            nn.Conv2d(3 * width, width, (1, 7), padding=(0, 3)), nn.Conv2d(width, width, (7, 1), padding=(3, 0))
        )
        self.wide = nn.Conv2d(4 * width, width, (1, 3), padding=(0, 1))
        self.high = nn.Conv2d(4 * width, width, (3, 1), padding=(1, 0))
        self.last = nn.Conv2d(2 * width, width, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = torch.cat([self.one(x), self.twice(x), F.avg_pool2d(x, 3, 1, 1)], 1)
        x = torch.cat([self.long(x), x], 1)
        x = torch.cat([self.wide(x), self.high(x)], 1)
        return self.last(F.relu(x))


class UNet(nn.Module):
    """Ronneberger et al. 2015, three levels: transposed convolution up, concatenation across."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(2)
        self.down1 = nn.Conv2d(3, width, 3, padding=1)
        self.down2 = nn.Conv2d(width, width, 3, padding=1)
        self.bottom = nn.Conv2d(width, width, 3, padding=1)
        self.up2 = nn.ConvTranspose2d(width, width, 2, 2)
        self.merge2 = nn.Conv2d(2 * width, width, 3, padding=1)
        self.merge1 = nn.Conv2d(2 * width, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        one = F.relu(self.down1(x))
        two = F.relu(self.down2(self.pool(one)))
        low = F.relu(self.bottom(self.pool(two)))
        two = F.relu(self.merge2(torch.cat([self.up2(low), two], 1)))
        up = F.interpolate(two, scale_factor=2, mode="bilinear", align_corners=False)
        return self.merge1(torch.cat([up, one], 1))


class Shuffle(nn.Module):
    """Ma et al. 2018, figure 3c: half of the channels pass by, then a shuffle. The stem puts space into depth."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.stem = nn.Conv2d(12, 2 * width, 1)
        self.blocks = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1, groups=2) for _ in range(3))
        self.head = nn.Conv2d(2 * width, 4, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(F.pixel_unshuffle(x, 2))
        for block in self.blocks:
            past, through = x.chunk(2, 1)
            x = torch.cat([past, F.relu(block(through))], 1)
            n, c, h, w = x.shape
            x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return F.pixel_shuffle(self.head(x), 2)


class Transformer(nn.Module):
    """Dosovitskiy et al. 2021 in small: patches, class token, one encoder layer."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.token = nn.Parameter(torch.ones(1, 1, width))
        self.encoder = nn.TransformerEncoderLayer(width, 2, 16, dropout=0.0, batch_first=True, norm_first=True)
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
        return self.head(self.encoder(x)[:, 0])


class Gated(nn.Module):
    """Squeeze and excitation (Hu et al. 2018) over a reused convolution."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, 2, 1)
        self.again = nn.Conv2d(width, width, 3, padding=1)
        self.squeeze = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.again(F.relu(self.again(F.relu(self.stem(x)))))
        gate = torch.sigmoid(self.squeeze(x.mean((2, 3))))
        return x * gate[:, :, None, None]


class Dense(nn.Module):
    """Huang et al. 2017: every layer sees all before it, concatenated."""

    def __init__(self, width: int = 2) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(3 + n * width, width, 3, padding=1) for n in range(4))
        self.last = nn.Conv2d(3 + 4 * width, width, 1, groups=1)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.cat([x, F.relu(layer(x))], 1)
        return self.last(F.avg_pool2d(x, 2))


class Windowed(nn.Module):
    """Liu et al. 2021 in small: attention inside of windows of patches, shifted ones next, then patches merge."""

    def __init__(self, width: int = 4, window: int = 4) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 2, 2)
        self.window = window
        self.mix = nn.Linear(window**2, window**2)
        self.merge = nn.Conv2d(width, width, 2, 2)

    def inside(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        k = self.window
        tokens = x.view(n, c, h // k, k, w // k, k).permute(0, 2, 4, 1, 3, 5).reshape(-1, c, k * k)
        tokens = self.mix(tokens)
        return tokens.view(n, h // k, w // k, c, k, k).permute(0, 3, 1, 4, 2, 5).reshape(n, c, h, w)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inside(self.patches(x))
        x = torch.roll(self.inside(torch.roll(x, (-2, -2), (2, 3))), (2, 2), (2, 3))
        return self.merge(x)


class EncoderLayer(nn.TransformerEncoderLayer):
    """With GELU and normalisation first."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__(width, heads, hidden, 0.0, "gelu", 1e-6, batch_first=True, norm_first=True)


class ViT(nn.Module):
    """Dosovitskiy et al. 2021, table 1."""

    def __init__(self, width: int, depth: int, heads: int, patch: int, classes: int = 1000) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(torch.zeros(1, (224 // patch) ** 2 + 1, width))
        self.layers = nn.Sequential(*(EncoderLayer(width, heads, 4 * width) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.position
        return self.head(self.norm(self.layers(x))[:, 0])


def vit_b16() -> nn.Module:
    """ViT-B/16."""
    return ViT(768, 12, 12, 16)
