"""The implementations of convolution, activation and max pooling as one block, if gradients are needed.

Max pooling passes one gradient per window to the convolution. So the convolution's gradients are sums over a list of
(position, gradient). A block saves the positions, and never stores the map before pooling or that map's gradient, most
of which would be zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache, partial

import torch
from torch import Tensor

from striate.engine import choice
from striate.engine.backends import Pass, fixed
from striate.engine.choice import Asked, Implementation
from striate.engine.llvm.backend import LlvmBackend
from striate.engine.llvm.conv_pool import dispatch as conv_pool_kernels
from striate.engine.llvm.memory.relayout import laid_out
from striate.engine.llvm.pooling import dispatch as pooling
from striate.engine.llvm.pooling.nchw import LIMITS
from striate.engine.llvm.winograd import backend as winograd_backend
from striate.geometry import ConvPoolShape, ConvShape, PoolShape

_llvm, _winograd = LlvmBackend(), winograd_backend.WinogradBackend()
#: The least number of positions per pooled value; with fewer, sums over the list save nothing.
_SPARSE = 3
#: The most input channels for which the kernel that also pools is the fastest one on planes.
_MOST_CHANNELS = 32
#: The most tiles that a kernel unrolls.
_MOST_TILES = 64
#: The number of vectors in a tile from which loads other than those of weights hardly matter.
_WORTH = 4


@lru_cache(maxsize=1024)
def _refusal(shape: ConvShape, pool: PoolShape, activation: str, dtype: torch.dtype, device: str) -> str | None:
    if activation not in LIMITS:
        return f"has no kernels that clamp as {activation} does"
    for problem, open_ in (
        (shape, Pass.INPUT_GRAD),
        (shape, Pass.WEIGHT_GRAD),
        (pool, Pass.OUTPUT),
    ):
        refused = _llvm.refusal(problem, open_, dtype, device)
        if refused is not None:
            return refused
    if pool.kind != "max":
        return "has kernels for maxima"
    if shape.groups > 1:
        return "has kernels for one group of channels"
    if shape.dilation[-1] > 1:
        return "reads rows of taps that lie side by side, undilated"
    if torch.Size(pool.stride).numel() < _SPARSE:
        return "windows that lie so close leave few zeros"
    if len(conv_pool_kernels.weight_rows(shape).tiles()) > _MOST_TILES:
        return f"writes tiles out one by one, up to {_MOST_TILES}"
    return None


def refusal(shape: ConvShape, pool: PoolShape, activation: str, dtype: torch.dtype, device: str) -> str | None:
    """The reason for computing the block as separate operations; None if it is computed as one."""
    if fixed() not in (None, "llvm"):
        return "another backend has been fixed"
    return _refusal(shape, pool, activation, dtype, device)


#: Computes the pooled map and its positions from input, weight and bias.
Maximum = Callable[[Tensor, Tensor, "Tensor | None"], tuple[Tensor, Tensor]]


def maximum(
    shape: ConvShape,
    pool: PoolShape,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: str,
    channels_last: bool,
    apart: Callable[[Tensor, Tensor, Tensor | None, bool], Tensor],
    local: bool,
) -> Maximum:
    """The function that computes the pooled map and its positions for operands with these shapes and strides.

    A position is -1 where the activation's slope is 0.

    Args:
        apart: computes the map before pooling; its last argument says whether that map is in channels last.
        local: as :class:`striate.engine.Backend` defines it.
    """

    asked = Asked(ConvPoolShape(shape, pool, activation), Pass.POSITIONS, input.dtype, "cpu", channels_last, local)
    # Winograd's convolution writes channels last. Converting the pooled map costs less than converting its input.
    between = channels_last or any(
        each.name == "transformed" and each.refusal is None for each in choice.implementations(asked)
    )

    def one_by_one(input: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        values, positions = pooling.maximum(pool, apart(input, weight, bias, between), activation)
        # Only the gradients read positions, in whatever layout.
        return laid_out(values, channels_last), positions

    def transformed(input: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        values, positions = winograd_backend.maximum(shape, pool, activation, input, weight, bias)
        return laid_out(values, channels_last), positions

    ways: dict[str, Callable[[], Maximum]] = {
        "apart": lambda: one_by_one,
        "pooled": partial(conv_pool_kernels.maximum, shape, pool, input, weight, bias, activation),
        "transformed": lambda: transformed,
    }
    return ways[_choose(asked, ways, (input, weight, bias))]()


def _choose(
    asked: Asked, ways: Mapping[str, Callable[[], Callable[..., object]]], operands: tuple[Tensor | None, ...]
) -> str:
    """The name of the implementation that computes a pass of the block."""

    def runs(name: str) -> Callable[[], object]:
        return partial(ways[name](), *operands)

    return choice.choose(asked, None if fixed() else runs).name


spread = pooling.maximum_grad
weight_grad = conv_pool_kernels.weight_grad


def input_grad(
    shape: ConvShape,
    pool: PoolShape,
    weight: Tensor,
    grad: Tensor,
    positions: Tensor,
    channels_last: bool,
    whole: Callable[[Tensor, Tensor, Tensor], Tensor],
    local: bool,
) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """The function that computes the input's gradient for operands with these shapes and strides.

    Args:
        whole: computes it from the gradient of the whole map before pooling.
        local: as :class:`striate.engine.Backend` defines it.
    """
    asked = Asked(ConvPoolShape(shape, pool), Pass.INPUT_GRAD, grad.dtype, "cpu", channels_last, local)
    ways: dict[str, Callable[[], Callable[[Tensor, Tensor, Tensor], Tensor]]] = {
        "lists": partial(conv_pool_kernels.input_grad, shape, pool, weight, grad, positions, channels_last),
        _whole(local): lambda: whole,
    }
    return ways[_choose(asked, ways, (weight, grad, positions))]()


def _whole(local: bool) -> str:
    """The name of the gradient through the whole map; its time depends on whether backends have to be local."""
    return "whole, local" if local else "whole"


@choice.family(ConvPoolShape)
def _family(asked: Asked) -> list[Implementation]:
    """The implementations of the block; ``separate`` stands for computing it as several operations."""
    problem, open_, dtype, device, channels_last, local = asked
    assert isinstance(problem, ConvPoolShape)
    shape, pool = problem.conv, problem.pool
    refused = refusal(shape, pool, problem.activation, dtype, device)
    listed: list[Implementation] = []
    if open_ is Pass.INPUT_GRAD:
        rows = conv_pool_kernels.input_rows(shape)
        few = rows.rows_together * rows.vectors_together < min(_WORTH, rows.count * rows.vectors)
        many = f"writes tiles out one by one, up to {_MOST_TILES}" if len(rows.tiles()) > _MOST_TILES else None
        listed = [Implementation(_whole(local), refused, few), Implementation("lists", refused or many)]
    else:
        not_transformed = refused
        if local or fixed() or not winograd_backend.pools(shape, pool):
            not_transformed = refused or "for windows of 2x2 on Winograd's convolution, in accelerated models"
        by_winograd = _winograd.recommends(shape, Pass.OUTPUT, channels_last)
        at_once = not channels_last and shape.in_channels <= _MOST_CHANNELS and conv_pool_kernels.joins(pool)
        # Where the kernel that also pools accepts, direct convolution with separate pooling was never faster.
        listed = [
            Implementation("transformed", not_transformed, by_winograd),
            Implementation("pooled", refused or (None if at_once else "pools planes of few channels, without overlap")),
            Implementation("apart", refused or ("the kernel that pools at once computes this" if at_once else None)),
        ]
    return [*listed, Implementation("separate", None if refused else "is computed as one operation")]
