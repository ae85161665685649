"""Functional calls within a module's own ``forward``, led to the engine while it runs."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from striate.acceleration.calls import FUNCTIONS, NAMES


def is_redirected(module: torch.nn.Module) -> bool:
    forward = vars(module).get("forward")
    return isinstance(forward, partial) and forward.func is redirected


def calls_functions(kind: type[torch.nn.Module]) -> bool:
    """Whether the class's ``forward`` names a function that striate has; PyTorch's own layers are none of ours."""
    code = getattr(inspect.unwrap(kind.forward), "__code__", None)
    return code is not None and not kind.__module__.startswith("torch.") and not NAMES.isdisjoint(code.co_names)


def redirected(module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
    """A module's own ``forward``, with PyTorch's functions led to striate's while it runs."""
    with Redirect():
        return type(module).forward(module, *args, **kwargs)


class Redirect(TorchFunctionMode):
    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return FUNCTIONS.get(func, func)(*args, **(kwargs or {}))
