"""Calls that fall back to PyTorch's function, autograd included.

With gradients, an operation written in Python costs some tens of microseconds more than PyTorch's own, and more again
with cold caches. If the engine's kernels save less than that over all passes of a call and its gradients, PyTorch's
function is called instead.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from striate.engine import Pass, choice, gain, tuning
from striate.engine.backends import has_memory, watched
from striate.engine.layout import is_channels_last
from striate.engine.matmul import MatmulBackend, is_linear
from striate.geometry import PoolShape, Problem
from striate.ops._calls import unchanging

#: Seconds that Python dispatch costs beyond PyTorch's: forward alone, and forward with backward, where autograd calls
#: Python functions; about twice the times with warm caches.
_DETOUR, _DETOUR_AND_BACK = 10e-6, 120e-6


@dataclass(slots=True)
class Entry:
    """A cached dispatch: a kind of call that was seen before, whose tensors need no further checks."""

    padding: tuple[int, ...] | None  #: in PyTorch's form, if PyTorch's function is to be called
    linear: bool  #: whether PyTorch's linear layer is to be called
    problem: Problem
    channels_last: bool
    how: tuple[Any, ...]  #: the arguments whose identity is part of the key, kept alive so that no others get it
    #: What to call without and with a bias; filled in by the function, for calls without derivatives.
    ready: list[Callable[..., Any] | None] = field(default_factory=lambda: [None, None])


class Dispatch:
    """The dispatch cache of one function. It says which calls fall back to PyTorch; the key is all that decides this.

    Args:
        problem_of: the problem of an input's shape (a weight's shape) and the arguments after them.
        forward: the pass that the function computes; INPUT_GRAD for a transposed convolution.
        recorded: the pass that it computes if gradients are needed, where that differs.
    """

    def __init__(
        self, problem_of: Callable[..., Problem], forward: Pass = Pass.OUTPUT, recorded: Pass | None = None
    ) -> None:
        self._problem_of, self._forward = problem_of, forward
        self._recorded = forward if recorded is None else recorded
        self._entries: dict[tuple[Any, ...], Entry] = {}

    def find(self, dims: int, tensors: tuple[Tensor, ...], how: tuple[Any, ...], local: bool = True) -> Entry | None:
        """The cache entry of a call; None if the call is new, or if a tensor isn't plain numbers in memory.

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
        found = self._entries.get(key)
        return self._prepare(key, tensors, how, local) if found is None else found

    def _prepare(
        self, key: tuple[Any, ...], tensors: tuple[Tensor, ...], how: tuple[Any, ...], local: bool
    ) -> Entry | None:
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
            return None  # not measured yet
        detour = _DETOUR if len(passes) == 1 else _DETOUR_AND_BACK
        worth = saved > detour
        # PyTorch would save the input, which only the weight's gradient needs.
        worth |= wanted == [True, False]
        if not worth:
            choice.log(f"{problem}: PyTorch's function; kernels save {saved:.2g} s a call, Python costs {detour:.2g} s")
        linear = False
        # Autograd's own matrix product avoids the detour. Its result is a view, so this is only for calls with
        # gradients: a view made without them must not be changed in place once they are on.
        if any(wanted) and self._forward is Pass.OUTPUT and is_linear(problem):
            alone = gain(problem, tuple(passes), tensors[0], last, local, MatmulBackend.name)
            linear = alone is not None and alone > 0 and alone >= saved - detour
        if len(self._entries) >= 4096:
            self._entries.clear()
        self._entries[key] = Entry(None if worth else _pytorchs_padding(problem), linear, problem, last, how)
        return self._entries[key]


def is_plain(tensor: Tensor) -> bool:
    """Whether a tensor is plain float32 memory; other dtypes have PyTorch's kernels only, and gain little."""
    kind = type(tensor)
    plain = (kind is Tensor or kind is Parameter) and tensor.dtype is torch.float32
    return plain and not tensor.is_neg() and has_memory(tensor)


@lru_cache(maxsize=4096)
def _pytorchs_padding(problem: Problem) -> tuple[int, ...] | None:
    """The padding in PyTorch's form; None if PyTorch's function can't compute the problem."""
    padding = tuple(before for before, _ in problem.pads)
    if any(before != after for before, after in problem.pads):
        return None
    if isinstance(problem, PoolShape):
        if any(cells > kernel // 2 for cells, kernel in zip(padding, problem.kernel, strict=True)):
            return None
        if problem.kind == "avg" and (max(problem.dilation) > 1 or problem.divisor is not None):
            return None
    return padding
