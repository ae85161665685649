"""Conventions for operators without products: floating-point operations for each element, or none.

A root, an exponential or a comparison counts as one operation. A pointwise operator that isn't listed counts as one
operation for each element of its output. These are conventions and not measurements.
"""

from __future__ import annotations

from typing import Final

#: FLOPs for each element of the input: normalisations take mean, variance, scaling and shift, a softmax maximum,
#: difference, exponential, sum and quotient, a loss what its formula says and the sum.
PER_INPUT: Final = {
    "native_layer_norm": 7, "native_group_norm": 7, "_fused_rms_norm": 4, "_softmax": 5, "_log_softmax": 5,
    "_safe_softmax": 5, "mean": 1, "sum": 1, "nansum": 1, "amax": 1, "amin": 1, "aminmax": 2, "max": 1, "min": 1,
    "prod": 1, "var": 3, "std": 3, "var_mean": 4, "std_mean": 4, "cumsum": 1, "cumprod": 1, "cummax": 1, "cummin": 1,
    "logcumsumexp": 3, "argmax": 1, "argmin": 1, "logsumexp": 3, "norm": 2, "linalg_vector_norm": 2, "dist": 3,
    "count_nonzero": 1, "_adaptive_avg_pool2d": 1, "_adaptive_avg_pool3d": 1, "adaptive_max_pool2d": 1,
    "adaptive_max_pool3d": 1, "any": 1, "all": 1, "col2im": 1, "embedding_renorm_": 3, "_weight_norm_interface": 3,
    "mse_loss": 3, "smooth_l1_loss": 4, "huber_loss": 4, "soft_margin_loss": 5, "binary_cross_entropy": 8,
    "binary_cross_entropy_with_logits": 7, "multi_margin_loss": 4, "multilabel_margin_loss_forward": 4,
}  # fmt: skip
#: FLOPs for each element of the output: two for each tap of an interpolation.
PER_OUTPUT: Final = {
    "hardswish": 4, "hardswish_": 4, "glu": 2, "log_sigmoid_forward": 1, "_prelu_kernel": 1, "rrelu_with_noise": 1,
    "rrelu_with_noise_": 1, "upsample_linear1d": 4, "upsample_bilinear2d": 8, "upsample_trilinear3d": 16,
    "upsample_bicubic2d": 32, "native_dropout": 2, "bernoulli": 1, "bernoulli_": 1, "affine_grid_generator": 6,
    "_native_batch_norm_legit_no_training": 2, "_batch_norm_no_update": 2, "add_": 1, "addr": 2, "linalg_cross": 3,
    "cross": 3, "_thnn_fused_lstm_cell": 9, "_thnn_fused_gru_cell": 9,
}  # fmt: skip
#: FLOPs for each element of the last tensor among the arguments, which is added or compared to others.
PER_SOURCE: Final = {
    "scatter_add": 1, "scatter_add_": 1, "scatter_reduce": 1, "scatter_reduce_": 1, "index_add": 1, "index_add_": 1,
    "index_reduce": 1, "index_reduce_": 1,
}  # fmt: skip
#: Operators that only move, create or read numbers.
FREE: Final = frozenset(
    """
    squeeze_ unsqueeze_ transpose_ t_ as_strided_ swapaxes_ swapdims_
    view _unsafe_view view_copy reshape _reshape_alias squeeze unsqueeze expand permute transpose t movedim diagonal
    slice select split split_with_sizes unbind chunk unsafe_split unsafe_split_with_sizes unsafe_chunk
    as_strided alias detach detach_ lift lift_fresh lift_fresh_copy clone
    contiguous _to_copy copy copy_ _conj view_as_real view_as_complex real imag complex cat stack meshgrid
    resize_ resize_as_ set_ constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d
    replication_pad1d replication_pad2d replication_pad3d
    flip roll rot90 repeat repeat_interleave index index_select gather take embedding im2col unfold
    pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle
    index_copy index_copy_ index_put index_put_ index_fill index_fill_ slice_scatter select_scatter diagonal_scatter
    scatter scatter_ masked_fill masked_fill_ masked_scatter masked_scatter_ tril triu tril_ triu_ diag_embed
    max_unpool2d max_unpool3d _pack_padded_sequence
    empty empty_like empty_strided new_empty new_empty_strided
    zeros zeros_like new_zeros zero zero_ ones ones_like new_ones full full_like new_full fill fill_ fill_diagonal_
    arange linspace logspace scalar_tensor eye tril_indices triu_indices
    rand rand_like randn randn_like randint randint_like randperm normal normal_ uniform uniform_ random_ exponential_
    upsample_nearest1d upsample_nearest2d upsample_nearest3d
    _upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d
    """.split()  # noqa: SIM905 - a hundred strings of a line each don't read better
)
