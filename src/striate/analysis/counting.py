"""Counts the arithmetic of operators: multiply-accumulates of products, floating-point operations of all operators.

One multiply-accumulate (MAC) is two FLOPs. MACs are those of convolutions and of products of matrices and vectors,
including those in recurrent layers, attention and bilinear forms. Interpolation, pooling, normalisation, distances and
losses have FLOPs but no MACs; their number is a convention (:mod:`~striate.analysis.conventions`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import astuple, dataclass
from typing import Final

import numpy as np
import torch

from striate.analysis.conventions import FREE, PER_INPUT, PER_OUTPUT, PER_SOURCE
from striate.analysis.trace import Operation
from striate.geometry import ConvShape, PoolShape, Problem


@dataclass(frozen=True)
class Work:
    """The arithmetic of one operator call.

    Args:
        macs: multiply-accumulates of convolutions and matrix products, those with padding included.
        in_bounds_macs: those without products with padding.
        flops: 2 * macs, and everything else.
        backward_macs: of the required gradients by input and by weight.
        bias_flops: of ``flops``, those of a convolution's or linear layer's bias.
    """

    macs: int = 0
    in_bounds_macs: int = 0
    flops: int = 0
    backward_macs: int = 0
    bias_flops: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(*(mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))


#: Products of two operands, and how many tensors stand before these among the arguments.
_PRODUCTS: Final = {
    "mm": 0, "bmm": 0, "mv": 0, "dot": 0, "vdot": 0, "_int_mm": 0, "_scaled_mm": 0,
    "addmm": 1, "addmm_": 1, "addbmm": 1, "addbmm_": 1, "baddbmm": 1, "baddbmm_": 1, "addmv": 1, "addmv_": 1,
    "_addmm_activation": 1,
}  # fmt: skip
#: Attention on (N, heads, positions, features).
_ATTENTION: Final = (
    "_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention", "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_fused_attention_overrideable", "_scaled_dot_product_attention_math",
    "_scaled_dot_product_attention_math_for_mps",
)  # fmt: skip
#: Attention on (N, positions, heads, features).
_ATTENTION_BY_POSITION: Final = ("_flash_attention_forward", "_efficient_attention_forward")
_BATCH_NORMS: Final = (
    "native_batch_norm", "cudnn_batch_norm", "miopen_batch_norm", "_native_batch_norm_legit",
    "_native_batch_norm_legit_functional", "_batch_norm_with_update", "_batch_norm_with_update_functional",
)  # fmt: skip


def work(operation: Operation) -> Work | None:
    """The arithmetic of an operation, or None if it isn't known."""
    name = operation.name.removeprefix("aten.")
    if (act := _RULES.get(name)) is not None:
        return act(operation)
    if name.startswith(("max_pool", "avg_pool")):
        pooling = problem(operation)
        assert pooling is not None
        return Work(flops=math.prod(pooling.kernel) * math.prod(pooling.output_shape))
    if name in FREE:
        return Work()
    outputs = operation.outputs[0].numel if operation.outputs else 0
    if name in PER_INPUT:
        return Work(flops=operation.inputs[0].numel * PER_INPUT[name])
    if name in PER_SOURCE:
        return Work(flops=operation.inputs[-1].numel * PER_SOURCE[name])
    if name in PER_OUTPUT:
        return Work(flops=outputs * PER_OUTPUT[name])
    if torch.Tag.pointwise in operation.target.tags:
        return Work(flops=outputs)
    return None


def moves_only(operation: Operation) -> bool:
    return operation.name.removeprefix("aten.") in FREE


def problem(operation: Operation) -> Problem | None:
    """A convolution or pooling as a problem; for a transposed convolution the one that it is the input gradient of."""
    name = operation.name.removeprefix("aten.")
    if name == "convolution":
        input, weight = operation.args[:2]
        how = [operation.argument(each) for each in ("stride", "padding", "dilation", "output_padding")]
        stride, padding, dilation, extra = how
        groups = operation.argument("groups")
        if operation.argument("transposed"):
            return ConvShape.of_transposed(input.shape, weight.shape, stride, padding, extra, groups, dilation)
        return ConvShape.of(input.shape, weight.shape, stride, padding, dilation, groups)
    if not name.startswith(("max_pool", "avg_pool")):
        return None
    kind = name[:3]
    shape = operation.inputs[0].shape
    dims = int(name.partition("pool")[2][0])
    whole = (1,) * (dims + 2 - len(shape)) + shape
    return PoolShape.of(
        "max" if kind == "max" else "avg",
        whole,
        operation.argument("kernel_size"),
        operation.argument("stride") or None,
        operation.argument("padding", 0),
        operation.argument("dilation", 1),
        operation.argument("ceil_mode", False),
        operation.argument("count_include_pad", True),
        operation.argument("divisor_override"),
    )


