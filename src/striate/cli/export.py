"""Commands that give a network to other programs: export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from striate.cli.app import Json, app, print_json, show


@app.command()
def export(
    run: Annotated[str, typer.Argument(metavar="RUN", help="The folder of a finished run.")],
    format: Annotated[str, typer.Option(help="onnx, torch-export or safetensors.")] = "onnx",
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="[default: model.SUFFIX in the run's folder]")
    ] = None,
    opset: Annotated[int | None, typer.Option(help="ONNX's version of operators, 18 or newer.")] = None,
    as_json: Json = False,
) -> None:
    """Write a trained network to a file for other programs, once its results are those of the network.

    The file takes batches of any size. Its metadata hold the names of the classes and how pixels become its input.
    Held-out images of the run are computed by the file and by the network; if they differ, that is an error, and no
    file is written.

    \b
    Example:
      striate export runs/first --format onnx
      striate export runs/first --format torch-export --out digits.pt2 --json
    """
    from rich.console import Console

    from striate.export import export as write
    from striate.report import tables

    with Console(stderr=True).status(f"exporting {run}"):
        done = write(run, format, out, opset=opset)
    if as_json:
        print_json(done.to_dict())
    else:
        show(tables.exported(done))
