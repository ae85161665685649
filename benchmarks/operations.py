"""striate's operations against PyTorch's own calls, forward and backward, in PyTorch's two layouts."""

from __future__ import annotations

import csv
from collections.abc import Callable
from typing import Annotated, Any

import torch
import torch.nn.functional as F
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from benchmarks.measure import RESULTS, circumstances, interleaved
from striate import ops
from striate.geometry import ConvShape, PoolShape, parse

#: Layers of real networks; then what PyTorch lacks, against the way around it that its users take.
PROBLEMS = {
    "LeNet-5 C1": "conv2d 128x1x28x28 6x1x5x5 padding=2",
    "LeNet-5 C3": "conv2d 128x6x14x14 16x6x5x5",
    "LeNet-5 S2": "max_pool2d 128x6x28x28 kernel=2 stride=2",
    "simple_cnn conv2": "conv2d 128x32x14x14 64x32x3x3 padding=1",
    "VGG first": "conv2d 4x3x112x112 64x3x3x3 padding=1",
    "ResNet first": "conv2d 4x3x112x112 64x3x7x7 stride=2 padding=3",
    "ResNet pool": "max_pool2d 4x64x56x56 kernel=3 stride=2 padding=1",
    "ResNet 3x3": "conv2d 4x64x28x28 64x64x3x3 padding=1",
    "MobileNet depthwise": "conv2d 8x96x28x28 96x1x3x3 padding=1 groups=96",
    "ResNet-D pool": "avg_pool2d 8x64x28x28 kernel=2 stride=2",
    "one image, one filter": "conv2d 1x1x8x8 1x1x3x3",
    "same, stride 2": "conv2d 8x32x28x28 64x32x3x3 stride=2 padding=same",
    "causal 1-D": "conv1d 8x64x256 64x64x3 padding=2:0",
    "dilated average": "avg_pool2d 8x32x28x28 kernel=3 stride=1 dilation=2 padding=2",
}


def striates(shape: ConvShape | PoolShape) -> Callable[..., Tensor]:
    padding = [window.padding for window in shape.windows]
    if isinstance(shape, ConvShape):
        conv = getattr(ops, shape.name)
        return lambda x, w: conv(x, w, None, shape.stride, padding, shape.dilation, shape.groups)
    pool = getattr(ops, shape.name)
    if shape.kind == "max":
        return lambda x: pool(x, shape.kernel, shape.stride, padding, shape.dilation)
    return lambda x: pool(x, shape.kernel, shape.stride, padding, dilation=shape.dilation)


def pytorchs(shape: ConvShape | PoolShape) -> Callable[..., Tensor]:
    """The same by torch.nn.functional, padding first where it can't, a depthwise convolution for a dilated average."""
    sides = [cells for pair in reversed(shape.pads) for cells in pair]
    even = all(before == after for before, after in shape.pads)
    padding = [before for before, _ in shape.pads] if even else 0
    around: Callable[[Tensor], Tensor] = (lambda x: x) if even else (lambda x: F.pad(x, sides))
    if isinstance(shape, ConvShape):
        conv = getattr(F, shape.name)
        return lambda x, w: conv(around(x), w, None, shape.stride, padding, shape.dilation, shape.groups)
    pool = getattr(F, shape.name)
    if shape.kind == "max":
        return lambda x: pool(x, shape.kernel, shape.stride, padding, shape.dilation)
    if max(shape.dilation) == 1:
        return lambda x: pool(x, shape.kernel, shape.stride, padding)
    taps = torch.Size(shape.kernel).numel()
    ones = torch.full((shape.channels, 1, *shape.kernel), 1 / taps)
    conv = getattr(F, f"conv{shape.dims}d")
    return lambda x: conv(x, ones, None, shape.stride, padding, shape.dilation, shape.channels)


def main(
    turns: Annotated[int, typer.Option(help="How often each contestant runs.")] = 15,
    save: Annotated[bool, typer.Option(help="Write results/operations.csv.")] = False,
) -> None:
    """Times every problem forward, and forward with backward; a ratio above 1 says that striate is faster.

    Example: python -m benchmarks operations --turns 31 --save
    """
    torch.manual_seed(0)
    rows = []
    errors = Console(stderr=True)
    for name, line in track(list(PROBLEMS.items()), "timing", console=errors, disable=not errors.is_terminal):
        shape = parse(line)
        for layout in ("NCHW", "channels_last"):
            if layout == "channels_last" and (shape.dims != 2 or shape.input_shape[1] == 1):
                continue
            rows += _measure(name, shape, layout, turns)
    told = circumstances()
    table = Table(title="PyTorch's time / striate's time: " + ", ".join(told.values()))
    for column in ("problem", "layout", "pass", "striate us", "PyTorch us", "ratio", "quartiles"):
        table.add_column(column, justify="left" if column in ("problem", "layout", "pass") else "right")
    for row in rows:
        quartiles = f"{row['low']:.2f} .. {row['high']:.2f}"
        times = (f"{row['striate_us']:.0f}", f"{row['pytorch_us']:.0f}", f"{row['ratio']:.2f}")
        table.add_row(row["name"], row["layout"], row["pass"], *times, quartiles)
    Console(width=130).print(table)
    if save:
        RESULTS.mkdir(exist_ok=True)
        with (RESULTS / "operations.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, [*rows[0], *told])
            writer.writeheader()
            writer.writerows([row | told for row in rows])


def _measure(name: str, shape: ConvShape | PoolShape, layout: str, turns: int) -> list[dict[str, Any]]:
    format_ = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    operands = [torch.randn(shape.input_shape).contiguous(memory_format=format_)]
    if isinstance(shape, ConvShape):
        operands.append(torch.randn(shape.weight_shape).contiguous(memory_format=format_))
    mine, theirs = striates(shape), pytorchs(shape)
    leaves = [operand.clone().requires_grad_() for operand in operands]
    upstream = torch.randn(shape.output_shape).contiguous(memory_format=format_)
    # No speed without the right answer.
    torch.testing.assert_close(mine(*operands), theirs(*operands), rtol=1e-3, atol=1e-3)
    both = [torch.autograd.grad(call(*leaves), leaves, upstream) for call in (mine, theirs)]
    torch.testing.assert_close(both[0], both[1], rtol=1e-3, atol=1e-2)

    def forward(call: Callable[..., Tensor]) -> Callable[[], object]:
        return lambda: call(*operands)

    def backward(call: Callable[..., Tensor]) -> Callable[[], object]:
        return lambda: torch.autograd.grad(call(*leaves), leaves, upstream)

    rows = []
    for pass_, run in (("forward", forward), ("both", backward)):
        times = interleaved({"striate": run(mine), "pytorch": run(theirs)}, turns)
        low, middle, high = times.ratio("striate", "pytorch")
        rows.append(
            {
                "name": name,
                "problem": str(shape),
                "layout": layout,
                "pass": pass_,
                "striate_us": times.median("striate") * 1e6,
                "pytorch_us": times.median("pytorch") * 1e6,
                "ratio": middle,
                "low": low,
                "high": high,
            }
        )
    return rows
