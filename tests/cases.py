"""The one table of problems, and the comparison that every numerical test goes through.

A case is a problem; it prints as a line, and ``striate.geometry.parse(line)`` makes it again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor

from striate.engine import Pass
from striate.errors import GeometryError
from striate.geometry import ConvShape, PoolShape, Window, parse

#: Activations by the names that normalisation knows them by.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    **{name: getattr(F, name) for name in ("relu", "relu6", "silu", "hardswish", "gelu")},
    "": lambda z: z,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "leaky_relu:0.1": lambda z: F.leaky_relu(z, 0.1),
    "leaky_relu:-0.5": lambda z: F.leaky_relu(z, -0.5),
    "elu:1.0": F.elu,
    "elu:0.3": lambda z: F.elu(z, 0.3),
}

CONVOLUTIONS = [
    # plain, in every number of axes
    "conv1d 2x3x9 4x3x3",
    "conv2d 2x3x7x6 4x3x3x2",
    "conv3d 2x2x4x5x3 3x2x2x3x2",
    # strides, also beyond the kernel
    "conv2d 2x2x9x9 3x2x3x3 stride=2",
    "conv1d 1x2x11 3x2x2 stride=5",
    "conv2d 1x2x10x9 2x2x1x2 stride=3x4",
    # padding of every kind
    "conv2d 2x2x6x6 3x2x3x3 padding=1",
    "conv2d 1x2x5x6 2x2x3x3 padding=2x0",
    "conv2d 1x2x5x6 2x2x3x3 padding=0:2x3:1",
    "conv2d 1x2x7x8 2x2x4x3 stride=2 padding=same",
    "conv2d 1x2x7x8 2x2x4x3 stride=2 padding=same_lower",
    "conv1d 2x2x6 2x2x4 padding=3:0",
    "conv2d 1x2x3x4 2x2x3x2 padding=2x1",
    "conv1d 1x1x2 1x1x2 padding=5 stride=2",
    # dilation
    "conv2d 1x2x9x9 2x2x3x3 dilation=2 padding=2",
    "conv1d 2x2x12 3x2x3 dilation=4 stride=3 padding=1:4",
    # groups, depthwise, channel multiplier
    "conv2d 2x4x5x5 6x2x3x3 groups=2 padding=1",
    "conv2d 2x4x5x5 4x1x3x3 groups=4 stride=2 padding=1",
    "conv1d 2x3x8 6x1x3 groups=3 padding=1",
    # edges: one pixel, one tap, no image, input that no window reaches
    "conv2d 2x3x1x1 4x3x1x1",
    "conv2d 1x1x1x1 1x1x3x3 padding=1",
    "conv2d 0x2x5x5 3x2x3x3 padding=1",
    "conv2d 1x2x8x8 2x2x3x3 stride=4",
    # the textbooks': three colours into 7x7 windows
    "conv2d 1x3x16x16 4x3x7x7 stride=2 padding=3",
]

POOLINGS = [
    "max_pool1d 2x3x9 kernel=2 stride=2",
    "max_pool2d 2x3x7x6 kernel=3x2 stride=2",
    "max_pool3d 1x2x4x5x6 kernel=2 stride=2x1x2",
    "max_pool2d 1x2x8x8 kernel=3 stride=2 padding=1",
    "max_pool2d 1x2x8x7 kernel=3 stride=2 padding=0:1x2:0",
    "max_pool2d 1x2x7x8 kernel=4x3 stride=2 padding=same",
    "max_pool2d 1x2x7x8 kernel=4x3 stride=2 padding=same_lower",
    "max_pool2d 1x2x9x9 kernel=3 stride=2 dilation=2 padding=1",
    "max_pool2d 1x2x6x6 kernel=3 stride=2 ceil_mode",
    "max_pool2d 1x2x6x7 kernel=3x2 stride=2 padding=1:0x0 ceil_mode",
    "max_pool2d 1x2x5x5 kernel=3 stride=1 padding=2",
    "max_pool1d 2x2x10 kernel=2 stride=4",
    "max_pool2d 0x2x5x5 kernel=2 stride=2",
    "max_pool2d 2x3x1x1 kernel=1 stride=1",
    "avg_pool1d 2x3x9 kernel=2 stride=2",
    "avg_pool2d 2x3x7x6 kernel=3x2 stride=2",
    "avg_pool3d 1x2x4x5x6 kernel=2 stride=2x1x2",
    "avg_pool2d 1x2x8x8 kernel=3 stride=2 padding=1",
    "avg_pool2d 1x2x8x8 kernel=3 stride=2 padding=1 exclude_pad",
    "avg_pool2d 1x2x8x7 kernel=3 stride=2 padding=0:1x2:0 exclude_pad",
    "avg_pool2d 1x2x7x8 kernel=4x3 stride=2 padding=same",
    "avg_pool2d 1x2x9x9 kernel=3 stride=2 dilation=2 padding=1",
    "avg_pool2d 1x2x9x9 kernel=3 stride=2 dilation=2 padding=1 ceil_mode exclude_pad",
    "avg_pool2d 1x2x6x6 kernel=3 stride=2 padding=1 ceil_mode",
    "avg_pool3d 1x1x5x5x4 kernel=2 stride=2 padding=1:0x0:1x0 dilation=2x1x1",
    "avg_pool2d 1x2x6x6 kernel=2 stride=3 divisor=3",
    "avg_pool2d 0x2x5x5 kernel=2 stride=2",
]


def slow_but(every: Iterable[Any], quick: Collection[Any]) -> list[Any]:
    """Cases for ``parametrize``; all but the ``quick`` ones are slow."""
    return [pytest.param(each, marks=[pytest.mark.slow] * (each not in quick)) for each in every]


def quick_but(every: Iterable[Any], slow: Collection[Any]) -> list[Any]:
    """Cases for ``parametrize``, of which some are ``slow``."""
    return [pytest.param(each, marks=[pytest.mark.slow] * (each in slow)) for each in every]


def conv(line: str) -> ConvShape:
    return ConvShape.parse(line)


def pool(line: str) -> PoolShape:
    problem = parse(line)
    assert isinstance(problem, PoolShape)
    return problem


def operands(shape: ConvShape, dtype: torch.dtype = torch.float64, seed: int = 0) -> dict[Pass, Tensor]:
    """Random input, weight and output gradient of a convolution."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {Pass.INPUT_GRAD: shape.input_shape, Pass.WEIGHT_GRAD: shape.weight_shape, Pass.OUTPUT: shape.output_shape}
    return {role: torch.randn(size, dtype=dtype, generator=generator) for role, size in shapes.items()}


