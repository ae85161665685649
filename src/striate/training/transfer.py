"""Transfer learning: which parts of a network go on learning, and how fast.

Parts are found by structure. The *head* is the last linear layer or 1x1 convolution with an output for each class; the
*classifier* is the head with the linear layers right before it (of AlexNet and VGG three, of most others the head
alone); the *backbone* is everything else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch.nn import Module, Parameter

from striate.errors import RunError
from striate.training.recipe import Recipe

_NORMS: Final = (torch.nn.modules.batchnorm._BatchNorm,)


@dataclass(frozen=True)
class Parts:
    """The layers of a network that have parameters of their own, by part, in the network's order.

    >>> layers = torch.nn.Conv2d(1, 8, 3), torch.nn.Flatten(), torch.nn.Linear(8, 6), torch.nn.Linear(6, 4)
    >>> parts = Parts.of(torch.nn.Sequential(*layers), num_classes=4)
    >>> [type(layer).__name__ for layer in parts.backbone], len(parts.classifier), parts.head.out_features
    (['Conv2d'], 2, 4)
    """

    backbone: tuple[Module, ...]
    classifier: tuple[Module, ...]

    @property
    def head(self) -> Module:
        return self.classifier[-1]

    @classmethod
    def of(cls, model: Module, num_classes: int) -> Parts:
        """The parts of a network of ``num_classes`` classes.

        Raises:
            RunError: no layer that could be the head.
        """
        layers = [layer for layer in model.modules() if next(layer.parameters(recurse=False), None) is not None]
        ends = [index for index, layer in enumerate(layers) if _gives(layer, num_classes)]
        if not ends:
            raise RunError(
                "freeze, backbone_lr_factor",
                f"{type(model).__name__} has no linear layer or 1x1 convolution of {num_classes} outputs",
                "needed one, to be the head",
            )
        start = end = ends[-1]
        while start and isinstance(layers[start - 1], torch.nn.Linear):
            start -= 1
        return cls(tuple(layers[:start] + layers[end + 1 :]), tuple(layers[start : end + 1]))


def _gives(layer: Module, outputs: int) -> bool:
    if isinstance(layer, torch.nn.Linear):
        return layer.out_features == outputs
    return isinstance(layer, torch.nn.Conv2d) and layer.out_channels == outputs and layer.kernel_size == (1, 1)


@dataclass(frozen=True)
class Learning:
    """What of a network learns.

    Args:
        groups: parameters with the factor of their learning rate.
        still: layers that stay in evaluation mode: frozen ones, and batch normalisation where asked.
    """

    groups: tuple[tuple[tuple[Parameter, ...], float], ...]
    still: tuple[Module, ...]

    @classmethod
    def of(cls, model: Module, recipe: Recipe, num_classes: int) -> Learning:
        """What the recipe says. Frozen parameters no longer ask for gradients.

        Raises:
            RunError: a network without a head to find, or without anything to freeze.
        """
        if recipe.freeze == "none" and recipe.backbone_lr_factor == 1:
            still = _batch_norms(model) if recipe.keeps_statistics else ()
            return cls(((_parameters(model), 1.0),), still)
        parts = Parts.of(model, num_classes)
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
    """The frozen layers, and the layers without parameters that come before the last of them: dropout, for one."""
    leaves = [layer for layer in model.modules() if next(layer.children(), None) is None]
    last = max((index for index, layer in enumerate(leaves) if id(layer) in frozen), default=-1)
    return tuple(
        layer
        for index, layer in enumerate(leaves)
        if id(layer) in frozen or (index < last and next(layer.parameters(), None) is None)
    )
