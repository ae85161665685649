"""CPU kernels generated with LLVM.

From the bottom: :mod:`isa` (vectors and registers), :mod:`emit` (IR from Python), :mod:`compile` (machine code and its
cache), :mod:`launch` (threads); then a file for each family of kernels, over :mod:`packing`: :mod:`planar` and
:mod:`planar_weight` (NCHW, lanes along the width), :mod:`interleaved` and :mod:`interleaved_weight` (channels last, lanes
over channels), :mod:`pooling`; then :mod:`contraction` and :mod:`pools`, which hand tensors to kernels; then
:mod:`backend`, which the table of backends holds.
"""

from striate.engine.llvm.backend import LlvmBackend

__all__ = ["LlvmBackend"]
