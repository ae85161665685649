"""Autograd functions: what they keep, and at which price they are called.

Whoever trains a network may write over any tensor that PyTorch's own functions don't keep for their gradients: what a
layer returns, a residual after it has been added, a bias. So the rule for operations that take the place of several of
these functions is that they keep nothing of it that others see, unless PyTorch's do: the operands and the result that
one of the functions would have kept, and beside these only memory of their own (maps between the functions, positions,
masks, statistics). A write that PyTorch accepts is accepted, and gradients are right; one that PyTorch rejects may be
either. Nor do they keep more memory, but for a few numbers a channel. The tables of what is kept are in
:mod:`.norm`, :mod:`.conv_pool` and :mod:`.chain`; convolution and pooling by themselves keep less than PyTorch's:

    function               PyTorch's keeps            this keeps
    convolution            input, weight              input for the weight's gradient, weight for the input's
    maximum                input, positions           positions, in 16 bits where they suffice
    average                input                      nothing

One tensor may stand in several places of a call, and its operands may be functions of one another. A gradient is that
of the place. So derivatives of derivatives are either formulas of what a place's gradient hangs on, or, where autograd
finds them from a computation done again, each place's operand is a view of its own there.

A function with ``setup_context`` can be transformed by :mod:`torch.func` (vmap, grad, jacrev), but costs some 20
microseconds a call, more than a small convolution. One whose ``forward`` takes the context costs five. So each function
is written once, in the newer form, and gets a twin in the older one, which is taken while no transform is active.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from striate.engine import layout, traced
from striate.engine.llvm import relayout


class Differentiable(torch.autograd.Function):
    """A function with ``forward``, ``setup_context``, ``backward``, ``jvp`` and ``vmap``; call it with :meth:`of`."""

    _direct: type[torch.autograd.Function]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "_direct" in cls.__dict__:
            return

        def forward(ctx: Any, *inputs: Any) -> Any:
            output = cls.forward(*inputs)
            cls.setup_context(ctx, inputs, output)
            return output

        # PyTorch tells the older protocol by a setup_context that is its own.
        unset = staticmethod(torch.autograd.Function.setup_context)
        cls._direct = type(
            cls.__name__, (cls,), {"forward": staticmethod(forward), "setup_context": unset, "_direct": None}
        )

    @classmethod
    def of(cls, *inputs: Any) -> Any:
        """The function's value, differentiable."""
        if torch._C._are_functorch_transforms_active():
            return cls.apply(*inputs)
        if is_constant(*inputs):
            return cls.forward(*inputs)
        return cls._direct.apply(*inputs)


def own(tensor: Tensor | None) -> Tensor | None:
    """The tensor, or a copy where nobody could tell later what it was computed from: writing may change that."""
    return tensor if tensor is None or tensor.is_leaf else tensor.clone()


def is_constant(*inputs: Any) -> bool:
    """Whether nobody can ask for a derivative by any of these, while no transform is active."""
    if forward_ad._current_level >= 0:
        return False
    if torch.is_grad_enabled():
        for operand in inputs:
            if isinstance(operand, Tensor) and operand.requires_grad:
                return False
    return True


def upstream_in(channels_last: bool, upstream: Tensor) -> Tensor:
    """An upstream gradient in a layout, moved by a kernel where nobody differentiates that."""
    if torch.is_grad_enabled() or traced(upstream):
        return layout.laid_out(upstream, channels_last)
    return relayout.laid_out(upstream, channels_last)


#: The input that was found not to be asked for last, of functions with two: it is looked at first.
_unasked = 0


def wanted(ctx: Any) -> tuple[bool, ...]:
    """Which inputs' gradients this backward is to find, of a function whose tensors come first.

    Autograd tells functions written in Python which inputs have gradients, not which are asked for now: a saliency map
    of a network wants none of its weights'.
    """
    global _unasked
    needed: tuple[bool, ...] = ctx.needs_input_grad
    nodes = getattr(ctx, "next_functions", None)
    if nodes is None or sum(needed) < 2:
        return needed
    places = sorted((place for place, need in enumerate(needed) if need), key=lambda place: place != _unasked)
    asked = list(needed)
    for place in places:
        # Of a leaf that is asked for autograd says so by an exception, 20 microseconds. If no other is, it has to be.
        if place == places[-1] and not any(asked[other] for other in places[:-1]):
            break
        asked[place] = _is_asked(nodes[place][0])
        if not asked[place]:
            _unasked = place
    return tuple(asked)


def _is_asked(node: Any) -> bool:
    try:
        return bool(torch._C._will_engine_execute_node(node))
    except RuntimeError:
        return True  # a leaf that is asked for itself, or nobody to know
