"""Batch normalisation with a residual and an activation, forward and backward, and layer normalisation forward.

:mod:`formulas` has the arithmetic of both layouts, :mod:`moments` computes mean and variance, :mod:`nchw` and
:mod:`nhwc` are the kernels, :mod:`layer` is layer normalisation; :mod:`dispatch` chooses kernels and work items.
"""
