"""Convolution, activation and max pooling as one operation with sparse gradients.

    y = max over a window of  activation(conv(x, w) + b)

The activation is a clamp, so it commutes with the maximum. Max pooling sends each gradient to one position of the
convolution's output. The gradient of that output is therefore a list of (position, gradient), zero where the activation
clamped. With T as in :mod:`striate.ops.convolution`, dT/dw and dT/dx are sums over this list. Saved for backward:

    PyTorch's functions   x, w, conv(x, w) + b, its activation, and positions in 64 bits
    this                  x if w has a gradient, w if x has one, and positions in 16 bits where they suffice

Neither saves the result. If the three are computed one by one, the activation comes last, on a quarter of the map or
less. It must then save its operand, which no caller can see, and not its result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad
from torch.overrides import has_torch_function

from striate.engine import Pass, conv_pool, traced, tuning
from striate.engine.layout import is_channels_last
from striate.errors import OperandError
from striate.geometry import ConvShape, Padding, PoolShape
from striate.ops import convolution, pooling
from striate.ops._autograd import upstream_in, wanted
from striate.ops._calls import settled
from striate.ops._pools import Spread

_CONVOLUTIONS = (convolution.conv1d, convolution.conv2d, convolution.conv3d)
_POOLS = (pooling.max_pool1d, pooling.max_pool2d, pooling.max_pool3d)


def _relu(x: Tensor) -> Tensor:
    # threshold has relu's values and slopes, but saves its operand, where relu saves its result.
    return F.threshold(x, 0.0, 0.0) if torch.is_grad_enabled() and x.is_floating_point() else F.relu(x)


#: Applied to a map that no caller can see; callers may overwrite the result.
CLAMPS: Final[dict[str, Callable[[Tensor], Tensor]]] = {"": lambda x: x, "relu": _relu, "relu6": F.relu6}


@dataclass(frozen=True)
class _How:
    """All arguments of a call except its tensors."""

    stride: Any
    padding: Any
    dilation: Any
    groups: Any
    activation: str
    pool: tuple[Any, ...]  #: kernel, stride, padding, dilation, ceil_mode
    local: bool = True  #: as :func:`striate.ops.convolution.contract` takes it

    def composed(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The same result by the separate operations."""
        dims = weight.dim() - 2
        y = _CONVOLUTIONS[dims - 1](input, weight, bias, self.stride, self.padding, self.dilation, self.groups)
        return CLAMPS[self.activation](cast(Tensor, _POOLS[dims - 1](y, *self.pool)))


