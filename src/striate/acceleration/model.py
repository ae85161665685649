"""Any model, computed by the engine, and the way back."""

from __future__ import annotations

import sys
from collections import Counter
from functools import partial
from typing import Final, TypeVar

import torch

from striate.acceleration.forward import Blocks, blocked, blocks_in, calls_functions, holds_layers, is_blocked
from striate.acceleration.inference import Plans, is_planned, planned
from striate.acceleration.layers import LAYERS
from striate.engine.memory import keep_freed_memory
from striate.errors import OperandError

Model = TypeVar("Model", bound=torch.nn.Module)


def accelerate(model: Model, *, quiet: bool = False) -> Model:
    """Has striate's engine compute a model's convolutions and pooling; returns the model, which is changed in place.

    Parameters, buffers, ``state_dict``, hooks, mode and results (up to rounding) stay what they are. Layers change
    their class, to a subclass of the one they had. Where a ``forward`` calls functions such as ``F.max_pool2d``, those
    calls are taken over as well. ``torch.compile``, ``torch.export`` and autograd go on as before.

    Neighbours are put together, in functional code as in a ``torch.nn.Sequential``: a convolution, an activation and
    max pooling; a batch norm, an addition and an activation. That is settled at the first call;
    :func:`~striate.acceleration.blocks_of` tells of it. And the C library is told to keep freed memory for the next
    step's tensors (:func:`striate.engine.memory.keep_freed_memory`).

    Inference of the whole model (eval mode, gradients off) becomes one list of kernels once two inputs of a shape have
    come, where that was measured to be faster; :func:`striate.acceleration.plan_of` shows it, and
    :mod:`striate.acceleration.inference` says when it is taken. Changed weights are seen, except those written through
    ``.data``.

    3x3 convolutions may compute neighbouring outputs together (:mod:`striate.engine.winograd`), and then an output
    moves by a rounding error with inputs that it doesn't see. Measure what has to be exactly zero, such as the support
    of a gradient, on a model that isn't accelerated.

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
    'striate.acceleration.layers'
    """
    if not isinstance(model, torch.nn.Module):
        raise OperandError("accelerate", f"got {type(model).__name__}", "needed a torch.nn.Module")
    keep_freed_memory()
    changed: Counter[str] = Counter()
    left: Counter[str] = Counter()
    for module in model.modules():
        kind = LAYERS.get(type(module))
        if "forward" in vars(module):
            if not is_blocked(module) and not is_planned(module):
                left[f"{type(module).__name__} (its forward has been replaced)"] += 1
        elif kind is not None:
            vars(module)[_BEFORE] = type(module)
            module.__class__ = kind
            changed[kind.__name__] += 1
        elif (calls := calls_functions(type(module))) or holds_layers(module):
            # A partial of a named function can be copied, pickled and compiled; a closure can't.
            module.forward = partial(blocked, module, Blocks(calls))
            changed[f"functions that {type(module).__name__} calls"] += calls
            changed["modules to fuse layers in"] += holds_layers(module)
        elif reason := _why_not(module):
            left[f"{type(module).__name__} ({reason})"] += 1
    _plan(model)
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
        if is_blocked(module) or is_planned(module):
            del module.forward
    return model


def _plan(model: torch.nn.Module) -> None:
    """Lets inference of the whole model go by plans, unless somebody has replaced its ``forward``."""
    if "forward" not in vars(model) or is_blocked(model):
        model.forward = partial(planned, model, Plans(), blocks_in(model))


#: Where a layer keeps the class that it had.
_BEFORE: Final = "_class_before_acceleration"


def _why_not(module: torch.nn.Module) -> str:
    """Why a layer that has windows stays as it is; nothing is said of layers that have none, or are done already."""
    kind = type(module)
    if kind in LAYERS.values():
        return ""
    if isinstance(module, tuple(LAYERS)):
        return "a subclass may do something else"
    if isinstance(module, (torch.nn.Conv3d, torch.nn.ConvTranspose3d, torch.nn.MaxPool3d, torch.nn.AvgPool3d)):
        return "no kernels for three dimensions"
    if kind.__name__.startswith(("Adaptive", "LPPool", "FractionalMaxPool", "MaxUnpool")):
        return "no kernels for its windows"
    return ""


def _counted(kinds: Counter[str]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in kinds.items() if count)
