"""Layers that are computed by the engine, subclasses of those that they take the place of."""

from __future__ import annotations

from typing import Any, Final

import torch
import torch.nn.functional as F

from striate import nn
from striate.acceleration.calls import FUNCTIONS


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
    return not any(vars(layer)[hooks] for layer in (first, second) for hooks in HOOKS)


_CLAMPS: Final = (torch.nn.ReLU, torch.nn.ReLU6)
_MAX_POOLS: Final = (MaxPool1d, MaxPool2d, nn.MaxPool3d, torch.nn.MaxPool3d)
HOOKS: Final = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
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
