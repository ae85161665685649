"""Convolution, activation and max pooling as one block.

:mod:`output` pools before anything is written. The gradients walk the list of positions that max pooling let through
(:mod:`sparse`, :mod:`sparse_input_grad`, :mod:`sparse_weight_grad`). :mod:`dispatch` picks kernels and work items.
"""
