"""Parts of a graph that are computed again in backward, as ``torch.utils.checkpoint`` does it where nothing compiles.

Dynamo captures such a part as one operator. That operator is made for compilers, which keep random numbers by means of
their own: called as it is, it would draw other numbers when it computes again, and gradients would be those of another
function. It also takes parameters and buffers as arguments, and holds a buffer that the part itself writes, as batch
normalisation does, to what it was.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import compress
from typing import Any, Final

import torch
from torch.fx import GraphModule
from torch.utils.checkpoint import checkpoint

_CAPTURED: Final = torch.ops.higher_order.tag_activation_checkpoint


def with_checkpoints(graph: GraphModule, owned: Sequence[bool]) -> GraphModule:
    """The graph, with PyTorch's ``checkpoint`` called wherever its Python called it.

    Args:
        graph: torch functions, as Dynamo captured them.
        owned: which of its arguments are tensors of the model's own.
    """
    if not any(node.target is _CAPTURED for node in graph.graph.nodes):
        return graph
    rewritten = GraphModule(graph, copy.deepcopy(graph.graph))
    placeholders = [node for node in rewritten.graph.nodes if node.op == "placeholder"]
    own = set(compress(placeholders, owned))
    for node in rewritten.graph.nodes:
        if node.target is _CAPTURED:
            body, *operands = node.args
            given = tuple(at for at, each in enumerate(operands) if each not in own)
            node.target, node.args, node.kwargs = recomputed, (body, given, dict(node.kwargs), *operands), {}
    rewritten.recompile()
    return rewritten


def recomputed(body: GraphModule, given: tuple[int, ...], how: dict[str, Any], *operands: Any) -> Any:
    """``body(*operands)``, computed again in backward.

    Args:
        body: what is computed.
        given: which operands are arguments of ``checkpoint``; the others are the model's own, found where they are.
        how: the settings of ``checkpoint``.
        operands: numbers and tensors.
    """
    if not torch.is_grad_enabled():
        return body(*operands)
    own = [None if at in given else each for at, each in enumerate(operands)]

    def run(*arguments: Any) -> Any:
        every = list(own)
        for at, each in zip(given, arguments, strict=True):
            every[at] = each
        return body(*every)

    context = body.meta.get("_checkpoint_context_fn")
    more = {} if context is None else {"context_fn": context}
    return checkpoint(run, *(operands[at] for at in given), **{"use_reentrant": False, **how, **more})
