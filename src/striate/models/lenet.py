"""LeNet-5, as usually written today and as it was in 1998.

Source: LeCun, Bottou, Bengio & Haffner, "Gradient-based learning applied to document recognition", Proceedings of the
IEEE 86 (1998). Section and equation numbers below are that paper's; the layers are named as there.
"""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor

from striate import nn, ops
from striate.errors import ModelError
from striate.models.registry import register


@register
def lenet5(num_classes: int = 10, in_channels: int = 1) -> torch.nn.Module:
    """LeNet-5 as usually written: full C3, max pooling, ReLU, a linear output; 61,706 parameters, 28x28 images.

    The first convolution pads by 2, which gives 28x28 images the 32x32 field of the paper.

    Source: section II-B with figure 2; ReLU and max pooling instead of the scaled tanh and subsampling.
    """
    network = torch.nn.Sequential()
    for name, layer in (
        ("c1", nn.Conv2d(in_channels, 6, 5, padding=2)),
        ("c1_relu", torch.nn.ReLU()),
        ("s2", nn.MaxPool2d(2)),
        ("c3", nn.Conv2d(6, 16, 5)),
        ("c3_relu", torch.nn.ReLU()),
        ("s4", nn.MaxPool2d(2)),
        ("c5", nn.Conv2d(16, 120, 5)),
        ("c5_relu", torch.nn.ReLU()),
        ("flatten", torch.nn.Flatten()),
        ("f6", torch.nn.Linear(120, 84)),
        ("f6_relu", torch.nn.ReLU()),
        ("output", torch.nn.Linear(84, num_classes)),
    ):
        network.add_module(name, layer)
    network.input_size = (28, 28)  # type: ignore[assignment]
    return network


class ScaledTanh(torch.nn.Module):
    """1.7159 tanh(2/3 x), which maps +-1 to +-1 with a slope of nearly 1 there (appendix A)."""

    def forward(self, input: Tensor) -> Tensor:
        return 1.7159 * torch.tanh(input * (2 / 3))


