"""Random networks: branches, dilation, uneven padding, transposed windows, reuse and functional calls."""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
import torch.nn.functional as F
from oracle import average_like_max
from torch import Tensor, nn

Step = Callable[[Tensor], Tensor]


class RandomGraph(nn.Module):
    """A chain of random steps on 4 channels, some of them two branches that are added or concatenated.

    Args:
        seed: which graph.
        averages: pool by averages over the maxima's windows, so that every path has a gradient.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.random = random.Random(seed)
        self.averages = False
        self.layers = nn.ModuleList()
        self.names: list[str] = []
        self.size = (1, self.random.randint(14, 22), self.random.randint(14, 22))
        self.steps = [self.conv(1, 4)] + [self.step() for _ in range(self.random.randint(2, 5))]
        self.last = nn.Identity()
        del self.random

    def keep(self, layer: nn.Module) -> nn.Module:
        self.layers.append(layer)
        return layer

    def conv(self, inside: int = 4, outside: int = 4) -> Step:
        r = self.random
        kernel, stride = (r.randint(1, 3), r.randint(1, 4)), (r.choice((1, 1, 2)), r.choice((1, 1, 2, 3)))
        dilation = r.choice((1, 1, 2))
        groups = r.choice((1, 1, 2)) if inside == 4 else 1
        layer = self.keep(nn.Conv2d(inside, outside, kernel, stride, 0, dilation, groups))
        pads = [r.randint(0, 3) for _ in range(4)]
        return lambda x: layer(F.pad(x, pads))

    def step(self) -> Step:
        r = self.random
        return getattr(self, r.choice((
            "conv", "conv", "conv", "pool", "pool", "transposed", "transposed", "enlarge", "branch", "branch", "side",
            "moved", "gate", "reused", "halves", "depth", "repad", "wrapped", "written", "adaptive", "crossed",
            "normed",
        )))()  # fmt: skip

    def pool(self) -> Step:
        r = self.random
        kernel = r.randint(2, 3)
        stride, padding, dilation = r.randint(1, 3), r.randint(0, kernel // 2), r.choice((1, 1, 2))
        if r.random() < 0.4:
            return lambda x: F.avg_pool2d(x, kernel, stride, padding, ceil_mode=padding == 1)

        def pooled(x: Tensor) -> Tensor:
            how = (kernel, stride, padding, dilation)
            return average_like_max(x, *how) if self.averages else F.max_pool2d(x, *how)

        return pooled

    def transposed(self) -> Step:
        r = self.random
        kernel, stride, dilation = r.randint(1, 4), r.randint(1, 3), r.choice((1, 1, 2))
        padding = r.randint(0, min(1, dilation * (kernel - 1)))
        extra = r.randint(0, max(stride, dilation) - 1)
        layer = self.keep(nn.ConvTranspose2d(4, 4, kernel, stride, padding, extra, r.choice((1, 2)), True, dilation))
        return lambda x: layer(x) if x.shape[-1] < 30 else x

    def enlarge(self) -> Step:
        r = self.random
        how = r.choice((
            {"scale_factor": 2, "mode": "nearest"}, {"scale_factor": 2, "mode": "bilinear"}, {"scale_factor": 1.5},
            {"scale_factor": 2, "mode": "bilinear", "align_corners": True}, {"size": (13, 17), "mode": "bilinear"},
            {"size": (7, 9), "mode": "bilinear", "antialias": True}, {"scale_factor": 3, "mode": "nearest-exact"},
        ))  # fmt: skip
        return lambda x: F.interpolate(x, **how) if x.shape[-1] < 30 else x

    def branch(self) -> Step:
        one, two = self.step(), self.step()

        def added(x: Tensor) -> Tensor:
            a, b = one(x), two(x)
            h, w = min(a.shape[2], b.shape[2]), min(a.shape[3], b.shape[3])
            return a[:, :, :h, :w] + b[:, :, -h:, :w]

        return added

    def side(self) -> Step:
        one, two, mix = self.step(), self.step(), self.keep(nn.Conv2d(8, 4, 1))

        def joined(x: Tensor) -> Tensor:
            a, b = one(x), two(x)
            h, w = min(a.shape[2], b.shape[2]), min(a.shape[3], b.shape[3])
            both = torch.cat([a[:, :, :h, :w], b[:, :, :h, :w]], 1)
            return mix(both) if h % 2 else both.chunk(2, 1)[h % 4 // 2]

        return joined

    def moved(self) -> Step:
        return self.random.choice((
            lambda x: x.flip(2), lambda x: x.transpose(2, 3), lambda x: x.roll((1, 2), (2, 3)), lambda x: x[:, :, 1::2],
            lambda x: torch.cat([x, x], 2)[:, :, 1:], lambda x: torch.stack([x, x.flip(3)], 2).sum(2),
            lambda x: x[:, [1, 0, 3, 2]], lambda x: x.repeat(1, 1, 1, 2), lambda x: F.relu(x + 0, inplace=True),
            lambda x: x.unfold(2, 3, 2).sum(4), lambda x: F.unfold(x, 3, 2, 1).view(1, 4, 9, *x.shape[2:]).sum(2),
            lambda x: x.softmax(1) + x.cumsum(2), lambda x: x.flatten(2).reshape(x.shape),
            lambda x: x.index_select(2, torch.tensor([0, 2, 1])),
        ))  # fmt: skip

    def gate(self) -> Step:
        return self.random.choice((
            lambda x: x + x.mean((2, 3), keepdim=True), lambda x: x + x.sum(3, keepdim=True),
            lambda x: x + F.adaptive_avg_pool2d(x, 1),
        ))  # fmt: skip

    def reused(self) -> Step:
        layer = self.keep(nn.Conv2d(4, 4, 3, padding=1, groups=4))
        return lambda x: layer(layer(x))

    def halves(self) -> Step:
        layer = self.keep(nn.Conv2d(2, 2, (1, 3), padding=(0, 1)))

        def passed(x: Tensor) -> Tensor:
            a, b = x.split(2, 1)
            n, c, h, w = x.shape
            return torch.cat([a, layer(b)], 1).view(n, 2, 2, h, w).transpose(1, 2).reshape(n, c, h, w)

        return passed

    def depth(self) -> Step:
        mix = self.keep(nn.Conv2d(16, 4, 1))

        def folded(x: Tensor) -> Tensor:
            x = F.pixel_unshuffle(F.pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2)), 2)
            return F.pixel_shuffle(x, 2) if x.shape[2] % 2 else mix(x)

        return folded

    def repad(self) -> Step:
        mode = self.random.choice(("reflect", "replicate", "circular"))
        sides = [self.random.randint(0, 3) for _ in range(4)]
        return lambda x: F.pad(x, sides, mode=mode)

    def wrapped(self) -> Step:
        r = self.random
        mode, stride = r.choice(("reflect", "replicate", "circular")), r.choice((1, 1, 2))
        return self.keep(nn.Conv2d(4, 4, 3, stride, r.choice((1, 2, (1, 0))), padding_mode=mode))

    def written(self) -> Step:
        r = self.random
        first, step, column = r.randint(0, 2), r.randint(1, 2), r.randint(0, 3)

        def made(x: Tensor) -> Tensor:
            y, other = x + 0, x.flip(2)
            y[:, 1:, first::step] = other[:, 1:, first::step]
            y.transpose(2, 3)[:, 0, column] = x[:, 0, :, 0]
            y[:, 2].mul_(other[:, 3])
            return y

        return made

    def adaptive(self) -> Step:
        size = self.random.choice(((5, 7), (4, 4), (9, None)))
        return lambda x: F.adaptive_avg_pool2d(x, size)

    def crossed(self) -> Step:
        wide = self.keep(nn.Conv2d(4, 2, (1, 3), padding=(0, 1)))
        high = self.keep(nn.Conv2d(4, 2, (3, 1), padding=(1, 0)))
        return lambda x: torch.cat([wide(x), high(x)], 1)

    def normed(self) -> Step:
        return self.random.choice((self.keep(nn.BatchNorm2d(4)), nn.Identity()))

    def forward(self, x: Tensor) -> Tensor:
        for step in self.steps:
            x = step(x)
        return self.last(x)
