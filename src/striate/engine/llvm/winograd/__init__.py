"""Winograd's convolution: 3x3 and 5x5 windows of stride 1 in channels last, one group, whole vectors of channels.

:mod:`backend` is the entry in the table of backends, :mod:`kernels` generates the loops, :mod:`forms` has the matrices
and their rounding, :mod:`pooled` fuses max pooling, :mod:`values` decides from the values which tiles are summed
directly.
"""
