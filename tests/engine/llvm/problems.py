"""Random problems for generated kernels, the check that each goes through, and what planted bugs need."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

from cases import assert_same, image, operands
from striate.engine import FORM, Pass, reference
from striate.engine.llvm import LlvmBackend
from striate.engine.llvm.convolution import dispatch as convolution_kernels
from striate.engine.llvm.convolution import sums, weight_sums
from striate.engine.llvm.pooling import dispatch as pooling_kernels
from striate.errors import GeometryError
from striate.geometry import ConvShape, PoolShape, Window

BACKEND = LlvmBackend()

#: Around one, two and three vectors of every instruction set, with a position more and less.
SIZES = [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 20, 24, 31, 33]


def _windows(draw: random.Random) -> tuple[Window, ...]:
    return tuple(
        Window(
            draw.choice([1, 2, 3, 3, 3, 4, 5, 7]),
            draw.choice([1, 1, 1, 2, 2, 3, 4]),
            (draw.randint(0, 4), draw.randint(0, 4)),
            draw.choice([1, 1, 1, 2, 3]),
        )
        for _ in range(draw.choice([1, 2, 2, 2]))
    )


def convolution(seed: int) -> ConvShape:
    """Any kind: few and many channels, depthwise with and without multiplier, grouped; 1-D and 2-D."""
    draw = random.Random(seed)
    while True:
        windows = _windows(draw)
        groups = draw.choice([1, 1, 1, 2, 3, 8, 11])
        inner, outer = (1, draw.choice([1, 1, 2])) if groups >= 8 else (draw.choice([1, 2, 3, 9]), draw.randint(1, 17))
        size = tuple(draw.choice(SIZES) for _ in windows)
        try:
            return ConvShape(draw.randint(1, 3), groups * inner, groups * outer, size, windows, groups)
        except GeometryError:
            continue  # a window longer than the padded input: draw another


def many_channels(seed: int) -> ConvShape:
    """Two axes and whole vectors of output channels: what the kernels with lanes over channels take."""
    draw = random.Random(seed)
    while True:
        windows = _windows(draw)
        channels, depthwise = draw.choice([8, 16, 24, 48]), draw.random() < 0.5
        inner = channels if depthwise else draw.randint(1, 19)
        size = tuple(draw.choice(SIZES) for _ in windows)
        if len(windows) == 2:
            try:
                return ConvShape(draw.randint(1, 3), inner, channels, size, windows, channels if depthwise else 1)
            except GeometryError:
                continue


def grouped(seed: int) -> ConvShape:
    """Two axes and groups of several channels: fewer than a vector, more, and as many, with and without a remainder."""
    draw = random.Random(seed)
    while True:
        windows = _windows(draw)
        outer = draw.choice([1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 24, 33])
        inner = draw.choice([outer, outer, outer, draw.randint(1, 12)])
        groups = draw.choice([2, 3, 4, 5, 7, 8, 17])
        size = tuple(draw.choice(SIZES) for _ in windows)
        if len(windows) == 2 and max(inner, outer) > 1:
            try:
                return ConvShape(draw.randint(1, 3), groups * inner, groups * outer, size, windows, groups)
            except GeometryError:
                continue


def pointwise(seed: int) -> ConvShape:
    """Windows of one position, of any numbers of channels and positions."""
    draw = random.Random(seed)
    size = tuple(draw.choice(SIZES) for _ in range(draw.choice([1, 2, 2])))
    inner, outer = (draw.choice([*SIZES, 48, 64, 70, 100]) for _ in range(2))
    return ConvShape(draw.randint(1, 3), inner, outer, size, tuple(Window(1) for _ in size))


def pooling(seed: int) -> PoolShape:
    draw = random.Random(seed)
    while True:
        windows = _windows(draw)
        kind = draw.choice(["max", "avg"])
        rest = {"ceil_mode": draw.random() < 0.4}
        if kind == "avg":
            rest |= {"count_include_pad": draw.random() < 0.5, "divisor": draw.choice([None, None, 3, -2])}
        try:
            size = tuple(draw.choice(SIZES) for _ in windows)
            return PoolShape(kind, draw.randint(1, 3), draw.choice([1, 2, 3, 8, 9]), size, windows, **rest)
        except GeometryError:
            continue


def laid_out(tensor: Tensor, seed: int) -> Tensor:
    """The same numbers as planes, channels last, or a view with gaps between its rows."""
    if seed % 3 == 1 and tensor.dim() == 4:
        return tensor.contiguous(memory_format=torch.channels_last)
    if seed % 3 == 2:
        wider = torch.full((*tensor.shape[:-1], tensor.shape[-1] + 3), float("nan"))
        wider[..., 1:-2] = tensor
        return wider[..., 1:-2]
    return tensor


def _numbers(count: int, seed: int) -> Tensor:
    """A row of numbers, side by side, with gaps, or one for all."""
    return (torch.randn(count), torch.randn(count, 2)[:, 1], torch.randn(1).expand(count))[seed % 3]


def terms(shape: ConvShape, open_: Pass) -> int:
    """How many rounded sums follow each other: products of a result, up to the vectors they are spread over."""
    per_output = shape.macs // max(1, torch.Size(shape.output_shape).numel())
    return max(8, per_output if open_ is not Pass.WEIGHT_GRAD else shape.macs // torch.Size(shape.weight_shape).numel())


def check_convolution(
    shape: ConvShape, seed: int, backend: LlvmBackend = BACKEND, layouts: tuple[int, int, int] = (0, 1, 2)
) -> None:
    """All three passes against the reference; operands unchanged."""
    made = {role: laid_out(t, seed + layouts[role]) for role, t in operands(shape, torch.float32, seed).items()}
    before = {role: tensor.clone() for role, tensor in made.items()}
    for open_ in FORM:
        assert backend.refusal(shape, open_, torch.float32, "cpu") is None
        first, second = (made[role] for role in FORM if role is not open_)
        expected = reference.contract(shape, open_, first, second)
        bias = None
        if open_ is not Pass.WEIGHT_GRAD and seed % 2:
            bias = _numbers(expected.shape[1], seed // 2)
            expected = expected + bias.double().reshape(-1, *[1] * shape.dims)
        assert_same(backend.contract(shape, open_, first, second, bias), expected, terms(shape, open_))
    for role, tensor in made.items():
        assert torch.equal(tensor, before[role])


def check_pooling(shape: PoolShape, seed: int, backend: LlvmBackend = BACKEND) -> None:
    """Values, positions and gradients against the reference."""
    x = laid_out(image(shape, torch.float32, seed), seed)
    g = laid_out(torch.randn(shape.output_shape), seed + 1)
    assert backend.refusal(shape, Pass.OUTPUT, torch.float32, "cpu") is None
    taps = max(8, torch.Size(shape.kernel).numel())
    if shape.kind == "avg":
        assert_same(backend.average(shape, Pass.OUTPUT, x), reference.average(shape, x), taps)
        assert_same(backend.average(shape, Pass.INPUT_GRAD, g), reference.average_grad(shape, g), taps)
        return
    if seed % 3 == 0:
        x = torch.where(x > 2, float("nan"), x)
    if seed % 3 == 1:
        x = torch.where(x < 3, float("-inf"), x)
    values, positions = backend.maximum(shape, x)
    expected, places = reference.maximum(shape, x)
    assert_same(backend.largest(shape, x), expected)
    assert torch.equal(positions.long(), places)
    assert_same(values, expected)
    assert_same(backend.maximum_grad(shape, positions, g), reference.maximum_grad(shape.size, places, g), taps)


#: A process keeps its kernels, so a batch of problems costs little more than its new ones.
BATCH = 2


def batches(count: int) -> pytest.MarkDecorator:
    """Batches of ``count`` random problems; those after the first are slow."""
    later = [pytest.param(start, marks=pytest.mark.slow) for start in range(BATCH, count, BATCH)]
    return pytest.mark.parametrize("start", [0, *later])


def fresh_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels made from here on are made anew, and forgotten afterwards."""
    for module in (convolution_kernels, sums, weight_sums, pooling_kernels):
        for name, cached in list(vars(module).items()):
            if hasattr(cached, "cache_clear"):
                monkeypatch.setattr(module, name, cached.__wrapped__)


def caught(check, problems) -> bool:
    for seed, shape in enumerate(problems):
        try:
            check(shape, seed)
        except AssertionError:
            return True
    return False
