"""Any model, computed by the engine: its layers become striate's, its functional calls go to striate.ops."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, TypeVar

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from striate import nn, ops
from striate.errors import OperandError

Model = TypeVar("Model", bound=torch.nn.Module)

#: Layers that striate has as a subclass of torch.nn's. PyTorch's norms aren't of |x|, so those stay.
LAYERS: Final[dict[type, type]] = {
    getattr(torch.nn, name): getattr(nn, name)
    for name in nn.__all__
    if hasattr(torch.nn, name) and not name.startswith("LPPool")
}
_KINDS: Final = ("conv", "conv_transpose", "max_pool", "avg_pool", "adaptive_avg_pool", "adaptive_max_pool")
_NAMES: Final = frozenset(f"{kind}{dims}d" for kind in _KINDS for dims in (1, 2, 3))
#: PyTorch's functions, each with striate's of the same name and arguments.
FUNCTIONS: Final[dict[Any, Callable[..., Any]]] = {
    getattr(room, name): getattr(ops, name)
    for room in (torch, F)
    for name in _NAMES
    # torch.adaptive_max_pool1d, unlike the one in F, returns indices always.
    if hasattr(room, name) and not (room is torch and name.startswith("adaptive_max"))
}


def accelerate(model: Model) -> Model:
    """Has striate's engine compute a model's convolutions and pooling; returns the model, which is changed in place.

    Parameters, buffers, ``state_dict``, hooks, mode and results (up to rounding) stay what they are. Layers change
    their class, to a subclass of the one they had. Where a ``forward`` calls functions such as ``F.max_pool2d``, those
    calls are taken over as well. ``torch.compile``, ``torch.export`` and autograd go on as before.

    Left alone are subclasses of torch.nn's layers, which may do something else than their base, quantised, scripted and
    lazy layers, and ``LPPool``, whose norm isn't of magnitudes in PyTorch (see :func:`striate.ops.lp_pool2d`).

    Args:
        model: any module. Doing it twice does nothing more.

    Returns:
        The same object.

    Raises:
        OperandError: what was given is no module.

    >>> model = torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3), torch.nn.ReLU(), torch.nn.MaxPool2d(2))
    >>> type(accelerate(model)[0]).__module__
    'striate.nn.convolution'
    """
    if not isinstance(model, torch.nn.Module):
        raise OperandError("accelerate", f"got {type(model).__name__}", "needed a torch.nn.Module")
    for module in model.modules():
        if "forward" in vars(module):
            continue  # somebody has replaced it already, maybe this function
        kind = LAYERS.get(type(module))
        if kind is not None:
            module.__class__ = kind
        elif _calls_functions(type(module)):
            # A partial of a named function can be copied, pickled and compiled; a closure can't.
            module.forward = partial(_redirected, module)
    return model


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
