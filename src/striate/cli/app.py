"""The program itself: what all commands share, and how it ends.

A user's mistake ends with exit code 2 and one line on stderr, Ctrl-C with 130. With ``--json`` a command prints one
JSON object on stdout, and nothing else there.
"""

from __future__ import annotations

import difflib
import io
import json
import logging
import os
import shlex
import shutil
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn, TextIO, TypeVar

import typer
from typer.core import TyperCommand

from striate.cli.help import Command, Commands
from striate.errors import RunError, StriateError, readable

if TYPE_CHECKING:
    import torch
    from matplotlib.figure import Figure
    from torch import Tensor


_Function = TypeVar("_Function", bound=Callable[..., Any])


class _Group(Commands):
    """Makes Ctrl-C in any command end with one line and exit code 130; click would handle it differently."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            say(str(stop) or "interrupted")
            raise typer.Exit(130) from stop


class _App(typer.Typer):
    """Every command's help is laid out by :class:`Command`."""

    def command(
        self, name: str | None = None, *, cls: type[TyperCommand] | None = Command, **settings: Any
    ) -> Callable[[_Function], _Function]:
        return super().command(name, cls=cls, **settings)


app = _App(
    cls=_Group,
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
#: The exception that click raises for an invalid command line. Only typer knows which click it uses.
_UsageError: Final = typer.BadParameter.__mro__[1]

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout instead of tables.")]


MaxPixels = Annotated[
    int | None, typer.Option("--max-pixels", min=1, help="Image files may have so many [default: 178956970].")
]
SkipBroken = Annotated[bool, typer.Option("--skip-broken", help="Go on without image files that can't be read.")]


def main(arguments: list[str] | None = None) -> NoReturn:
    """Runs ``striate ARGUMENTS`` (those of the process by default) and leaves with its exit code."""
    for stream in (sys.stdout, sys.stderr):
        # Names may contain characters that the encoding of a terminal or pipe lacks; these are escaped.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    # Matplotlib logs where it stores its list of fonts, and when it builds one.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.showwarning = _warned
        try:
            code = typer.main.get_command(app).main(arguments, prog_name="striate", standalone_mode=False) or 0
            if sys.stdout is not None:  # closed by whoever started this
                sys.stdout.flush()
            sys.exit(code)
        except StriateError as error:
            _fail(str(error))
        except KeyboardInterrupt:
            say("interrupted")
            sys.exit(130)
        except BrokenPipeError:
            _leave_quietly()
        except OSError as error:
            # Files are first written under a temporary name, which the user doesn't know.
            where = str(error.filename or "output").removesuffix(".partial")
            _fail(f"{where}: {error.strerror or error}")
        except Exception as error:
            if not isinstance(error, _UsageError):
                raise  # a bug in striate, which needs its traceback
            _fail(error.format_message())  # type: ignore[attr-defined]


def _fail(message: str) -> NoReturn:
    say(f"error: {message}")
    sys.exit(2)


def _leave_quietly() -> NoReturn:
    """The reader of the output has gone; further output, also at exit, is discarded."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(1)


_show_warning: Final = warnings.showwarning


def _warned(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Shows one of striate's own warnings as one line, without its location in the source."""
    if category.__module__.partition(".")[0] == "striate":
        say(f"warning: {message}")
    else:
        _show_warning(message, category, filename, lineno, file, line)


def hush() -> None:
    """Suppresses all further warnings, for ``--quiet``."""
    warnings.simplefilter("ignore")


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
    """Prints tables and lines on stdout; names may contain any characters."""
    from rich.console import Console
    from rich.text import Text

    from striate.report.text import Shown

    console = Console(highlight=False, markup=False, emoji=False)
    if not console.file.isatty():
        console.width = 1000  # lines to a pipe or a file aren't wrapped
    for each in shown:
        console.print(Shown(each) if isinstance(each, str | Text) else each)
    console.print()


def program() -> str:
    """The command for this program: its name if the shell finds it, else the file that was started."""
    started = Path(sys.argv[0])
    if started.name != "striate" or shutil.which("striate") is not None:
        return "striate"
    return shlex.quote(os.path.relpath(started))


def say(text: str) -> None:
    """Prints one line on stderr for the user."""
    print(readable(" ".join(text.split())), file=sys.stderr, flush=True)


def print_json(value: Mapping[str, Any]) -> None:
    print(json.dumps(value, allow_nan=False))


def refuse_loss(out: Path, inputs: Iterable[str | Path] = ()) -> None:
    """Refuses to overwrite a command's input or a file of a run.

    Raises:
        RunError: ``out`` is such a file.
    """
    from striate.training.folder import refuse_own

    refuse_own(out)
    if out.exists() and any(Path(each).exists() and out.samefile(each) for each in inputs):
        raise RunError(str(out), "is a file that is read", "needed another name for what is written")


def draw(out: Path, figure: Callable[[], Figure]) -> None:
    from striate.files import write_whole
    from striate.report import figures

    refuse_loss(out)
    write_whole(out, figures.png(figure()))


def is_network(text: str) -> bool:
    """Whether this means a network's name, possibly mistyped, and not a run's folder."""
    from striate import models

    return not Path(text).exists() and bool(difflib.get_close_matches(text, models.names(), n=1, cutoff=0.8))


@dataclass(frozen=True)
class Named:
    """The network that a command uses.

    Args:
        model: the network, in evaluation mode if it is trained.
        name: its name.
        shape: (C, H, W) of its images.
        read: from an image file to a fitted image, uint8 (C, H, W).
        prepare: from fitted images, uint8 (N, C, H, W), to the network's input.
    """

    model: torch.nn.Module
    name: str
    shape: tuple[int, int, int]
    read: Callable[[str | Path], Tensor]
    prepare: Callable[[Tensor], Tensor]


def network_of(model: str, size: str | None, max_pixels: int | None = None) -> Named:
    """A network by name or from a run's folder; ``size`` is CxHxW, or None for its own."""
    from striate import models as known
    from striate.cli.sizes import check_size
    from striate.data import MAX_PIXELS, Fit
    from striate.data.decoding import Reading
    from striate.training import Run

    given = None if size is None else _channels_first(size)
    if model in known.names() or not Path(model).exists():
        shape = given or known.input_shape(model)
        network = known.create(model, in_channels=shape[0], small_input=known.has_small_form(model, shape[1:]))
        network = _dense(network, model)
        if given is not None:
            check_size(network, model, given, known.input_shape(model)[1:])
        read = Reading(Fit(shape[1:]), shape[0], max_pixels or MAX_PIXELS)
        return Named(network, model, shape, read, lambda pixels: pixels / 255)
    run = Run.open(model)
    settings, how = run.settings, run.preprocessing
    network = _dense(run.model(), settings.recipe.model)
    if given is not None:
        check_size(network, settings.recipe.model, given, settings.image_size)
        how = how.at(given[1:])
    shape = (how.channels, *how.image_size)
    return Named(network, settings.recipe.model, shape, how.reading(max_pixels or MAX_PIXELS), how.normalization)


def _dense(network: torch.nn.Module, name: str) -> torch.nn.Module:
    """A network; for a detector, the part that can be analysed, with a message to the user."""
    from striate.models.dense import dense_part

    part = dense_part(network)
    if part is None:
        return network
    say(f"{name}: of the layers that compute maps; what follows depends on what is on the picture")
    return part


def _channels_first(text: str) -> tuple[int, int, int]:
    sides = text.lower().split("x")
    if len(sides) != 3 or not all(side.isdecimal() and int(side) for side in sides):
        raise RunError("--size", f"got {text!r}", "needed channels x height x width, as 3x224x224")
    channels, height, width = map(int, sides)
    return channels, height, width
