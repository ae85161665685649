"""Elementwise functions of one and two operands.

:mod:`activations` has functions with gradients, :mod:`pointwise` functions for inference only. :mod:`epilogue` applies
them to the sums of a kernel, :mod:`elementwise` to maps in memory.
"""
