"""Grad-CAM of many images at once against one image after the other."""

from __future__ import annotations

import csv
import warnings
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.measure import RESULTS, circumstances, in_turns
from striate import explain, models

#: Networks, each with whether in its small form, and the (C, H, W) of its images.
_WORK = {
    "simple_cnn": (False, (1, 28, 28)),
    "lenet5": (False, (1, 28, 28)),
    "resnet18": (True, (1, 28, 28)),
    "efficientnet_lite0": (False, (3, 224, 224)),
}


def main(
    images: Annotated[int, typer.Option(help="How many images.")] = 64,
    turns: Annotated[int, typer.Option(help="How often each way runs.")] = 5,
    save: Annotated[bool, typer.Option(help="Write results/explanations.csv.")] = False,
) -> None:
    """Times Grad-CAM of a batch and of its images one by one, after both gave the same maps."""
    rows = []
    for name, (small, shape) in _WORK.items():
        torch.manual_seed(0)
        model = models.create(name, in_channels=shape[0], small_input=small).eval()
        batch = torch.randn(images, *shape)

        def together(model: torch.nn.Module = model, batch: torch.Tensor = batch) -> torch.Tensor:
            return explain.grad_cam(model, batch, 3).map

        def single(model: torch.nn.Module = model, batch: torch.Tensor = batch) -> torch.Tensor:
            return torch.cat([explain.grad_cam(model, image, 3).map for image in batch])

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # untrained networks have images without evidence
            torch.testing.assert_close(together(), single(), rtol=1e-3, atol=1e-5)
            times = in_turns({"together": together, "single": single}, turns)
        low, middle, high = times.ratio("together", "single")
        rows.append(
            {
                "network": name,
                "images": "x".join(map(str, batch.shape)),
                "together ms": round(times.median("together") * 1e3, 1),
                "one by one ms": round(times.median("single") * 1e3, 1),
                "ratio": round(middle, 2),
                "low": round(low, 2),
                "high": round(high, 2),
                **circumstances(),
            }
        )
    table = Table(*list(rows[0])[:7], title="Grad-CAM of a batch")
    for row in rows:
        table.add_row(*map(str, list(row.values())[:7]))
    Console().print(table)
    if save:
        with (RESULTS / "explanations.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
