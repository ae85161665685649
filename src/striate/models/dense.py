"""The part of a detector whose computation depends on shapes alone.

After its convolutions, a detector's computation depends on the picture: how many boxes pass, which ones overlap. Costs,
receptive fields and equivariance are therefore analysed for the part before.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch


def dense_part(model: torch.nn.Module) -> torch.nn.Module | None:
    """The same layers under the same names, called with a batch (N, C, H, W), up to where results depend on values.

    Args:
        model: any network; detectors have a method ``dense_maps``, from a batch to maps.

    Returns:
        A network that shares the model's layers; None if the computation of the whole model depends on shapes alone.
    """
    maps = getattr(type(model), "dense_maps", None)
    return None if maps is None else called_by(model, maps)


def called_by(model: torch.nn.Module, forward: Callable[..., Any]) -> torch.nn.Module:
    """A network that shares a model's layers and their names, and whose call is another function of them.

    Args:
        model: the network; it stays as it is.
        forward: called with the new network and its inputs.
    """
    part = copy.copy(model)
    vars(part)["_whole"] = (model,)  # hooks of a copy look for the module that they were made for
    part.__class__ = type(type(model).__name__, (type(model),), {"forward": forward})
    return part


def layer_giving(module: torch.nn.Module, name: str, input: torch.Tensor, chosen: Callable[[Any], Any]) -> str | None:
    """The path of the outermost layer whose output is a certain tensor; None if no layer's is.

    Args:
        module: what is called.
        name: its own path.
        input: the argument of the call.
        chosen: picks the tensor from the result of the call.
    """
    made: list[tuple[str, Any]] = []

    def noting(path: str) -> Callable[..., None]:
        return lambda layer, inputs, output: made.append((path, output))

    hooks = [layer.register_forward_hook(noting(path)) for path, layer in module.named_modules(prefix=name)]
    try:
        wanted = chosen(module(input))
    finally:
        for hook in hooks:
            hook.remove()
    return next((path for path, output in reversed(made) if output is wanted), None)
