"""Blocks: operations of a captured graph that are fused into one, with gradients.

:mod:`fusion` finds the patterns and rewrites the graph, :mod:`fused` has the operations that rewritten graphs call,
:mod:`calls` replaces single functions of PyTorch by those of :mod:`striate.ops`.
"""
