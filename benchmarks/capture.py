"""What the first calls of an accelerated network cost: Dynamo's capture, and what striate adds to it.

Every row is measured in processes of its own, one after the other. One runs the network as it is, then through
``torch.compile(backend="eager")``, which is Dynamo's capture alone; two accelerate it, the first with an empty cache of
kernels and choices, the second with what the first has left there. What striate adds is told in two ways: by the
difference of two processes' first calls, which is off by what Dynamo's seconds vary, and within one process, as what a
call takes beyond Dynamo's own account of itself and beyond a call like those that come later.
"""

from __future__ import annotations

import csv
import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

if TYPE_CHECKING:
    from torch import Tensor, nn

# Nothing here imports PyTorch when it is imported, since a child's imports are among what is timed.

#: Images of a batch; an epoch's last one has one less.
_BATCH: Final = 4


@dataclass(frozen=True)
class Network:
    """A network of striate's or timm's, and the images that it is given; ``other`` is another size of these."""

    name: str
    channels: int = 3
    size: int = 128
    other: int = 160
    library: str = "striate"


NETWORKS: Final = {
    "LeNet-5": Network("lenet5", 1, 28, 32),
    "ResNet-18": Network("resnet18"),
    "ResNet-50": Network("resnet50"),
    "MobileNetV2": Network("mobilenet_v2"),
    "EfficientNet-B0": Network("efficientnet_b0"),
    "ConvNeXt-T": Network("convnext_tiny"),
    "ViT-B/32": Network("vit_b_32", size=224, other=256),
    "MobileNetV3-L (timm)": Network("mobilenetv3_large_100", library="timm"),
    "RegNetY-400MF (timm)": Network("regnety_004", library="timm"),
    "DenseNet-121 (timm)": Network("densenet121", library="timm"),
}
TASKS: Final = ("inference", "training")


# ---------------------------------------------------------------------------------------------- within a child


def measured(network: Network, task: str, contestant: str) -> dict[str, Any]:
    """What one process finds out; ``contestant`` is Dynamo or striate."""
    told: dict[str, Any] = {"import torch s": _seconds(lambda: importlib.import_module("torch"))}
    told["import striate s"] = _seconds(lambda: importlib.import_module("striate").accelerate)
    import torch

    # The first use of torch.compile imports it and more; told apart, since it takes a second or two.
    told["import Dynamo s"] = _seconds(torch.compile, lambda: None, backend=lambda graph, _: graph.forward)
    torch.manual_seed(0)
    model = _built(network).train(task == "training")

    def images(batch: int = _BATCH, size: int = network.size) -> Tensor:
        return torch.randn(batch, network.channels, size, size)

    given = images()
    told["images"] = "x".join(map(str, given.shape))
    call = _call(model, task)
    told["PyTorch's first s"] = _seconds(call, given)
    told["PyTorch's steady s"] = _steady(call, given)
    if contestant == "Dynamo":
        captured = _call(torch.compile(model, backend="eager"), task)
        told["Dynamo alone s"] = _seconds(captured, given)
        if task == "inference":
            told["guards of Dynamo alone us"] = _alone(model, given)
        return told

    import striate
    from striate.acceleration.model import accelerated

    others = {"smaller batch": (_BATCH - 1, network.size), "single image": (1, network.size)}
    if _takes(model, images(2, network.other)):
        others["other size"] = (_BATCH, network.other)
    striate.accelerate(model, quiet=True)
    taken = []
    for at in ("first", "second"):
        before = _dynamo()
        taken.append(_seconds(call, given))
        told |= {f"{at} s": taken[-1], f"Dynamo in {at} s": _dynamo() - before}
    # Then a plan is walked for the first time, and packed weights are checked for the first time.
    third = [_seconds(call, given) for _ in range(3)]
    steady = told["steady s"] = _steady(call, given)
    for at in ("first", "second"):
        told[f"striate in {at} s"] = told[f"{at} s"] - told[f"Dynamo in {at} s"] - steady
    told["next three s"] = sum(third) - 3 * steady
    found = accelerated(model)
    assert found is not None
    graphs = told["graphs"] = len(found.graphs)
    for name, (batch, size) in others.items():
        shown = images(batch, size)
        seconds = [_seconds(call, shown) for _ in range(2)]
        told[f"{name}: graphs"] = len(found.graphs) - graphs
        told[f"{name} s"] = sum(seconds) - 2 * _steady(call, shown)
        graphs = len(found.graphs)
    if task == "inference":
        told["guards us"] = _guards(model, given)
    return told


