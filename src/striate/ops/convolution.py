"""Convolution (which CNNs' convention makes a cross-correlation) and its transpose, with gradients derived here.

All of convolution is one trilinear form, summed over images n, channels c_out and c_in, outputs o and taps t:

    T(x, w, g) = sum of  x[n, c_in, o * stride - before + t * dilation]  *  w[c_out, c_in, t]  *  g[n, c_out, o]

The output is its derivative by g. For a loss L with upstream gradient g = dL/dy the chain rule gives T's other two:

    dL/dw[c_out, c_in, t] = sum over n, o of  x[n, c_in, o * stride - before + t * dilation] * g[n, c_out, o]
        the input correlated with the upstream gradient: strides of the output become dilations, summed over all places
        that share the weight;
    dL/dx[n, c_in, i]     = sum over c_out and all (o, t) that see i of  g[n, c_out, o] * w[c_out, c_in, t]
        the full convolution of the upstream gradient, its positions set ``stride`` apart, with the flipped kernel
        (:meth:`striate.geometry.Window.adjoint`). By itself this is transposed convolution.

Each of the three is linear in the two operands it has, and its derivatives by them are again two of the three. So one
autograd function with an open operand is enough, and derivatives of every order come with it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from striate.engine import FORM, Pass, ready, traced
from striate.engine.aten import AtenBackend
from striate.engine.layout import is_channels_last
from striate.geometry import ConvShape, Padding
from striate.ops._autograd import Differentiable, is_constant, upstream_in, wanted
from striate.ops._calls import autocast, autocasts, batched, check_weight, fold, overridable, prepared
from striate.ops._dispatch import Dispatch, is_plain

# The operands that each pass has, in the order of the form; the third one is open.
_OPERANDS = {open_: tuple(role for role in FORM if role is not open_) for open_ in FORM}


class _Contraction(Differentiable):
    """T(x, w, g) with one operand open; its gradients are contractions with another one open."""

    @staticmethod
    def forward(
        first: Tensor,
        second: Tensor,
        bias: Tensor | None,
        shape: ConvShape,
        open_: Pass,
        channels_last: bool,
        local: bool,
    ) -> Tensor:
        if first.is_neg() or second.is_neg():
            first, second = first.resolve_neg(), second.resolve_neg()
        bias = None if bias is None else bias.resolve_neg()
        return ready(shape, open_, first, second, bias, channels_last, local)(first, second, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        first, second, _, ctx.shape, ctx.open_, ctx.channels_last, ctx.local = inputs
        # Each operand is needed for the other one's gradient only.
        ctx.save_for_backward(first if ctx.needs_input_grad[1] else None, second if ctx.needs_input_grad[0] else None)
        ctx.save_for_forward(first, second)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        first, second = ctx.saved_tensors
        one, other = _OPERANDS[ctx.open_]
        grad_first = grad_second = grad_bias = None
        if ctx.open_ is not Pass.WEIGHT_GRAD:
            upstream = upstream_in(ctx.channels_last, upstream)
        how, asked = (ctx.shape, ctx.channels_last), wanted(ctx)
        if asked[0]:
            grad_first = contract(*how, one, {other: second, ctx.open_: upstream}, local=ctx.local)
        if asked[1]:
            grad_second = contract(*how, other, {one: first, ctx.open_: upstream}, local=ctx.local)
        if asked[2]:
            grad_bias = upstream.sum([0, *range(2, upstream.dim())])
        return grad_first, grad_second, grad_bias, None, None, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor | None:
        first, second = ctx.saved_tensors
        d_first, d_second, d_bias = tangents[:3]
        one, other = _OPERANDS[ctx.open_]
        how = (ctx.shape, ctx.channels_last, ctx.open_)
        parts = []
        if d_first is not None:
            parts.append(contract(*how, {one: d_first, other: second}, local=ctx.local))
        if d_second is not None:
            parts.append(contract(*how, {one: first, other: d_second}, local=ctx.local))
        if d_bias is not None:
            whole = ctx.shape.output_shape if ctx.open_ is Pass.OUTPUT else ctx.shape.input_shape
            parts.append(d_bias.reshape(-1, *[1] * ctx.shape.dims).expand(whole))
        return sum(parts[1:], parts[0]) if parts else None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> tuple[Tensor, int]:
        """Samples become groups of channels that don't see each other."""
        *tensors, shape, open_, channels_last, local = inputs
        count = info.batch_size
        many = replace(
            shape,
            in_channels=count * shape.in_channels,
            out_channels=count * shape.out_channels,
            groups=count * shape.groups,
        )
        # A weight's and a bias's channels come first, those of images second.
        axes = [0 if role is Pass.WEIGHT_GRAD else 1 for role in _OPERANDS[open_]] + [0]
        wide = [
            None if tensor is None else fold(count, dim, tensor, into)
            for tensor, dim, into in zip(tensors, in_dims, axes, strict=False)
        ]
        result = _Contraction.of(*wide, many, open_, channels_last, local)
        axis = 0 if open_ is Pass.WEIGHT_GRAD else 1
        return result.unflatten(axis, (count, result.shape[axis] // count)), axis


def contract(
    shape: ConvShape,
    channels_last: bool,
    open_: Pass,
    operands: dict[Pass, Tensor],
    bias: Tensor | None = None,
    local: bool = True,
) -> Tensor:
    """T(x, w, g) with one operand open, differentiable; ``channels_last`` is the layout of images around it.

    ``local``: results, and gradients, depend on what their windows see and, to the last bit, on nothing else.
    """
    one, other = _OPERANDS[open_]
    first, second = operands[one], operands[other]
    if first.is_complex():
        return _contract_complex(shape, channels_last, open_, operands, bias)
    if traced(first, second):
        return _compiled.contract(shape, open_, first, second, bias, channels_last)
    return cast(Tensor, _Contraction.of(first, second, bias, shape, open_, channels_last, local))


def _contract_complex(
    shape: ConvShape, channels_last: bool, open_: Pass, operands: dict[Pass, Tensor], bias: Tensor | None
) -> Tensor:
    """(a + bi)(c + di) in four real contractions, which also gives complex gradients their conjugates."""
    one, other = _OPERANDS[open_]
    (a, b), (c, d) = ((operands[role].real.contiguous(), operands[role].imag.contiguous()) for role in (one, other))
    ac, bd, ad, bc = (
        contract(shape, channels_last, open_, {one: left, other: right})
        for left, right in ((a, c), (b, d), (a, d), (b, c))
    )
    result = torch.complex(ac - bd, ad + bc)
    return result if bias is None else result + bias.reshape(-1, *[1] * shape.dims)


_compiled = AtenBackend()
problem_of = prepared(ConvShape.of)
transposed_problem_of = prepared(ConvShape.of_transposed)
_dispatch, _dispatch_transposed = Dispatch(problem_of), Dispatch(transposed_problem_of, Pass.INPUT_GRAD)
_PYTORCHS: Final = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_PYTORCHS_TRANSPOSED: Final = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def _fits(bias: Tensor | None, weight: Tensor, channels: int) -> bool:
    return bias is None or (is_plain(bias) and bias.shape == (channels,) and bias.device == weight.device)


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Convolution with a window over the whole image, computed by PyTorch's linear layer."""
    last = is_channels_last(input)
    x, w = (each.movedim(1, -1) if last else each for each in (input, weight))
    y = F.linear(x.flatten(1), w.flatten(1), bias)
    return y.reshape(*y.shape, *[1] * (input.dim() - 2))


def convolve(
    dims: int,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
    local: bool = True,
) -> Tensor:
    """Convolution along ``dims`` axes; ``local`` as :func:`contract` takes it."""
    known = _dispatch.find(dims, (input, weight), (stride, padding, dilation, groups), local)
    if known is not None and _fits(bias, weight, weight.shape[0]):
        if known.linear:
            return _linear(input, weight, bias)
        if known.padding is not None:
            return _PYTORCHS[dims](input, weight, bias, stride, known.padding, dilation, groups)
        if not autocasts(input):
            how = (cast(ConvShape, known.problem), Pass.OUTPUT, known.channels_last, local)
            if torch._C._are_functorch_transforms_active() or not is_constant(input, weight, bias):
                return cast(Tensor, _Contraction.of(input, weight, bias, *how))
            biased = bias is not None
            found = known.ready[biased]
            if found is None:
                found = known.ready[biased] = ready(how[0], how[1], input, weight, bias, *how[2:])
            return cast(Tensor, found(input, weight, bias))
    call = f"conv{dims}d"
    input, weight, bias = cast("tuple[Tensor, Tensor, Tensor | None]", autocast(input, weight, bias))
    whole, had_batch = batched(call, dims, input)
    check_weight(call, dims, input, weight, bias)
    shape = problem_of(whole.shape, weight.shape, stride, padding, dilation, groups)
    channels_last = is_channels_last(whole) or is_channels_last(weight)
    operands = {Pass.INPUT_GRAD: whole, Pass.WEIGHT_GRAD: weight}
    output = contract(shape, channels_last, Pass.OUTPUT, operands, bias, local)
    return output if had_batch else output.squeeze(0)


def convolve_transposed(
    dims: int,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Any,
    padding: Any,
    output_padding: Any,
    groups: int,
    dilation: Any,
    local: bool = True,
) -> Tensor:
    """Transposed convolution along ``dims`` axes; ``local`` as :func:`contract` takes it."""
    known = _dispatch_transposed.find(dims, (input, weight), (stride, padding, output_padding, groups, dilation), local)
    if known is not None and known.padding is not None and _fits(bias, weight, weight.shape[1] * groups):
        how = (stride, known.padding, output_padding, groups, dilation)
        return _PYTORCHS_TRANSPOSED[dims](input, weight, bias, *how)
    call = f"conv_transpose{dims}d"
    input, weight, bias = cast("tuple[Tensor, Tensor, Tensor | None]", autocast(input, weight, bias))
    whole, had_batch = batched(call, dims, input)
    check_weight(call, dims, input, weight, bias, transposed_groups=groups)
    shape = transposed_problem_of(whole.shape, weight.shape, stride, padding, output_padding, groups, dilation)
    if shape.output_shape != whole.shape:
        # With dilation, output_padding may be as large as the stride or larger; then the windows reach further.
        missing = [m - n for m, n in zip(shape.output_size, whole.shape[2:], strict=True)]
        whole = torch.nn.functional.pad(whole, [cells for more in reversed(missing) for cells in (0, more)])
    channels_last = is_channels_last(whole) or is_channels_last(weight)
    operands = {Pass.WEIGHT_GRAD: weight, Pass.OUTPUT: whole}
    output = contract(shape, channels_last, Pass.INPUT_GRAD, operands, bias, local)
    return output if had_batch else output.squeeze(0)


@overridable
def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, int] = 1,
    padding: Padding = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
) -> Tensor:
    """Two-dimensional convolution in the convention of CNNs: the kernel is not flipped.

    ``y[n, o, i, j] = bias[o] + sum over c, u, v of x[n, c, i * stride - before + u * dilation, ...] * w[o, c, u, v]``

    Args:
        input: (N, C_in, H, W) or (C_in, H, W).
        weight: (C_out, C_in / groups, kH, kW).
        bias: (C_out,).
        stride, dilation: one number, or one an axis.
        padding: zeros around the input: a number, one an axis, a ``(before, after)`` pair an axis, ``"valid"`` (none),
            ``"same"`` (output is ceil(input / stride), an odd cell at the end), ``"same_lower"`` (an odd cell at the
            start) or ``"full"`` (every tap meets every input).
        groups: blocks of channels that don't see each other; C_in makes it depthwise.

    Returns:
        (N, C_out, H', W'), with H' as :meth:`striate.Window.output_size` says; unbatched for an unbatched input.

    Raises:
        GeometryError: sizes, channels and groups that don't fit together.
        OperandError: a rank, dtype or device that doesn't fit.

    Source: Goodfellow, Bengio & Courville, "Deep Learning" (2016), equation 9.6; gradients as derived at the top of
    this file.

    >>> image = torch.tensor([[[1.0, 5.0, 4.0], [9.0, 2.0, 1.0], [6.0, 3.0, 2.0]]])
    >>> conv2d(image, torch.ones(1, 1, 2, 2))
    tensor([[[17., 12.],
             [20.,  8.]]])
    >>> conv2d(image, torch.ones(1, 1, 3, 3), stride=2, padding="same").shape
    torch.Size([1, 2, 2])

    Formula: F2, F3, F4, F13.
    """
    return convolve(2, input, weight, bias, stride, padding, dilation, groups)


