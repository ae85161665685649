"""Any model, computed by the engine: its layers become striate's, its functional calls go to striate.ops.

Where the engine has found that its other kernels save nothing worth a detour through Python, for all that a call and
its gradients need, the call is left to PyTorch as it was, autograd included.
"""

from __future__ import annotations

import inspect
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache, partial, wraps
from inspect import signature
from typing import Any, Final, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from striate import nn, ops
from striate.engine import Pass, gain, traced, tuning
from striate.engine.layout import is_channels_last
from striate.engine.memory import keep_freed_memory
from striate.errors import OperandError
from striate.geometry import PoolShape, Problem
from striate.ops import convolution, pooling
from striate.ops._calls import unchanging

#: Seconds that an operation of striate's costs in Python beyond PyTorch's own while the caches hold other things:
#: forward, and forward and backward.
_DETOUR, _DETOUR_AND_BACK = 20e-6, 80e-6

Model = TypeVar("Model", bound=torch.nn.Module)
_Call = Callable[..., Any]


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


def _convolution(theirs: _Call, mine: _Call, problem_of: _Call, forward: Pass) -> _Call:
    """PyTorch's convolution or striate's of the same name; of both, stride and padding come first after the bias."""
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
        return mine(input, weight, bias, *how)

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
    problem_of: _Call,
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
    if sides and _not_worth_it(problem, _asked(forward, input, weight), input, last):
        if len(known) >= 4096:
            known.clear()
        known[key] = sides, how


def _max_pool(theirs: _Call, mine: _Call) -> _Call:
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
        if input.dim() == _rank(mine) and not return_indices and not traced(input):
            problem = pooling.problem_of("max", input.shape, *how)
            sides, last = _pytorchs_padding(problem), is_channels_last(input)
            if sides and _not_worth_it(problem, _asked(Pass.OUTPUT, input), input, last):
                return theirs(input, kernel_size, stride, sides, dilation, ceil_mode)
        return mine(input, *how, return_indices)

    return max_pool


def _avg_pool(theirs: _Call, mine: _Call) -> _Call:
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
        if input.dim() == _rank(mine) and not traced(input) and divisor_override is None:
            problem = pooling.problem_of("avg", input.shape, kernel_size, stride, padding, dilation, *how)
            sides, last = _pytorchs_padding(problem), is_channels_last(input)
            if sides and _not_worth_it(problem, _asked(Pass.OUTPUT, input), input, last):
                return theirs(input, kernel_size, problem.stride, sides, ceil_mode, count_include_pad)
        if divisor_override is None:
            how = how[:2]  # one-dimensional averages have no other divisor
        return mine(input, kernel_size, stride, padding, *how, dilation=dilation)

    return avg_pool


def _not_worth_it(problem: Problem, passes: tuple[Pass, ...], input: Tensor, channels_last: bool) -> bool:
    """Whether the chosen backends save less than the way to them through Python costs."""
    saved = gain(problem, passes, input, channels_last)
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


def _rank(function: _Call) -> int:
    return int(function.__name__[-2]) + 2


_KINDS: Final[dict[str, _Call]] = {
    "conv": partial(_convolution, problem_of=convolution.problem_of, forward=Pass.OUTPUT),
    "conv_transpose": partial(_convolution, problem_of=convolution.transposed_problem_of, forward=Pass.INPUT_GRAD),
    "max_pool": _max_pool,
    "avg_pool": _avg_pool,
}
#: PyTorch's functions, each with what is called instead. In three dimensions there are no kernels of striate's own yet.
FUNCTIONS: Final[dict[Any, _Call]] = {
    getattr(room, f"{kind}{dims}d"): make(getattr(F, f"{kind}{dims}d"), getattr(ops, f"{kind}{dims}d"))
    for room in (torch, F)
    for kind, make in _KINDS.items()
    for dims in (1, 2)
    if hasattr(room, f"{kind}{dims}d")
}
_NAMES: Final = frozenset(f"{kind}{dims}d" for kind in _KINDS for dims in (1, 2))


class Conv1d(nn.Conv1d):
    _function = staticmethod(FUNCTIONS[F.conv1d])


class Conv2d(nn.Conv2d):
    _function = staticmethod(FUNCTIONS[F.conv2d])


class ConvTranspose1d(nn.ConvTranspose1d):
    _function = staticmethod(FUNCTIONS[F.conv_transpose1d])


class ConvTranspose2d(nn.ConvTranspose2d):
    _function = staticmethod(FUNCTIONS[F.conv_transpose2d])


class MaxPool1d(nn.MaxPool1d):
    _function = staticmethod(FUNCTIONS[F.max_pool1d])


class MaxPool2d(nn.MaxPool2d):
    _function = staticmethod(FUNCTIONS[F.max_pool2d])


class AvgPool1d(nn.AvgPool1d):
    _function = staticmethod(FUNCTIONS[F.avg_pool1d])


class AvgPool2d(nn.AvgPool2d):
    _function = staticmethod(FUNCTIONS[F.avg_pool2d])


class Sequential(torch.nn.Sequential):
    """Takes a clamp from below (or from both sides) after max pooling instead of before.

    The maximum of clamped values is the clamped maximum, of fewer values. The gradient goes to the first of the largest
    either way, and where these are clamped none goes anywhere.
    """

    def forward(self, input: Any) -> Any:
        layers = list(self._modules.values())
        for at in range(len(layers) - 1):
            # The first layer may change its input in place, which others see.
            if _commute(layers[at], layers[at + 1]) and (at > 0 or not layers[at].inplace):
                layers[at], layers[at + 1] = layers[at + 1], layers[at]
        for layer in layers:
            input = layer(input)
        return input


