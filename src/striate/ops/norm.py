"""Batch normalisation, a residual's addition and an activation as one operation, with gradients derived here.

With the mean m and the variance v of a channel's n numbers, d = sqrt(v + eps) and xh = (x - m) / d:

    y = act(z),  z = weight * xh + bias + residual

and with the upstream gradient g = dL/dy

    g'           = g * act'(z), which is also the residual's gradient
    grad_bias    = sum of g'
    grad_weight  = sum of g' * xh
    grad_x       = weight / d * (g' - grad_bias / n - xh * grad_weight / n)

The last two terms are there because m and v depend on x. In evaluation m and v are constants, and the terms vanish
(Ioffe & Szegedy, "Batch Normalization", 2015, section 3).

The operation is limited by memory. The engine's kernels read x twice and write y once; in the backward pass they read x
and g twice and write grad_x once. The second read comes from the cache where it can. Saved for backward (see
:mod:`._autograd` for the rule):

    what                                   PyTorch's functions save    this saves
    normalised alone, or with a residual   x                           x
    relu                                   x, y                        x
    relu with a residual                   x, y                        x, y
    relu6, silu, hardswish, gelu, elu, ..  x, z                        x
    tanh, sigmoid                          x, y                        x
    the same with a residual               x, z                        x, z

Both also save the weight and some numbers a channel: PyTorch two, this five, from which z can be recomputed. In the
last row, normalisation and addition are one operation, followed by PyTorch's activation: its slope depends on z, and no
other tensor that callers can't overwrite determines it. If only the residual needs a gradient, PyTorch adds it, and
nothing of the normalisation is saved.

Anything other than float32 on the CPU in one of the two layouts falls back to PyTorch's operators, as do forward-mode
derivatives and transforms. Higher derivatives are those of the formulas above, written in PyTorch's operators.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Final, TypeAlias, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

from striate.engine import Pass, choice, traced, tuning
from striate.engine.choice import Asked
from striate.engine.layout import is_channels_last
from striate.engine.llvm.functions.activations import parsed
from striate.engine.llvm.normalization import dispatch as normalization
from striate.engine.llvm.normalization.dispatch import NormKernels
from striate.engine.llvm.normalization.formulas import NormVariant
from striate.errors import OperandError
from striate.geometry import NormShape
from striate.ops._autograd import own
from striate.ops._calls import overridable

_Pair: TypeAlias = "tuple[Tensor | None, Tensor | None]"


def _nothing(z: Tensor) -> Tensor:
    return z


#: By kind. Some take a number, which follows a colon in the name: ``"leaky_relu:0.1"``.
ACTIVATIONS: Final[dict[str, Callable[..., Tensor]]] = {
    "": _nothing,
    "relu": F.relu,
    "relu6": F.relu6,
    "silu": F.silu,
    "hardswish": F.hardswish,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "gelu": F.gelu,
    "leaky_relu": F.leaky_relu,
    "elu": F.elu,
}
#: Kinds that take a number.
NUMBERED: Final = ("leaky_relu", "elu")
#: Activations that are fused with a residual's addition if gradients are needed.
AFTER_RESIDUALS: Final = ("", "relu")
_aten: Final = torch.ops.aten
_SENT_BACK: Final[dict[str, Callable[..., Tensor]]] = {
    "relu": lambda g, z: cast(Tensor, _aten.threshold_backward(g, z, 0)),
    "relu6": lambda g, z: cast(Tensor, _aten.hardtanh_backward(g, z, 0, 6)),
    "silu": _aten.silu_backward,
    "hardswish": _aten.hardswish_backward,
    "tanh": lambda g, z: cast(Tensor, _aten.tanh_backward(g, z.tanh())),
    "sigmoid": lambda g, z: cast(Tensor, _aten.sigmoid_backward(g, z.sigmoid())),
    "gelu": _aten.gelu_backward,
    "leaky_relu": lambda g, z, slope: cast(Tensor, _aten.leaky_relu_backward(g, z, slope, False)),
    "elu": lambda g, z, alpha: cast(Tensor, _aten.elu_backward(g, alpha, 1, 1, False, z)),
}


def sent_back_from_result(name: str, g: Tensor, y: Tensor) -> Tensor:
    """The gradient of an activation's operand from its result: relu, tanh and sigmoid."""
    if name == "tanh":
        return cast(Tensor, _aten.tanh_backward(g, y))
    if name == "sigmoid":
        return cast(Tensor, _aten.sigmoid_backward(g, y))
    return sent_back(name, g, y)


