"""Progress of training on stderr: a bar on a terminal, and a line for each epoch everywhere."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from striate.training.results import Epoch


class Display:
    """Shows a run's progress within a ``with`` block (``with Display(...) as display``).

    Args:
        epochs: of the whole run.
        steps: in an epoch.
        quiet: shows nothing at all.
    """

    def __init__(self, epochs: int, steps: int = 0, *, quiet: bool) -> None:
        # Names may contain text that rich would treat as markup.
        self._console = Console(stderr=True, quiet=quiet, markup=False, highlight=False, emoji=False)
        # rich treats a pipe as a terminal if colours are requested; a progress bar in a log file is useless.
        self._terminal = self._console.file.isatty() and not self._console.is_dumb_terminal
        self._epochs, self._steps = epochs, steps
        wide = self._console.width >= _WIDE
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            *([BarColumn(bar_width=None)] if wide else []),
            TextColumn("{task.fields[status]}", markup=False),
            *([TimeRemainingColumn(compact=True)] if wide else []),
            console=self._console,
            transient=True,
            disable=not self._terminal,
        )
        self._task = self._progress.add_task("", total=epochs * steps, status="")

    def __enter__(self) -> Display:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def plan(self, steps: int) -> None:
        """Sets the number of steps of an epoch, once it is known."""
        self._steps = steps
        self._progress.update(self._task, total=self._epochs * steps)

    def note(self, text: str) -> None:
        """Prints a line for the user."""
        self._console.print(text, soft_wrap=True)

    def step(self, epoch: int, step: int, measures: Mapping[str, float], images_per_second: float) -> None:
        """Shows the state: ``step`` steps of ``epoch`` are done, with the means over these steps by name."""
        speed = f"  {images_per_second:,.0f} images/s" if self._console.width >= _NARROW else ""
        self._progress.update(
            self._task,
            completed=epoch * self._steps + step,
            description=f"epoch {epoch + 1}/{self._epochs} step {step}/{self._steps}",
            status="  ".join(f"{name} {_shown(name, value).lstrip()}" for name, value in measures.items()) + speed,
        )

    def epoch(self, epoch: Epoch) -> None:
        """Prints the line of a finished epoch; on a narrow terminal, a shorter one."""
        number = f"epoch {epoch.epoch:>{len(str(self._epochs))}}/{self._epochs}"
        speed = f"{epoch.seconds:.1f} s, {epoch.images_per_second:,.0f} images/s"
        measured = (("train", epoch.train), (epoch.part, epoch.held_out))
        long = [f"{part} {_list(each, named=True)}" for part, each in measured]
        short = [f"{part} {_list(each, named=False)}" for part, each in measured]
        lines = ["  ".join([number, *parts, speed]) for parts in (long, short)]
        if not self._terminal or len(lines[0]) <= self._console.width:
            self.note(lines[0])
        else:
            self._console.print(lines[1])  # wraps at a space if necessary


def _list(measures: Mapping[str, float], *, named: bool) -> str:
    return " ".join((f"{name} " if named else "") + _shown(name, value) for name, value in measures.items())


def _shown(name: str, value: float) -> str:
    """A loss as a number, any other measure in per cent."""
    return f"{value:.4f}" if name.startswith("loss") else f"{value:7.2%}"


#: From this number of columns on, there is space for a bar beside the numbers.
_WIDE: Final = 100
#: Below this number of columns, there is no space for the speed.
_NARROW: Final = 80