def _commute(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    """Whether they are a clamp and max pooling, and nobody looks on between them."""
    if type(first) not in _CLAMPS or type(second) not in _MAX_POOLS or second.return_indices:
        return False
    return not any(vars(layer)[hooks] for layer in (first, second) for hooks in _HOOKS)


_CLAMPS: Final = (torch.nn.ReLU, torch.nn.ReLU6)
_MAX_POOLS: Final = (MaxPool1d, MaxPool2d, nn.MaxPool3d, torch.nn.MaxPool3d)
_HOOKS: Final = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
_MINE: Final = (
    Conv1d,
    Conv2d,
    ConvTranspose1d,
    ConvTranspose2d,
    MaxPool1d,
    MaxPool2d,
    AvgPool1d,
    AvgPool2d,
)
#: PyTorch's layers and striate's own, each with the class that it becomes.
LAYERS: Final[dict[type, type]] = {
    torch.nn.Sequential: Sequential,
    **{getattr(torch.nn, mine.__name__): mine for mine in _MINE},
    **{getattr(nn, mine.__name__): mine for mine in _MINE},
}


def accelerate(model: Model, *, quiet: bool = False) -> Model:
    """Has striate's engine compute a model's convolutions and pooling; returns the model, which is changed in place.

    Parameters, buffers, ``state_dict``, hooks, mode and results (up to rounding) stay what they are. Layers change
    their class, to a subclass of the one they had. Where a ``forward`` calls functions such as ``F.max_pool2d``, those
    calls are taken over as well. ``torch.compile``, ``torch.export`` and autograd go on as before.

    In a ``torch.nn.Sequential`` a ReLU before max pooling is taken after it, where there is less to do: results and
    gradients are the same number by number. And the C library is told to keep freed memory for the next step's tensors
    (:func:`striate.engine.memory.keep_freed_memory`).

    Left alone are layers of three dimensions, for which there are no kernels of striate's own yet; adaptive pooling;
    subclasses of torch.nn's layers, which may do something else than their base; quantised, scripted and lazy layers.

    :func:`restore` takes it back.

    Args:
        model: any module. Doing it twice does nothing more.
        quiet: doesn't print, in one line on stderr, what has changed and why the rest hasn't.

    Returns:
        The same object.

    Raises:
        OperandError: what was given is no module.

    >>> model = torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3), torch.nn.ReLU(), torch.nn.MaxPool2d(2))
    >>> type(accelerate(model)[0]).__module__
    'striate.acceleration'
    """
    if not isinstance(model, torch.nn.Module):
        raise OperandError("accelerate", f"got {type(model).__name__}", "needed a torch.nn.Module")
    keep_freed_memory()
    changed: Counter[str] = Counter()
    left: Counter[str] = Counter()
    for module in model.modules():
        kind = LAYERS.get(type(module))
        if "forward" in vars(module):
            if not _is_redirected(module):
                left[f"{type(module).__name__} (its forward has been replaced)"] += 1
        elif kind is not None:
            vars(module)[_BEFORE] = type(module)
            module.__class__ = kind
            changed[kind.__name__] += kind is not Sequential
        elif _calls_functions(type(module)):
            # A partial of a named function can be copied, pickled and compiled; a closure can't.
            module.forward = partial(_redirected, module)
            changed[f"functions that {type(module).__name__} calls"] += 1
        elif reason := _why_not(module):
            left[f"{type(module).__name__} ({reason})"] += 1
    if not quiet:
        print("accelerate:", _counted(changed) or "nothing to change", file=sys.stderr, end="")
        print(f"; left as they were: {_counted(left)}" if left else "", file=sys.stderr)
    return model


def restore(model: Model) -> Model:
    """Takes back what :func:`accelerate` did; returns the model, changed in place.

    >>> model = accelerate(torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3)), quiet=True)
    >>> type(restore(model)[0]).__module__
    'torch.nn.modules.conv'
    """
    for module in model.modules():
        if _BEFORE in vars(module):
            module.__class__ = vars(module).pop(_BEFORE)
        elif _is_redirected(module):
            del module.forward
    return model


#: Where a layer keeps the class that it had.
_BEFORE: Final = "_class_before_acceleration"


def _is_redirected(module: torch.nn.Module) -> bool:
    forward = vars(module).get("forward")
    return isinstance(forward, partial) and forward.func is _redirected


def _why_not(module: torch.nn.Module) -> str:
    """Why a layer that has windows stays as it is; nothing is said of layers that have none, or are done already."""
    kind = type(module)
    if kind in LAYERS.values():
        return ""
    if isinstance(module, tuple(LAYERS)) and not isinstance(module, torch.nn.Sequential):
        return "a subclass may do something else"
    if isinstance(module, (torch.nn.Conv3d, torch.nn.ConvTranspose3d, torch.nn.MaxPool3d, torch.nn.AvgPool3d)):
        return "no kernels for three dimensions"
    if kind.__name__.startswith(("Adaptive", "LPPool", "FractionalMaxPool", "MaxUnpool")):
        return "no kernels for its windows"
    return ""


def _counted(kinds: Counter[str]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in kinds.items() if count)


def _calls_functions(kind: type[torch.nn.Module]) -> bool:
    """Whether the class's ``forward`` names a function that striate has; PyTorch's own layers are none of ours."""
    code = getattr(inspect.unwrap(kind.forward), "__code__", None)
    return code is not None and not kind.__module__.startswith("torch.") and not _NAMES.isdisjoint(code.co_names)


def _redirected(module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
    """A module's own ``forward``, with PyTorch's functions led to striate's while it runs."""
    with _Redirect():
        return type(module).forward(module, *args, **kwargs)


class _Redirect(TorchFunctionMode):
    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return FUNCTIONS.get(func, func)(*args, **(kwargs or {}))