def _convolution(operation: Operation) -> Work:
    shape = problem(operation)
    assert isinstance(shape, ConvShape)
    input, weight, bias = operation.args[:3]
    macs = shape.macs
    added = 0 if bias is None else operation.outputs[0].numel
    return Work(macs, shape.in_bounds_macs, 2 * macs + added, macs * (input.learns + weight.learns), added)


def _product(operation: Operation) -> Work:
    before = _PRODUCTS[operation.name.removeprefix("aten.")]
    one, two = operation.inputs[before : before + 2]
    columns = two.shape[-1] if len(two.shape) > 1 else 1
    macs = one.numel * columns
    bias = operation.outputs[0].numel * before
    return Work(macs, macs, 2 * macs + bias, macs * (one.learns + two.learns), bias)


def _attention(operation: Operation) -> Work:
    """Two products, queries by keys and weights by values, and a softmax between them."""
    query, key, value = operation.inputs[:3]
    by_position = operation.name.removeprefix("aten.") in _ATTENTION_BY_POSITION
    pairs = query.numel // query.shape[-1] * key.shape[1 if by_position else -2]
    keys, values = pairs * query.shape[-1], pairs * value.shape[-1]
    macs = keys + values
    weights = query.learns or key.learns
    # For each operand of each product, without the cost of computing the weights again, which depends on the kernel.
    wanted = keys * (query.learns + key.learns) + values * (weights + value.learns)
    return Work(macs, macs, 2 * macs + 6 * pairs, wanted)


def _bilinear(operation: Operation) -> Work:
    """A sum of products of three operands, each broadcast along dimensions of its own."""
    operands = operation.inputs[:3]
    shapes = []
    for operand, place in zip(operands, ("expand1", "expand2", "expand3"), strict=True):
        shape = list(operand.shape)
        for dim in operation.argument(place):
            shape.insert(dim, 1)
        shapes.append(shape)
    terms = math.prod(np.broadcast_shapes(*shapes))
    return Work(terms, terms, 3 * terms, terms * sum(operand.learns for operand in operands))


#: Of a recurrent cell by its number: gates, and what each hidden number takes beside products and biases.
_CELLS: Final = ((1, 2), (1, 2), (4, 13), (3, 10))


def _recurrent(operation: Operation) -> Work:
    """A layer's steps in one operator: inputs and state, each by its matrix for all gates, at every step."""
    input, state = operation.inputs[0], operation.argument("hx_") or operation.argument("hx")
    listed = operation.argument("weight")
    if listed is None:  # one layer in one direction, which gets zeros for biases that it hasn't
        listed = operation.inputs[1 : 5 if operation.argument("has_biases") else 3]
    matrices = [each for each in listed if len(each.shape) == 2]
    size = 3 if operation.argument("proj_size", 0) else 2
    gates, pointwise = _CELLS[operation.argument("mode")]
    lengths = operation.argument("batch_sizes")
    rows = sum(lengths) if lengths else input.numel // input.shape[-1]
    first = lengths[0] if lengths else state.shape[-2]
    numbers = rows * operation.argument("hidden_size") * len(matrices) // size
    total = Work(flops=numbers * (pointwise + (2 * gates if len(matrices) < len(listed) else 0)))
    learns = input.learns or state.learns or any(each.learns for each in listed)
    for place, matrix in enumerate(matrices):
        macs = rows * matrix.numel
        if place % size == 0:  # the first layer's inputs are the data, the others' are states
            other = macs * (
                learns if place >= size * (2 if operation.argument("bidirectional", False) else 1) else input.learns
            )
        elif place % size == 1:  # the state before the first step isn't made here
            other = macs * learns - first * matrix.numel * (learns and not state.learns)
        else:
            other = macs * learns
        total += Work(macs, macs, 2 * macs, macs * matrix.learns + other)
    return total


