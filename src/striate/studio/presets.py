"""Worked examples of windows, each a question from a course, with the setting that answers it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from striate.studio.windows import Layer

_VGG16: Final = (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512)


@dataclass(frozen=True)
class Preset:
    """A setting of the geometry view.

    Args:
        name: its name in addresses.
        title: a short title.
        text: a description in one or two sentences.
        size, channels, dims: of the input.
        layers: one or more, in the notation of :meth:`Layer.parse`.
        x, w, g: numbers of a single small layer, row by row; empty for none.
        flipped: whether it is true convolution.
    """

    name: str
    title: str
    text: str
    size: int
    layers: tuple[str, ...]
    channels: int = 1
    dims: int = 2
    x: tuple[float, ...] = ()
    w: tuple[float, ...] = ()
    g: tuple[float, ...] = ()
    flipped: bool = False

    def to_dict(self) -> dict[str, Any]:
        """All fields, layers in their full form, for JSON."""
        return vars(self) | {"layers": [str(Layer.parse(layer)) for layer in self.layers]}


def _vgg16() -> tuple[str, ...]:
    return tuple(
        "max kernel=2 stride=2" if width == "M" else f"conv kernel=3 padding=1 out={width}" for width in _VGG16
    )


PRESETS: Final = (
    Preset(
        "nine-windows",
        "Nine windows",
        "A 3x3 kernel finds nine places on a 5x5 input at stride 1. Its weight gradient is the sum over all nine.",
        5,
        ("conv kernel=3",),
    ),
    Preset(
        "four-windows",
        "Four windows",
        "At stride 2 the same kernel finds four places; neighbours share one row or column of the input.",
        5,
        ("conv kernel=3 stride=2",),
    ),
    Preset(
        "valid",
        "Valid: no padding",
        "Only windows that lie wholly on the input count: 28 becomes 24 with a 5x5 kernel.",
        28,
        ("conv kernel=5 padding=valid",),
    ),
    Preset(
        "same",
        "Same: the size stays",
        "An odd kernel at stride 1 needs half of itself, rounded down, on either side.",
        9,
        ("conv kernel=5 padding=same",),
    ),
    Preset(
        "same-even",
        "Same, with an even kernel",
        "Half of 4 on either side would make the output one longer. Three cells are needed: one before, two after.",
        8,
        ("conv kernel=4 padding=same",),
    ),
    Preset(
        "same-strided",
        "Same, with a stride",
        "At stride 2 the output is half as long, rounded up, and the padding depends on the input's size: here it "
        "stands at the end only.",
        8,
        ("conv kernel=3 stride=2 padding=same",),
    ),
    Preset(
        "full",
        "Full: every tap meets every input",
        "With one cell less than the kernel on either side the output grows. Input gradients are such convolutions.",
        6,
        ("conv kernel=3 padding=full",),
    ),
    Preset(
        "dilated",
        "Dilation",
        "Nine taps two positions apart span 5x5: more is seen with the same weights.",
        9,
        ("conv kernel=3 dilation=2",),
    ),
    Preset(
        "two-of-three",
        "Two 3x3 layers",
        "Two 3x3 layers in a row see 5x5 of the input, with 18 weights a channel pair where one 5x5 kernel has 25.",
        9,
        ("conv kernel=3", "conv kernel=3"),
    ),
    Preset(
        "three-of-three",
        "Three 3x3 layers",
        "Three see 7x7 with 27 weights where one 7x7 kernel has 49, and there are two more nonlinearities between.",
        11,
        ("conv kernel=3", "conv kernel=3", "conv kernel=3"),
    ),
    Preset(
        "stem",
        "The first layers of a ResNet",
        "A 7x7 kernel at stride 2 makes 112 of 224; pooling over 3x3 at stride 2 without padding makes 55 of that.",
        224,
        ("conv kernel=7 stride=2 padding=3 out=64", "max kernel=3 stride=2"),
        channels=3,
    ),
    Preset(
        "lenet5",
        "LeNet-5",
        "32, 28, 14, 10, 5, 1: behind the last convolution one position sees the whole picture.",
        32,
        (
            "conv kernel=5 out=6",
            "avg kernel=2 stride=2",
            "conv kernel=5 out=16",
            "avg kernel=2 stride=2",
            "conv kernel=5 out=120",
        ),
    ),
    Preset(
        "alexnet",
        "AlexNet's first layer",
        "11x11 at stride 4: large steps, 55 places along an axis.",
        227,
        ("conv kernel=11 stride=4 out=96", "max kernel=3 stride=2"),
        channels=3,
    ),
    Preset(
        "vgg16",
        "VGG-16 up to its last convolution",
        "Thirteen 3x3 convolutions and four poolings: a position of the last map sees 196x196 of the picture, "
        "positions 16 apart.",
        224,
        _vgg16(),
        channels=3,
    ),
    Preset(
        "weights-of-eight",
        "Eight kernels on three channels",
        "5·5·3·8 = 600 weights, and 8 biases, however large the picture is.",
        28,
        ("conv kernel=5 out=8",),
        channels=3,
    ),
    Preset(
        "against-dense",
        "A convolution against a dense layer",
        "64 to 128 channels on 32x32: 73,856 parameters here, 8.6 thousand million weights for a dense layer.",
        32,
        ("conv kernel=3 padding=same out=128",),
        channels=64,
    ),
    Preset(
        "one-neuron",
        "One neuron that sees everything",
        "A kernel as large as the picture is a neuron of a dense layer: 120,000 weights for 200x200 in colour.",
        200,
        ("conv kernel=200",),
        channels=3,
    ),
    Preset(
        "separable",
        "Depthwise separable",
        "One 3x3 kernel a channel, then a 1x1 convolution that mixes channels: 8,960 parameters instead of 73,856.",
        32,
        ("conv kernel=3 padding=same out=64 groups=64", "conv kernel=1 out=128"),
        channels=64,
    ),
    Preset(
        "max-pooling",
        "Max pooling with its gradient",
        "Each window's gradient goes to the place of its maximum; the 9 wins twice and gets both.",
        3,
        ("max kernel=2",),
        x=(1, 5, 4, 9, 2, 1, 6, 3, 2),
        g=(1, 10, 100, 1000),
    ),
    Preset(
        "average-pooling",
        "Average pooling with its gradient",
        "Every input of a window gets a quarter of its gradient; the middle one lies in all four windows.",
        3,
        ("avg kernel=2",),
        x=(1, 5, 4, 9, 2, 1, 6, 3, 2),
        g=(1, 10, 100, 1000),
    ),
    Preset(
        "backpropagation",
        "A convolution's two gradients",
        "The weight gradient slides the gradient from above over the input; the input gradient is a full convolution "
        "with the flipped kernel.",
        3,
        ("conv kernel=2",),
        x=(1, 2, 3, 4, 5, 6, 7, 8, 9),
        w=(1, 0, -1, 2),
        g=(1, 10, 100, 1000),
    ),
    Preset(
        "true-convolution",
        "True convolution",
        "The kernel runs backwards: a single 1 in the input becomes the kernel itself. Cross-correlation, which "
        "networks compute, makes it the kernel upside down.",
        5,
        ("conv kernel=3 padding=same",),
        x=tuple(float(place == 12) for place in range(25)),
        w=(1, 2, 3, 4, 5, 6, 7, 8, 9),
        flipped=True,
    ),
    Preset(
        "two-dice",
        "The sum of two dice",
        "The full convolution of two distributions is that of the sum: 7 comes up with probability 6/36.",
        6,
        ("conv kernel=6 padding=full",),
        dims=1,
        x=(1, 1, 1, 1, 1, 1),
        w=(1, 1, 1, 1, 1, 1),
        flipped=True,
    ),
    Preset(
        "pooling-and-shifts",
        "Pooling and shifts",
        "1, 3, 2, 4 pools to 3, 4. Put a 0 in front and the windows cut elsewhere: no shift of 3, 4 comes out.",
        4,
        ("max kernel=2 stride=2",),
        dims=1,
        x=(1, 3, 2, 4),
    ),
    Preset(
        "side-by-side",
        "Pooling side by side",
        "3x3 windows at stride 3 don't overlap: each input is looked at once, and 9 numbers become 1.",
        9,
        ("max kernel=3 stride=3",),
    ),
    Preset(
        "transposed",
        "Transposed convolution",
        "From 4 to 8 with stride 2: the input is set apart by zeros, and the flipped kernel slides over it at "
        "stride 1.",
        4,
        ("transposed kernel=4 stride=2 padding=1",),
    ),
    Preset(
        "there-and-back",
        "There and back",
        "A convolution at stride 2 makes 4 of 8, and of 7 as well; its transposed one needs one cell extra to make 8.",
        8,
        ("conv kernel=3 stride=2 padding=1", "transposed kernel=3 stride=2 padding=1 extra=1"),
    ),
    Preset(
        "checkerboard",
        "Uneven overlap",
        "A kernel of 3 at stride 2: every second output is met by two inputs, the others by one. That is where "
        "checkerboards come from.",
        6,
        ("transposed kernel=3 stride=2",),
        dims=1,
    ),
)
