"""Layers that are computed by the engine, subclasses of those that they take the place of."""

from __future__ import annotations

from typing import Final

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
    **{getattr(torch.nn, mine.__name__): mine for mine in _MINE},
    **{getattr(nn, mine.__name__): mine for mine in _MINE},
}