def activate(name: str, z: Tensor) -> Tensor:
    """The activation with this name, which may contain a number."""
    kind, number = parsed(name)
    return ACTIVATIONS[kind](z, number) if kind in NUMBERED else ACTIVATIONS[kind](z)


def is_activation(name: str) -> bool:
    """Whether this is the name of an activation, with a number if the kind takes one.

    >>> is_activation("elu:1.0"), is_activation("elu"), is_activation("relu:1.0")
    (True, False, False)
    """
    kind, colon, number = name.partition(":")
    try:
        return kind in ACTIVATIONS and bool(colon) == (kind in NUMBERED) and math.isfinite(float(number or 0))
    except ValueError:
        return False


class _BatchNorm(torch.autograd.Function):
    """The engine's kernels. Transforms and forward derivatives never get here, so the older protocol suffices."""

    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        residual: Tensor | None,
        weight: Tensor | None,
        bias: Tensor | None,
        running: _Pair,
        plan: NormKernels,
        momentum: float,
        eps: float,
    ) -> Tensor:
        y, kept = _forward(input, residual, weight, bias, running, plan, momentum, eps)
        ctx.plan, ctx.eps, ctx.strides = plan, eps, input.stride()
        # Not saved, because PyTorch doesn't save it either: callers may overwrite it.
        ctx.bias = bias if ctx.needs_input_grad[3] else None
        ctx.save_for_backward(input, weight, kept, y if plan.form.keeps else None)
        return y

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        input, weight, kept, y = ctx.saved_tensors
        if torch.is_grad_enabled() or traced(upstream):
            found = gradients(ctx.plan.form, ctx.eps, upstream, input, weight, ctx.bias, kept, y)
        else:
            if input.stride() != ctx.strides:
                # Hooks on saved tensors may have moved them to other memory, in another layout.
                input = input.new_empty_strided(input.shape, ctx.strides).copy_(input)
            g = laid_out_as(input, upstream.resolve_neg())
            found = ctx.plan.backward(g, input, None if y is None else laid_out_as(input, y), kept)
        needed = ctx.needs_input_grad[:4]
        return *(grad if need else None for grad, need in zip(found, needed, strict=True)), None, None, None, None


def _forward(
    input: Tensor,
    residual: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    running: _Pair,
    plan: NormKernels,
    momentum: float,
    eps: float,
) -> tuple[Tensor, Tensor]:
    residual = None if residual is None else laid_out_as(input, residual)
    return plan.forward(input, residual, weight, bias, running, momentum, eps)


def laid_out_as(like: Tensor, tensor: Tensor) -> Tensor:
    """The tensor with the strides of another one; the tensor itself if it has them already."""
    if tensor.stride() == like.stride():
        return tensor
    return torch.empty_like(like).copy_(tensor)


