"""Autograd functions: what they save for backward, and what a call costs.

Training code may overwrite any tensor that PyTorch's own functions don't save for their gradients: the result of a
layer, a residual after it has been added, a bias. So an operation that replaces several of these functions may save
only operands and results that one of the replaced functions would have saved, and memory of its own (maps between the
functions, positions, masks, statistics). Then a write that PyTorch accepts is accepted, and gradients are right; a
write that PyTorch rejects may be accepted or rejected. The operations also save no more memory, except for a few
numbers a channel. The tables of saved tensors are in :mod:`.norm`, :mod:`.conv_pool` and :mod:`.chain`; single
convolutions and poolings save less than PyTorch's:

    function               PyTorch's saves            this saves
    convolution            input, weight              input for the weight's gradient, weight for the input's
    maximum                input, positions           positions, in 16 bits where they suffice
    average                input                      nothing

The same tensor may be passed as several operands of a call, and operands may be functions of one another. A gradient
belongs to the operand's position, not to the tensor. So second derivatives are either explicit formulas of what a
position's gradient depends on, or autograd recomputes the forward pass with a separate view for each position.

A function with ``setup_context`` supports :mod:`torch.func` (vmap, grad, jacrev), but costs some 20 microseconds a
call, more than a small convolution. A function whose ``forward`` takes the context costs five. So each function is
written once, in the newer form, and gets a twin in the older form, which is used while no transform is active.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from striate.engine import layout, traced
from striate.engine.llvm.memory import relayout


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

        # PyTorch recognises the older protocol by the base class's own setup_context.
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
    """The tensor if it is a leaf, else a copy: an in-place write could later change the history of a non-leaf."""
    return tensor if tensor is None or tensor.is_leaf else tensor.clone()


def is_constant(*inputs: Any) -> bool:
    """Whether no derivative by any of these inputs can be requested, while no transform is active."""
    if forward_ad._current_level >= 0:
        return False
    if torch.is_grad_enabled():
        for operand in inputs:
            if isinstance(operand, Tensor) and operand.requires_grad:
                return False
    return True


def upstream_in(channels_last: bool, upstream: Tensor) -> Tensor:
    """An upstream gradient in a layout; a kernel converts it unless the conversion must be differentiable."""
    if torch.is_grad_enabled() or traced(upstream):
        return layout.laid_out(upstream, channels_last)
    return relayout.laid_out(upstream, channels_last)


#: The input whose gradient was last found not to be requested; :func:`wanted` checks it first.
_unasked = 0


def wanted(ctx: Any) -> tuple[bool, ...]:
    """Which inputs' gradients this backward has to compute, for a function whose tensor arguments come first.

    Autograd tells Python functions which inputs require gradients, not which gradients are requested in this call: a
    saliency map needs none of the weights' gradients.
    """
    global _unasked
    needed: tuple[bool, ...] = ctx.needs_input_grad
    nodes = getattr(ctx, "next_functions", None)
    if nodes is None or sum(needed) < 2:
        return needed
    places = sorted((place for place, need in enumerate(needed) if need), key=lambda place: place != _unasked)
    asked = list(needed)
    for place in places:
        # For a requested leaf, autograd raises an exception, which takes 20 microseconds. The last input is not checked
        # if no other is requested: then it must be.
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
        return True  # a requested leaf, or outside of a backward call