def _built(network: Network) -> nn.Module:
    """As its author would have written it without striate."""
    if network.library == "timm":
        from benchmarks.libraries import of_timm

        return of_timm(network.name)
    from benchmarks.steps import plain
    from striate import models

    return plain(models.create(network.name))


def _call(model: Callable[..., Any], task: str) -> Callable[[Tensor], object]:
    """Inference, or forward and backward, with gradients made anew as after ``zero_grad``."""
    import torch

    def infer(images: Tensor) -> object:
        with torch.no_grad():
            return model(images)

    def train(images: Tensor) -> object:
        model(images).sum().backward()
        return None

    return train if task == "training" else infer


def _takes(model: nn.Module, images: Tensor) -> bool:
    """Whether a network takes images of this size."""
    import torch

    with torch.no_grad():
        try:
            model(images)
        except (RuntimeError, ValueError, AssertionError):
            return False
    return True


def _seconds(run: Callable[..., object], *arguments: Any, **named: Any) -> float:
    start = time.perf_counter()
    run(*arguments, **named)
    return time.perf_counter() - start


def _steady(call: Callable[..., object], *arguments: Any) -> float:
    """Median seconds of calls like those that came before."""
    call(*arguments)
    return statistics.median(_seconds(call, *arguments) for _ in range(7))


def _dynamo() -> float:
    """Seconds that Dynamo has spent up to now, by its own account, without those of its backends."""
    from torch._dynamo.utils import calculate_time_spent

    spent = calculate_time_spent()
    return float(spent.get("entire_frame_compile", 0.0) - spent.get("backend_compile", 0.0))


# What a call costs before its graph is entered: graphs that give back what they gave once, and compute nothing.


def _alone(model: nn.Module, images: Tensor) -> float:
    """Microseconds of guards as ``torch.compile`` comes."""
    import torch

    def backend(graph: Any, _: Any) -> Callable[..., Any]:
        return _kept(graph.forward)

    torch.compiler.reset()
    return _per_call(torch.compile(model, backend=backend), images)


def _guards(model: nn.Module, images: Tensor) -> float:
    """Microseconds of guards, and of what else an accelerated model looks at."""
    from striate.acceleration.model import accelerated

    found = accelerated(model)
    assert found is not None
    for graph in found.graphs:
        graph.plans, graph.blocks = None, _kept(graph.blocks)
    return _per_call(model, images)


def _kept(run: Callable[..., Any]) -> Callable[..., Any]:
    found: list[Any] = []

    def once(*arguments: Any) -> Any:
        if not found:
            found.append(run(*arguments))
        return found[0]

    return once


def _per_call(model: Callable[..., Any], images: Tensor) -> float:
    call = _call(model, "inference")
    for _ in range(20):
        call(images)
    return statistics.median(_seconds(call, images) for _ in range(300)) * 1e6


# ---------------------------------------------------------------------------------------------- of all children


def child(name: str, task: str, contestant: str, cache: Path) -> dict[str, Any]:
    """What a process of its own finds out, whose cache is this folder."""
    with tempfile.TemporaryDirectory() as scratch:
        told = Path(scratch) / "told.json"
        subprocess.run(
            [sys.executable, "-m", "benchmarks.capture", name, task, contestant, str(told)],
            check=True,
            env={**os.environ, "STRIATE_CACHE_DIR": str(cache)},
        )
        found: dict[str, Any] = json.loads(told.read_text())
    return found


