"""Swin: a transformer with a pyramid of maps, and attention within windows that shift from block to block.

Source: Liu, Lin, Cao, Hu, Wei, Zhang, Lin & Guo, "Swin transformer: Hierarchical vision transformer using shifted
windows" (ICCV 2021), figure 3, equations 1 to 4, section 3.3 for the variants; stochastic depth of appendix A2.1. Names
of parameters and initial values in distribution are torchvision's.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from striate import nn
from striate.models.convnext import Permute
from striate.models.registry import register


@dataclass(frozen=True)
class Variant:
    """A row of section 3.3: channels of the first stage, blocks, heads, how often the last block is dropped."""

    name: str
    channels: int
    depths: tuple[int, int, int, int]
    heads: tuple[int, int, int, int]
    drop: float
    parameters: int


VARIANTS: Final = (
    Variant("swin_t", 96, (2, 2, 6, 2), (3, 6, 12, 24), 0.2, 28_288_354),
    Variant("swin_s", 96, (2, 2, 18, 2), (3, 6, 12, 24), 0.3, 49_606_258),
    Variant("swin_b", 128, (2, 2, 18, 2), (4, 8, 16, 32), 0.5, 87_768_224),
)

#: Added to the scores of two positions that share a window only because the map was rolled.
APART: Final = -100.0


class WindowAttention(torch.nn.Module):
    """Self-attention within windows of the map, (N, H, W, C) to the same shape.

    The map is padded with zeros to whole windows. With a shift, the map is rolled first, and positions that weren't
    neighbours before rolling don't see each other. If one window covers a whole axis, there is no shift along it.

    Args:
        channels: C.
        heads: how many; they divide C.
        window: positions a side of a window.
        shift: by how many positions the windows are shifted.

    Source: section 3.2, figure 4, equation 4.
    """

    relative_position_index: Tensor

    def __init__(self, channels: int, heads: int, window: int, shift: int) -> None:
        super().__init__()
        self.heads, self.window, self.shift = heads, window, shift
        differences = 2 * window - 1
        self.relative_position_bias_table = torch.nn.Parameter(torch.zeros(differences**2, heads))
        axis = torch.arange(window)
        places = torch.cartesian_prod(axis, axis)
        down, right = (places[:, None] - places[None] + window - 1).unbind(-1)
        self.register_buffer("relative_position_index", (down * differences + right).flatten())
        self.qkv = torch.nn.Linear(channels, 3 * channels)
        self.proj = torch.nn.Linear(channels, channels)
        torch.nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, input: Tensor) -> Tensor:
        height, width = input.shape[1:3]
        rows, columns = (-(-side // self.window) for side in (height, width))
        down, right = (self.shift if count > 1 else 0 for count in (rows, columns))
        tall, wide = rows * self.window, columns * self.window
        maps: Tensor = F.pad(input, (0, 0, 0, wide - width, 0, tall - height))
        if down or right:
            maps = maps.roll((-down, -right), (1, 2))
        attended: Tensor = self._attend(self._windows(maps), self._bias(tall, wide, down, right))
        maps = attended.unflatten(1, (rows, columns)).unflatten(3, (self.window, self.window))
        maps = maps.transpose(2, 3).flatten(3, 4).flatten(1, 2)
        if down or right:
            maps = maps.roll((down, right), (1, 2))
        return maps[:, :height, :width]

    def _windows(self, maps: Tensor) -> Tensor:
        """(N, H, W, C) as windows (N, H/w * W/w, w * w, C)."""
        parts: Tensor = maps.unflatten(2, (-1, self.window)).unflatten(1, (-1, self.window))
        return parts.transpose(2, 3).flatten(3, 4).flatten(1, 2)

    def _bias(self, tall: int, wide: int, down: int, right: int) -> Tensor:
        """The bias of the scores, (windows or 1, heads, L, L): relative position bias, and the mask after rolling."""
        length = self.window**2
        table = self.relative_position_bias_table[self.relative_position_index]
        bias = table.view(length, length, self.heads).permute(2, 0, 1)[None]
        if not (down or right):
            return bias
        row, column = (self._region(side, shift, bias.device) for side, shift in ((tall, down), (wide, right)))
        regions = self._windows((3 * row[:, None] + column)[None, :, :, None])[0, :, :, 0]
        apart = regions[:, :, None] != regions[:, None, :]
        return bias + apart.to(bias.dtype)[:, None] * APART

    def _region(self, side: int, shift: int, device: torch.device) -> Tensor:
        """Along one axis: 0 before the last window, 1 in it, 2 for what has been rolled into it from the other end."""
        places = torch.arange(side, device=device)
        return (places >= side - self.window).long() + (places >= side - shift).long()

    def _attend(self, windows: Tensor, bias: Tensor) -> Tensor:
        images, count, length, channels = windows.shape
        projected = self.qkv(windows).view(images, count, length, 3, self.heads, channels // self.heads)
        # Windows stand beside heads, so that the bias needs no copy for every image.
        query, key, value = projected.permute(3, 0, 1, 4, 2, 5).flatten(2, 3)
        scores = bias.expand(count, -1, -1, -1).flatten(0, 1)[None]
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=scores)
        joined = mixed.unflatten(1, (count, self.heads)).transpose(2, 3).flatten(3)
        output: Tensor = self.proj(joined)
        return output


class MLP(torch.nn.Sequential):
    """Four times the channels and back, with GELU between."""

    def __init__(self, channels: int) -> None:
        dropout = torch.nn.Dropout(0.0)  # the paper drops nothing here, but the layers after it are counted so
        wide, narrow = torch.nn.Linear(channels, 4 * channels), torch.nn.Linear(4 * channels, channels)
        super().__init__(wide, torch.nn.GELU(), dropout, narrow)


class Block(torch.nn.Module):
    """Attention within windows, then an MLP; each sees its normalised input and is added to it; keeps (N, H, W, C).

    Source: figure 3 (b), equation 3.
    """

    def __init__(self, channels: int, heads: int, window: int, shift: int, drop: float) -> None:
        super().__init__()
        self.norm1 = torch.nn.LayerNorm(channels)
        self.attn = WindowAttention(channels, heads, window, shift)
        self.stochastic_depth = nn.StochasticDepth(drop)
        self.norm2 = torch.nn.LayerNorm(channels)
        self.mlp = MLP(channels)

    def forward(self, input: Tensor) -> Tensor:
        seen: Tensor = input + self.stochastic_depth(self.attn(self.norm1(input)))
        output: Tensor = seen + self.stochastic_depth(self.mlp(self.norm2(seen)))
        return output


class PatchMerging(torch.nn.Module):
    """Each 2x2 positions as one with twice the channels: (N, H, W, C) to (N, H / 2, W / 2, 2C), rounded up.

    Source: section 3.1.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduction = torch.nn.Linear(4 * channels, 2 * channels, bias=False)
        self.norm = torch.nn.LayerNorm(4 * channels)

    def forward(self, input: Tensor) -> Tensor:
        height, width = input.shape[1:3]
        maps = F.pad(input, (0, 0, 0, width % 2, 0, height % 2))
        corners = [maps[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        output: Tensor = self.reduction(self.norm(torch.cat(corners, -1)))
        return output


class SwinTransformer(torch.nn.Module):
    """Patches, four stages of blocks with mergings between, a mean over positions, a linear layer.

    Takes images of any size.

    Args:
        variant: a row of the table above.
        num_classes: K of the output (N, K).
        in_channels: of the images.
        small_input: patches of 2x2 instead of 4x4 and windows of 4x4 instead of 7x7, for images of 32x32.
    """

    def __init__(
        self, variant: Variant, num_classes: int = 1000, in_channels: int = 3, small_input: bool = False
    ) -> None:
        super().__init__()
        patch, window = (2, 4) if small_input else (4, 7)
        self.input_size = (32, 32) if small_input else (224, 224)
        channels = variant.channels
        stem = (
            nn.Conv2d(in_channels, channels, patch, stride=patch),
            Permute(0, 2, 3, 1),
            torch.nn.LayerNorm(channels),
        )
        layers: list[torch.nn.Module] = [torch.nn.Sequential(*stem)]
        last, number = sum(variant.depths) - 1, 0
        for depth, heads in zip(variant.depths, variant.heads, strict=True):
            if number:
                layers.append(PatchMerging(channels))
                channels *= 2
            blocks = []
            for index in range(depth):
                shift = window // 2 if index % 2 else 0
                blocks.append(Block(channels, heads, window, shift, variant.drop * number / last))
                number += 1
            layers.append(torch.nn.Sequential(*blocks))
        self.features = torch.nn.Sequential(*layers)
        self.norm = torch.nn.LayerNorm(channels)
        self.permute = Permute(0, 3, 1, 2)
        self.avgpool = nn.GlobalAvgPool()
        self.head = torch.nn.Linear(channels, num_classes)
        for layer in self.modules():
            if isinstance(layer, torch.nn.Linear):
                torch.nn.init.trunc_normal_(layer.weight, std=0.02)
                if layer.bias is not None:
                    torch.nn.init.zeros_(layer.bias)

    def forward(self, input: Tensor) -> Tensor:
        maps = self.permute(self.norm(self.features(input)))
        scores: Tensor = self.head(self.avgpool(maps).flatten(1))
        return scores


for _variant in VARIANTS:
    register(
        partial(SwinTransformer, _variant),
        _variant.name,
        f"Swin-{_variant.name[-1].upper()}; {_variant.parameters:,} parameters, 224x224 images.",
    )
