"""Suppression and aligned pooling by their kernels against the same by PyTorch's operators."""

from __future__ import annotations

import csv
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.measure import RESULTS, circumstances, in_turns
from striate import ops
from striate.engine import use

_FORMATS = {"planes": torch.contiguous_format, "channels_last": torch.channels_last}


def _boxes(count: int, size: float, least: float, most: float) -> Tensor:
    centre, extent = torch.rand(count, 2) * size, torch.rand(count, 2) * (most - least) + least
    return torch.cat([centre - extent / 2, centre + extent / 2], 1)


def _suppression() -> dict[str, Callable[[], Any]]:
    """Boxes of an image as proposals come (close together) and as detections of 80 classes."""
    work: dict[str, Callable[[], Any]] = {}
    for count in (100, 1000, 4000):
        for name, most in (("apart", 80.0), ("close", 400.0)):
            boxes, scores = _boxes(count, 800, most / 40, most), torch.rand(count)
            classes = torch.randint(0, 80, (count,))
            work[f"nms, {count} boxes {name}"] = partial(ops.nms, boxes, scores, 0.5)
            work[f"batched_nms, {count} boxes {name}"] = partial(ops.batched_nms, boxes, scores, classes, 0.5)
    return work


def _regions() -> dict[str, Callable[[], Any]]:
    """A level of a feature pyramid: 256 channels at a fourth of 400x544 pixels, two images, 256 boxes."""
    work: dict[str, Callable[[], Any]] = {}
    images = torch.randint(0, 2, (256, 1)).float()
    boxes = torch.cat([images, _boxes(256, 400, 10, 160)], 1)
    for layout, format_ in _FORMATS.items():
        x = torch.randn(2, 256, 100, 136).contiguous(memory_format=format_).requires_grad_()
        for bins, samples in ((7, 2), (14, 2), (7, 0)):
            pool = partial(ops.roi_align, x, boxes, bins, 0.25, samples)
            g = torch.randn_like(pool())

            def both(pool: Callable[[], Tensor] = pool, x: Tensor = x, g: Tensor = g) -> tuple[Tensor, ...]:
                y = pool()
                return y, *torch.autograd.grad(y, x, g)

            name = f"{bins}x{bins} of {samples or 'adaptive'} samples, {layout}"
            work[f"roi_align, {name}"] = pool
            work[f"roi_align and gradient, {name}"] = both
    return work


def _by(backend: str, call: Callable[[], Any]) -> Any:
    with use(backend):
        return call()


def main(
    turns: Annotated[int, typer.Option(help="How often each way runs.")] = 9,
    save: Annotated[bool, typer.Option(help="Write results/detection.csv.")] = False,
) -> None:
    """Times each call by the kernels and by PyTorch's operators, after both gave the same results."""
    torch.manual_seed(0)
    rows = [race(name, call, turns) for name, call in (_suppression() | _regions()).items()]
    shown = [name for name in rows[0] if name not in circumstances()]
    table = Table(*shown, title="Operations of detection")
    for row in rows:
        table.add_row(*(str(row[name]) for name in shown))
    Console(width=150).print(table)
    if save:
        with (RESULTS / "detection.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


def race(name: str, call: Callable[[], Any], turns: int) -> dict[str, object]:
    """A row of the table."""
    torch.testing.assert_close(_by("llvm", call), _by("aten", call), rtol=1e-4, atol=1e-4)
    times = in_turns({"llvm": partial(_by, "llvm", call), "aten": partial(_by, "aten", call)}, turns)
    low, middle, high = times.ratio("llvm", "aten")
    return {
        "call": name,
        "kernel us": round(times.median("llvm") * 1e6, 1),
        "PyTorch us": round(times.median("aten") * 1e6, 1),
        "ratio": round(middle, 3),
        "low": round(low, 3),
        "high": round(high, 3),
        **circumstances(),
    }


if __name__ == "__main__":
    typer.run(main)
