"""PyTorch's functions, each with what is called instead.

Where the engine has found that its other kernels save nothing worth a detour through Python, for all that a call and
its gradients need, the call is left to PyTorch as it was, autograd included.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial, wraps
from inspect import signature
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from striate import ops
from striate.engine import Pass, gain, traced, tuning
from striate.engine.layout import is_channels_last
from striate.geometry import PoolShape, Problem
from striate.ops import convolution, pooling
from striate.ops._calls import unchanging

#: Seconds that an operation of striate's costs in Python beyond PyTorch's own while the caches hold other things:
#: forward, and forward and backward.
_DETOUR, _DETOUR_AND_BACK = 20e-6, 80e-6

Call = Callable[..., Any]


def _asked(forward: Pass, input: Tensor, weight: Tensor | None = None) -> tuple[Pass, ...]:
    """The passes that a call and its gradients need; a transposed convolution goes the other way."""
    passes = [forward]
    if torch.is_grad_enabled():
        if input.requires_grad:
            passes.append(Pass.INPUT_GRAD if forward is Pass.OUTPUT else Pass.OUTPUT)
        if weight is not None and weight.requires_grad:
            passes.append(Pass.WEIGHT_GRAD)
    return tuple(passes)


#: By what a call is known: the padding as PyTorch takes it; and the arguments, so that no others get their identity.
_Known = dict[tuple[Any, ...], tuple[tuple[int, ...], tuple[Any, ...]]]


def _convolution(theirs: Call, mine: Call, compute: Call, problem_of: Call, forward: Pass) -> Call:
    """PyTorch's convolution or striate's of the same name; of both, stride and padding come first after the bias.

    What striate computes need not be local to the last bit.
    """
    dims = _rank(mine) - 2
    known: _Known = {}
    settings = list(signature(mine).parameters.values())[3:]

    @wraps(mine)
    def call(input: Tensor, weight: Tensor, bias: Tensor | None = None, *how: Any, **named: Any) -> Any:
        if len(how) < len(settings):
            how = (*how, *(named.pop(each.name, each.default) for each in settings[len(how) :]))
        if named or traced(input, weight):
            return mine(input, weight, bias, *how, **named)
        key = _key(input, weight, how)
        if key not in known:
            _learn(known, key, problem_of, forward, input, weight, how)
        found = known.get(key)
        if found is not None:
            return theirs(input, weight, bias, how[0], found[0], *how[2:])
        return compute(dims, input, weight, bias, *how, local=False)

    return call


def _key(input: Tensor, weight: Tensor, how: tuple[Any, ...]) -> tuple[Any, ...]:
    """All that the choice for a call depends on, quickly looked up."""
    return (
        input.shape,
        input.stride(),
        weight.shape,
        weight.stride(),
        input.dtype,
        input.device,
        torch.is_grad_enabled(),
        input.requires_grad,
        weight.requires_grad,
        torch.get_num_threads(),
        tuning.generation,
        *map(id, how),
    )


def _learn(
    known: _Known,
    key: tuple[Any, ...],
    problem_of: Call,
    forward: Pass,
    input: Tensor,
    weight: Tensor,
    how: tuple[Any, ...],
) -> None:
    """Remembers a call that is better left to PyTorch."""
    if input.dim() != weight.dim() or not unchanging(how):
        return
    problem = problem_of(input.shape, weight.shape, *how)
    sides = _pytorchs_padding(problem)
    last = is_channels_last(input) or is_channels_last(weight)
    if sides and _not_worth_it(problem, _asked(forward, input, weight), input, last, local=False):
        if len(known) >= 4096:
            known.clear()
        known[key] = sides, how


def _max_pool(theirs: Call, mine: Call) -> Call:
    @wraps(mine)
    def max_pool(
        input: Tensor,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
        return_indices: bool = False,
    ) -> Any:
        how = (kernel_size, stride, padding, dilation, ceil_mode)
        if not return_indices and not traced(input) and input.dim() == _rank(mine):
            problem = pooling.problem_of("max", input.shape, *how)
            sides, last = _pytorchs_padding(problem), is_channels_last(input)
            if sides and _not_worth_it(problem, _asked(Pass.OUTPUT, input), input, last):
                return theirs(input, kernel_size, stride, sides, dilation, ceil_mode)
        return mine(input, *how, return_indices)

    return max_pool


def _avg_pool(theirs: Call, mine: Call) -> Call:
    @wraps(mine)
    def avg_pool(
        input: Tensor,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
        *,
        dilation: Any = 1,
    ) -> Any:
        how: tuple[Any, ...] = (ceil_mode, count_include_pad, divisor_override)
        if divisor_override is None and not traced(input) and input.dim() == _rank(mine):
            problem = pooling.problem_of("avg", input.shape, kernel_size, stride, padding, dilation, *how)
            sides, last = _pytorchs_padding(problem), is_channels_last(input)
            if sides and _not_worth_it(problem, _asked(Pass.OUTPUT, input), input, last):
                return theirs(input, kernel_size, problem.stride, sides, ceil_mode, count_include_pad)
        if divisor_override is None:
            how = how[:2]  # one-dimensional averages have no other divisor
        return mine(input, kernel_size, stride, padding, *how, dilation=dilation)

    return avg_pool


def _not_worth_it(
    problem: Problem, passes: tuple[Pass, ...], input: Tensor, channels_last: bool, local: bool = True
) -> bool:
    """Whether the chosen backends save less than the way to them through Python costs."""
    saved = gain(problem, passes, input, channels_last, local)
    return saved is not None and saved <= (_DETOUR if len(passes) == 1 else _DETOUR_AND_BACK)


@lru_cache(maxsize=4096)
def _pytorchs_padding(problem: Problem) -> tuple[int, ...] | None:
    """The padding as PyTorch takes it, which knows only some of what striate does; None where it doesn't."""
    padding = tuple(before for before, _ in problem.pads)
    if any(before != after for before, after in problem.pads):
        return None
    if isinstance(problem, PoolShape):
        if any(cells > kernel // 2 for cells, kernel in zip(padding, problem.kernel, strict=True)):
            return None
        if problem.kind == "avg" and max(problem.dilation) > 1:
            return None
    return padding


def _rank(function: Call) -> int:
    return int(function.__name__[-2]) + 2


_KINDS: Final[dict[str, Call]] = {
    "conv": partial(_convolution, compute=convolution.convolve, problem_of=convolution.problem_of, forward=Pass.OUTPUT),
    "conv_transpose": partial(
        _convolution,
        compute=convolution.convolve_transposed,
        problem_of=convolution.transposed_problem_of,
        forward=Pass.INPUT_GRAD,
    ),
    "max_pool": _max_pool,
    "avg_pool": _avg_pool,
}
#: PyTorch's functions, each with what is called instead. In three dimensions there are no kernels of striate's own yet.
FUNCTIONS: Final[dict[Any, Call]] = {
    getattr(room, f"{kind}{dims}d"): make(getattr(F, f"{kind}{dims}d"), getattr(ops, f"{kind}{dims}d"))
    for room in (torch, F)
    for kind, make in _KINDS.items()
    for dims in (1, 2)
    if hasattr(room, f"{kind}{dims}d")
}
NAMES: Final = frozenset(f"{kind}{dims}d" for kind in _KINDS for dims in (1, 2))
