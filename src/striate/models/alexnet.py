"""AlexNet: the network of 2012 on two GPUs, and its form in one tower of 2014.

Sources: Krizhevsky, Sutskever & Hinton, "ImageNet classification with deep convolutional neural networks" (2012),
figure 2 and sections 3 and 5; Krizhevsky, "One weird trick for parallelizing convolutional neural networks" (2014),
footnote 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from striate import nn
from striate.models.registry import register


class AlexNet(torch.nn.Module):
    """Convolutions, their output pooled to one size, and a perceptron with two hidden layers of 4096.

    Args:
        features: the convolutions; the last has 256 channels.
        pooled: a side of what the perceptron sees of each channel.
        num_classes: K.
        input_size: (H, W) that it was made for.
    """

    def __init__(
        self, features: torch.nn.Sequential, pooled: int, num_classes: int, input_size: tuple[int, int]
    ) -> None:
        super().__init__()
        self.input_size = input_size
        self.features = features
        self.avgpool = nn.AdaptiveAvgPool2d((pooled, pooled))
        self.classifier = torch.nn.Sequential(
            torch.nn.Dropout(),
            torch.nn.Linear(256 * pooled**2, 4096),
            torch.nn.ReLU(),
            torch.nn.Dropout(),
            torch.nn.Linear(4096, 4096),
            torch.nn.ReLU(),
            torch.nn.Linear(4096, num_classes),
        )

    def forward(self, input: Tensor) -> Tensor:
        scores: Tensor = self.classifier(self.avgpool(self.features(input)).flatten(1))
        return scores


def _first(in_channels: int, channels: int, small_input: bool) -> nn.Conv2d:
    if small_input:
        return nn.Conv2d(in_channels, channels, 5, padding=2)
    return nn.Conv2d(in_channels, channels, 11, stride=4, padding=2)


def _shape(small_input: bool) -> tuple[int, tuple[int, int]]:
    """A side of the pooled maps, and the size of the images."""
    return (2, (32, 32)) if small_input else (6, (224, 224))


@register
def alexnet(num_classes: int = 1000, in_channels: int = 3, small_input: bool = False) -> torch.nn.Module:
    """AlexNet in one tower (2014); 61,100,840 parameters, 224x224 images.

    Small input: the first convolution is 5x5 with stride 1 instead of 11x11 with stride 4, and the perceptron sees 2x2
    of each channel instead of 6x6.
    """
    features = torch.nn.Sequential(
        _first(in_channels, 64, small_input),
        torch.nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(64, 192, 5, padding=2),
        torch.nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(192, 384, 3, padding=1),
        torch.nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1),
        torch.nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1),
        torch.nn.ReLU(),
        nn.MaxPool2d(3, 2),
    )
    pooled, input_size = _shape(small_input)
    return AlexNet(features, pooled, num_classes, input_size)


def _response_norm() -> torch.nn.Module:
    """Section 3.3 with k = 2, n = 5, alpha = 1e-4, beta = 0.75. torch.nn divides alpha by n, the paper doesn't."""
    return torch.nn.LocalResponseNorm(5, alpha=5 * 1e-4, beta=0.75, k=2)


@register
def alexnet_2012(num_classes: int = 1000, in_channels: int = 3, small_input: bool = False) -> torch.nn.Module:
    """AlexNet as in 2012: two groups, local response normalisation; 60,965,224 parameters, 224x224 images.

    What ran on two GPUs are the two groups of the second, fourth and fifth convolution. Images of 224x224 are framed
    by 2, so that the first maps are 55x55 as in figure 2. Initial weights are section 5's: normal of deviation 0.01,
    biases 1 in the second, fourth and fifth convolution and in the hidden layers, else 0.

    Small input: as in ``alexnet``.
    """
    features = torch.nn.Sequential(
        _first(in_channels, 96, small_input),
        torch.nn.ReLU(),
        _response_norm(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(96, 256, 5, padding=2, groups=2),
        torch.nn.ReLU(),
        _response_norm(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(256, 384, 3, padding=1),
        torch.nn.ReLU(),
        nn.Conv2d(384, 384, 3, padding=1, groups=2),
        torch.nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1, groups=2),
        torch.nn.ReLU(),
        nn.MaxPool2d(3, 2),
    )
    pooled, input_size = _shape(small_input)
    model = AlexNet(features, pooled, num_classes, input_size)
    convolutions = [layer for layer in features if isinstance(layer, nn.Conv2d)]
    layers = [*convolutions, *(layer for layer in model.classifier if isinstance(layer, torch.nn.Linear))]
    for layer, bias in zip(layers, (0, 1, 0, 1, 1, 1, 1, 0), strict=True):
        torch.nn.init.normal_(layer.get_parameter("weight"), 0, 0.01)
        torch.nn.init.constant_(layer.get_parameter("bias"), bias)
    return model
