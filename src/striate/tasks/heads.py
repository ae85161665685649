"""Backbone and head: the parts of a network that transfer learning distinguishes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import Module

from striate.errors import RunError


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
