"""Training steps beside other programs: a loop that computes, and a second PyTorch process.

Every figure comes from a process of its own. The mean is told beside the median, since spinning threads make some steps
very long. Rounds alternate between all cases, so that a slower machine slows all of them.
"""

from __future__ import annotations

import csv
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Final

import typer

#: Images of a step.
WORK: Final = {"lenet5": (128, 1, 28, 28), "resnet18": (16, 3, 64, 64), "mobilenet_v2": (16, 3, 96, 96)}
#: What runs beside a step, by the name of the column.
OTHERS: Final = {"alone": None, "beside a busy process": "loop", "beside PyTorch": "PyTorch"}
#: Who computes, and with which environment. The last one is accelerated as well, but its threads spin as they do by
#: default, because the environment says so.
CONTESTANTS: Final[dict[str, dict[str, str]]] = {
    "striate": {},
    "PyTorch": {},
    "striate, spinning": {"GOMP_SPINCOUNT": "300000"},
}
_ENDLESS: Final = 1e9


def main(
    model: Annotated[str, typer.Option(help=", ".join(WORK) + ".")] = "lenet5",
    rounds: Annotated[int, typer.Option(help="Processes for each figure.", min=1)] = 5,
    seconds: Annotated[float, typer.Option(help="Seconds of steps in a process.")] = 4.0,
    save: Annotated[bool, typer.Option(help="Write results/beside.csv.")] = False,
) -> None:
    """Times training steps alone, beside one busy process, and beside a PyTorch process that trains LeNet-5.

    \b
    Example:
      python -m benchmarks beside --model resnet18
    """
    from rich.console import Console
    from rich.table import Table

    from benchmarks.measure import RESULTS, circumstances

    if model not in WORK:
        raise typer.BadParameter(f"got {model}; needed {', '.join(WORK)}")
    found: dict[tuple[str, str], list[dict[str, float]]] = {(who, by): [] for who in CONTESTANTS for by in OTHERS}
    for turn in range(rounds):
        for (who, by), told in found.items():
            print(f"\rround {turn + 1} of {rounds}: {who}, {by:30}", end="", file=sys.stderr, flush=True)
            with _other(OTHERS[by]):
                told.append(json.loads(_started(who, model, seconds, CONTESTANTS[who]).communicate()[0].split("\n")[1]))
    print(file=sys.stderr)
    rows: list[dict[str, str]] = []
    for (who, by), told in found.items():
        means = [each["mean"] for each in told]
        alone = statistics.median(each["mean"] for each in found[who, "alone"])
        rows.append(
            {
                "network": model,
                "images": "x".join(map(str, WORK[model])),
                "computed by": who,
                "beside": by,
                "median ms": f"{1e3 * statistics.median(each['median'] for each in told):.2f}",
                "mean ms": f"{1e3 * statistics.median(means):.2f}",
                "low": f"{1e3 * min(means):.2f}",
                "high": f"{1e3 * max(means):.2f}",
                "speed to alone": f"{alone / statistics.median(means):.2f}",
                **circumstances(),
            }
        )
    shown = [name for name in rows[0] if name not in circumstances()]
    table = Table(*shown, title="Training steps: " + ", ".join(circumstances().values()))
    for row in rows:
        table.add_row(*(row[name] for name in shown))
    Console(width=160).print(table)
    if save:
        with (RESULTS / "beside.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


@contextmanager
def _other(kind: str | None) -> Iterator[None]:
    """A process that computes meanwhile."""
    if kind is None:
        yield
        return
    process = _started(kind, "lenet5", _ENDLESS, {})
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "ready\n"
        yield
    finally:
        process.kill()
        process.communicate()


def _started(who: str, model: str, seconds: float, environment: dict[str, str]) -> subprocess.Popen[str]:
    code = f"from benchmarks.beside import child; child({who!r}, {model!r}, {seconds!r})"
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, **environment},
    )


def child(who: str, model: str, seconds: float) -> None:
    """Prints "ready" when all is prepared, and at the end the median and the mean of the steps' seconds."""
    until = time.perf_counter() + seconds
    if who == "loop":
        print("ready", flush=True)
        while time.perf_counter() < until:
            pass
        return
    step = _step(who, model)
    for _ in range(10):  # captures, chooses, compiles
        step()
    until = time.perf_counter() + 1  # sees who else computes
    while time.perf_counter() < until:
        step()
    print("ready", flush=True)
    taken: list[float] = []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        start = time.perf_counter()
        step()
        taken.append(time.perf_counter() - start)
        if seconds == _ENDLESS:
            taken.clear()
    print(json.dumps({"median": statistics.median(taken), "mean": statistics.mean(taken)}))


def _step(who: str, name: str) -> Callable[[], Any]:
    import torch
    import torch.nn.functional as F

    import striate
    from benchmarks.steps import plain
    from striate import models

    torch.manual_seed(0)
    model = plain(models.create(name)).train()
    if who != "PyTorch":
        striate.accelerate(model, quiet=True)
    images = torch.randn(WORK[name])
    labels = torch.randint(0, 10, (len(images),))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()

    return step
