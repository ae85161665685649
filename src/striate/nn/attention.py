"""Self-attention: each position's output is a mean over all positions, weighted by how well they match."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from striate.errors import GeometryError


class SelfAttention(torch.nn.Module):
    """Multi-head self-attention over a sequence, (N, L, C) to (N, L, C').

    A linear layer gives each position a query q, a key k and a value v of C' channels, which are split into heads of
    d = C' / heads channels. In each head

        output_i = sum over j of softmax_j(q_i . k_j / sqrt(d) + bias_ij) v_j

    and a second linear layer mixes the heads. Parameters have the names and shapes of
    :class:`torch.nn.MultiheadAttention`, and its initial values in distribution.

    Args:
        channels: C.
        heads: how many; they divide C'.
        out_channels: C'; None for C.

    Raises:
        GeometryError: heads that don't divide the channels.

    Source: Vaswani et al., "Attention Is All You Need" (2017), section 3.2.

    >>> SelfAttention(8, heads=2)(torch.zeros(1, 5, 8)).shape
    torch.Size([1, 5, 8])

    Formula: F54.
    """

    def __init__(
        self, channels: int, heads: int, out_channels: int | None = None, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__()
        wide = channels if out_channels is None else out_channels
        if heads < 1 or wide % heads:
            raise GeometryError(type(self).__name__, f"got {wide} channels, {heads} heads", "needed heads that divide")
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        self.heads = heads
        self.in_proj_weight = torch.nn.Parameter(torch.empty(3 * wide, channels, **where))
        self.in_proj_bias = torch.nn.Parameter(torch.zeros(3 * wide, **where))
        self.out_proj = torch.nn.Linear(wide, wide, **where)
        torch.nn.init.xavier_uniform_(self.in_proj_weight)
        torch.nn.init.zeros_(self.out_proj.bias)

    def forward(self, input: Tensor, bias: Tensor | None = None) -> Tensor:
        """The output; ``bias`` is added to the scores before the softmax: (heads, L, L), or what broadcasts to it."""
        images, length, _ = input.shape
        projected = F.linear(input, self.in_proj_weight, self.in_proj_bias)
        query, key, value = projected.reshape(images, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        output: Tensor = self.out_proj(mixed.transpose(1, 2).reshape(images, length, -1))
        return output

    def extra_repr(self) -> str:
        return f"{self.in_proj_weight.shape[1]}, {self.out_proj.out_features}, heads={self.heads}"


class SelfAttention2d(SelfAttention):
    """Multi-head self-attention over all positions of a map, (N, C, H, W) to (N, C', H, W).

    Without ``size`` the layer takes maps of any size, and shuffling the positions of the input shuffles those of the
    output. With ``size``, each head adds a relative position bias to the scores: a learnt number that depends only on
    the difference of the two positions, bias_ij = w[i - j], with a table w of (2H - 1) x (2W - 1) for every head.

    Args:
        channels: C.
        heads: how many; they divide C'.
        out_channels: C'; None for C.
        size: (H, W) of the maps, for the relative position bias; None for none.

    Raises:
        GeometryError: heads that don't divide the channels; a map of another size than ``size``.

    Source: the bias as in Dai et al., "CoAtNet" (2021), equation 3.

    >>> layer = SelfAttention2d(8, heads=2, size=(3, 4))
    >>> layer(torch.zeros(1, 8, 3, 4)).shape, layer.relative_bias.shape
    (torch.Size([1, 8, 3, 4]), torch.Size([2, 5, 7]))
    """

    relative_index: Tensor

    def __init__(
        self,
        channels: int,
        heads: int,
        out_channels: int | None = None,
        size: tuple[int, int] | None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(channels, heads, out_channels, device, dtype)
        self.size = size
        if size is not None:
            height, width = size
            table = torch.empty(heads, 2 * height - 1, 2 * width - 1, device=device, dtype=dtype)
            self.relative_bias = torch.nn.Parameter(torch.nn.init.trunc_normal_(table, std=0.02))
            # Follows from the size, so it isn't part of the state_dict.
            self.register_buffer("relative_index", _differences(height, width, device), persistent=False)

    def forward(self, input: Tensor, bias: Tensor | None = None) -> Tensor:
        """The output; ``bias`` (heads, H * W, H * W) is added to the relative position bias."""
        size = (input.shape[2], input.shape[3])
        if self.size is not None:
            if size != self.size:
                got, needed = ("x".join(map(str, each)) for each in (size, self.size))
                raise GeometryError("SelfAttention2d", f"got a map of {got}", f"needed {needed}, as the bias has it")
            relative = self.relative_bias.flatten(1)[:, self.relative_index]
            bias = relative if bias is None else bias + relative
        attended: Tensor = super().forward(input.flatten(2).transpose(1, 2), bias)
        return attended.transpose(1, 2).reshape(input.shape[0], -1, *size)

    @torch.no_grad()
    def resize(self, size: tuple[int, int]) -> None:
        """Adapts a layer with a relative position bias to maps of another size: its table is interpolated (bilinear).

        The bias is then a new parameter, which an optimizer that was made earlier doesn't know.

        Source: Dai et al. (2021), appendix.
        """
        if self.size is None:
            return
        height, width = size
        old, new = self.relative_bias, (2 * height - 1, 2 * width - 1)
        table = F.interpolate(old[None], new, mode="bilinear", align_corners=True)[0]
        self.relative_bias = torch.nn.Parameter(table, requires_grad=old.requires_grad)
        self.relative_index = _differences(height, width, old.device)
        self.size = (height, width)


def _differences(height: int, width: int, device: Any) -> Tensor:
    """For all pairs of positions i, j of a map, the index of i - j in the table of all differences, (H * W, H * W)."""
    rows, columns = (torch.arange(side, device=device) for side in (height, width))
    y, x = rows.repeat_interleave(width), columns.repeat(height)
    down, right = (axis[:, None] - axis for axis in (y, x))
    return (down + height - 1) * (2 * width - 1) + right + width - 1