def image(shape: PoolShape, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    """Random input of a pooling. Few different values, so that ties are common."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-4, 5, shape.input_shape, generator=generator).to(dtype)


def assert_same(actual: Tensor, expected: Tensor, terms: int = 1) -> None:
    """Fails unless the two agree in shape and, up to the rounding of summing ``terms`` products, in value.

    ``expected`` is float64. The bound is that of a dot product, terms * unit roundoff * the largest value, so it grows
    with the length of the sum and with nothing else; NaN equals only NaN.
    """
    assert actual.shape == expected.shape, f"{tuple(actual.shape)} instead of {tuple(expected.shape)}"
    roundoff = torch.finfo(actual.dtype).eps
    scale = expected.abs().nan_to_num(0.0, 0.0, 0.0).max().item() if expected.numel() else 0.0
    bound = 4 * roundoff * max(terms, 1) * max(scale, 1.0)
    torch.testing.assert_close(actual.to(expected.dtype), expected, rtol=0.0, atol=bound, equal_nan=True)


# -------------------------------------------------------------------- random problems


@st.composite
def random_windows(draw: st.DrawFn, dims: int, words: bool = True) -> tuple[tuple[int, ...], tuple[Window, ...]]:
    """Sizes and windows that fit: small, but with all that windows can have."""
    sizes, made = [], []
    for _ in range(dims):
        kernel = draw(st.integers(1, 4))
        dilation = draw(st.integers(1, 3))
        stride = draw(st.integers(1, 5))
        cells = st.integers(0, 4)
        kinds = [cells, st.tuples(cells, cells)]
        if words:
            kinds.append(st.sampled_from(["valid", "same", "same_lower", "full"]))
        window = Window(kernel, stride, draw(st.one_of(kinds)), dilation)
        free = sum(window.padding) if isinstance(window.padding, tuple) else window.effective_kernel
        least = max(1, window.effective_kernel - free)
        sizes.append(draw(st.integers(least, least + 6)))
        made.append(window)
    return tuple(sizes), tuple(made)


@st.composite
def random_convolutions(draw: st.DrawFn) -> ConvShape:
    sizes, made = draw(random_windows(draw(st.sampled_from([1, 1, 2, 2, 2, 3]))))
    groups = draw(st.sampled_from([1, 1, 1, 2, 3]))
    inner, outer = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    return ConvShape(draw(st.sampled_from([0, 1, 1, 2, 3])), groups * inner, groups * outer, sizes, made, groups)


@st.composite
def random_poolings(draw: st.DrawFn, kind: str) -> PoolShape:
    sizes, made = draw(random_windows(draw(st.sampled_from([1, 1, 2, 2, 2, 3]))))
    rest = {"ceil_mode": draw(st.booleans())}
    if kind == "avg":
        rest["count_include_pad"] = draw(st.booleans())
        rest["divisor"] = draw(st.sampled_from([None, None, None, 2, -3]))
    batch, channels = draw(st.sampled_from([0, 1, 2])), draw(st.integers(1, 3))
    try:
        return PoolShape(kind, batch, channels, sizes, made, **rest)
    except GeometryError:
        # A window wholly in the padding: without padding, on something longer.
        return PoolShape(
            kind,
            batch,
            channels,
            tuple(n + 12 for n in sizes),
            tuple(Window(w.kernel, w.stride, 0, w.dilation) for w in made),
            **rest,
        )