@dataclass(slots=True)
class _Prepared:
    """A cached dispatch: everything about a call that follows from shapes, strides and settings."""

    how: _How
    shape: ConvShape
    pool: PoolShape
    channels_last: bool  #: the network, by input or weight
    input_last: bool  #: the input
    maximum: conv_pool.Maximum
    #: The functions that compute the gradients, by what else these depend on.
    weight_grads: dict[tuple[Any, ...], Callable[..., tuple[Tensor, Tensor]]] = field(default_factory=dict)
    input_grads: dict[tuple[Any, ...], Callable[..., Tensor]] = field(default_factory=dict)

    def weight_grad(self, x: Tensor, g: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        key = (x.stride(), *self._lie(g, positions))
        if key not in self.weight_grads:
            self.weight_grads[key] = conv_pool.weight_grad(self.shape, self.pool, x, g, positions)
        return self.weight_grads[key](x, g, positions)

    def input_grad(self, w: Tensor, g: Tensor, positions: Tensor) -> Tensor:
        key = (w.stride(), *self._lie(g, positions))
        if key not in self.input_grads:
            lie = (w, g, positions, self.input_last)
            made = conv_pool.input_grad(self.shape, self.pool, *lie, self.through_all, self.how.local)
            self.input_grads[key] = made
        return self.input_grads[key](w, g, positions)

    def over_all(self, open_: Pass, operands: dict[Pass, Tensor]) -> Tensor:
        """A gradient of the convolution from the other two operands in full."""
        return convolution.contract(self.shape, self.channels_last, open_, operands, local=self.how.local)

    def through_all(self, w: Tensor, g: Tensor, positions: Tensor) -> Tensor:
        """The input's gradient through that of the whole map before pooling."""
        operands = {Pass.WEIGHT_GRAD: w, Pass.OUTPUT: conv_pool.spread(self.pool, positions, g)}
        return self.over_all(Pass.INPUT_GRAD, operands)

    def composed(
        self,
        x: Tensor | None,
        w: Tensor | None,
        upstream: Tensor,
        positions: Tensor,
        nothing: Tensor,
        asked: Sequence[bool],
    ) -> tuple[Tensor | None, ...]:
        """The gradients of x, w and bias through that of the whole map, as functions of all that they depend on."""
        pool, shut = self.pool, positions < 0
        g: Tensor = Spread.of(
            upstream.masked_fill(shut, 0.0), positions.clamp(min=0), pool.size, pool, self.channels_last
        )
        g = g + nothing.sum()

        def grad(open_: Pass, role: Pass, other: Tensor | None) -> Tensor:
            return self.over_all(open_, {role: cast(Tensor, other), Pass.OUTPUT: g})

        return (
            grad(Pass.INPUT_GRAD, Pass.WEIGHT_GRAD, w) if asked[0] else None,
            grad(Pass.WEIGHT_GRAD, Pass.INPUT_GRAD, x) if asked[1] else None,
            g.sum([0, *range(2, g.dim())]) if asked[2] else None,
        )

    def _lie(self, g: Tensor, positions: Tensor) -> tuple[Any, ...]:
        # Hooks on saved tensors may have moved them, and the number of threads may differ from forward's.
        return g.stride(), positions.stride(), positions.dtype, torch.get_num_threads(), tuning.generation


def _is_finite(tensor: Tensor) -> bool:
    """Whether all numbers are finite; False also if their sum overflows."""
    return math.isfinite(tensor.sum().item())


class _Block(torch.autograd.Function):
    """Called only for ordinary gradients: no transforms, no tangents.

    The second result is a tensor without numbers that only :meth:`backward` reads: positions depend on all operands,
    with derivatives of zero.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor | None, known: _Prepared) -> tuple[Tensor, Tensor]:
        values, positions = known.maximum(x, w, b)
        nothing = values.new_empty(0)
        of_x, of_w = ctx.needs_input_grad[:2]
        ctx.known = known
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x if of_w else None, w if of_x else None, positions, nothing)
        return values, nothing

    @staticmethod
    def backward(ctx: Any, upstream: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
        x, w, positions, nothing = ctx.saved_tensors
        known, asked = ctx.known, wanted(ctx)
        if upstream is None:
            upstream = nothing.new_zeros(positions.shape)
        upstream = upstream_in(is_channels_last(positions), upstream.resolve_neg())
        if torch.is_grad_enabled() or traced(upstream):
            return *known.composed(x, w, upstream, positions, nothing, asked), None
        grad_x = grad_w = grad_b = None
        if asked[1] and not _is_finite(x):
            # A sum over a list leaves out 0 * NaN and 0 * inf, which are NaN in the sum over the whole map.
            spread = conv_pool.spread(known.pool, positions, upstream)
            grad_w = known.over_all(Pass.WEIGHT_GRAD, {Pass.INPUT_GRAD: x, Pass.OUTPUT: spread})
            grad_b = spread.sum([0, *range(2, spread.dim())])
        elif asked[1]:
            grad_w, grad_b = known.weight_grad(x, upstream, positions)
        elif asked[2]:
            grad_b = upstream.masked_fill(positions < 0, 0.0).sum([0, *range(2, upstream.dim())])
        if asked[0]:
            finite = _is_finite(w)
            grad_x = (known.input_grad if finite else known.through_all)(w, upstream, positions)
        return grad_x, grad_w, grad_b if asked[2] else None, None


def conv_max_pool(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Padding = 0,
    dilation: Any = 1,
    groups: int = 1,
    activation: str = "",
    kernel_size: Any = 2,
    pool_stride: Any = None,
    pool_padding: Any = 0,
    pool_dilation: Any = 1,
    ceil_mode: bool = False,
) -> Tensor:
    """Max pooling of an activation of a convolution: the same numbers and gradients as of these three, up to rounding.

    If gradients are needed and the engine has kernels (see :mod:`striate.engine.conv_pool`), the map before pooling is
    not saved, and its gradient is never computed as a whole map. Otherwise the three operations run one by one.

    Where the input or the weight has infinities or NaNs, gradients are sums over the whole map, because a sum over the
    list would leave out 0 * inf, which is NaN.

    Args:
        input: (N, C_in, ...) with one to three axes, or without N.
        weight, bias, stride, padding, dilation, groups: as :func:`striate.ops.conv2d` takes them.
        activation: ``"relu"``, ``"relu6"`` or none, before pooling or after it, which is the same.
        kernel_size, pool_stride, pool_padding, pool_dilation, ceil_mode: as :func:`striate.ops.max_pool2d` takes them.

    Returns:
        (N, C_out, ...), the pooled map.

    >>> image = torch.tensor([[[[1.0, 5.0, 4.0], [9.0, 2.0, 1.0], [6.0, 3.0, 2.0]]]])
    >>> conv_max_pool(image, -torch.ones(1, 1, 2, 2), torch.tensor([10.0]), activation="relu", kernel_size=2)
    tensor([[[[2.]]]])
    """
    if activation not in CLAMPS:
        got = f"got activation={activation!r}"
        raise OperandError("conv_max_pool", got, "needed one of " + ", ".join(map(repr, CLAMPS)))
    window = (kernel_size, pool_stride, pool_padding, pool_dilation, ceil_mode)
    convolve = (stride, padding, dilation, groups)
    found = as_one(input, weight, bias, convolve, activation, window)
    return _How(*convolve, activation, window).composed(input, weight, bias) if found is None else found


def as_one(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    how: tuple[Any, Any, Any, Any],
    activation: str,
    window: tuple[Any, ...],
    local: bool = True,
) -> Tensor | None:
    """The result of :func:`conv_max_pool` if it is computed as one operation, else None."""
    if not _plain(input, weight, bias):
        return None
    how, window = settled(how), settled(window)
    lie = (input.shape, input.stride(), weight.shape, weight.stride(), bias is None)
    key = (*lie, how, activation, window, local, torch.get_num_threads(), tuning.generation)
    found = _prepared.get(key, _UNMET)
    if found is _UNMET:
        if len(_prepared) >= 4096:
            _prepared.clear()
        found = _prepared[key] = _prepare(input, weight, bias, how, activation, window, local)
    return None if found is None else cast(Tensor, _Block.apply(input, weight, bias, found)[0])


#: The dispatch cache: calls of this process; None for calls that aren't computed as one operation.
_prepared: dict[tuple[Any, ...], _Prepared | None] = {}
_UNMET: Final[Any] = object()


def _prepare(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    how: tuple[Any, Any, Any, Any],
    activation: str,
    window: tuple[Any, ...],
    local: bool,
) -> _Prepared | None:
    shape = convolution.problem_of(input.shape, weight.shape, *how)
    pool = pooling.problem_of("max", shape.output_shape, *window)
    if conv_pool.refusal(shape, pool, activation, input.dtype, "cpu") is not None:
        return None
    last = is_channels_last(input) or is_channels_last(weight)

    def apart(x: Tensor, w: Tensor, b: Tensor | None, channels_last: bool) -> Tensor:
        operands = {Pass.INPUT_GRAD: x, Pass.WEIGHT_GRAD: w}
        return convolution.contract(shape, channels_last, Pass.OUTPUT, operands, b, local)

    with torch.no_grad():  # it may be measured
        maximum = conv_pool.maximum(shape, pool, input, weight, bias, activation, last, apart, local)
    return _Prepared(_How(*how, activation, window, local), shape, pool, last, is_channels_last(input), maximum)


def _plain(input: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether gradients are needed, by ordinary backpropagation, and the tensors are plain numbers in memory."""
    if not torch.is_grad_enabled() or torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
        return False
    tensors = (input, weight) if bias is None else (input, weight, bias)
    if has_torch_function(tensors) or traced(*tensors) or torch.is_autocast_enabled("cpu"):
        return False
    if input.dim() != weight.dim() or (bias is not None and bias.shape != weight.shape[:1]):
        return False
    plain = all(each.dtype == torch.float32 and each.device.type == "cpu" and not each.is_neg() for each in tensors)
    return plain and any(each.requires_grad for each in tensors)