def _bagged(operation: Operation) -> Work:
    """Rows of a table are added up, or multiplied by their weights first."""
    table, indices = operation.inputs[:2]
    weighted = operation.argument("per_sample_weights") is not None
    return Work(flops=indices.numel * table.shape[-1] * (2 if weighted else 1))


def _normalised(operation: Operation) -> Work:
    return Work(flops=operation.outputs[0].numel * (7 if operation.argument("training", True) else 2))


def _distances(operation: Operation) -> Work:
    """Each pair of rows: difference, power and sum of every feature."""
    one, two = (operation.inputs * 2)[:2]
    pairs = one.numel // one.shape[-1] * (two.shape[-2] - (1 if len(operation.inputs) == 1 else 0))
    return Work(flops=3 * one.shape[-1] * pairs // (2 if len(operation.inputs) == 1 else 1))


def _euclidean(operation: Operation) -> Work:
    """Each pair of rows by the product of all with all, and the squares of both."""
    one, two = operation.inputs[:2]
    macs = one.numel * two.shape[-2]
    pairs = operation.outputs[0].numel
    return Work(macs, macs, 2 * macs + 3 * pairs + 2 * (one.numel + two.numel), macs * (one.learns + two.learns))


def _sampled(operation: Operation) -> Work:
    """Positions of a grid between pixels: two operations a tap, and eight for where each lies."""
    output, dims = operation.outputs[0], len(operation.inputs[0].shape) - 2
    taps = {0: 2**dims, 1: 1, 2: 4**dims}[operation.argument("interpolation_mode")]
    places = output.numel // max(output.shape[1], 1)
    return Work(flops=8 * places + (2 * taps * output.numel if taps > 1 else 0))


def _picked(operation: Operation) -> Work:
    """Losses that take one number for each target: its product with a weight, and the sum."""
    return Work(flops=2 * operation.inputs[1].numel)


def _fractional(operation: Operation) -> Work:
    return Work(flops=operation.outputs[0].numel * math.prod(operation.argument("kernel_size")))


def _smoothed(operation: Operation) -> Work:
    """Interpolation with as many taps as shrinking asks for, along one axis after the other."""
    *lead, height, width = operation.inputs[0].shape
    *_, high, wide = operation.outputs[0].shape
    reach = 4 if "bicubic" in operation.name else 2
    down, across = (math.ceil(reach * max(n / m, 1)) for n, m in ((height, high), (width, wide)))
    return Work(flops=2 * math.prod(lead) * wide * (height * across + high * down))


def _aligned(operation: Operation) -> Work:
    """Alignments of labels (CTC): each of 2 L + 1 states takes three predecessors and one number at every step."""
    steps = operation.inputs[0].shape[0]
    states = sum(2 * length + 1 for length in operation.argument("target_lengths"))
    return Work(flops=8 * steps * states)


_RULES: Final[dict[str, Callable[[Operation], Work]]] = {
    "convolution": _convolution,
    **dict.fromkeys(_PRODUCTS, _product),
    **dict.fromkeys((*_ATTENTION, *_ATTENTION_BY_POSITION), _attention),
    **dict.fromkeys(_BATCH_NORMS, _normalised),
    "_trilinear": _bilinear,
    **dict.fromkeys(("mkldnn_rnn_layer", "_cudnn_rnn", "miopen_rnn"), _recurrent),
    **dict.fromkeys(("_embedding_bag", "_embedding_bag_forward_only"), _bagged),
    **dict.fromkeys(("_cdist_forward", "_pdist_forward"), _distances),
    "_euclidean_dist": _euclidean,
    **dict.fromkeys(("grid_sampler_2d", "grid_sampler_3d", "_grid_sampler_2d_cpu_fallback"), _sampled),
    **dict.fromkeys(("fractional_max_pool2d", "fractional_max_pool3d"), _fractional),
    **dict.fromkeys(("_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa", "_upsample_lanczos2d_aa"), _smoothed),
    **dict.fromkeys(("nll_loss_forward", "nll_loss2d_forward"), _picked),
    "_ctc_loss": _aligned,
}
