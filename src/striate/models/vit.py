"""The vision transformer: an image as a sequence of patches, and attention between all of them.

Source: Dosovitskiy et al., "An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale" (ICLR 2021):
equations 1 to 4, figure 1, B of table 1; dropout of table 3 and appendix B.1. S and Ti: Touvron et al., "Training
data-efficient image transformers & distillation through attention" (2021), table 1. Layers, names and initial values
in distribution are torchvision's, so that its files of weights fit, but for the output layer: torchvision starts it at
zero, as the paper does where it fine-tunes (section 3.2), and then nothing below it learns in the first step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from striate import nn
from striate.errors import ModelError
from striate.models.registry import register


@dataclass(frozen=True)
class Variant:
    """A row of the family: pixels a side of a patch, channels of a token, heads, parameters.

    All have 12 layers, and four times the channels within a layer's MLP.
    """

    name: str
    patch: int
    channels: int
    heads: int
    parameters: int


VARIANTS: Final = (
    Variant("vit_ti_16", 16, 192, 3, 5_717_416),
    Variant("vit_s_16", 16, 384, 6, 22_050_664),
    Variant("vit_b_16", 16, 768, 12, 86_567_656),
    Variant("vit_ti_32", 32, 192, 3, 6_131_560),
    Variant("vit_s_32", 32, 384, 6, 22_878_952),
    Variant("vit_b_32", 32, 768, 12, 88_224_232),
)

_LAYERS: Final = 12
_EPS: Final = 1e-6


class MLP(torch.nn.Sequential):
    """Four times the channels and back, with GELU between and dropout after each."""

    def __init__(self, channels: int, dropout: float) -> None:
        wide, narrow = torch.nn.Linear(channels, 4 * channels), torch.nn.Linear(4 * channels, channels)
        for layer in (wide, narrow):
            torch.nn.init.xavier_uniform_(layer.weight)
            torch.nn.init.normal_(layer.bias, std=1e-6)
        super().__init__(wide, torch.nn.GELU(), torch.nn.Dropout(dropout), narrow, torch.nn.Dropout(dropout))


class EncoderBlock(torch.nn.Module):
    """Attention, then an MLP; each sees its normalised input and is added to it (equations 2 and 3)."""

    def __init__(self, variant: Variant, dropout: float) -> None:
        super().__init__()
        channels = variant.channels
        self.ln_1 = torch.nn.LayerNorm(channels, eps=_EPS)
        self.self_attention = nn.SelfAttention(channels, variant.heads)
        self.dropout = torch.nn.Dropout(dropout)
        self.ln_2 = torch.nn.LayerNorm(channels, eps=_EPS)
        self.mlp = MLP(channels, dropout)

    def forward(self, input: Tensor) -> Tensor:
        seen: Tensor = input + self.dropout(self.self_attention(self.ln_1(input)))
        return seen + cast(Tensor, self.mlp(self.ln_2(seen)))


class Encoder(torch.nn.Module):
    """Adds position embeddings to the tokens (N, L, C), and runs them through the layers."""

    def __init__(self, variant: Variant, tokens: int, dropout: float) -> None:
        super().__init__()
        self.pos_embedding = torch.nn.Parameter(torch.empty(1, tokens, variant.channels).normal_(std=0.02))
        self.dropout = torch.nn.Dropout(dropout)
        self.layers = torch.nn.Sequential()
        for number in range(_LAYERS):
            self.layers.add_module(f"encoder_layer_{number}", EncoderBlock(variant, dropout))
        self.ln = torch.nn.LayerNorm(variant.channels, eps=_EPS)

    def forward(self, input: Tensor) -> Tensor:
        output: Tensor = self.ln(self.layers(self.dropout(input + self.pos_embedding)))
        return output


class VisionTransformer(torch.nn.Module):
    """Patches and a class token as a sequence, 12 transformer layers, a linear output on the class token.

    Takes images of ``input_size`` alone, for each position has an embedding of its own; :meth:`resize` changes that.

    Args:
        variant: a row of the table above.
        num_classes: K of the output (N, K).
        in_channels: of the images.
        small_input: patches of 4x4 in images of 32x32, which makes 64 of them.
        dropout: after the embedding and after every linear layer but those of queries, keys and values.
    """

    def __init__(
        self,
        variant: Variant,
        num_classes: int = 1000,
        in_channels: int = 3,
        small_input: bool = False,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        patch, side = (4, 32) if small_input else (variant.patch, 224)
        channels = variant.channels
        self.input_size = (side, side)
        self.conv_proj = nn.Conv2d(in_channels, channels, patch, stride=patch)
        self.class_token = torch.nn.Parameter(torch.zeros(1, 1, channels))
        self.encoder = Encoder(variant, (side // patch) ** 2 + 1, dropout)
        self.heads = torch.nn.Sequential()
        self.heads.add_module("head", head := torch.nn.Linear(channels, num_classes))
        torch.nn.init.trunc_normal_(self.conv_proj.weight, std=math.sqrt(1 / (in_channels * patch**2)))
        torch.nn.init.trunc_normal_(head.weight, std=0.02)
        for layer in (self.conv_proj, head):
            torch.nn.init.zeros_(layer.get_parameter("bias"))

    def forward(self, input: Tensor) -> Tensor:
        size = (input.shape[2], input.shape[3])
        if size != self.input_size:
            got, needed = ("x".join(map(str, each)) for each in (size, self.input_size))
            remedy = "interpolate the position embeddings with resize()"
            raise ModelError("VisionTransformer", f"got images of {got}", f"needed {needed}", remedy)
        patches = self.conv_proj(input).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_token.expand(patches.shape[0], -1, -1), patches], 1)
        output: Tensor = self.heads(self.encoder(tokens)[:, 0])
        return output

    @torch.no_grad()
    def resize(self, image_size: Sequence[int]) -> None:
        """Makes the network take images of another size (H, W): its position embeddings are interpolated (bicubic).

        Afterwards they are another parameter than before, which an optimizer made earlier doesn't know.

        Raises:
            ModelError: a size that patches don't divide.

        Source: section 3.2.

        >>> network = VisionTransformer(VARIANTS[0])
        >>> network.resize((192, 256))
        >>> network.input_size, tuple(network.encoder.pos_embedding.shape)
        ((192, 256), (1, 193, 192))
        """
        patch = self.conv_proj.kernel_size[0]
        height, width = image_size
        if min(height, width) < patch or height % patch or width % patch:
            raise ModelError(
                "VisionTransformer", f"got image size {height}x{width}", f"needed multiples of the patch's {patch}"
            )
        old = self.encoder.pos_embedding
        before = [side // patch for side in self.input_size]
        grid = old[:, 1:].transpose(1, 2).unflatten(2, before)
        new = F.interpolate(grid, (height // patch, width // patch), mode="bicubic", align_corners=True)
        positions = torch.cat([old[:, :1], new.flatten(2).transpose(1, 2)], 1)
        self.encoder.pos_embedding = torch.nn.Parameter(positions, requires_grad=old.requires_grad)
        self.input_size = (height, width)


for _variant in VARIANTS:
    _size = _variant.name.split("_")[1].capitalize()
    register(
        partial(VisionTransformer, _variant),
        _variant.name,
        f"ViT-{_size}/{_variant.patch}; {_variant.parameters:,} parameters, 224x224 images.",
    )
