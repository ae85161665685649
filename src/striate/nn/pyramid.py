"""Feature pyramids: maps of several strides with equal numbers of channels, each enriched by the coarser maps.

Source: Lin et al., "Feature pyramid networks for object detection" (2017), section 3 and figure 3.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import torch
from torch import Tensor

from striate import ops
from striate.nn.blocks import ConvNormActivation
from striate.nn.convolution import Conv2d


class FeaturePyramidNetwork(torch.nn.Module):
    """Adds information of the coarser maps to each map; all results have the same number of channels.

    The coarsest map goes through a 1x1 convolution. Each finer map does too, and is added to the result before it,
    enlarged to the same size by its nearest values. A 3x3 convolution follows at every level.

    Args:
        in_channels: of the maps, the finest first.
        out_channels: of the results.
        extra_blocks: makes levels beyond the coarsest; None for none.
        norm: after every convolution; None for none, where the convolutions have a bias.

    >>> pyramid = FeaturePyramidNetwork((8, 16), 4, LastLevelMaxPool())
    >>> maps = {"0": torch.zeros(1, 8, 10, 14), "1": torch.zeros(1, 16, 5, 7)}
    >>> {name: tuple(level.shape) for name, level in pyramid(maps).items()}
    {'0': (1, 4, 10, 14), '1': (1, 4, 5, 7), 'pool': (1, 4, 3, 4)}
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int,
        extra_blocks: LastLevelMaxPool | LastLevelP6P7 | None = None,
        norm: Callable[[int], torch.nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.out_channels = out_channels
        # Created alternately, as in torchvision, so that the same seed gives the same weights.
        pairs = [
            [
                ConvNormActivation(*channels, norm=norm, activation=None)
                for channels in ((c, out_channels, 1), (out_channels, out_channels, 3))
            ]
            for c in in_channels
        ]
        self.inner_blocks = torch.nn.ModuleList([inner for inner, _ in pairs])
        self.layer_blocks = torch.nn.ModuleList([layer for _, layer in pairs])
        _initialise(self)
        self.extra_blocks = extra_blocks

    def forward(self, maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The levels, the finest first, under the names of ``maps``, which come in that order too."""
        levels: dict[str, Tensor] = {}
        coarser: Tensor | None = None
        for name, inner, layer in reversed(list(zip(maps, self.inner_blocks, self.layer_blocks, strict=True))):
            lateral: Tensor = inner(maps[name])
            if coarser is not None:
                lateral = lateral + ops.interpolate(coarser, size=lateral.shape[-2:])
            coarser, levels[name] = lateral, layer(lateral)
        levels = {name: levels[name] for name in maps}
        return levels if self.extra_blocks is None else levels | self.extra_blocks(levels, maps)


class LastLevelMaxPool(torch.nn.Module):
    """One more level ``pool``: every second position of the coarsest level.

    Source: Lin et al. (2017), footnote 1, where P6 serves proposals only.
    """

    levels: Final = 1

    def forward(self, levels: Mapping[str, Tensor], maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """From the pyramid's levels, and the maps that it was made of, to the levels beyond."""
        return {"pool": ops.max_pool2d(list(levels.values())[-1], 1, 2)}


class LastLevelP6P7(torch.nn.Module):
    """Two more levels ``p6`` and ``p7``, each a 3x3 convolution of stride 2 of the level before, rectified before p7.

    Args:
        in_channels: of the input of p6. If it equals ``out_channels``, the input is the pyramid's coarsest level, else
            the coarsest of the maps that the pyramid was made of.
        out_channels: of both levels.

    Source: Lin et al., "Focal loss for dense object detection" (2017), footnote 2 makes p6 of the map; Tian et al.,
    "FCOS" (2019), section 3.2 makes it of the level.
    """

    levels: Final = 2

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.p6 = Conv2d(in_channels, out_channels, 3, 2, 1)
        self.p7 = Conv2d(out_channels, out_channels, 3, 2, 1)
        self.of_level = in_channels == out_channels
        _initialise(self)

    def forward(self, levels: Mapping[str, Tensor], maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """From the pyramid's levels, and the maps that it was made of, to the levels beyond."""
        p6 = self.p6(list((levels if self.of_level else maps).values())[-1])
        return {"p6": p6, "p7": self.p7(p6.relu())}


class PyramidBackbone(torch.nn.Module):
    """A network's maps, put into a feature pyramid with more levels, (N, C, H, W) to maps by name, the finest first.

    Args:
        body: gives the network's maps by name, the finest first.
        channels: of these maps.
        strides: of these maps, pixels.
        norm: in the pyramid; None for none.
        out_channels: of all levels of the pyramid.
        extra_blocks: makes levels beyond the coarsest; None for :class:`LastLevelMaxPool`.

    Attributes:
        body_strides: of the levels that the network's maps have become, by name.
        strides: of all levels, pixels.
    """

    def __init__(
        self,
        body: torch.nn.Module,
        channels: Sequence[int],
        strides: Sequence[int],
        norm: Callable[[int], torch.nn.Module] | None = None,
        out_channels: int = 256,
        extra_blocks: LastLevelMaxPool | LastLevelP6P7 | None = None,
    ) -> None:
        super().__init__()
        extra = LastLevelMaxPool() if extra_blocks is None else extra_blocks
        self.body = body
        self.fpn = FeaturePyramidNetwork(channels, out_channels, extra, norm)
        self.out_channels = out_channels
        self.body_strides = {str(index): stride for index, stride in enumerate(strides)}
        self.strides = (*strides, *(strides[-1] * 2**beyond for beyond in range(1, extra.levels + 1)))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        levels: dict[str, Tensor] = self.fpn(self.body(images))
        return levels


def _initialise(module: torch.nn.Module) -> None:
    """Uniform weights of variance 1 / fan-in and no bias, for convolutions without a rectifier after them."""
    for layer in module.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_uniform_(layer.weight, a=1)
            if layer.bias is not None:
                torch.nn.init.zeros_(layer.bias)
