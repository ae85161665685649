"""How much arithmetic an operator is: multiply-accumulates where it is a product, floating-point operations for all.

One multiply-accumulate (MAC) is two FLOPs. A root, an exponential or a comparison counts as one, so FLOPs beyond the
products are a convention, stated in the tables below, and no measured fact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch

from striate.analysis.trace import Operation
from striate.geometry import ConvShape, PoolShape, Problem


@dataclass(frozen=True)
class Work:
    """What one operator call computes.

    Args:
        macs: multiply-accumulates of convolutions and matrix products, those with padding included.
        in_bounds_macs: the ones whose operands both exist.
        flops: 2 * macs, and everything else.
        backward_macs: of the gradients that are wanted, by input and by weight.
        bias_flops: of ``flops``, those of a convolution's or linear layer's bias.
    """

    macs: int = 0
    in_bounds_macs: int = 0
    flops: int = 0
    backward_macs: int = 0
    bias_flops: int = 0


#: FLOPs for each element of the input: normalisations take mean, variance, scaling and shift, a softmax maximum,
#: difference, exponential, sum and quotient.
_PER_INPUT: Final = {
    "native_layer_norm": 7, "native_group_norm": 7, "_fused_rms_norm": 4, "_softmax": 5, "_log_softmax": 5,
    "_safe_softmax": 5, "mean": 1, "sum": 1, "amax": 1, "amin": 1, "max": 1, "min": 1, "prod": 1, "var": 3, "std": 3,
    "var_mean": 4, "std_mean": 4, "cumsum": 1, "cumprod": 1, "argmax": 1, "argmin": 1, "logsumexp": 3, "norm": 2,
    "linalg_vector_norm": 2, "_adaptive_avg_pool2d": 1, "_adaptive_avg_pool3d": 1, "adaptive_max_pool2d": 1,
    "adaptive_max_pool3d": 1, "any": 1, "all": 1,
}  # fmt: skip
#: FLOPs for each element of the output: two for each tap of an interpolation.
_PER_OUTPUT: Final = {
    "hardswish": 4, "hardswish_": 4, "upsample_linear1d": 4, "upsample_bilinear2d": 8, "upsample_trilinear3d": 16,
    "upsample_bicubic2d": 32, "native_dropout": 2, "bernoulli": 1, "bernoulli_": 1,
    "_native_batch_norm_legit_no_training": 2, "_batch_norm_no_update": 2, "add_": 1,
}  # fmt: skip
#: Only moves, makes or reads numbers.
_FREE: Final = frozenset(
    """
    squeeze_ unsqueeze_ transpose_ t_ as_strided_
    view _unsafe_view view_copy reshape _reshape_alias squeeze unsqueeze expand permute transpose t movedim diagonal
    slice select split split_with_sizes unbind chunk as_strided alias detach lift lift_fresh lift_fresh_copy clone
    contiguous _to_copy copy copy_ _conj view_as_real view_as_complex cat stack meshgrid
    constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d
    replication_pad1d replication_pad2d replication_pad3d
    flip roll repeat index index_select gather embedding im2col unfold pixel_shuffle pixel_unshuffle channel_shuffle
    native_channel_shuffle index_copy index_copy_ index_put index_put_ slice_scatter select_scatter scatter
    masked_fill masked_fill_ tril triu empty empty_like empty_strided new_empty new_empty_strided
    zeros zeros_like new_zeros zero zero_ ones ones_like new_ones full full_like new_full fill fill_
    arange linspace scalar_tensor eye rand randn randint
    upsample_nearest1d upsample_nearest2d upsample_nearest3d
    _upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d
    """.split()  # noqa: SIM905 - seventy strings of a line each don't read better
)
_ATTENTION: Final = (
    "_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention", "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_fused_attention_overrideable",
)  # fmt: skip
_BATCH_NORMS: Final = ("native_batch_norm", "cudnn_batch_norm", "_native_batch_norm_legit", "_batch_norm_with_update")


def work(operation: Operation) -> Work | None:
    """What an operation computes, or None where that isn't known."""
    name = operation.name.removeprefix("aten.")
    if name == "convolution":
        return _convolution(operation)
    if name in ("mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "dot", "addbmm"):
        return _product(operation, added=name.startswith(("add", "badd")))
    if name in _ATTENTION:
        return _attention(operation)
    if (pooling := problem(operation)) is not None:
        taps = math.prod(pooling.kernel) * math.prod(pooling.output_shape)
        return Work(flops=taps)
    if name in _FREE:
        return Work()
    outputs = operation.outputs[0].numel if operation.outputs else 0
    if name in _BATCH_NORMS:
        return Work(flops=outputs * (7 if operation.argument("training", True) else 2))
    if name in _PER_INPUT:
        return Work(flops=operation.inputs[0].numel * _PER_INPUT[name])
    if name in _PER_OUTPUT:
        return Work(flops=outputs * _PER_OUTPUT[name])
    if torch.Tag.pointwise in operation.target.tags:
        return Work(flops=outputs)
    return None


def moves_only(operation: Operation) -> bool:
    return operation.name.removeprefix("aten.") in _FREE


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


def _product(operation: Operation, *, added: bool) -> Work:
    one, two = operation.inputs[-2:]
    columns = two.shape[-1] if len(two.shape) > 1 else 1
    macs = one.numel * columns
    bias = operation.outputs[0].numel if added else 0
    return Work(macs, macs, 2 * macs + bias, macs * (one.learns + two.learns), bias)


def _attention(operation: Operation) -> Work:
    """Two products, queries by keys and weights by values, and a softmax between them."""
    query, key, value = operation.inputs[:3]
    pairs = query.numel // query.shape[-1] * key.shape[-2]
    macs = pairs * (query.shape[-1] + value.shape[-1])
    # By each operand of each product: what recomputing the weights costs is up to the kernel.
    wanted = 2 * macs if query.learns or key.learns or value.learns else 0
    return Work(macs, macs, 2 * macs + 6 * pairs, wanted)
