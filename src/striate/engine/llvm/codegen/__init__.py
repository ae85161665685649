"""From Python to machine code, and running it.

:mod:`isa` describes vectors and registers, :mod:`ir` writes LLVM's language, :mod:`machine_code` compiles it and keeps
it on disk, :mod:`launch` runs a kernel on PyTorch's threads, :mod:`program` runs many kernels in one call.
"""
