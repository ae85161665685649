"""Calls that are left to PyTorch as they are, autograd included.

An operation written in Python whose gradients are wanted costs some tens of microseconds beyond PyTorch's own, more
while the caches hold other things. Where the engine has found that its other kernels save less than that, for all that
a call and its gradients need, PyTorch's function is called instead.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from striate.engine import Pass, gain, tuning
from striate.engine.backends import has_memory, watched
from striate.engine.layout import is_channels_last
from striate.engine.matmul import MatmulBackend, is_linear
from striate.geometry import PoolShape, Problem
from striate.ops._calls import unchanging

#: Seconds that the way through Python costs beyond PyTorch's: forward, and forward and backward, where autograd calls
#: functions written in Python; about twice what they take with warm caches.
_DETOUR, _DETOUR_AND_BACK = 10e-6, 120e-6


@dataclass(slots=True)
class Known:
    """A call that has been met before, of tensors that need no more looking at."""

    padding: tuple[int, ...] | None  #: as PyTorch takes it, if it is PyTorch that should be called
    linear: bool  #: whether it should be called as a linear layer
    problem: Problem
    channels_last: bool
    how: tuple[Any, ...]  #: the arguments by whose identity it is found, so that no others get it
    #: What a call comes to without and with a bias, for the function to keep where no derivative is asked for.
    ready: list[Callable[..., Any] | None] = field(default_factory=lambda: [None, None])


class Left:
    """The calls of one function that are known, and which of them are left, by all that this depends on.

    Args:
        problem_of: the problem of an input's shape (a weight's shape) and the arguments after them.
        forward: the pass that the function computes; a transposed convolution goes the other way.
        recorded: the pass that it computes where a gradient is wanted, if that is another one.
    """

    def __init__(
        self, problem_of: Callable[..., Problem], forward: Pass = Pass.OUTPUT, recorded: Pass | None = None
    ) -> None:
        self._problem_of, self._forward = problem_of, forward
        self._recorded = forward if recorded is None else recorded
        self._known: dict[tuple[Any, ...], Known] = {}

    def known(self, dims: int, tensors: tuple[Tensor, ...], how: tuple[Any, ...], local: bool = True) -> Known | None:
        """What is known of a call; None of one that is new, or of tensors that are more than numbers in memory.

        ``tensors`` are the input, and the weight if there is one; ``local`` as :func:`striate.engine.choose` takes it.
        """
        if watched():
            return None
        if tuning.put_off:
            tuning.resume()
        key: tuple[Any, ...] = (torch.is_grad_enabled(), torch.get_num_threads(), tuning.generation, local)
        for tensor in tensors:
            shape = tensor.shape if is_plain(tensor) else ()
            if len(shape) != dims + 2 or tensor.layout is not torch.strided or tensor._has_symbolic_sizes_strides:
                return None
            key += (shape, tensor.stride(), tensor.device, tensor.requires_grad)
        key += tuple(map(id, how))
        found = self._known.get(key)
        return self._learned(key, tensors, how, local) if found is None else found

    def _learned(
        self, key: tuple[Any, ...], tensors: tuple[Tensor, ...], how: tuple[Any, ...], local: bool
    ) -> Known | None:
        if not unchanging(how) or tensors[0].device != tensors[-1].device:
            return None
        wanted = [torch.is_grad_enabled() and tensor.requires_grad for tensor in tensors]
        problem = self._problem_of(*(tensor.shape for tensor in tensors), *how)
        passes = [self._recorded if any(wanted) else self._forward]
        if wanted[0]:
            passes.append(Pass.INPUT_GRAD if self._forward is Pass.OUTPUT else Pass.OUTPUT)
        if wanted[-1] and len(wanted) > 1:
            passes.append(Pass.WEIGHT_GRAD)
        last = any(map(is_channels_last, tensors))
        saved = gain(problem, tuple(passes), tensors[0], last, local)
        if saved is None:
            return None  # nobody knows yet
        detour = _DETOUR if len(passes) == 1 else _DETOUR_AND_BACK
        worth = saved > detour
        # PyTorch would keep the input, which only the weight's gradient needs.
        worth |= wanted == [True, False]
        linear = False
        # Autograd's own product saves the detour. Its result is a view, which outside of autograd nobody may change
        # in place who goes on inside of it.
        if any(wanted) and self._forward is Pass.OUTPUT and is_linear(problem):
            alone = gain(problem, tuple(passes), tensors[0], last, local, MatmulBackend.name)
            linear = alone is not None and alone > 0 and alone >= saved - detour
        if len(self._known) >= 4096:
            self._known.clear()
        self._known[key] = Known(None if worth else _pytorchs_padding(problem), linear, problem, last, how)
        return self._known[key]


def is_plain(tensor: Tensor) -> bool:
    """Other dtypes have no kernels but PyTorch's to begin with, and are nothing to hurry for."""
    kind = type(tensor)
    plain = (kind is Tensor or kind is Parameter) and tensor.dtype is torch.float32
    return plain and not tensor.is_neg() and has_memory(tensor)


@lru_cache(maxsize=4096)
def _pytorchs_padding(problem: Problem) -> tuple[int, ...] | None:
    """The padding as PyTorch takes it, which knows only some of what striate does; None where it doesn't."""
    padding = tuple(before for before, _ in problem.pads)
    if any(before != after for before, after in problem.pads):
        return None
    if isinstance(problem, PoolShape):
        if any(cells > kernel // 2 for cells, kernel in zip(padding, problem.kernel, strict=True)):
            return None
        if problem.kind == "avg" and (max(problem.dilation) > 1 or problem.divisor is not None):
            return None
    return padding
