"""Generates, compiles and runs kernels.

:mod:`isa` describes instruction sets, :mod:`ir` writes LLVM IR, :mod:`machine_code` compiles IR and caches the machine
code on disk, :mod:`launch` runs a kernel on PyTorch's threads, :mod:`program` runs many kernels in one call.
"""
