"""The command that writes a network for other programs: export."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from striate.cli.app import Json, app, print_json, refuse_loss, show
from striate.errors import RunError, did_you_mean

if TYPE_CHECKING:
    from striate.export import Subject
    from striate.training import Run


@app.command()
def export(
    source: Annotated[
        str, typer.Argument(metavar="RUN|MODEL", help="The folder of a finished run, or a network trained on ImageNet.")
    ],
    format: Annotated[str, typer.Option(help="onnx, torch-export or safetensors.")] = "onnx",
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="[default: RUN/model.SUFFIX, MODEL.SUFFIX]")] = None,
    weights: Annotated[
        str | None, typer.Option(metavar="FILE|hf-hub:...", help="Of MODEL [default: those that a package ships].")
    ] = None,
    opset: Annotated[int | None, typer.Option(help="ONNX's version of operators, 18 or newer.")] = None,
    suppression: Annotated[
        str | None,
        typer.Option(
            metavar="inside|outside",
            help="Of a detector: where boxes that overlap better ones are left out, in the file or by its reader "
            "[default: inside].",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a trained network to a file for other programs, after comparing the file's results with the network's.

    The file takes batches of any size. Files of detectors and segmentation networks also take pictures of other sizes,
    if the network does. The metadata contain the names of the classes, the preprocessing and the names of the outputs.
    Held-out images of the run (or photographs) are computed by the file and by the network. If the results differ, this
    is an error and no file is written.

    A detector's file returns the rows of all pictures: image (the number of the picture), boxes, labels, scores, masks.

    \b
    Example:
      striate export runs/first --format onnx
      striate export runs/first --format torch-export --out digits.pt2 --json
      striate export efficientnet_lite0 --out lite0.onnx
      striate export runs/detector --out detector.onnx
    """
    from rich.console import Console

    from striate.export import export as write
    from striate.report import tables

    if out is not None:
        refuse_loss(out)
    with Console(stderr=True).status(f"exporting {source}"):
        done = write(_subject(source, weights), format, out, opset=opset, suppression=suppression)
    if as_json:
        print_json(done.to_dict())
    else:
        show(tables.exported(done))


def _subject(source: str, weights: str | None) -> Run | Subject:
    from striate import models
    from striate.export import Subject
    from striate.training import Run

    if source in models.names() and not Path(source).exists():
        return Subject.of_pretrained(models.pretrained(source, weights or "pretrained"), source)
    if weights is not None:
        raise RunError("--weights", f"got {weights!r} for {source!r}", "needed a network: a run has its own weights")
    if not Path(source).exists():
        raise RunError(
            source,
            "no such folder or network",
            "needed the folder of a finished run, or one of `striate models`",
            did_you_mean(source, models.names()),
        )
    return Run.open(source)
