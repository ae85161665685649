"""The two-convolution network of the classical MNIST exercise."""

from __future__ import annotations

import torch

from striate import nn
from striate.models.registry import register


@register
def simple_cnn(num_classes: int = 10, in_channels: int = 1) -> torch.nn.Module:
    """Two 3x3 convolutions with ReLU and 2x2 max pooling, 32 and 64 channels; 50,186 parameters, 28x28 images.

    Convolutions keep the size, so the linear output sees 64 maps of 7x7.

    Formula: F49, W18.
    """
    network = torch.nn.Sequential()
    for name, layer in (
        ("conv1", nn.Conv2d(in_channels, 32, 3, padding=1)),
        ("relu1", torch.nn.ReLU()),
        ("pool1", nn.MaxPool2d(2)),
        ("conv2", nn.Conv2d(32, 64, 3, padding=1)),
        ("relu2", torch.nn.ReLU()),
        ("pool2", nn.MaxPool2d(2)),
        ("flatten", torch.nn.Flatten()),
        ("output", torch.nn.Linear(64 * 7 * 7, num_classes)),
    ):
        network.add_module(name, layer)
    network.input_size = (28, 28)  # type: ignore[assignment]
    return network
