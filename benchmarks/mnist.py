"""Test accuracy on MNIST over several seeds, with time and spread."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.measure import RESULTS, circumstances


def main(
    data: Annotated[str, typer.Option(help="idx:FOLDER with MNIST's four files.")],
    model: Annotated[str, typer.Option(help="A network's name.")] = "lenet5",
    epochs: Annotated[int, typer.Option(help="Passes over the training images.")] = 12,
    seeds: Annotated[int, typer.Option(help="How many runs, with seeds 0, 1, ...")] = 3,
    augment: Annotated[str, typer.Option(help="How training images are changed.")] = "none",
    batch_size: Annotated[int, typer.Option(help="Images a step.")] = 32,
    ema: Annotated[float | None, typer.Option(help="Decay of a moving average of the weights.")] = None,
    image_size: Annotated[int | None, typer.Option(help="Pixels of a side [default: the network's].")] = None,
    save: Annotated[bool, typer.Option(help="Write results/mnist-MODEL[-AUGMENT].json.")] = False,
) -> None:
    """Trains a network once a seed, by the default recipe but for what is said here.

    \b
    Example:
      python -m benchmarks mnist --data idx:mnist --model lenet5 --augment digits --epochs 15 --save
      python -m benchmarks mnist --data idx:mnist --model resnet18 --image-size 28 --epochs 5 --augment digits --save
    """
    from striate.training import Recipe, fit

    runs: list[dict[str, Any]] = []
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as folder:
            recipe = Recipe(
                model,
                data=data,
                epochs=epochs,
                seed=seed,
                out=f"{folder}/run",
                augment=augment,
                batch_size=batch_size,
                ema=ema,
                image_size=None if image_size is None else (image_size, image_size),
            )
            start = time.perf_counter()
            run = fit(recipe)
            seconds = time.perf_counter() - start
            training = sum(epoch.seconds for epoch in run.history)
            accuracies = [epoch.test_accuracy for epoch in run.history]
            runs.append(
                {
                    "seed": seed,
                    "test_accuracy": run.evaluation.accuracy,
                    "test_accuracy_by_epoch": accuracies,
                    "training_seconds": round(training, 2),
                    "whole_seconds": round(seconds, 2),
                }
            )
    found = [row["test_accuracy"] for row in runs]
    told = circumstances()
    settings = {key: value for key, value in recipe.to_dict().items() if key not in ("data", "out", "seed")}
    summary = {
        "mean": statistics.mean(found),
        "deviation": statistics.stdev(found) if len(found) > 1 else None,
        "least": min(found),
    }
    table = Table(title=f"{model} on MNIST, {epochs} epochs: " + ", ".join(told.values()))
    for column in ("seed", "test accuracy", "training s", "whole s"):
        table.add_column(column, justify="right")
    for row in runs:
        times = (f"{row['training_seconds']:.1f}", f"{row['whole_seconds']:.1f}")
        table.add_row(str(row["seed"]), f"{row['test_accuracy']:.2%}", *times)
    Console().print(table)
    Console().print(f"mean {summary['mean']:.3%}, least {summary['least']:.2%}")
    if save:
        RESULTS.mkdir(exist_ok=True)
        content = {"model": model, **told, "recipe": settings, "summary": summary, "runs": runs}
        name = model if augment == "none" else f"{model}-{augment}"
        (RESULTS / f"mnist-{name}.json").write_text(json.dumps(content, indent=2) + "\n")
