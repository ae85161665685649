"""Less memory for more time: what a block computes is not kept for its gradients but computed again.

Chen, Xu, Zhang & Guestrin, "Training deep nets with sublinear memory cost" (2016), section 3, by PyTorch's
``torch.utils.checkpoint``.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch.nn import Module, Sequential
from torch.utils.checkpoint import checkpoint


def recompute(model: Module) -> None:
    """Has a network compute its blocks again in the backward pass; numbers stay the same to the bit.

    A block is a child of the network that has children of its own, or one of a chain of such (of a ``Sequential``); a
    chain of n plain layers becomes about sqrt(n) blocks. Running statistics are taken in once.
    """
    if isinstance(model, Sequential) and not _is_chain_of_blocks(model):
        size = math.ceil(math.sqrt(len(model)))
        parts = [list(model)[start : start + size] for start in range(0, len(model), size)]
        # The last is computed right before its gradients, so that computing it again would save nothing.
        calls = [*(partial(_again, part, part) for part in parts[:-1]), partial(_chain, parts[-1])]
        model.forward = partial(_through, calls)  # type: ignore[method-assign]
        return
    for child in model.children():
        if isinstance(child, Sequential) and len(child):
            recompute(child)
        elif next(child.children(), None) is not None:
            child.forward = partial(_again, [child], [child.forward])


def _is_chain_of_blocks(model: Sequential) -> bool:
    return any(next(child.children(), None) is not None for child in model)


def _chain(calls: list[Any], *inputs: Any) -> Any:
    first, *rest = calls
    return _through(rest, first(*inputs))


def _through(calls: list[Any], value: Any) -> Any:
    for call in calls:
        value = call(value)
    return value


def _again(modules: list[Module], calls: list[Any], *inputs: Any) -> Any:
    if not torch.is_grad_enabled():
        return _chain(calls, *inputs)
    return checkpoint(
        partial(_chain, calls),
        *inputs,
        use_reentrant=False,
        context_fn=lambda: (contextlib.nullcontext(), _statistics_left(modules)),
    )


@contextlib.contextmanager
def _statistics_left(modules: list[Module]) -> Iterator[None]:
    """While entered, batch normalisation in training mode uses the batch's statistics and keeps no running ones."""
    tracking = [
        layer
        for module in modules
        for layer in module.modules()
        if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm) and layer.training and layer.track_running_stats
    ]
    for layer in tracking:
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer in tracking:
            layer.track_running_stats = True
