"""Activation checkpointing: blocks don't save their intermediate maps but compute them again in the backward pass.

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
    """Makes a network compute its blocks again in the backward pass; the numbers stay the same to the bit.

    A block is a child of the network with children of its own, or a child of a ``Sequential`` of such. A chain of n
    plain layers is divided into about sqrt(n) blocks. Running statistics are updated only once.
    """
    if isinstance(model, Sequential) and not _is_chain_of_blocks(model):
        size = math.ceil(math.sqrt(len(model)))
        parts = [list(model)[start : start + size] for start in range(0, len(model), size)]
        # The last block is computed right before its gradients, so computing it again would save nothing.
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
    """A context in which batch normalisation doesn't update its running statistics.

    The statistics are saved for gradients, so they must exist and must not change: a momentum of 0 preserves their
        bits.
    """
    tracking = [
        (layer, layer.momentum, count, count.clone())
        for module in modules
        for layer in module.modules()
        if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm) and (count := layer.num_batches_tracked) is not None
    ]
    for layer, *_ in tracking:
        layer.momentum = 0.0
    try:
        yield
    finally:
        for layer, momentum, count, before in tracking:
            layer.momentum = momentum
            count.copy_(before)
