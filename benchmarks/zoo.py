"""Networks that striate did not write, accelerated as their users would, against the other ways to run them."""

from __future__ import annotations

import copy
import csv
import gc
import statistics
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Annotated, Any, Final

import torch
import typer
from rich.console import Console
from rich.table import Table

import striate
from benchmarks.libraries import OTHERS, TIMM, TORCHVISION, build
from benchmarks.measure import RESULTS, circumstances, in_turns
from benchmarks.steps import RUNTIMES, inference, lively, training
from striate.engine import tuning

#: Of those that training is timed of.
TRAINED: Final = (
    "alexnet",
    "squeezenet1_1",
    "resnet18",
    "resnet50",
    "googlenet",
    "densenet121",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "shufflenet_v2_x1_0",
    "efficientnet_b0",
    "regnet_y_400mf",
    "resnext50_32x4d",
    "vit_b_32",
    "ghostnet_100",
    "dla34",
)
#: Images that a training step has, and their size; and that of images for inference.
_BATCH, _TRAINED_SIZE, _SIZE = 8, 128, 224
_FILE: Final = RESULTS / "zoo.csv"
#: What tells rows apart.
_KEY: Final = ("network", "task", "images")


def row_of(name: str, task: str, images: int, turns: int, with_compile: bool, runtimes: bool) -> dict[str, Any]:
    """The medians of all ways to run a network, and how many times as long the others take as striate."""
    torch.manual_seed(0)
    torch._dynamo.reset()
    size = _SIZE if task == "inference" else _TRAINED_SIZE
    if "_224" in name or name in ("vit_b_32", "swin_t"):
        size = _SIZE
    original = lively(build(name), torch.randn(4, 3, size, size)).eval()
    shown = torch.randn(images, 3, size, size)
    labels = torch.randint(1000, (images,))
    work = inference if task == "inference" else training
    with torch.no_grad():
        expected = original(shown)
    # The user's model and images as they come: whatever layout is better inside is striate's to find.
    accelerated = striate.accelerate(copy.deepcopy(original), quiet=True)
    made: dict[str, Callable[[], object]] = {"striate": work(accelerated, shown, labels)}
    start = time.perf_counter()
    made["striate"]()
    first = time.perf_counter() - start
    with tuning.at_once():
        for _ in range(4):
            made["striate"]()
    made["PyTorch NCHW"] = work(copy.deepcopy(original), shown, labels)
    last = copy.deepcopy(original).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    made["PyTorch channels_last"] = work(last, shown.contiguous(memory_format=torch.channels_last), labels)
    if with_compile:
        compiled: Any = torch.compile(copy.deepcopy(last))
        made["torch.compile"] = work(compiled, shown, labels)
    if runtimes and task == "inference":
        for runtime, (package, make) in RUNTIMES.items():
            if find_spec(package):
                made[runtime] = make(original, shown)
    if task == "inference":
        given = torch.as_tensor(made["striate"]())
        assert torch.allclose(given, expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item()), name
    times = in_turns(made, turns, rest=0.05 if with_compile or runtimes else 0.0)
    medians = {each: times.median(each) for each in times.seconds}
    eager = min(("PyTorch NCHW", "PyTorch channels_last"), key=medians.__getitem__)
    best = min((each for each in medians if each != "striate"), key=medians.__getitem__)
    low, against_eager, high = times.ratio("striate", eager)
    return {
        "network": name,
        "task": task,
        "images": f"{images}x3x{size}x{size}",
        **{f"{each} ms": round(seconds * 1e3, 3) for each, seconds in medians.items()},
        "first call s": round(first, 2),
        "against eager": round(against_eager, 3),
        "low": round(low, 3),
        "high": round(high, 3),
        "against best": round(times.ratio("striate", best)[1], 3),
        "best": best,
    }


def main(
    turns: Annotated[int, typer.Option(help="How often each contestant runs.")] = 7,
    only: Annotated[str, typer.Option(help="Only networks whose names contain one of these, divided by commas.")] = "",
    task: Annotated[str, typer.Option(help="inference, training or both.")] = "both",
    with_compile: Annotated[bool, typer.Option("--compile", help="torch.compile as well (hours).")] = False,
    runtimes: Annotated[bool, typer.Option(help="ONNX Runtime and OpenVINO as well, for inference.")] = False,
    save: Annotated[bool, typer.Option(help="Write into results/zoo.csv, network by network.")] = False,
) -> None:
    """Times networks of torchvision and timm, and U-Net: inference of 1 and of 8 images, and training steps of 8.

    \b
    Example:
      python -m benchmarks zoo --only resnet,regnet --task inference --runtimes
    """
    works = [(name, "inference", images) for name in (*TORCHVISION, *TIMM, *OTHERS) for images in (1, 8)]
    works += [(name, "training", _BATCH) for name in TRAINED]
    wanted = [each for each in only.split(",") if each]
    rows: list[dict[str, Any]] = []
    console, told = Console(width=150), circumstances()
    for name, kind, images in works:
        if task not in (kind, "both") or (wanted and not any(each in name for each in wanted)):
            continue
        row = row_of(name, kind, images, turns, with_compile, runtimes)
        rows.append(row)
        times = ", ".join(f"{each.removesuffix(' ms')} {value:.2f}" for each, value in row.items() if " ms" in each)
        console.print(
            f"{name}, {kind}, {images}: {row['against eager']:.2f} against eager, {row['against best']:.2f} against "
            f"{row['best']}; ms: {times}; first call {row['first call s']:.1f} s"
        )
        if save:
            _save(rows, told)
        gc.collect()
    table = Table(title=", ".join(told.values()), title_justify="left", box=None, header_style="dim")
    for column in ("task", "images", "networks", "against eager", "least", "against best", "least"):
        table.add_column(column, justify="right")
    for kind, images in dict.fromkeys((each["task"], each["images"].partition("x")[0]) for each in rows):
        alike = [each for each in rows if (each["task"], each["images"].partition("x")[0]) == (kind, images)]
        figures = []
        for column in ("against eager", "against best"):
            ratios = [each[column] for each in alike]
            figures += [f"{statistics.geometric_mean(ratios):.2f}", f"{min(ratios):.2f}"]
        table.add_row(kind, images, str(len(alike)), *figures)
    console.print(table)


def _save(rows: list[dict[str, Any]], told: dict[str, str]) -> None:
    """Writes rows beside those of other networks and tasks that the file has."""
    RESULTS.mkdir(exist_ok=True)
    made = {tuple(str(row[name]) for name in _KEY): row | told for row in rows}
    if _FILE.exists():
        with _FILE.open(newline="") as file:
            before = {tuple(row[name] for name in _KEY): row for row in csv.DictReader(file)}
        made = before | made
    columns = list(dict.fromkeys(column for row in made.values() for column in row))
    with _FILE.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(made.values())
