"""The command line: parse, call, print. What a command does is elsewhere, and loaded only once it is asked for.

A user's mistake ends with exit code 2 and one line on stderr, Ctrl-C with 130. With ``--json`` a command prints one
JSON object on stdout, and nothing else there.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn, cast

import typer
from typer.core import TyperGroup

from striate.errors import RunError, StriateError
from striate.training.recipe import OPTIMIZERS, SCHEDULES, Recipe

if TYPE_CHECKING:
    import torch
    from matplotlib.figure import Figure
    from torch import Tensor

    from striate.training import Evaluation


class _Commands(TyperGroup):
    """Ctrl-C in any command is one line and 130; click would turn it into something else on its way out."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            print(str(stop) or "interrupted", file=sys.stderr)
            raise typer.Exit(130) from stop


app = typer.Typer(
    cls=_Commands,
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
#: What click raises when the command line itself is wrong. Only typer knows which click that is.
_UsageError: Final = typer.BadParameter.__mro__[1]

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout instead of tables.")]


def main(arguments: list[str] | None = None) -> NoReturn:
    """Runs ``striate ARGUMENTS`` (those of the process by default) and leaves with its exit code."""
    command = typer.main.get_command(app)
    try:
        sys.exit(command.main(arguments, prog_name="striate", standalone_mode=False) or 0)
    except StriateError as error:
        _fail(str(error))
    except OSError as error:
        _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except Exception as error:
        if not isinstance(error, _UsageError):
            raise  # a bug of ours, which deserves its traceback
        _fail(error.format_message())  # type: ignore[attr-defined]


def _fail(message: str) -> NoReturn:
    print("error:", " ".join(message.split()), file=sys.stderr)
    sys.exit(2)


@app.callback(invoke_without_command=True)
def striate(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Convolutional networks on PyTorch: train them, test them, ask them.

    \b
    Example:
      striate train lenet5 --data digits --out runs/first
      striate evaluate runs/first
      striate predict runs/first runs/first/samples/*.png
    """
    if version:
        import striate

        print("striate", striate.__version__)
    elif context.invoked_subcommand is None:
        print(context.get_help())


def _option(name: str, text: str) -> Any:
    """An option that sets a field of the recipe; not given, it is None, and the recipe's default holds."""
    default = getattr(Recipe, name, None)
    shown = "" if default is None else f" [default: {default}]"
    return typer.Option(f"--{name.replace('_', '-')}", help=text + shown, show_default=False)


@app.command()
def train(
    context: typer.Context,
    model: Annotated[str | None, typer.Argument(help="One of `striate models`; with --resume, the run knows.")] = None,
    data: Annotated[str | None, _option("data", "digits, idx:FOLDER (MNIST and relatives) or folder:PATH.")] = None,
    epochs: Annotated[int | None, _option("epochs", "Passes over the training images.")] = None,
    out: Annotated[str | None, _option("out", "The run's folder [default: runs/MODEL-DATA-N, a new one].")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out, or begin it.")] = False,
    batch_size: Annotated[int | None, _option("batch_size", "Images a step.")] = None,
    optimizer: Annotated[str | None, _option("optimizer", " or ".join(OPTIMIZERS) + ".")] = None,
    learning_rate: Annotated[
        float | None, _option("learning_rate", "The schedule's peak [default: 0.05, adamw 0.001, or the model's].")
    ] = None,
    momentum: Annotated[float | None, _option("momentum", "Of sgd; adamw's first decay rate.")] = None,
    weight_decay: Annotated[float | None, _option("weight_decay", "On weights, not on biases.")] = None,
    schedule: Annotated[str | None, _option("schedule", ", ".join(SCHEDULES) + ".")] = None,
    warmup: Annotated[float | None, _option("warmup", "Share of the steps in which the rate rises.")] = None,
    label_smoothing: Annotated[
        float | None, _option("label_smoothing", "Probability spread over all classes [default: 0.1].")
    ] = None,
    clip_norm: Annotated[float | None, _option("clip_norm", "Largest 2-norm of the gradient [default: any].")] = None,
    seed: Annotated[int | None, _option("seed", "Of initial weights, orders and the hold-out.")] = None,
    test_fraction: Annotated[float | None, _option("test_fraction", "Share held out, without a test set.")] = None,
    image_size: Annotated[str | None, _option("image_size", "As 28 or 28x32 [default: the model's].")] = None,
    channels: Annotated[int | None, _option("channels", "1 (grey) or 3 (colour) [default: the data's].")] = None,
    threads: Annotated[int | None, _option("threads", "On the CPU [default: PyTorch's number].")] = None,
    device: Annotated[str | None, _option("device", "auto, cpu, cuda, cuda:1, mps.")] = None,
    checkpoint_every: Annotated[float | None, _option("checkpoint_every", "Seconds between checkpoints.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")] = False,
    as_json: Json = False,
) -> None:
    """Train a network, test it, and write all of it to a folder.

    Killed or stopped at any moment, the same run goes on with --resume and ends with the same numbers.

    \b
    Example:
      striate train lenet5 --data digits --epochs 20 --out runs/first
      striate train --resume --out runs/first
    """
    from rich.text import Text

    from striate.report import figures, tables
    from striate.training import fit, recipe_for

    given = {name: context.params[name] for name in _FIELDS if context.params[name] is not None}
    if image_size is not None:
        given["image_size"] = _size(image_size)
    run = fit(recipe_for(given, resume=resume), resume=resume, quiet=quiet)
    examples = run.examples()
    figures.save_all(run.path, run.history, run.evaluation, examples)
    if as_json:
        _print_json({"path": str(run.path), "epochs": len(run.history), **run.evaluation.to_dict()})
        return
    _print_evaluation(run.evaluation)
    _print(tables.examples(examples[:_EXAMPLES]))
    _print(Text(f"all of it is in {run.path}"), tables.described(_FILES))


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
        _print_json({"path": run, **evaluation.to_dict()})
    else:
        _print_evaluation(evaluation)


@app.command()
def predict(
    paths: Annotated[list[str], typer.Argument(metavar="[RUN] IMAGE...", help="A run's folder, then image files.")],
    model: Annotated[str | None, typer.Option(metavar="RUN", help="The run's folder, if it isn't the first.")] = None,
    top: Annotated[int, typer.Option(min=1, help="How many classes to name for each image.")] = 3,
    as_json: Json = False,
) -> None:
    """Tell what is on images, by the network of a finished run.

    \b
    Example:
      striate predict runs/first runs/first/samples/*.png
      striate predict photo.jpg --model runs/first --top 5 --json
    """
    from striate.report import tables
    from striate.training import Run

    folder, images = (model, paths) if model is not None else (paths[0], paths[1:])
    if not images:
        raise RunError("predict", "got no image", "needed one or more", f"striate predict {folder} IMAGE...")
    ranked = Run.open(folder).classify(images, top=top)
    if as_json:
        likeliest = [[{"class": name, "probability": share} for name, share in classes] for classes in ranked]
        found = [{"image": image, "top": classes} for image, classes in zip(images, likeliest, strict=True)]
        _print_json({"path": folder, "predictions": found})
    else:
        _print(tables.predictions(images, ranked))


@app.command()
def summary(
    model: Annotated[
        str, typer.Argument(metavar="MODEL|RUN", help="A network's name, or the folder of a finished run.")
    ],
    size: Annotated[str | None, typer.Option(help="CxHxW [default: the network's own].")] = None,
    batch: Annotated[int, typer.Option(min=1, help="How many images at once.")] = 1,
    roofline: Annotated[bool, typer.Option(help="Measure this machine, and tell what holds each layer up.")] = False,
    out: Annotated[Path | None, typer.Option(metavar="PNG", help="Draw it as well.")] = None,
    as_json: Json = False,
) -> None:
    """Tell what a network costs: parameters, multiply-accumulates, memory, layer by layer.

    \b
    Example:
      striate summary lenet5
      striate summary lenet5 --size 3x64x64 --batch 32 --out cost.png
    """
    import torch

    from striate.analysis import summarize
    from striate.engine.timing import roofline as measured
    from striate.report import measures

    network, shape, _ = _network(model, size)
    result = summarize(network, (batch, *shape), roofline=measured(torch.get_num_threads()) if roofline else None)
    if out is not None:
        _draw(out, lambda: measures.costs(result))
    if as_json:
        _print_json(result.to_dict())
    else:
        _print(measures.cost(result), measures.totals(result))


@app.command()
def field(
    model: Annotated[
        str, typer.Argument(metavar="MODEL|RUN", help="A network's name, or the folder of a finished run.")
    ],
    size: Annotated[str | None, typer.Option(help="CxHxW [default: the network's own].")] = None,
    at: Annotated[str | None, typer.Option(metavar="LAYER,Y,X", help="What this position of a layer sees.")] = None,
    image: Annotated[Path | None, typer.Option(metavar="FILE", help="With --at: draw it on this image.")] = None,
    effective: Annotated[bool, typer.Option(help="With --image: how much each pixel matters, by gradients.")] = False,
    out: Annotated[Path, typer.Option(metavar="PNG", help="Where --image draws.")] = Path("field.png"),
    as_json: Json = False,
) -> None:
    """Tell which part of the image each layer of a network sees.

    \b
    Example:
      striate field lenet5
      striate field lenet5 --at s4,1,1 --image digit.png --out field.png
    """
    from striate.analysis import effective_receptive_field, receptive_field
    from striate.data import load_image
    from striate.report import measures

    network, shape, prepare = _network(model, size)
    found = receptive_field(network, shape)
    if at is None:
        if image is not None or effective:
            raise RunError(
                "field", "got an image and no position", "needed --at LAYER,Y,X", "striate field lists the layers"
            )
        if as_json:
            _print_json(found.to_dict())
        else:
            _print(measures.fields(found))
            if found.misaligned:
                _print(measures.misaligned(found))
        return
    layer, position = _position(at)
    row, box = found.at(layer), found.box(layer, position)
    if image is not None:
        if box is None:
            raise RunError("field", f"{layer} sees nothing of the image there", "needed a position that sees some")
        channels, height, width = shape
        pixels = load_image(image, channels=channels, image_size=(height, width))
        shown = pixels.permute(1, 2, 0).numpy()
        if effective:
            density = effective_receptive_field(network, prepare(pixels[None]), layer, position)
            _draw(out, lambda: measures.effective(shown, density, box))
        else:
            _draw(out, lambda: measures.field_box(shown, row, position, box))
    if as_json:
        seen = None if box is None else [list(span) for span in box]
        _print_json({"layer": layer, "position": list(position), "box": seen, "row": row.to_dict()})
    elif box is None:
        _print(f"{layer} at {at.partition(',')[2]} sees nothing of the image")
    else:
        _print(f"{layer} at {at.partition(',')[2]} sees " + ", ".join(f"{a} to {b}" for a, b in box))


def _network(model: str, size: str | None) -> tuple[torch.nn.Module, tuple[int, ...], Callable[[Tensor], Tensor]]:
    """A network by name or from a run's folder, the (C, H, W) of its images, and what makes bytes its input."""
    from striate import models as known
    from striate.training import Run

    given = None if size is None else _channels_first(size)
    if model in known.names() or not Path(model).exists():
        network = known.create(model, in_channels=1 if given is None else given[0])
        return network, given or (1, *cast("tuple[int, int]", network.input_size)), lambda pixels: pixels / 255
    run = Run.open(model)
    settings = run.settings
    return run.model(), given or (settings.channels, *settings.image_size), settings.normalization


def _channels_first(text: str) -> tuple[int, ...]:
    sides = text.lower().split("x")
    if len(sides) != 3 or not all(side.isdecimal() and int(side) for side in sides):
        raise RunError("--size", f"got {text!r}", "needed channels x height x width, as 3x224x224")
    return tuple(int(side) for side in sides)


def _position(text: str) -> tuple[str, tuple[int, ...]]:
    layer, *places = text.split(",")
    if not layer or len(places) != 2 or not all(place.strip().isdecimal() for place in places):
        raise RunError("--at", f"got {text!r}", "needed a layer and a position in its map", "as s4,1,1")
    return layer, tuple(int(place) for place in places)


def _draw(out: Path, figure: Callable[[], Figure]) -> None:
    from striate.report import figures
    from striate.training.files import write_whole

    write_whole(out, figures.png(figure()))


@app.command()
def models(as_json: Json = False) -> None:
    """List the networks that can be trained.

    \b
    Example:
      striate models
    """
    from striate import models as known
    from striate.report import tables

    described = {name: known.describe(name) for name in known.names()}
    if as_json:
        _print_json(described)
    else:
        _print(tables.described(described))


@app.command()
def bench(
    problem: Annotated[str, typer.Argument(help="A line such as 'conv2d 8x64x56x56 128x64x3x3 stride=2 padding=1'.")],
    dtype: Annotated[str, typer.Option(help="float32, float64, float16 or bfloat16.")] = "float32",
    channels_last: Annotated[bool, typer.Option("--channels-last", help="Images with channels side by side.")] = False,
    threads: Annotated[int | None, typer.Option(help="[default: PyTorch's number]", min=1)] = None,
    as_json: Json = False,
) -> None:
    """Time a convolution or pooling on this machine's CPU: each pass, with every backend that computes it.

    Beside the times stand their share of the roofline, the best that the processor's arithmetic and memory allow, both
    measured on the spot; and of those that refuse, why.

    \b
    Example:
      striate bench "conv2d 16x96x28x28 96x1x3x3 padding=1 groups=96"
      striate bench "max_pool2d 8x64x112x112 kernel=3 stride=2 padding=1" --channels-last
    """
    import torch

    from striate.engine import time_problem
    from striate.report import tables

    kinds = {"float32": torch.float32, "float64": torch.float64, "float16": torch.float16, "bfloat16": torch.bfloat16}
    if dtype not in kinds:
        raise RunError("--dtype", f"got {dtype!r}", "needed " + " or ".join(kinds))
    if threads is not None:
        torch.set_num_threads(threads)
    found = time_problem(problem, kinds[dtype], channels_last)
    if as_json:
        _print_json(found.to_dict())
    else:
        _print(tables.timing(found))


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
}
_EXAMPLES: Final = 6


def _size(text: str) -> tuple[int, int]:
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() for side in sides):
        raise RunError("--image-size", f"got {text!r}", "needed pixels, as 28 or (height x width) 28x32")
    return int(sides[0]), int(sides[-1])


def _print(*shown: object) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 1000  # a pipe or a file has no edge to fold lines at
    for each in shown:
        console.print(each)
    console.print()


def _print_evaluation(evaluation: Evaluation) -> None:
    from striate.report import tables

    _print(f"accuracy {evaluation.accuracy:.2%} on {evaluation.n:,} held-out images, loss {evaluation.loss:.4f}")
    _print(tables.classes(evaluation))


def _print_json(value: Mapping[str, Any]) -> None:
    print(json.dumps(value, allow_nan=False))
