"""The command that trains a network: train."""

from __future__ import annotations

import dataclasses
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from striate.cli import pictures
from striate.cli.app import Json, app, draw, hush, print_json, program, show
from striate.cli.evaluate import print_evaluation
from striate.errors import readable
from striate.training.recipe import AUGMENTS, CHANGES, OPTIMIZERS, PRECISIONS, SCHEDULES, WEIGHTINGS, Recipe

if TYPE_CHECKING:
    from striate.training import Run


def _option(name: str, text: str, heading: str | None = None, *short: str) -> Any:
    """An option that sets a field of the recipe; if it isn't given, it is None, and the recipe's default applies."""
    default = getattr(Recipe, name, None)
    shown = "" if default is None or isinstance(default, bool) else f" [default: {default}]"
    spelt = (f"--{name.replace('_', '-')}", *short)
    return typer.Option(*spelt, help=text + shown, show_default=False, rich_help_panel=heading)


_IMAGES: Final = "Which images, and how they reach the network"
_LEARNING: Final = "How it learns"
_AUGMENTING: Final = "How training images are changed"
_TRANSFER: Final = "Beginning with trained weights"
_COMPUTING: Final = "How it is computed"


@app.command()
def train(
    context: typer.Context,
    model: Annotated[str | None, typer.Argument(help="One of `striate models`; with --resume, the run knows.")] = None,
    data: Annotated[
        str | None,
        _option(
            "data",
            "Labelled images: digits, idx:FOLDER (MNIST), cifar:FOLDER, folder:PATH, hf:PATH (parquet, Hub). "
            "Annotated ones: scenes, coco:FILE, voc:FOLDER, yolo:FOLDER, masks:FOLDER, labelme:FOLDER.",
        ),
    ] = None,
    epochs: Annotated[int | None, _option("epochs", "Passes over the training images.")] = None,
    out: Annotated[str | None, _option("out", "The run's folder [default: runs/MODEL-DATA-N, a new one].")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out, or begin it.")] = False,
    seed: Annotated[int | None, _option("seed", "Of initial weights, orders and the hold-out.")] = None,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Settings from a TOML file, or a run's settings.json.")
    ] = None,
    test_fraction: Annotated[
        float | None, _option("test_fraction", "Share held out for testing, where the data have no test set.", _IMAGES)
    ] = None,
    val_fraction: Annotated[
        float | None, _option("val_fraction", "Share held out for validation, where they have no such set.", _IMAGES)
    ] = None,
    folds: Annotated[
        int | None,
        typer.Option(min=2, help="Train so often, each time testing on another part.", rich_help_panel=_IMAGES),
    ] = None,
    image_size: Annotated[
        str | None,
        _option(
            "image_size",
            "As 28 or 28x32, to 64 in the model's small form [default: the weights' or the model's].",
            _IMAGES,
        ),
    ] = None,
    fit: Annotated[
        str | None,
        _option("fit", "How images get that size: crop, squash or frame [default: the weights', or frame].", _IMAGES),
    ] = None,
    preprocessing: Annotated[
        str | None,
        _option("preprocessing", "Whose: weights, imagenet or data [default: the weights', if they say].", _IMAGES),
    ] = None,
    channels: Annotated[
        int | None, _option("channels", "1 (grey) or 3 (colour) [default: the weights' or the data's].", _IMAGES)
    ] = None,
    skip_broken: Annotated[
        bool | None, _option("skip_broken", "Go on without image files that can't be read.", _IMAGES)
    ] = None,
    max_pixels: Annotated[
        int | None, _option("max_pixels", "Image files may have so many [default: 178956970].", _IMAGES)
    ] = None,
    keep_images: Annotated[
        str | None,
        _option("keep_images", "In the run's folder: none, figures, copies [default: figures of yours].", _IMAGES),
    ] = None,
    checkpoint_every: Annotated[float | None, _option("checkpoint_every", "Seconds between checkpoints.")] = None,
    tensorboard: Annotated[bool | None, _option("tensorboard", "Write metrics for TensorBoard as well.")] = None,
    batch_size: Annotated[int | None, _option("batch_size", "Images a step.", _LEARNING)] = None,
    optimizer: Annotated[
        str | None,
        _option(
            "optimizer",
            ", ".join(OPTIMIZERS) + " [default: the model's, or sgd; adamw for trained weights].",
            _LEARNING,
        ),
    ] = None,
    learning_rate: Annotated[
        float | None,
        _option(
            "learning_rate",
            "The schedule's peak [default: sgd 0.05 or the model's, others 0.001; trained weights 0.001, 0.0001].",
            _LEARNING,
            "--lr",
        ),
    ] = None,
    momentum: Annotated[
        float | None, _option("momentum", "Of sgd and muon; adamw's first decay rate.", _LEARNING)
    ] = None,
    weight_decay: Annotated[float | None, _option("weight_decay", "On weights, not on biases.", _LEARNING)] = None,
    schedule: Annotated[str | None, _option("schedule", ", ".join(SCHEDULES) + ".", _LEARNING)] = None,
    warmup: Annotated[float | None, _option("warmup", "Share of the steps in which the rate rises.", _LEARNING)] = None,
    label_smoothing: Annotated[
        float | None, _option("label_smoothing", "Probability spread over all classes [default: 0.1].", _LEARNING)
    ] = None,
    clip_norm: Annotated[
        float | None, _option("clip_norm", "Largest 2-norm of the gradient [default: any].", _LEARNING)
    ] = None,
    ema: Annotated[
        float | None, _option("ema", "Decay of a moving average of the weights, which is then tested.", _LEARNING)
    ] = None,
    early_stopping: Annotated[
        int | None,
        _option("early_stopping", "Stop after so many epochs without a smaller validation loss.", _LEARNING),
    ] = None,
    keep: Annotated[
        str | None, _option("keep", "The last epoch's weights, or the best by validation.", _LEARNING)
    ] = None,
    class_weights: Annotated[
        str | None, _option("class_weights", "Of the loss: " + ", ".join(WEIGHTINGS) + ".", _LEARNING)
    ] = None,
    balanced_sampling: Annotated[
        bool | None, _option("balanced_sampling", "Show as many images of each class.", _LEARNING)
    ] = None,
    find_lr: Annotated[
        bool,
        typer.Option("--find-lr", help="Only try learning rates, and draw the loss.", rich_help_panel=_LEARNING),
    ] = False,
    augment: Annotated[
        str | None,
        _option(
            "augment",
            ", ".join(AUGMENTS)
            + "; of annotated pictures some of "
            + ", ".join(CHANGES)
            + " joined by + [default: none; resized-crop for weights that expect crops].",
            _AUGMENTING,
        ),
    ] = None,
    erase: Annotated[float | None, _option("erase", "Probability that a rectangle turns black.", _AUGMENTING)] = None,
    mixup: Annotated[
        float | None, _option("mixup", "Beta's parameter for means of two images; 0: none.", _AUGMENTING)
    ] = None,
    cutmix: Annotated[
        float | None, _option("cutmix", "Beta's parameter for one image in another; 0: none.", _AUGMENTING)
    ] = None,
    weights: Annotated[str | None, _option("weights", "A file of weights, or pretrained.", _TRANSFER)] = None,
    head: Annotated[
        str | None,
        _option("head", "How a last layer for other classes begins: probe (fitted to features) or random.", _TRANSFER),
    ] = None,
    freeze: Annotated[
        str | None,
        _option(
            "freeze",
            "Keep the weights of the backbone (all before the last linear layers), or of all-but-head.",
            _TRANSFER,
        ),
    ] = None,
    backbone_lr_factor: Annotated[
        float | None, _option("backbone_lr_factor", "The backbone's learning rate, in those of the rest.", _TRANSFER)
    ] = None,
    freeze_batch_norm: Annotated[
        bool | None,
        typer.Option(
            "--freeze-batch-norm/--no-freeze-batch-norm",
            help="Batch normalisation keeps its statistics [default: with trained weights].",
            show_default=False,
            rich_help_panel=_TRANSFER,
        ),
    ] = None,
    device: Annotated[str | None, _option("device", "auto, cpu, cuda, cuda:1, mps.", _COMPUTING)] = None,
    threads: Annotated[int | None, _option("threads", "On the CPU [default: PyTorch's number].", _COMPUTING)] = None,
    engine: Annotated[
        str | None, _option("engine", "On the CPU: auto (striate where it is faster), llvm or aten.", _COMPUTING)
    ] = None,
    precision: Annotated[str | None, _option("precision", ", ".join(PRECISIONS) + ".", _COMPUTING)] = None,
    accumulate: Annotated[
        int | None, _option("accumulate", "Parts of a step's images that go through one by one.", _COMPUTING)
    ] = None,
    checkpoint_activations: Annotated[
        bool | None, _option("checkpoint_activations", "Less memory for more time.", _COMPUTING)
    ] = None,
    workers: Annotated[
        int | None,
        _option("workers", "Processes that decode; images stay in their files [default: by size].", _COMPUTING),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")] = False,
    as_json: Json = False,
) -> None:
    """Train a network, test it, and write everything to a folder.

    If a run is killed or stopped at any moment, it can continue with --resume, and ends with the same numbers.

    \b
    Example:
      striate train lenet5 --data digits --epochs 20 --out runs/first
      striate train --resume --out runs/first
      striate train lenet5 --data idx:mnist --augment digits --epochs 15
      striate train centernet_small --data scenes
      torchrun --nproc-per-node 2 -m striate train lenet5 --data idx:mnist --out runs/two
    """
    from striate.training import fit as train_by
    from striate.training import recipe_for
    from striate.training.config import parse_size, read_config

    if quiet:
        hush()
    given = {} if config is None else read_config(config)
    given |= {name: context.params[name] for name in _FIELDS if context.params[name] is not None}
    if image_size is not None:
        given["image_size"] = parse_size(image_size, "--image-size")
    if find_lr:
        _find_rate(recipe_for(given, resume=False), quiet=quiet, as_json=as_json)
        return
    if folds is not None:
        _cross_validate(recipe_for(given, resume=False), folds, resume=resume, quiet=quiet, as_json=as_json)
        return
    run = train_by(recipe_for(given, resume=resume), resume=resume, quiet=quiet)
    if os.environ.get("RANK", "0") != "0":
        return  # of several processes, only the leader prints
    pictures.save(run)  # before anything is printed, because the reader of the output may close it
    if as_json:
        print_json({"path": str(run.path), "epochs": len(run.history), **run.evaluation.to_dict()})
        return
    from rich.text import Text

    from striate.report import tables

    print_evaluation(run.evaluation)
    if run.task.name == "classification" and (examples := run.examples()):
        show(tables.examples(examples[:_EXAMPLES]))
    there = {name: words for name, words in _FILES.items() if (run.path / name).exists()}
    show(Text(f"all of it is in {readable(run.path)}"), tables.described(there))
    show("next:", *_next(run))


#: Fields of the recipe that an option sets without conversion.
_FIELDS: Final = tuple(
    field.name for field in dataclasses.fields(Recipe) if field.name not in ("image_size", "folds", "fold")
)
#: The files in a run's folder after `striate train`.
_FILES: Final = {
    "weights.safetensors": "the trained weights",
    "settings.json": "everything the run was made with",
    "metrics.jsonl": "loss and accuracy, a line an epoch",
    "card.md": "a description of the network for those who are to use it",
    "images.csv": "which images it learnt from and was tested on",
    "predictions.csv": "what it says of each held-out image",
    "validation.csv": "what it says of each validation image",
    "evaluation.json": "the held-out images: accuracy, each class, confusion matrix, calibration",
    "curves.png": "loss and accuracy over the epochs",
    "confusion.png": "which class is taken for which",
    "predictions.png": "held-out images with their predictions",
    "errors.png": "the mistakes that it is surest of",
    "reliability.png": "how far its probabilities can be believed",
    "rankings.png": "each class against the rest: precision, recall and ROC",
    "recall.png": "of each class's images the share that is recognised",
    "samples": "which images these are, and copies of them where they are kept",
    "augmented.png": "training images, each row followed by how they were changed",
    "detections.jsonl": "what it finds on each held-out picture, a line each",
    "maps": "class maps of some held-out pictures",
    "curves-precision.png": "precision over recall",
    "classes.png": "how well each class is found",
    "tensorboard": "the metrics, for `tensorboard --logdir`",
}
_EXAMPLES: Final = 6


def _next(run: Run) -> list[str]:
    """Commands for a finished run, as the user can type them."""
    from striate.tasks.task import SAMPLES

    folder = shlex.quote(str(run.path))
    copies = sorted((run.path / SAMPLES).glob("*.png"))
    image = shlex.quote(str(copies[0])) if copies else "PHOTO.jpg"
    if run.task.name != "classification":
        return [f"  {program()} predict {image} --model {folder} --out found"]
    return [f"  {program()} {what} {image} --model {folder}" for what in ("predict", "explain")]


def _find_rate(recipe: Recipe, *, quiet: bool, as_json: bool) -> None:
    from striate.report import evaluation as report
    from striate.training.finder import find_learning_rate

    found = find_learning_rate(recipe, quiet=quiet)
    out = Path("learning-rates.png")
    draw(out, lambda: report.learning_rates(found))
    if as_json:
        print_json(found.to_dict())
        return
    show(f"suggested: --learning-rate {found.suggestion:.2g}, a tenth of where the loss was smallest; drawn in {out}")


def _cross_validate(recipe: Recipe, folds: int, *, resume: bool, quiet: bool, as_json: bool) -> None:
    from striate.report import tables
    from striate.training.cross_validation import cross_validate

    found = cross_validate(recipe, folds, resume=resume, quiet=quiet)
    for run in found.runs:
        pictures.save(run)
    if as_json:
        print_json({"path": str(found.path), **found.to_dict()})
        return
    each = {
        run.path.name: f"accuracy {run.evaluation.accuracy:.2%}, loss {run.evaluation.loss:.4f}" for run in found.runs
    }
    show(tables.described(each))
    accuracy = found.accuracy
    show(f"accuracy over {folds} folds: {accuracy.mean:.2%}, standard deviation {accuracy.deviation:.2%}")
    show(f"all of it is in {readable(found.path)}; predictions.csv has every image, as the fold that held it out says")
    show("next:", *_next(found.runs[0]))
