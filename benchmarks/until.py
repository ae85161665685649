"""Time to a test accuracy on MNIST, whole processes: the same recipe in plain PyTorch, and with ``accelerate``.

Everything that a process does counts, from its start: importing libraries, reading images, compiling or loading
kernels, training, testing every so many steps. Both read the same images in the same order into the same network with
the same initial weights; what differs is a call of ``striate.accelerate``. The plain process never imports striate.
"""

from __future__ import annotations

import gzip
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn.functional as F
import typer
from torch import Tensor, nn

CONTESTANTS = ("PyTorch", "striate")


def network(name: str) -> nn.Sequential:
    """The networks of striate.models with these names, written with PyTorch's layers."""
    if name == "simple_cnn":
        first = [nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        second = [nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        return nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(3136, 10))
    first = [nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)]
    second = [nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 120, 5), nn.ReLU()]
    return nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10))


def _read(folder: Path, part: str) -> tuple[Tensor, Tensor]:
    """Images as (N, 1, 28, 28) between 0 and 1, and labels; the format is that of yann.lecun.com/exdb/mnist."""
    found = []
    for kind, header in (("images-idx3", 16), ("labels-idx1", 8)):
        path = folder / f"{part}-{kind}-ubyte"
        raw = path.read_bytes() if path.exists() else gzip.decompress(path.with_name(path.name + ".gz").read_bytes())
        found.append(torch.frombuffer(bytearray(raw[header:]), dtype=torch.uint8))
    return found[0].reshape(-1, 1, 28, 28).float() / 255, found[1].long()


def train(contestant: str, model: str, folder: Path, goal: float, seed: int, batch: int, every: int) -> dict[str, Any]:
    """Trains until the goal is reached at one of the tests, 20 passes at most."""
    torch.manual_seed(seed)
    layers = network(model)
    if contestant == "striate":
        import striate

        layers = striate.accelerate(layers, quiet=True)
    images, labels = _read(folder, "train")
    test_images, test_labels = _read(folder, "t10k")
    optimizer = torch.optim.Adam(layers.parameters(), lr=2e-3)
    steps, accuracy = 0, 0.0
    for _ in range(20):
        for part in torch.randperm(len(images)).split(batch):
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(layers(images[part]), labels[part]).backward()
            optimizer.step()
            steps += 1
            if steps % every == 0:
                layers.eval()
                with torch.no_grad():
                    right = sum(
                        int((layers(x).argmax(1) == y).sum())
                        for x, y in zip(test_images.split(1000), test_labels.split(1000), strict=True)
                    )
                layers.train()
                accuracy = right / len(test_images)
                if accuracy >= goal:
                    return {"steps": steps, "accuracy": accuracy}
    return {"steps": steps, "accuracy": accuracy}


def main(
    data: Annotated[str, typer.Option(help="MNIST: idx:FOLDER.")],
    model: Annotated[str, typer.Option(help="simple_cnn or lenet5.")] = "simple_cnn",
    goal: Annotated[float, typer.Option(help="Test accuracy to reach.")] = 0.99,
    seeds: Annotated[int, typer.Option(help="How many pairs of runs.")] = 5,
    batch: Annotated[int, typer.Option(help="Images a step.")] = 128,
    every: Annotated[int, typer.Option(help="Steps between tests.")] = 200,
    save: Annotated[bool, typer.Option(help="Write results/until-MODEL.json.")] = False,
) -> None:
    """Times whole processes from their start to a test accuracy, plain PyTorch and accelerated in turns.

    Example: python -m benchmarks until --data idx:mnist --model lenet5 --seeds 3
    """
    from rich.console import Console
    from rich.table import Table

    from benchmarks.measure import RESULTS, circumstances

    folder = Path(data.removeprefix("idx:")).resolve()
    runs: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        # The first run compiles kernels, as the first one of any user does; it is told apart.
        for seed in (-1, *range(seeds)):
            row: dict[str, Any] = {"seed": max(seed, 0), "kernels": "compiled" if seed < 0 else "kept"}
            order = CONTESTANTS if seed % 2 else CONTESTANTS[::-1]
            for contestant in order:
                told = Path(scratch) / "told.json"
                given = [
                    contestant,
                    model,
                    str(folder),
                    str(goal),
                    str(max(seed, 0)),
                    str(batch),
                    str(every),
                    str(told),
                ]
                start = time.perf_counter()
                subprocess.run(
                    [sys.executable, "-m", "benchmarks.until", *given],
                    check=True,
                    env={**os.environ, "STRIATE_CACHE_DIR": scratch},
                )
                seconds = time.perf_counter() - start
                row[contestant] = {"seconds": round(seconds, 2), **json.loads(told.read_text())}
            row["ratio"] = round(row["PyTorch"]["seconds"] / row["striate"]["seconds"], 3)
            runs.append(row)
    table = Table(title=f"{model} to {goal:.1%}: " + ", ".join(circumstances().values()))
    for column in ("seed", "kernels", "PyTorch s", "steps", "striate s", "steps", "ratio"):
        table.add_column(column, justify="right")
    for row in runs:
        theirs, mine = row["PyTorch"], row["striate"]
        cells = (row["seed"], row["kernels"], theirs["seconds"], theirs["steps"], mine["seconds"], mine["steps"])
        table.add_row(*map(str, cells), f"{row['ratio']:.2f}")
    Console().print(table)
    kept = [row["ratio"] for row in runs[1:]]
    Console().print(f"median ratio with kept kernels {statistics.median(kept):.2f}", highlight=False)
    if save:
        RESULTS.mkdir(exist_ok=True)
        content = {"model": model, "goal": goal, "batch": batch, "every": every, **circumstances(), "runs": runs}
        (RESULTS / f"until-{model}.json").write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    *who, seed, batch, every, told = sys.argv[1:]
    reached = train(who[0], who[1], Path(who[2]), float(who[3]), int(seed), int(batch), int(every))
    Path(told).write_text(json.dumps(reached))
