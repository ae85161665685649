"""Batch normalisation with a residual and an activation, forward and backward, and layer normalisation forward.

:mod:`formulas` is what both layouts compute, :mod:`moments` sums mean and variance, :mod:`nchw` and :mod:`nhwc` are the
kernels, :mod:`layer` is layer normalisation; :mod:`dispatch` picks kernels and work items.
"""
