"""Intermediate maps of a network by name, which detectors and segmenters build on."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from striate.errors import ModelError


class FeatureMaps(torch.nn.ModuleDict):
    """Outputs of a network's layers under names: (N, C, H, W) to a dict of maps (N, C_i, H_i, W_i).

    The network's direct children run one after the other, in the order of registration, up to the last requested one;
    the rest is left out. Children keep their names: in ``body = FeatureMaps(resnet, ...)``, a parameter's key is
    ``body.layer1.0.conv1.weight``. They are shared with the network, not copied.

    Args:
        network: one whose ``forward`` calls its children in their order.
        layers: from the names of children to the names of their outputs.

    Raises:
        ModelError: a name that the network doesn't have.

    >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.AvgPool2d(2))
    >>> maps = FeatureMaps(network, {"0": "wide", "1": "rectified"})
    >>> {name: tuple(each.shape) for name, each in maps(torch.zeros(1, 3, 6, 6)).items()}
    {'wide': (1, 8, 4, 4), 'rectified': (1, 8, 4, 4)}
    >>> list(maps)
    ['0', '1']
    """

    def __init__(self, network: torch.nn.Module, layers: Mapping[str, str]) -> None:
        children = dict(network.named_children())
        if missing := [name for name in layers if name not in children]:
            raise ModelError(
                "FeatureMaps",
                f"{type(network).__name__} has no layer {missing[0]!r}",
                "needed names of " + ", ".join(children),
            )
        names = list(children)
        last = max(names.index(name) for name in layers)
        super().__init__({name: children[name] for name in names[: last + 1]})
        self.layers = dict(layers)

    def forward(self, input: Tensor) -> dict[str, Tensor]:
        maps, current = {}, input
        for name, layer in self.items():
            current = layer(current)
            if name in self.layers:
                maps[self.layers[name]] = current
        return maps

    def extra_repr(self) -> str:
        return ", ".join(f"{name} as {output!r}" for name, output in self.layers.items())