class Subsampling(torch.nn.Module):
    """The sum of each 2x2 window times a coefficient plus a bias, one of each a channel (section II-B, layer S2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.coefficient = torch.nn.Parameter(torch.empty(channels))
        self.bias = torch.nn.Parameter(torch.empty(channels))

    def forward(self, input: Tensor) -> Tensor:
        # Four averages, not a divisor of 1: to the bit the same, and PyTorch's ONNX exporter drops the divisor.
        total = ops.avg_pool2d(input, 2) * 4
        return total * self.coefficient[:, None, None] + self.bias[:, None, None]


#: Which maps of S2 each map of C3 sees (table I).
C3_TABLE: Final = (
    *((first, (first + 1) % 6, (first + 2) % 6) for first in range(6)),
    *((first, (first + 1) % 6, (first + 2) % 6, (first + 3) % 6) for first in range(6)),
    (0, 1, 3, 4),
    (1, 2, 4, 5),
    (0, 2, 3, 5),
    (0, 1, 2, 3, 4, 5),
)


class TableConv2d(torch.nn.Module):
    """A convolution in which each output channel sees only the input channels that a table names (section II-B, C3).

    Only connections have parameters: ``connections * kH * kW`` weights and a bias for each output channel. The
    convolution runs over all channels, with zero weights for missing connections, which is faster than sixteen small
    convolutions.

    Args:
        table: for each output channel the input channels that it sees.
        in_channels: C_in.
        kernel_size: k.
    """

    connected: Tensor

    def __init__(self, table: tuple[tuple[int, ...], ...], in_channels: int, kernel_size: int) -> None:
        super().__init__()
        pairs = [out * in_channels + channel for out, channels in enumerate(table) for channel in channels]
        self.shape = (len(table), in_channels, kernel_size, kernel_size)
        self.fan_in = [len(channels) * kernel_size**2 for channels in table for _ in channels]
        self.weight = torch.nn.Parameter(torch.empty(len(pairs), kernel_size**2))
        self.bias = torch.nn.Parameter(torch.empty(len(table)))
        # Follows from the table, so it isn't part of the state_dict.
        self.register_buffer("connected", torch.tensor(pairs), persistent=False)

    def forward(self, input: Tensor) -> Tensor:
        full = self.weight.new_zeros(self.shape[0] * self.shape[1], self.weight.shape[1])
        return ops.conv2d(input, full.index_copy(0, self.connected, self.weight).reshape(self.shape), self.bias)


class RBFOutput(torch.nn.Module):
    """Minus the squared distance from F6 to each class's code (equation 7), so that the largest output is the class.

    The codes are fixed 7x12 pictures of the characters, drawn with -1 and +1 (figure 3): characters that look alike
    have codes that are close, and +-1 is where the scaled tanh bends most.

    Formula: F50.
    """

    codes: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("codes", digit_codes(), persistent=False)

    def forward(self, input: Tensor) -> Tensor:
        return -(input.unsqueeze(1) - self.codes).square().sum(2)


class LeNet5_1998(torch.nn.Module):  # noqa: N801 - registered under the paper's year
    """LeNet-5 as in 1998: C3's connection table, trainable subsampling, scaled tanh, RBF output; 60,000 parameters.

    Takes 32x32 images and tells ten digits apart; it brings its own loss. (Convolution biases included: 156 + 12 +
    1,516 + 32 + 48,120 + 10,164.)

    Source: section II-B, table I, figures 2 and 3, appendix A.
    """

    input_size = (32, 32)

    #: For SGD: distances add up over 84 units, so gradients are some fifty times those of a cross entropy.
    learning_rate = 1e-3

    def __init__(self, num_classes: int = 10, in_channels: int = 1) -> None:
        super().__init__()
        if num_classes != 10:
            raise ModelError(
                "lenet5_1998", f"got {num_classes} classes", "needed 10: its output codes are pictures of the digits"
            )
        self.c1 = nn.Conv2d(in_channels, 6, 5)
        self.s2 = Subsampling(6)
        self.c3 = TableConv2d(C3_TABLE, 6, 5)
        self.s4 = Subsampling(16)
        self.c5 = nn.Conv2d(16, 120, 5)
        self.f6 = torch.nn.Linear(120, 84)
        self.output = RBFOutput()
        self.squash = ScaledTanh()
        self._initialise()

    @torch.no_grad()
    def _initialise(self) -> None:
        """Uniform between +-2.4 / fan-in, which keeps the scaled tanh in its working range (appendix A)."""
        fans: list[tuple[torch.nn.Module, Tensor]] = [
            (self.c1, torch.tensor(float(self.c1.in_channels * 25))),
            (self.c3, torch.tensor(self.c3.fan_in)[:, None]),
            (self.c5, torch.tensor(400.0)),
            (self.f6, torch.tensor(120.0)),
        ]
        for layer, fan_in in fans:
            weight = layer.get_parameter("weight")
            weight.uniform_(-1, 1).mul_(2.4 / fan_in)
            layer.get_parameter("bias").zero_()
        for pooling in (self.s2, self.s4):
            pooling.coefficient.uniform_(-1, 1).mul_(2.4 / 4)
            pooling.bias.zero_()

    def forward(self, input: Tensor) -> Tensor:
        maps = self.squash(self.s2(self.squash(self.c1(input))))
        maps = self.squash(self.s4(self.squash(self.c3(maps))))
        features = self.squash(self.c5(maps)).flatten(1)
        scores: Tensor = self.output(self.squash(self.f6(features)))
        return scores

    def loss(self, output: Tensor, labels: Tensor) -> Tensor:
        """The mean of y_label + log(e^-j + sum over classes i of e^-y_i), y being the squared distances (equation 9).

        The first term pulls F6 to the right code. The second pushes it away from the others, and the constant j = 1
        limits this push for classes that are far away already.
        """
        right = output.gather(1, labels.unsqueeze(1)).squeeze(1)
        floor = output.new_full((len(output), 1), -1.0)
        return (torch.logsumexp(torch.cat([output, floor], 1), 1) - right).mean()


@register
def lenet5_1998(num_classes: int = 10, in_channels: int = 1) -> torch.nn.Module:
    """LeNet-5 as in 1998: connection table, trainable subsampling, RBF output; 60,000 parameters, 32x32 images."""
    return LeNet5_1998(num_classes, in_channels)


# Figure 3's digits, in the transcription that public reimplementations share, bars over 0, 2, 4 and 5 included.
_DIGITS: Final = """
.#####. ...##.. .#####. ####### .#####. .#####. ..####. ####### .#####. .#####.
....... ..###.. ....... .....## ....... ....... .##.... .....## ##...## ##..###
..###.. .####.. .#####. ....##. ....... ####### ##..... .....## ##...## ##...##
.##.##. ...##.. ##...## ...##.. .##..## ##..... ##..... ....##. ##...## ##...##
##...## ...##.. #....## ..####. .##..## ##..... ######. ...##.. .#####. ##..###
##...## ...##.. ....##. .....## ###..## .####.. ###..## ...##.. ##...## .######
##...## ...##.. ..###.. .....## ##...## ..####. ##...## ..##... ##...## .....##
##...## ...##.. .##.... .....## ##...## .....## ##...## ..##... ##...## .....##
.##.##. ...##.. ##..... ##...## ##..### ##...## ###..## ..##... ##...## ....##.
..###.. .###### ####### .#####. .###### .#####. .#####. ..##... .#####. .####..
....... ....... ....... ....... .....## ....... ....... ....... ....... .......
....... ....... ....... ....... .....## ....... ....... ....... ....... .......
"""


def digit_codes() -> Tensor:
    """The codes of the ten digits, (10, 84) of -1 and +1; ``digit_codes().reshape(10, 12, 7)`` are the pictures."""
    rows = [line.split() for line in _DIGITS.split("\n") if line]
    pictures = ["".join(row[digit] for row in rows) for digit in range(10)]
    assert all(len(picture) == math.prod((12, 7)) for picture in pictures)
    return torch.tensor([[1.0 if cell == "#" else -1.0 for cell in picture] for picture in pictures])
