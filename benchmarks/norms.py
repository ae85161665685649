"""Batch normalisation with residual and activation in training against PyTorch's operators one after the other."""

from __future__ import annotations

import csv
from collections.abc import Callable
from functools import partial
from typing import Annotated

import torch
import torch.nn.functional as F
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.measure import RESULTS, circumstances, in_turns
from striate.engine import memory, timing, use
from striate.ops.norm import batch_norm

#: Maps of networks in training: MobileNetV2's at 16x3x96x96, ResNet-18's at 16x3x64x64; activation, residual.
_WORK = [
    ((16, 32, 48, 48), "relu6", False),
    ((16, 96, 48, 48), "relu6", False),
    ((16, 24, 24, 24), "", True),
    ((16, 144, 24, 24), "relu6", False),
    ((16, 192, 12, 12), "relu6", False),
    ((16, 576, 6, 6), "relu6", False),
    ((16, 960, 3, 3), "relu6", False),
    ((16, 64, 16, 16), "relu", True),
    ((16, 128, 8, 8), "relu", True),
    ((16, 256, 4, 4), "relu", True),
    ((16, 512, 2, 2), "relu", True),
]
_FORMATS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}


def pytorch(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    training: bool,
    momentum: float,
    eps: float,
    *,
    residual: Tensor | None = None,
    activation: str = "",
) -> Tensor:
    """As networks write it: one operator after the other, in place where one may be."""
    z = F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    if residual is not None:
        z = z.add_(residual)
    if activation == "relu6":
        return F.relu6(z, inplace=True)
    return F.relu(z, inplace=True) if activation else z


def main(
    turns: Annotated[int, typer.Option(help="How often each way runs.")] = 9,
    save: Annotated[bool, typer.Option(help="Write results/norms.csv.")] = False,
) -> None:
    """Times forward alone and forward with backward, after both ways gave the same numbers.

    These are the kernels throughout, also on small maps where the choice would leave them to PyTorch.

    The share is that of a copy's bandwidth, for the numbers that have to be moved at least: forward x (and the
    residual) in and y out, backward x and g (with a residual's activation y) in and the gradients out.
    """
    memory.keep_freed_memory()
    rows = [race(*work, layout, turns) for work in _WORK for layout in _FORMATS]
    shown = [name for name in rows[0] if name not in circumstances()]
    table = Table(*shown, title="Batch normalisation in training")
    for row in rows:
        table.add_row(*(str(row[name]) for name in shown))
    Console(width=190).print(table)
    if save:
        with (RESULTS / "norms.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


def race(shape: tuple[int, ...], activation: str, added: bool, layout: str, turns: int) -> dict[str, object]:
    """A row of the table."""
    torch.manual_seed(0)

    def image() -> Tensor:
        return torch.randn(shape).contiguous(memory_format=_FORMATS[layout])

    x, g = image().requires_grad_(), image()
    residual = image().requires_grad_() if added else None
    weight, bias = torch.ones(shape[1], requires_grad=True), torch.zeros(shape[1], requires_grad=True)
    running = torch.zeros(shape[1]), torch.ones(shape[1])
    operands = [each for each in (x, residual, weight, bias) if each is not None]

    def forward(compute: Callable[..., Tensor]) -> Tensor:
        return compute(x, weight, bias, *running, True, 0.1, 1e-5, residual=residual, activation=activation)

    def both(compute: Callable[..., Tensor]) -> tuple[Tensor, ...]:
        y = forward(compute)
        return y, *torch.autograd.grad(y, operands, g)

    with use("llvm"):
        for mine, theirs in zip(both(batch_norm), both(pytorch), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-3 * max(1.0, theirs.abs().max().item()))
        times = in_turns(
            {
                "forward": partial(forward, batch_norm),
                "forward, PyTorch": partial(forward, pytorch),
                "both": partial(both, batch_norm),
                "both, PyTorch": partial(both, pytorch),
            },
            turns,
        )
    row: dict[str, object] = {
        "maps": "x".join(map(str, shape)),
        "after": " ".join(["+ residual"] * added + [activation] * bool(activation)),
        "layout": layout,
    }
    for name in ("forward", "both"):
        low, middle, high = times.ratio(name, f"{name}, PyTorch")
        row |= {
            f"{name} us": round(times.median(name) * 1e6, 1),
            f"{name} PyTorch us": round(times.median(f"{name}, PyTorch") * 1e6, 1),
            f"{name} ratio": round(middle, 2),
            f"{name} low": round(low, 2),
            f"{name} high": round(high, 2),
        }
    moved = (5 + added + 2 * (added and bool(activation))) * x.numel() * x.element_size()
    bandwidth = timing.roofline(torch.get_num_threads()).bandwidth
    return {**row, "share of copy": round(moved / bandwidth / times.median("both"), 2), **circumstances()}
