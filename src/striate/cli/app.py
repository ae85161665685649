"""The program itself: what all commands share, and how it ends.

A user's mistake ends with exit code 2 and one line on stderr, Ctrl-C with 130. With ``--json`` a command prints one
JSON object on stdout, and nothing else there.
"""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn

import typer
from typer.core import TyperGroup

from striate.errors import RunError, StriateError

if TYPE_CHECKING:
    import torch
    from matplotlib.figure import Figure
    from torch import Tensor


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


def show(*shown: object) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 1000  # a pipe or a file has no edge to fold lines at
    for each in shown:
        console.print(each)
    console.print()


def print_json(value: Mapping[str, Any]) -> None:
    print(json.dumps(value, allow_nan=False))


def draw(out: Path, figure: Callable[[], Figure]) -> None:
    from striate.report import figures
    from striate.training.files import write_whole

    write_whole(out, figures.png(figure()))


def is_network(text: str) -> bool:
    """Whether a network's name is meant, maybe mistyped, and no run's folder."""
    from striate import models

    return not Path(text).exists() and bool(difflib.get_close_matches(text, models.names(), n=1, cutoff=0.8))


def network_of(
    model: str, size: str | None
) -> tuple[torch.nn.Module, tuple[int, int, int], Callable[[Tensor], Tensor]]:
    """A network by name or from a run's folder, the (C, H, W) of its images, and what makes bytes its input."""
    from striate import models as known
    from striate.cli.sizes import check_size
    from striate.training import Run

    given = None if size is None else _channels_first(size)
    if model in known.names() or not Path(model).exists():
        shape = given or known.input_shape(model)
        network = known.create(model, in_channels=shape[0], small_input=known.has_small_form(model, shape[1:]))
        if given is not None:
            check_size(network, model, given, known.input_shape(model)[1:])
        return network, shape, lambda pixels: pixels / 255
    run = Run.open(model)
    settings = run.settings
    if given is not None:
        check_size(run.model(), settings.recipe.model, given, settings.image_size)
    return run.model(), given or (settings.channels, *settings.image_size), settings.normalization


def _channels_first(text: str) -> tuple[int, int, int]:
    sides = text.lower().split("x")
    if len(sides) != 3 or not all(side.isdecimal() and int(side) for side in sides):
        raise RunError("--size", f"got {text!r}", "needed channels x height x width, as 3x224x224")
    channels, height, width = map(int, sides)
    return channels, height, width
