"""All detection and segmentation networks beside torchvision's, with the same random weights."""

from __future__ import annotations

import csv
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.agreement.here import TOLERANCE, Agreement, agreement
from benchmarks.measure import RESULTS, circumstances
from striate import models

FILE = RESULTS / "peers.csv"
#: Networks that torchvision hasn't got have no peer there.
PREFIXES = ("fasterrcnn_", "maskrcnn_", "retinanet_", "fcos_", "ssd", "fcn_", "deeplabv3_", "lraspp_")


def main(
    networks: Annotated[list[str] | None, typer.Argument(help="Names; by default all that torchvision has.")] = None,
    python: Annotated[str, typer.Option(help="An interpreter that imports torchvision.")] = "/usr/bin/python3",
    single: Annotated[bool, typer.Option(help="Compute in float32: rounding decides whether some are found.")] = False,
    shorter: Annotated[int, typer.Option(help="Pixels to which detectors resize the shorter side.")] = 96,
    size: Annotated[list[str] | None, typer.Option(help="HxW of an image; may be repeated.")] = None,
    save: Annotated[bool, typer.Option(help="Write results/peers.csv, where other networks stay.")] = False,
) -> None:
    """Compares results and losses with torchvision's, which runs in a process of its own.

    Example: python -m benchmarks peers lraspp_mobilenet_v3_large
    """
    dtype = "float32" if single else "float64"
    sizes = size or ["60x80", "66x48"]
    known = [name for task in ("detection", "instance", "semantic") for name in models.names(task)]
    asked = networks or [name for name in known if name.startswith(PREFIXES)]
    console = Console(width=200)
    table = Table("network", "objects", "unmatched", "largest relative differences", "", box=None, header_style="dim")
    made = []
    for name in asked:
        console.print(name, style="dim")
        with tempfile.TemporaryDirectory() as folder:
            made.append(agreement(name, Path(folder), python, dtype, shorter, sizes))
        table.add_row(*cells(made[-1]))
        if save:
            record(made[-1], {"images": " ".join(sizes), "shorter side": shorter, "dtype": dtype})
    console.print(table)
    if not all(each.agrees for each in made):
        raise typer.Exit(1)


def cells(each: Agreement) -> tuple[str, ...]:
    """A row of the table."""
    told = ", ".join(f"{kind} {apart:.1e}" for kind, apart in each.differences.items())
    return each.network, str(each.found), str(each.unmatched), told, "agrees" if each.agrees else "differs"


def record(each: Agreement, where: dict[str, Any]) -> None:
    """Puts a network's row into the file, where one of the same name goes."""
    rows = list(csv.DictReader(FILE.open(newline=""))) if FILE.exists() else []
    told = "; ".join(f"{kind} {apart:.2e}" for kind, apart in each.differences.items())
    row = {
        "network": each.network,
        **{key: str(value) for key, value in where.items()},
        "found": str(each.found),
        "unmatched": str(each.unmatched),
        "largest": f"{max(each.differences.values()):.2e}",
        "tolerance": f"{TOLERANCE:.0e}",
        "differences": told,
        **each.versions,
        **circumstances(),
    }
    rows = sorted([*(old for old in rows if old["network"] != each.network), row], key=lambda each: each["network"])
    with FILE.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(row), extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
