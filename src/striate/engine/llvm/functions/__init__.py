"""Functions of single numbers, and of pairs of them.

:mod:`activations` has those with gradients, :mod:`pointwise` those of inference only, :mod:`epilogue` applies them to a
kernel's totals, :mod:`elementwise` to maps that lie in memory.
"""