def gradients(
    form: NormVariant,
    eps: float,
    upstream: Tensor,
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    kept: Tensor,
    y: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of input, residual, weight and bias by PyTorch's operators, as functions of all they depend on.

    ``bias`` is only used for its autograd history, since callers may have overwritten its numbers. ``kept`` is what
    :meth:`NormKernels.forward` saved, and ``y`` is the result if it is saved.
    """
    each, axes = [-1, *[1] * (input.dim() - 2)], [0, *range(2, input.dim())]
    centre, scale, shift, offset, inverse = (row.view(each) for row in kept)
    # Subtract the saved centre first: the mean itself is rounded.
    apart = input - centre
    if form.training:
        apart = apart - apart.mean(axes, keepdim=True)
        inverse = (apart.square().mean(axes, keepdim=True) + eps).rsqrt()
    normed = apart * inverse
    factor = inverse if weight is None else inverse * weight.view(each)
    g = upstream
    if y is not None:
        g = sent_back(form.activation, g, y)
    elif form.activation:
        added = shift + offset * scale
        # The bias's numbers at the forward pass, with the autograd history of the bias.
        added = added if bias is None else added + (bias - bias.detach()).view(each)
        g = sent_back(form.activation, g, apart * factor + added)
    grad_bias, grad_weight = g.sum(axes), (g * normed).sum(axes)
    grad_input = g
    if form.training:
        many = input.numel() / input.shape[1]
        grad_input = g - (grad_bias.view(each) + normed * grad_weight.view(each)) / many
    return grad_input * factor, g, grad_weight, grad_bias


def sent_back(activation: str, upstream: Tensor, z: Tensor) -> Tensor:
    """The gradient of an activation's operand from that of its result; for relu ``z`` may be the result as well."""
    if not torch.is_grad_enabled():
        kind, number = parsed(activation)
        return _SENT_BACK[kind](upstream, z, number) if kind in NUMBERED else _SENT_BACK[kind](upstream, z)
    operand = z.view_as(z) if z.requires_grad else z.detach().requires_grad_()
    y = activate(activation, operand)
    return torch.autograd.grad(y, operand, upstream, create_graph=True)[0]


def _composed(
    input: Tensor,
    residual: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    running: _Pair,
    form: NormVariant,
    momentum: float,
    eps: float,
) -> Tensor:
    # PyTorch 2.13's gradient in channels_last reads a weight with gaps as if it had none.
    weight = None if weight is None else weight.contiguous()
    z = F.batch_norm(input, *running, weight, bias, form.training, momentum, eps)
    return activate(form.activation, z if residual is None else z + residual)


def _generated(input: Tensor, residual: Tensor | None, weight: Tensor | None, bias: Tensor | None, *how: Any) -> Tensor:
    """By the engine's kernels."""
    if _needs_gradient(input, residual, weight, bias):
        return cast(Tensor, _BatchNorm.apply(input, residual, weight, own(bias), *how))
    return _forward(input, residual, weight, bias, *how)[0]


def _needs_gradient(*operands: Tensor | None) -> bool:
    if torch.is_grad_enabled():
        for operand in operands:
            if operand is not None and operand.requires_grad:
                return True
    return False


def fit(
    input: Tensor,
    residual: Tensor | None,
    tables: tuple[Tensor | None, ...],
    training: bool,
    momentum: object,
    eps: float,
) -> bool:
    """Whether kernels can read the operands. Invalid operands fall back to PyTorch, which raises its own errors."""
    if (
        forward_ad._current_level >= 0
        or torch._C._are_functorch_transforms_active()
        or torch.is_autocast_enabled("cpu")
        or not isinstance(momentum, (int, float))
        or (training and not eps > 0)
    ):
        return False
    present = [table for table in tables if table is not None]
    operands = [input, *present] if residual is None else [input, residual, *present]
    if traced(*operands):
        return False
    for tensor in operands:
        if tensor.dtype != torch.float32 or tensor.device.type != "cpu" or tensor.is_neg():
            return False
    if not 2 <= input.dim() <= 5 or (residual is not None and residual.shape != input.shape):
        return False
    channels = input.shape[1]
    if any(table.dim() != 1 or table.shape[0] != channels or not table.is_contiguous() for table in present):
        return False
    mean, variance = tables[2:]
    if mean is None or variance is None:
        return mean is variance and training and input.numel() > channels
    unmoved = not (mean.requires_grad or variance.requires_grad)
    return unmoved and input.numel() > (channels if training else 0)


def aliased(weight: Tensor | None, bias: Tensor | None, mean: Tensor | None, variance: Tensor | None) -> bool:
    """Whether weight or bias share memory with a running statistic, which training would overwrite."""
    if mean is None or variance is None:
        return False
    bytes_, moved = 4 * mean.shape[0], (mean.data_ptr(), variance.data_ptr())
    for table in (weight, bias):
        if table is not None:
            start = table.data_ptr()
            if abs(start - moved[0]) < bytes_ or abs(start - moved[1]) < bytes_:
                return True
    return False


@overridable
def batch_norm(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    *,
    residual: Tensor | None = None,
    activation: str = "",
) -> Tensor:
    """``activation(batch_norm(input) + residual)``, one after the other as :mod:`torch.nn.functional` computes them.

    Args:
        input: (N, C) or (N, C, ...).
        weight, bias: (C,), or None for 1 and 0.
        running_mean, running_var: (C,). In training they are moved towards the batch's mean and unbiased variance, and
            may be None; otherwise they are what is normalised by.
        training: whether to normalise by the batch's own mean and variance.
        momentum: how far the running statistics are moved, from 0 to 1.
        eps: added to the variance; in training above 0.
        residual: added before the activation, of the input's shape.
        activation: ``""`` (none), ``"relu"``, ``"relu6"``, ``"silu"``, ``"hardswish"``, ``"tanh"``, ``"sigmoid"``,
            ``"gelu"``; or ``"leaky_relu:SLOPE"``, ``"elu:ALPHA"``, with a number.

    Returns:
        A tensor like the input.

    Raises:
        OperandError: an activation that isn't one of these.
        ValueError: in training, a single number a channel, or an eps that isn't above 0 (PyTorch's errors).

    Source: Ioffe & Szegedy, "Batch Normalization" (2015), algorithm 1; gradients as derived at the top of this file.

    >>> x = torch.tensor([[1.0], [3.0]])
    >>> batch_norm(x, None, None, None, None, True, 0.1, 1e-5).round(decimals=3)
    tensor([[-1.],
            [ 1.]])
    >>> batch_norm(x, None, None, None, None, True, 0.1, 1e-5, residual=x, activation="relu").round(decimals=3)
    tensor([[0.],
            [4.]])
    """
    if not is_activation(activation):
        names = ", ".join(repr(name + ":NUMBER" * (name in NUMBERED)) for name in ACTIVATIONS)
        raise OperandError("batch_norm", f"got activation {activation!r}", f"needed one of {names}")
    if residual is not None and _needs_gradient(input, residual, weight, bias):
        arguments = (input, weight, bias, running_mean, running_var, training, momentum, eps)
        if not _needs_gradient(input, weight, bias):
            return activate(activation, batch_norm(*arguments) + residual)
        if activation not in AFTER_RESIDUALS:
            return activate(activation, batch_norm(*arguments, residual=residual))
    form, tables = NormVariant(activation, residual is not None, training), (weight, bias, running_mean, running_var)
    operands = (input, residual, weight, bias, (running_mean, running_var))
    if fit(input, residual, tables, training, momentum, eps) and not (training and aliased(*tables)):
        plan = normalization.plan(form, input)
        if plan is not None and _chosen(plan, *operands, momentum, eps):
            return _generated(*operands, plan, momentum, eps)
    return _composed(*operands, form, momentum, eps)


#: Whether the engine's kernels are used: the choice, looked up at every call. A plan stands for shape, layout, threads.
_choices: dict[tuple[NormKernels, bool, int], bool] = {}


def _chosen(
    plan: NormKernels,
    input: Tensor,
    residual: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    running: _Pair,
    momentum: float,
    eps: float,
) -> bool:
    """Whether the engine's kernels are chosen; see :mod:`striate.engine.normalization`."""
    backward = _needs_gradient(input, residual, weight, bias)
    key = (plan, backward, tuning.generation)
    found = _choices.get(key)
    if found is None:
        if len(_choices) >= 4096:
            _choices.clear()
        runs = _runs(plan, backward, input, residual, weight, bias, running, momentum, eps)
        form, open_ = plan.form, Pass.INPUT_GRAD if backward else Pass.OUTPUT
        problem = NormShape(tuple(input.shape), form.activation, form.residual, form.training)
        asked = Asked(problem, open_, input.dtype, input.device.type, is_channels_last(input))
        found = _choices[key] = choice.choose(asked, runs).name == "llvm"
    return found


def _runs(
    plan: NormKernels,
    backward: bool,
    input: Tensor,
    residual: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    running: _Pair,
    momentum: float,
    eps: float,
) -> choice.Runs:
    """What computes this call by PyTorch's operators and by kernels, for measuring."""
    # Measuring must not affect gradients or the running statistics.
    operands = [
        None if tensor is None else tensor.detach().requires_grad_(backward and tensor.requires_grad)
        for tensor in (input, residual, weight, bias)
    ]
    copies = tuple(None if tensor is None else tensor.clone() for tensor in running)
    ways: dict[str, tuple[Callable[..., Tensor], NormVariant | NormKernels]]
    ways = {"aten": (_composed, plan.form), "llvm": (_generated, plan)}

    def run(name: str) -> None:
        compute, how = ways[name]
        y = compute(*operands, copies, how, momentum, eps)
        if backward:
            torch.autograd.grad(y, [each for each in operands if each is not None and each.requires_grad], y.detach())

    return lambda name: partial(run, name)
