"""Inference plans: a captured graph as a list of kernels that one native call walks.

In processing order: :mod:`capture` records the graph's operators, :mod:`lowering` makes steps of them (on
:mod:`builder`: tensors and copies, and :mod:`foreign`: views, concatenations and PyTorch's own operators; :mod:`fusing`
and :mod:`functions` say what a step takes along; :mod:`placement` is where a tensor lies), :mod:`constants` packs
weights, :mod:`weights` notices that they have changed, :mod:`running` decides when a plan is made and used, and
:mod:`threads` on how many threads.
"""
