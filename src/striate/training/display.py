"""What a person sees while a network trains: a bar on a terminal, a line an epoch everywhere, all on stderr."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from striate.training.results import Epoch


class Display:
    """Shows a run's progress for as long as it is entered (``with Display(...) as display``).

    Args:
        epochs: of the whole run.
        steps: in an epoch.
        quiet: shows nothing at all.
    """

    def __init__(self, epochs: int, steps: int = 0, *, quiet: bool) -> None:
        # Names may hold what rich would take for markup.
        self._console = Console(stderr=True, quiet=quiet, markup=False, highlight=False, emoji=False)
        # rich takes a pipe for a terminal where colours are asked for; a bar in a log is none.
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
        """Says how many steps an epoch has, once that is known."""
        self._steps = steps
        self._progress.update(self._task, total=self._epochs * steps)

    def note(self, text: str) -> None:
        """A line for the person who watches."""
        self._console.print(text, soft_wrap=True)

    def step(self, epoch: int, step: int, measures: Mapping[str, float], images_per_second: float) -> None:
        """Where the run is: ``epoch`` has begun, ``step`` of its steps are done; means over these, by name."""
        speed = f"  {images_per_second:,.0f} images/s" if self._console.width >= _NARROW else ""
        self._progress.update(
            self._task,
            completed=epoch * self._steps + step,
            description=f"epoch {epoch + 1}/{self._epochs} step {step}/{self._steps}",
            status="  ".join(f"{name} {_shown(name, value).lstrip()}" for name, value in measures.items()) + speed,
        )

    def epoch(self, epoch: Epoch) -> None:
        """An epoch is done: a line, or on a terminal that is too narrow for it a shorter one."""
        number = f"epoch {epoch.epoch:>{len(str(self._epochs))}}/{self._epochs}"
        speed = f"{epoch.seconds:.1f} s, {epoch.images_per_second:,.0f} images/s"
        measured = (("train", epoch.train), (epoch.part, epoch.held_out))
        long = [f"{part} {_list(each, named=True)}" for part, each in measured]
        short = [f"{part} {_list(each, named=False)}" for part, each in measured]
        lines = ["  ".join([number, *parts, speed]) for parts in (long, short)]
        if not self._terminal or len(lines[0]) <= self._console.width:
            self.note(lines[0])
        else:
            self._console.print(lines[1])  # which goes on in the next line at a space, if it must


def _list(measures: Mapping[str, float], *, named: bool) -> str:
    return " ".join((f"{name} " if named else "") + _shown(name, value) for name, value in measures.items())


def _shown(name: str, value: float) -> str:
    """A loss as it is, any other measure as a share in per cent."""
    return f"{value:.4f}" if name.startswith("loss") else f"{value:7.2%}"


#: From so many columns on there is room for a bar beside the numbers.
_WIDE: Final = 100
#: And below so many none for the speed.
_NARROW: Final = 80
