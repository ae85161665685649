"""How much the small networks of detection and segmentation learn on drawn scenes, over several seeds."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.measure import RESULTS, circumstances

#: For each network how many scenes of 128x128 it is trained with, each of them once: what 40 minutes of one core allow.
_SCENES: Final = {"centernet_small": 40_000, "condinst_small": 30_000, "unet": 36_000}
_TEST: Final = 300
#: Pictures of a step, where not 8. The same scenes in batches of 4 are twice as many steps.
_BATCH_SIZES: Final = {"unet": 4}
_RECIPE: Final[dict[str, Any]] = {
    "epochs": 1,
    "optimizer": "muon",
    "learning_rate": 0.006,
    "momentum": 0.95,
    "weight_decay": 0.002,
    "warmup": 0.15,
    "ema": 0.998,
}


def main(
    model: Annotated[str, typer.Argument(help=" or ".join(_SCENES) + ".")],
    seeds: Annotated[int, typer.Option(help="How many runs, with seeds 0, 1, ...")] = 1,
    scenes: Annotated[int | None, typer.Option(help="Scenes to learn from, each once.")] = None,
    threads: Annotated[int | None, typer.Option(help="PyTorch's.")] = None,
    out: Annotated[Path, typer.Option(help="Where the runs lie; a stopped one goes on.")] = Path("runs/scenes"),
    save: Annotated[bool, typer.Option(help="Write results/scenes-MODEL.json.")] = False,
) -> None:
    """Trains a network once a seed on scenes that it sees once, and tests it on 300 of other digits and grounds.

    \b
    Example:
      python -m benchmarks scenes centernet_small --seeds 3 --save
    """
    from striate.training import Recipe, fit

    if model not in _SCENES:
        raise typer.BadParameter(f"got {model}; needed {', '.join(_SCENES)}")
    count = _SCENES[model] if scenes is None else scenes
    settings = {**_RECIPE, "batch_size": _BATCH_SIZES.get(model, 8)}
    runs: list[dict[str, Any]] = []
    for seed in range(seeds):
        folder = out / f"{model}-{count}-{seed}"
        recipe = Recipe(
            model, data=f"scenes:128,{count},{_TEST}", out=str(folder), seed=seed, threads=threads, **settings
        )
        run = fit(recipe, resume=True)
        last = run.history[-1]
        runs.append({"seed": seed, **last.held_out, "training_seconds": round(last.seconds, 1)})
        told = {**circumstances(), "threads": str(run.settings.threads)}
    names = [name for name in runs[0] if name != "seed"]
    table = Table(title=f"{model} on {count:,} scenes: " + ", ".join(told.values()))
    for column in ("seed", *names):
        table.add_column(column, justify="right")
    for row in runs:
        table.add_row(*(f"{row[name]:.4g}" for name in ("seed", *names)))
    Console().print(table)
    summary = {
        name: {
            "mean": statistics.mean(row[name] for row in runs),
            "deviation": statistics.stdev(row[name] for row in runs) if seeds > 1 else None,
        }
        for name in names
    }
    if save:
        RESULTS.mkdir(exist_ok=True)
        content = {"model": model, **told, "scenes": count, "recipe": settings, "summary": summary, "runs": runs}
        (RESULTS / f"scenes-{model}.json").write_text(json.dumps(content, indent=2) + "\n")
