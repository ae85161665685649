"""Networks in all the forms that people write them, and the made images whose evidence has a known place."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Nested(nn.Module):
    """Containers in containers, an in-place ReLU after each layer, a residual sum, pooling, one linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.body = nn.ModuleDict({"block": nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(inplace=True))})
        self.last = nn.Conv2d(8, 12, 3, stride=2, padding=1)
        self.act = nn.ReLU(inplace=True)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.body["block"](x)
        x = self.act(self.last(x))
        return self.fc(self.pool(x).flatten(1))


class Functional(nn.Module):
    """The same weights as functional calls, in place and not; no layer but the convolutions runs."""

    def __init__(self, like: Nested) -> None:
        super().__init__()
        self.like = like

    def forward(self, x: Tensor) -> Tensor:
        m = self.like
        x = F.relu_(m.stem[1](m.stem[0](x)))
        x = x + torch.relu(m.body["block"][0](x))
        x = m.last(x).relu_()
        return F.linear(x.mean((2, 3)), m.fc.weight, m.fc.bias)


class Reused(nn.Module):
    """One convolution and one ReLU, called three times."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = self.relu(self.conv(x))
        return self.fc(x.mean((2, 3)))


class TinyViT(nn.Module):
    """Patches, class and register tokens, attention, the class token read at the end."""

    def __init__(self, extra: int = 1) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 8, stride=8)
        self.first = nn.Parameter(torch.randn(1, extra, 16))
        self.places = nn.Parameter(torch.randn(1, 12, 16))
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2) + self.places
        x = torch.cat([self.first.expand(len(x), -1, -1), x], 1)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(16), nn.LayerNorm(16)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.norm2(x))


def small_network(classes: int = 10) -> nn.Sequential:
    """For grey 48x48 images: three convolutions, global average pooling, a linear layer."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveMaxPool2d(1),
        nn.Flatten(),
        nn.Linear(64, classes),
    )
