"""CPU kernels generated with LLVM, by family.

Every family of problems has a folder. Its ``dispatch.py`` takes tensors, chooses a kernel, tile and work items, and
fills in addresses. The other files generate kernels; each begins with its loops as pseudocode. In file names, ``nchw``
means vector lanes along the width of planes, and ``nhwc`` lanes over adjacent channels (channels last).

======================  ================================================================================
:mod:`codegen`          instruction sets, IR from Python, machine code and its cache, threads, programs
:mod:`memory`           operands as planes and rows, packed weights, copies between layouts, arenas
:mod:`functions`        activations and other elementwise functions; epilogues of kernels
:mod:`convolution`      the three passes of convolution
:mod:`winograd`         convolution with fewer multiplications
:mod:`pooling`          max and average pooling with gradients
:mod:`conv_pool`        convolution, activation and max pooling as one block
:mod:`normalization`    batch and layer normalisation
:mod:`regions`          NMS and RoIAlign
======================  ================================================================================

:mod:`backend` is the entry in the table of backends for convolution and pooling.
"""

from striate.engine.llvm.backend import LlvmBackend

__all__ = ["LlvmBackend"]
