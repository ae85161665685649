"""Transfer learning: which parts of a network are trained, and with which learning rate. The task defines the parts
(:mod:`striate.tasks.heads`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch.nn import Module, Parameter

from striate.errors import RunError
from striate.tasks.task import Task
from striate.training.recipe import Recipe

_NORMS: Final = (torch.nn.modules.batchnorm._BatchNorm,)


@dataclass(frozen=True)
class Learning:
    """The trained parts of a network.

    Args:
        groups: parameters with the factor of their learning rate.
        still: layers that stay in evaluation mode: frozen ones, and batch normalisation if requested.
    """

    groups: tuple[tuple[tuple[Parameter, ...], float], ...]
    still: tuple[Module, ...]

    @classmethod
    def of(cls, model: Module, recipe: Recipe, task: Task, classes: int) -> Learning:
        """The parts by the recipe's settings. Frozen parameters no longer require gradients.

        Raises:
            RunError: a network without a head, or without anything to freeze.
        """
        if recipe.freeze == "none" and recipe.backbone_lr_factor == 1:
            still = _batch_norms(model) if recipe.keeps_statistics else ()
            return cls(((_parameters(model), 1.0),), still)
        parts = task.parts(model, classes)
        frozen: tuple[Module, ...] = {
            "none": (),
            "backbone": parts.backbone,
            "all-but-head": parts.backbone + parts.classifier[:-1],
        }[recipe.freeze]
        if recipe.freeze != "none" and not frozen:
            raise RunError("freeze", f"{recipe.freeze} of {recipe.model} is nothing", "needed a layer to be frozen")
        for layer in frozen:
            for parameter in layer.parameters(recurse=False):
                parameter.requires_grad_(False)
        slow = {id(parameter) for layer in parts.backbone for parameter in layer.parameters(recurse=False)}
        everything = _parameters(model)
        groups = (
            (tuple(each for each in everything if id(each) not in slow), 1.0),
            (tuple(each for each in everything if id(each) in slow), recipe.backbone_lr_factor),
        )
        still = _ended(model, {id(layer) for layer in frozen}) + (
            _batch_norms(model) if recipe.keeps_statistics else ()
        )
        return cls(groups, still)


def _parameters(model: Module) -> tuple[Parameter, ...]:
    return tuple(parameter for parameter in model.parameters() if parameter.requires_grad)


def _batch_norms(model: Module) -> tuple[Module, ...]:
    return tuple(layer for layer in model.modules() if isinstance(layer, _NORMS))


def _ended(model: Module, frozen: set[int]) -> tuple[Module, ...]:
    """The frozen layers, and layers without parameters before the last of them, such as dropout."""
    leaves = [layer for layer in model.modules() if next(layer.children(), None) is None]
    last = max((index for index, layer in enumerate(leaves) if id(layer) in frozen), default=-1)
    return tuple(
        layer
        for index, layer in enumerate(leaves)
        if id(layer) in frozen or (index < last and next(layer.parameters(), None) is None)
    )
