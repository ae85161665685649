"""Inference plans: a captured graph as a list of kernels that one native call walks.

In processing order: :mod:`capture` records the graph's operators. :mod:`lowering` turns them into steps, based on
:mod:`builder` (tensors and copies) and :mod:`foreign` (views, concatenations and PyTorch's own operators);
:mod:`fusing` and :mod:`functions` decide what is fused into a step, and :mod:`placement` describes the memory layout of
a tensor. :mod:`constants` packs weights, :mod:`weights` detects changes of weights, :mod:`running` decides when a plan
is made and used, and :mod:`threads` on how many threads it runs.
"""
