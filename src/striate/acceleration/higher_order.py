"""Replaces Dynamo's higher-order operators, which have graphs of their own, by the calls that they were captured from.

These operators are meant for compilers. If they were called directly,

- a checkpoint would draw other random numbers when it recomputes, so its gradients would belong to another function;
  and it would reset buffers that it has written itself, such as the statistics of batch normalisation;
- an autograd function would have no second derivative, because its saved tensors would have lost their history.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import compress
from typing import Any, Final

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.utils.checkpoint import checkpoint

_CHECKPOINT: Final = torch.ops.higher_order.tag_activation_checkpoint
_FUNCTION: Final = torch._functorch.autograd_function.autograd_function_apply


def with_calls(graph: GraphModule, owned: Sequence[bool]) -> GraphModule:
    """The graph with calls of PyTorch's checkpoints and autograd functions, as in the model's Python code.

    Args:
        graph: the graph of torch functions that Dynamo captured.
        owned: which of its arguments are the model's own tensors.
    """
    if not any(node.target in (_CHECKPOINT, _FUNCTION) for node in graph.graph.nodes):
        return graph
    rewritten = GraphModule(graph, copy.deepcopy(graph.graph))
    placeholders = [node for node in rewritten.graph.nodes if node.op == "placeholder"]
    own = set(compress(placeholders, owned))
    for node in list(rewritten.graph.nodes):
        if node.target is _CHECKPOINT:
            body, *operands = node.args
            given = tuple(at for at, each in enumerate(operands) if each not in own)
            node.target, node.args, node.kwargs = recomputed, (body, given, dict(node.kwargs), *operands), {}
        elif node.target is _FUNCTION:
            forward, backward, *operands = node.args
            name = f"{node.name}_with_derivative"
            rewritten.add_submodule(name, Derived(_held(rewritten, forward), _held(rewritten, backward), node.kwargs))
            node.op, node.target, node.args, node.kwargs = "call_module", name, tuple(operands), {}
    rewritten.recompile()
    return rewritten


def _held(graph: GraphModule, node: Node) -> GraphModule:
    """The subgraph that a node refers to."""
    held = graph.get_submodule(str(node.target))
    assert isinstance(held, GraphModule)
    return held


def recomputed(body: GraphModule, given: tuple[int, ...], how: dict[str, Any], *operands: Any) -> Any:
    """``body(*operands)``, recomputed in the backward pass.

    Args:
        body: the graph to compute.
        given: which operands are arguments of ``checkpoint``; the others are the model's own tensors.
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


class Derived(torch.nn.Module):
    """An autograd function, given by its forward and its backward graph.

    Args:
        forward: maps arguments to (outputs, saved values).
        backward: maps output gradients and saved values to gradients of the arguments.
        how: which saved values were passed to ``save_for_backward``, and which outputs are marked.
    """

    def __init__(self, forward: GraphModule, backward: GraphModule, how: dict[str, Any]) -> None:
        super().__init__()
        saved, unmarked = set(how["saved_for_backward_idx"]), how["non_differentiable_idx"]
        written, back = how.get("dirty_idx", ()), _differentiable(backward)

        class Captured(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, *given: Any) -> Any:
                outputs, kept = forward(*given)
                several = outputs if isinstance(outputs, (tuple, list)) else [outputs]
                ctx.mark_dirty(*(several[at] for at in written))
                ctx.mark_non_differentiable(*(several[at] for at in unmarked))
                # Save the same tensor objects that are inputs or outputs, so that autograd recognises them.
                ctx.is_saved = [at in saved and isinstance(each, Tensor) for at, each in enumerate(kept)]
                ctx.save_for_backward(*compress(kept, ctx.is_saved))
                ctx.kept = [None if held else each for held, each in zip(ctx.is_saved, kept, strict=True)]
                return outputs

            @staticmethod
            def backward(ctx: Any, *upstream: Any) -> Any:
                tensors = iter(ctx.saved_tensors)
                held = zip(ctx.is_saved, ctx.kept, strict=True)
                return back(*upstream, *(next(tensors) if is_saved else each for is_saved, each in held))

        self.apply_ = Captured.apply

    def forward(self, *operands: Any) -> Any:
        return self.apply_(*operands)


def _differentiable(backward: GraphModule) -> GraphModule:
    """A backward graph without Dynamo's switch of the gradient mode, because autograd sets the mode itself."""
    made = GraphModule(backward, copy.deepcopy(backward.graph))
    inner = [node for node in made.graph.nodes if node.op not in ("placeholder", "output")]
    ends = [node for node in (*inner[:1], *inner[-1:]) if node.target is torch._C._set_grad_enabled]
    if len(ends) == 2 and [node.args for node in ends] == [(False,), (True,)]:
        for node in ends:
            made.graph.erase_node(node)
    made.recompile()
    return made
