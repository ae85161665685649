"""Commands that make and use a trained network: train, evaluate, predict."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from striate.cli.app import Json, app, hush, is_network, print_json, show
from striate.errors import RunError
from striate.training.recipe import AUGMENTS, OPTIMIZERS, PRECISIONS, SCHEDULES, Recipe

if TYPE_CHECKING:
    from striate.training import Evaluation, Run


def _option(name: str, text: str, heading: str | None = None, *short: str) -> Any:
    """An option that sets a field of the recipe; not given, it is None, and the recipe's default holds."""
    default = getattr(Recipe, name, None)
    shown = "" if default is None or isinstance(default, bool) else f" [default: {default}]"
    spelt = (f"--{name.replace('_', '-')}", *short)
    return typer.Option(*spelt, help=text + shown, show_default=False, rich_help_panel=heading)


_LEARNING: Final = "How it learns"
_AUGMENTING: Final = "How training images are changed"
_TRANSFER: Final = "Beginning with trained weights"
_COMPUTING: Final = "How it is computed"


@app.command()
def train(
    context: typer.Context,
    model: Annotated[str | None, typer.Argument(help="One of `striate models`; with --resume, the run knows.")] = None,
    data: Annotated[
        str | None, _option("data", "digits, idx:FOLDER (MNIST), cifar:FOLDER, folder:PATH or hf:PATH (parquet, Hub).")
    ] = None,
    epochs: Annotated[int | None, _option("epochs", "Passes over the training images.")] = None,
    out: Annotated[str | None, _option("out", "The run's folder [default: runs/MODEL-DATA-N, a new one].")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out, or begin it.")] = False,
    seed: Annotated[int | None, _option("seed", "Of initial weights, orders and the hold-out.")] = None,
    test_fraction: Annotated[float | None, _option("test_fraction", "Share held out, without a test set.")] = None,
    image_size: Annotated[
        str | None, _option("image_size", "As 28 or 28x32, to 64 in the model's small form [default: the model's].")
    ] = None,
    channels: Annotated[int | None, _option("channels", "1 (grey) or 3 (colour) [default: the data's].")] = None,
    checkpoint_every: Annotated[float | None, _option("checkpoint_every", "Seconds between checkpoints.")] = None,
    tensorboard: Annotated[bool | None, _option("tensorboard", "Write metrics for TensorBoard as well.")] = None,
    batch_size: Annotated[int | None, _option("batch_size", "Images a step.", _LEARNING)] = None,
    optimizer: Annotated[str | None, _option("optimizer", " or ".join(OPTIMIZERS) + ".", _LEARNING)] = None,
    learning_rate: Annotated[
        float | None,
        _option(
            "learning_rate", "The schedule's peak [default: 0.05, adamw 0.001, or the model's].", _LEARNING, "--lr"
        ),
    ] = None,
    momentum: Annotated[float | None, _option("momentum", "Of sgd; adamw's first decay rate.", _LEARNING)] = None,
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
    augment: Annotated[str | None, _option("augment", ", ".join(AUGMENTS) + ".", _AUGMENTING)] = None,
    erase: Annotated[float | None, _option("erase", "Probability that a rectangle turns black.", _AUGMENTING)] = None,
    mixup: Annotated[
        float | None, _option("mixup", "Beta's parameter for means of two images; 0: none.", _AUGMENTING)
    ] = None,
    cutmix: Annotated[
        float | None, _option("cutmix", "Beta's parameter for one image in another; 0: none.", _AUGMENTING)
    ] = None,
    weights: Annotated[str | None, _option("weights", "A file of weights, or pretrained.", _TRANSFER)] = None,
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
        bool | None, _option("freeze_batch_norm", "Batch normalisation keeps its statistics.", _TRANSFER)
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
    """Train a network, test it, and write all of it to a folder.

    Killed or stopped at any moment, the same run goes on with --resume and ends with the same numbers.

    \b
    Example:
      striate train lenet5 --data digits --epochs 20 --out runs/first
      striate train --resume --out runs/first
      striate train lenet5 --data idx:mnist --augment digits --epochs 15
      torchrun --nproc-per-node 2 -m striate train lenet5 --data idx:mnist --out runs/two
    """
    from rich.text import Text

    from striate.report import figures, tables
    from striate.training import fit, recipe_for

    if quiet:
        hush()
    given = {name: context.params[name] for name in _FIELDS if context.params[name] is not None}
    if image_size is not None:
        given["image_size"] = _size(image_size)
    run = fit(recipe_for(given, resume=resume), resume=resume, quiet=quiet)
    if os.environ.get("RANK", "0") != "0":
        return  # of several processes, the first one speaks
    examples = run.examples()
    figures.save_all(run.path, run.history, run.evaluation, examples, **_circumstances(run))
    if as_json:
        print_json({"path": str(run.path), "epochs": len(run.history), **run.evaluation.to_dict()})
        return
    _print_evaluation(run.evaluation)
    show(tables.examples(examples[:_EXAMPLES]))
    there = {name: words for name, words in _FILES.items() if (run.path / name).exists()}
    show(Text(f"all of it is in {run.path}"), tables.described(there))


@app.command()
def evaluate(
    run: Annotated[str, typer.Argument(help="The folder of a finished run.")],
    data: Annotated[str | None, typer.Option(help="Other data, with the run's classes [default: the run's].")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
    as_json: Json = False,
) -> None:
    """Test a trained network on held-out images.

    \b
    Example:
      striate evaluate runs/first
      striate evaluate runs/first --data folder:photos --json
    """
    from striate.training import Run
    from striate.training import evaluate as test

    evaluation = test(Run.open(run), data, device=device)
    if as_json:
        print_json({"path": run, **evaluation.to_dict()})
    else:
        _print_evaluation(evaluation)


@app.command()
def predict(
    paths: Annotated[
        list[str], typer.Argument(metavar="[RUN|MODEL] IMAGE...", help="A run's folder or a network, then image files.")
    ],
    model: Annotated[
        str | None, typer.Option(metavar="RUN|MODEL", help="The folder or the network, if it isn't the first.")
    ] = None,
    weights: Annotated[
        str | None, typer.Option(metavar="FILE|hf-hub:...", help="Of a network [default: those that a package ships].")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="How many classes to name for each image.")] = 3,
    as_json: Json = False,
) -> None:
    """Tell what is on images, by the network of a finished run or one that was trained on ImageNet.

    \b
    Example:
      striate predict runs/first runs/first/samples/*.png
      striate predict photo.jpg --model runs/first --top 5 --json
      striate predict photo.jpg --model efficientnet_lite0
    """
    from striate import models
    from striate.report import tables
    from striate.training import Run

    folder, images = (model, paths) if model is not None else (paths[0], paths[1:])
    if not images:
        raise RunError("predict", "got no image", "needed one or more", f"striate predict {folder} IMAGE...")
    if Path(folder).is_file():
        raise RunError(folder, "is a file", "needed a run's folder or a network first", "or name it with --model")
    classifier: Run | models.Pretrained
    if is_network(folder):
        classifier = models.pretrained(folder, weights or "pretrained")
    elif weights is not None:
        raise RunError("--weights", f"got {weights!r} for {folder!r}", "needed a network: a run has its own weights")
    else:
        classifier = Run.open(folder)
    ranked = classifier.classify(images, top=top)
    if as_json:
        likeliest = [[{"class": name, "probability": share} for name, share in classes] for classes in ranked]
        found = [{"image": image, "top": classes} for image, classes in zip(images, likeliest, strict=True)]
        print_json({"path": folder, "predictions": found})
    else:
        show(tables.predictions(images, ranked))


_FIELDS: Final = tuple(field.name for field in dataclasses.fields(Recipe) if field.name != "image_size")
#: What lies in a run's folder after `striate train`.
_FILES: Final = {
    "weights.safetensors": "the trained weights",
    "settings.json": "everything the run was made with",
    "metrics.jsonl": "loss and accuracy, a line an epoch",
    "evaluation.json": "the held-out images: accuracy, each class, confusion matrix",
    "curves.png": "loss and accuracy over the epochs",
    "confusion.png": "which class is taken for which",
    "predictions.png": "held-out images with their predictions",
    "samples": "these images, for `striate predict`",
    "augmented.png": "training images, each row followed by how they were changed",
    "tensorboard": "the metrics, for `tensorboard --logdir`",
}
_EXAMPLES: Final = 6


def _size(text: str) -> tuple[int, int]:
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() for side in sides):
        raise RunError("--image-size", f"got {text!r}", "needed pixels, as 28 or (height x width) 28x32")
    return int(sides[0]), int(sides[-1])


def _circumstances(run: Run) -> dict[str, Any]:
    """In what the training images' loss differs from that of the held-out ones, for the curves."""
    import torch

    from striate import models
    from striate.training.assess import loss_of

    recipe = run.recipe
    with torch.device("meta"):
        model = models.create(recipe.model, small_input=run.settings.small_input)
    loss = loss_of(model, recipe.label_smoothing)
    smoothing = getattr(loss, "keywords", {}).get("label_smoothing", 0.0)
    changed = recipe.augment != "none" or max(recipe.erase, recipe.mixup, recipe.cutmix) > 0
    return {"smoothing": smoothing, "changed": changed}


def _print_evaluation(evaluation: Evaluation) -> None:
    from striate.report import tables

    show(f"accuracy {evaluation.accuracy:.2%} on {evaluation.n:,} held-out images, loss {evaluation.loss:.4f}")
    show(tables.classes(evaluation))
