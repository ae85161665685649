"""CPU kernels generated with LLVM, by family.

Every family of problems has a folder: its ``dispatch.py`` takes tensors, chooses a kernel, tile and work items, and
fills in addresses; the other files generate kernels and begin with their loops in words. In file names ``nchw`` puts
vector lanes along the width of planes, ``nhwc`` over channels that lie side by side (channels last).

======================  ================================================================================
:mod:`codegen`          instruction sets, IR from Python, machine code and its cache, threads, programs
:mod:`memory`           operands as planes and rows, packed weights, copies between layouts, arenas
:mod:`functions`        activations and other functions of single numbers; epilogues of kernels
:mod:`convolution`      convolution's three passes
:mod:`winograd`         the same with fewer multiplications
:mod:`pooling`          max and average pooling with gradients
:mod:`conv_pool`        convolution, activation and max pooling as one block
:mod:`normalization`    batch and layer normalisation
:mod:`regions`          NMS and RoIAlign
======================  ================================================================================

:mod:`backend` is the entry in the table of backends for convolution and pooling.
"""

from striate.engine.llvm.backend import LlvmBackend

__all__ = ["LlvmBackend"]
