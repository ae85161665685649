"""CPU kernels generated with LLVM.

From the bottom: :mod:`isa` (vectors and registers), :mod:`emit` (IR from Python), :mod:`compile` (machine code and its
cache), :mod:`launch` (threads); then a file for each family of kernels, over :mod:`packing`: :mod:`planar`,
:mod:`planar_weight`, :mod:`pooling` and :mod:`planar_pooling_grad` (NCHW, lanes along the width), :mod:`interleaved`,
:mod:`interleaved_weight`, :mod:`interleaved_depthwise`, :mod:`interleaved_depthwise_weight` and
:mod:`interleaved_pooling` (channels last, lanes over channels); then :mod:`sums`, :mod:`weight_sums` and :mod:`pools`,
which hand tensors to kernels; then :mod:`contraction`, which says what sums a convolution is; then :mod:`backend`,
which the table of backends holds.
"""

from striate.engine.llvm.backend import LlvmBackend

__all__ = ["LlvmBackend"]
