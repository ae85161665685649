"""Training steps and inference of whole networks: accelerated by striate against PyTorch as it comes."""

from __future__ import annotations

import copy
import csv
from collections.abc import Callable
from typing import Annotated, Any

import torch
import torch.nn.functional as F
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import striate
from benchmarks.measure import RESULTS, circumstances, interleaved
from benchmarks.networks import NETWORKS, Work

_FORMATS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}


def plain(model: nn.Module) -> nn.Module:
    """The model with torch.nn's layers where it has striate's: what its author would have written without striate."""
    for module in model.modules():
        if type(module).__module__.startswith("striate.nn") and hasattr(nn, type(module).__name__):
            module.__class__ = getattr(nn, type(module).__name__)
    return model


def training(model: nn.Module, images: Tensor, labels: Tensor) -> Callable[[], object]:
    """Forward, backward and a step of SGD."""
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()

    return step


def inference(model: nn.Module, images: Tensor, labels: Tensor) -> Callable[[], object]:
    model.eval()

    def run() -> Tensor:
        with torch.inference_mode():
            result: Tensor = model(images)
        return result

    return run


def contestants(work: Work, batch: int, task: Any, with_compile: bool) -> dict[str, Callable[[], object]]:
    torch.manual_seed(0)
    images, original = torch.randn(batch, *work.image), plain(work.build())
    with torch.no_grad():
        classes = original.eval()(images).shape[1]
    labels = torch.randint(classes, (batch,))
    made = {}
    for layout, format_ in _FORMATS.items():
        shown = images.contiguous(memory_format=format_)
        theirs = copy.deepcopy(original).to(memory_format=format_)  # type: ignore[call-overload]
        mine = striate.accelerate(copy.deepcopy(theirs), quiet=True)
        # No speed without the right answer.
        torch.testing.assert_close(mine.eval()(shown), theirs.eval()(shown), rtol=1e-3, atol=1e-3)
        made[f"striate {layout}"] = task(mine, shown, labels)
        made[f"PyTorch {layout}"] = task(theirs, shown, labels)
        if with_compile and layout == "channels_last":
            made["torch.compile"] = task(torch.compile(copy.deepcopy(theirs)), shown, labels)
    return made


def main(
    turns: Annotated[int, typer.Option(help="How often each contestant runs.")] = 11,
    only: Annotated[str, typer.Option(help="Only networks whose name contains this.")] = "",
    with_compile: Annotated[bool, typer.Option("--compile", help="torch.compile as well (minutes).")] = False,
    save: Annotated[bool, typer.Option(help="Write results/steps.csv.")] = False,
) -> None:
    """Times training steps, and inference of 1 and of 32 images; a ratio above 1 says that striate is faster.

    Example: python -m benchmarks steps --only LeNet --compile
    """
    errors = Console(stderr=True)
    rows: list[dict[str, Any]] = []
    for name, work in NETWORKS.items():
        if only.lower() not in name.lower():
            continue
        for kind, task, batch in (
            ("training", training, work.batch),
            ("inference", inference, 1),
            ("inference", inference, 32),
        ):
            errors.print(f"{name}, {kind}, {batch} images", style="dim")
            times = interleaved(contestants(work, batch, task, with_compile), turns)
            medians = {contestant: times.median(contestant) for contestant in times.seconds}
            mine, theirs = (
                min((each for each in medians if each.startswith("striate") == ours), key=medians.__getitem__)
                for ours in (True, False)
            )
            low, middle, high = times.ratio(mine, theirs)
            alike = {layout: times.ratio(f"striate {layout}", f"PyTorch {layout}")[1] for layout in _FORMATS}
            rows.append(
                {
                    "network": name,
                    "task": kind,
                    "images": "x".join(map(str, (batch, *work.image))),
                    **{f"{contestant} ms": round(seconds * 1e3, 3) for contestant, seconds in medians.items()},
                    **{f"ratio {layout}": round(ratio, 3) for layout, ratio in alike.items()},
                    "ratio best": round(middle, 3),
                    "low": round(low, 3),
                    "high": round(high, 3),
                }
            )
    told = circumstances()
    table = Table(title="times in ms; " + ", ".join(told.values()), title_justify="left", box=None, header_style="dim")
    for column in rows[0]:
        table.add_column(column.replace(" ms", ""), justify="left" if column in ("network", "task") else "right")
    for row in rows:
        table.add_row(*(f"{value:.2f}" if isinstance(value, float) else value for value in row.values()))
    Console(width=190).print(table)
    if save:
        RESULTS.mkdir(exist_ok=True)
        with (RESULTS / "steps.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, [*rows[0], *told])
            writer.writeheader()
            writer.writerows([row | told for row in rows])
