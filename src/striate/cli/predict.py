"""The command that uses a trained network: predict."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from striate.cli.app import Json, MaxPixels, app, is_network, print_json, refuse_loss, say
from striate.cli.help import FileCommand
from striate.errors import RunError, readable

if TYPE_CHECKING:
    import torch

    from striate.data import Preprocessing


@app.command(cls=FileCommand)
def predict(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="[RUN|MODEL] IMAGE...", help="A run's folder or a network, then image files or folders."
        ),
    ],
    model: Annotated[
        str | None, typer.Option(metavar="RUN|MODEL", help="The folder or the network, if it isn't the first.")
    ] = None,
    weights: Annotated[
        str | None, typer.Option(metavar="FILE|hf-hub:...", help="Of a network [default: those that a package ships].")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="How many classes to name for each image.")] = 3,
    threshold: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1.0,
            help="Name nothing that is less sure than this [default: all; of objects, where F1 was best].",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE|FOLDER",
            help="Write predictions to a .csv or .jsonl file; of objects and class maps, to a .jsonl file or as "
            "pictures to a folder.",
        ),
    ] = None,
    tta: Annotated[bool, typer.Option("--tta", help="Look at each image and at its mirror image.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="Images that go through the network at once.")] = 32,
    max_pixels: MaxPixels = None,
    as_json: Json = False,
) -> None:
    """Predict what is on images, with the network of a finished run or one that was trained on ImageNet.

    A folder stands for all images in it and in its sub-folders. Files that can't be read are named on stderr, one line
    each, and the exit code is then 1.

    \b
    Example:
      striate predict runs/first runs/first/samples/*.png
      striate predict photo.jpg --model runs/first --top 5 --json
      striate predict photos --model efficientnet_lite0 --out predictions.csv
      striate predict photos --model runs/detector --out found
    """
    from striate import models
    from striate.cli.finding import found_on
    from striate.data import MAX_PIXELS, image_files
    from striate.training import Run
    from striate.training.environment import find_device

    source, given = (model, paths) if model is not None else _model_first(paths)
    if model is not None and _is_run(paths[0]):
        raise RunError("predict", f"got two networks, {readable(model)} and {readable(paths[0])}", "needed one")
    files, skipped = image_files(given)
    if out is not None:
        refuse_loss(out, files)
    where = find_device(device)
    if _is_run(source) and (run := Run.open(source)).task.name != "classification":
        found_on(run, files, where, threshold=threshold, out=out, max_pixels=max_pixels, as_json=as_json)
        return
    network, preprocessing, classes = _network(source, weights)
    found = models.rank(
        network.to(where).eval(),
        preprocessing,
        classes,
        files,
        top=top,
        mirrored=tta,
        device=where,
        batch_size=batch_size,
        max_pixels=max_pixels or MAX_PIXELS,
    )
    failed = _tell(
        found, files, source, top=min(top, len(classes)), threshold=threshold or 0.0, out=out, as_json=as_json
    )
    if skipped:
        kinds = sorted({reason for _, reason in skipped})
        say(f"left out {len(skipped):,} file{'s' * (len(skipped) > 1)} of the folders: {', '.join(kinds[:5])}")
    if failed:
        raise typer.Exit(1 if failed < len(files) else 2)


def _tell(
    found: Any, files: Sequence[Path], source: str, *, top: int, threshold: float, out: Path | None, as_json: bool
) -> int:
    """Prints each prediction immediately; returns the number of files that couldn't be read."""
    from rich.cells import cell_len

    from striate.data.progress import progress
    from striate.tasks.predictions import Prediction, PredictionWriter

    width = min(40, max((cell_len(readable(file)) for file in files), default=0))
    told: list[dict[str, Any]] = []
    errors: list[dict[str, str]] = []
    with contextlib.ExitStack() as stack:
        writer = None if out is None else stack.enter_context(PredictionWriter(out, top=top, truth=False))
        advance = stack.enter_context(progress("predicting", len(files))) if out is not None or as_json else None
        for each in found:
            name = readable(each.image)
            if advance is not None:
                advance()
            if each.error is not None:
                errors.append({"image": name, "error": str(each.error)})
                say(f"error: {each.error}")
                continue
            sure = [(category, share) for category, share in each.likeliest if share >= threshold]
            if writer is not None:
                writer.write(Prediction(name, each.likeliest, named=len(sure)))
            if as_json:
                told.append(
                    {"image": name, "top": [{"class": category, "probability": share} for category, share in sure]}
                )
            elif writer is None:
                words = "  ".join(f"{category} {share:.1%}" for category, share in sure) or "unsure"
                print(f"{name}{' ' * (width - cell_len(name))}  {words}", flush=True)
    if as_json:
        print_json({"path": source, "predictions": told, "errors": errors})
    elif out is not None:
        count = len(files) - len(errors)
        print(f"{count:,} prediction{'s' * (count != 1)} in {readable(out)}")
    return len(errors)


def _network(source: str, weights: str | None) -> tuple[torch.nn.Module, Preprocessing, tuple[str, ...]]:
    """A network with its preprocessing and classes."""
    from striate import models
    from striate.training import Run

    if is_network(source):
        known = models.pretrained(source, weights or "pretrained")
        return known.model, known.preprocessing, known.classes
    if weights is not None:
        raise RunError("--weights", f"got {weights!r} for {source!r}", "needed a network: a run has its own weights")
    run = Run.open(source)
    return run.model(), run.preprocessing, run.classes


def _is_run(path: str) -> bool:
    return (Path(path) / "settings.json").is_file()


def _model_first(paths: list[str]) -> tuple[str, list[str]]:
    """The network and the images, if the network is the first of the arguments."""
    first, images = paths[0], paths[1:]
    if not _is_run(first) and not is_network(first) and (Path(first).exists() or not images):
        raise RunError(
            "predict",
            f"got no network: {readable(first)} is {'a file' if Path(first).is_file() else 'no run or network'}",
            "needed a run's folder or a network's name",
            f"striate predict {readable(first)} --model efficientnet_lite0, or --model runs/first",
        )
    if not images:
        raise RunError("predict", "got no image", "needed one or more", f"striate predict {readable(first)} IMAGE...")
    return first, images