def rows_of(name: str, task: str, turns: int) -> list[dict[str, Any]]:
    """A network's rows for a task: with an empty cache, and with a full one."""
    runs: dict[str, list[dict[str, Any]]] = {"Dynamo": [], "empty": [], "full": []}
    for _ in range(turns):
        with tempfile.TemporaryDirectory() as cache:
            for contestant in runs:
                asked = contestant if contestant == "Dynamo" else "striate"
                runs[contestant].append(child(name, task, asked, Path(cache)))
    alone = _medians(runs.pop("Dynamo"))
    rows = []
    for cache_, found in runs.items():
        mine = _medians(found)
        row = {"network": name, "task": task, "cache": cache_, "images": mine.pop("images")}
        row |= {key: value for key, value in alone.items() if key not in mine} | mine
        row["added to first s"] = row["first s"] - row["Dynamo alone s"]
        row["added to second s"] = row["second s"] - row["steady s"]
        rows.append({key: _rounded(key, row[key]) for key in COLUMNS if key in row})
    return rows


def _medians(runs: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        key: value if isinstance(value, str) else statistics.median(run[key] for run in runs)
        for key, value in runs[0].items()
    }


def _rounded(key: str, value: Any) -> Any:
    if isinstance(value, str):
        return value
    return round(value, 4) if key.endswith(" s") else round(value)


#: The columns of the file, and those of the table with their headings there.
COLUMNS: Final[dict[str, str]] = {
    "network": "network",
    "task": "task",
    "cache": "cache",
    "images": "",
    "import torch s": "import\ntorch",
    "import striate s": "\nstriate",
    "import Dynamo s": "\nDynamo",
    "PyTorch's first s": "PyTorch's\nfirst",
    "PyTorch's steady s": "",
    "Dynamo alone s": "Dynamo\nalone",
    "first s": "first",
    "second s": "second",
    "next three s": "",
    "steady s": "steady",
    "added to first s": "added to\nfirst",
    "added to second s": "",
    "Dynamo in first s": "",
    "Dynamo in second s": "",
    "striate in first s": "striate\nin first",
    "striate in second s": "in\nsecond",
    "graphs": "graphs",
    "smaller batch: graphs": "batch\nof 3",
    "smaller batch s": "",
    "single image: graphs": "of 1",
    "single image s": "",
    "other size: graphs": "other\nsize",
    "other size s": "",
    "guards of Dynamo alone us": "guards of\nDynamo us",
    "guards us": "of ours\nus",
}


def main(
    only: Annotated[str, typer.Option(help="Only networks whose name contains this.")] = "",
    task: Annotated[str, typer.Option(help="Only inference, or only training.")] = "",
    turns: Annotated[int, typer.Option(help="How many processes of a kind; medians are told.")] = 1,
    save: Annotated[bool, typer.Option(help="Write results/capture.csv.")] = False,
) -> None:
    """Times the first calls of accelerated networks, with an empty cache of kernels and with a full one.

    Example: python -m benchmarks capture --only LeNet-5
    """
    from rich.console import Console
    from rich.table import Table

    from benchmarks.measure import RESULTS, circumstances

    if task not in ("", *TASKS):
        raise typer.BadParameter(f"got {task}, needed {' or '.join(TASKS)}", param_hint="--task")
    errors = Console(stderr=True)
    rows: list[dict[str, Any]] = []
    for name, network in NETWORKS.items():
        if only.lower() not in name.lower():
            continue
        if find_spec(network.library) is None:
            errors.print(f"{name} is left out: {network.library} isn't installed", style="dim")
            continue
        for kind in [task] if task else TASKS:
            errors.print(f"{name}, {kind}", style="dim")
            rows += rows_of(name, kind, turns)
    told = circumstances()
    title = "seconds; graphs that are captured again; " + ", ".join(told.values())
    table = Table(title=title, title_justify="left", box=None, header_style="dim")
    shown = {key: heading for key, heading in COLUMNS.items() if heading}
    for key, heading in shown.items():
        table.add_column(heading, justify="left" if key in ("network", "task", "cache") else "right")
    for row in rows:
        values = (row.get(key, "") for key in shown)
        table.add_row(*(f"{value:.3f}" if isinstance(value, float) else str(value) for value in values))
    Console(width=190).print(table)
    if save:
        RESULTS.mkdir(exist_ok=True)
        with (RESULTS / "capture.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, [*COLUMNS, *told], restval="")
            writer.writeheader()
            writer.writerows([row | told for row in rows])


if __name__ == "__main__":
    name_, task_, contestant_, told_ = sys.argv[1:]
    Path(told_).write_text(json.dumps(measured(NETWORKS[name_], task_, contestant_)))