@overridable
def conv1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int] = 1,
    padding: Padding = 0,
    dilation: int | tuple[int] = 1,
    groups: int = 1,
) -> Tensor:
    """:func:`conv2d` along one axis: input (N, C_in, L) or (C_in, L), weight (C_out, C_in / groups, k).

    A causal convolution pads before only:

    >>> conv1d(torch.ones(1, 1, 4), torch.ones(1, 1, 3), padding=((2, 0),))
    tensor([[[1., 2., 3., 3.]]])

    Formula: F1.
    """
    return convolve(1, input, weight, bias, stride, padding, dilation, groups)


@overridable
def conv3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, int, int] = 1,
    padding: Padding = 0,
    dilation: int | tuple[int, int, int] = 1,
    groups: int = 1,
) -> Tensor:
    """:func:`conv2d` along three axes: input (N, C_in, D, H, W), weight (C_out, C_in / groups, kD, kH, kW)."""
    return convolve(3, input, weight, bias, stride, padding, dilation, groups)


@overridable
def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, int] = 1,
    padding: Padding = 0,
    output_padding: int | tuple[int, int] = 0,
    groups: int = 1,
    dilation: int | tuple[int, int] = 1,
) -> Tensor:
    """Transposed convolution: the input gradient of the :func:`conv2d` with the same weight and window.

    Args:
        input: (N, C_in, H, W) or (C_in, H, W).
        weight: (C_in, C_out / groups, kH, kW).
        bias: (C_out,).
        stride, dilation: of the convolution that this transposes; the output is about ``stride`` times as large.
        padding: of the convolution that this transposes, so it takes cells away; as in :func:`conv2d`. ``"same"``
            makes the output exactly input * stride.
        output_padding: extra cells at the end, fewer than stride or dilation. The convolution maps several input sizes
            to one output size; this chooses among them.
        groups: blocks of channels that don't see each other.

    Returns:
        (N, C_out, H', W') with H' = (H - 1) * stride + effective kernel - padding + output_padding.

    Raises:
        GeometryError, OperandError: as :func:`conv2d`.

    Source: Dumoulin & Visin, "A guide to convolution arithmetic for deep learning" (2016), section 4.

    >>> conv_transpose2d(torch.ones(1, 2, 2), torch.ones(1, 1, 2, 2))
    tensor([[[1., 2., 1.],
             [2., 4., 2.],
             [1., 2., 1.]]])

    Formula: F17, S29.
    """
    return convolve_transposed(2, input, weight, bias, stride, padding, output_padding, groups, dilation)


@overridable
def conv_transpose1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int] = 1,
    padding: Padding = 0,
    output_padding: int | tuple[int] = 0,
    groups: int = 1,
    dilation: int | tuple[int] = 1,
) -> Tensor:
    """:func:`conv_transpose2d` along one axis: input (N, C_in, L) or (C_in, L), weight (C_in, C_out / groups, k)."""
    return convolve_transposed(1, input, weight, bias, stride, padding, output_padding, groups, dilation)


@overridable
def conv_transpose3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, int, int] = 1,
    padding: Padding = 0,
    output_padding: int | tuple[int, int, int] = 0,
    groups: int = 1,
    dilation: int | tuple[int, int, int] = 1,
) -> Tensor:
    """:func:`conv_transpose2d` along three axes: input (N, C_in, D, H, W), weight (C_in, C_out / groups, kD, ...)."""
    return convolve_transposed(3, input, weight, bias, stride, padding, output_padding, groups, dilation)
