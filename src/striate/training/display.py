"""What a person sees while a network trains: a bar on a terminal, a line an epoch everywhere, all on stderr."""

from __future__ import annotations

from types import TracebackType

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
        self._console = Console(stderr=True, quiet=quiet)
        self._epochs, self._steps = epochs, steps
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[status]}"),
            TimeRemainingColumn(compact=True),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
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
        self._console.print(text, soft_wrap=True, highlight=False, markup=False)

    def step(self, epoch: int, step: int, loss: float, accuracy: float, images_per_second: float) -> None:
        """Where the run is: ``epoch`` has begun, ``step`` of its steps are done; means over these."""
        self._progress.update(
            self._task,
            completed=epoch * self._steps + step,
            description=f"epoch {epoch + 1}/{self._epochs} step {step}/{self._steps}",
            status=f"loss {loss:.4f}  accuracy {accuracy:.2%}  {images_per_second:,.0f} images/s",
        )

    def epoch(self, epoch: Epoch) -> None:
        """An epoch is done."""
        part, loss, accuracy = epoch.held_out
        self.note(
            f"epoch {epoch.epoch:>{len(str(self._epochs))}}/{self._epochs}"
            f"  train loss {epoch.train_loss:.4f} accuracy {epoch.train_accuracy:7.2%}"
            f"  {part} loss {loss:.4f} accuracy {accuracy:7.2%}"
            f"  {epoch.seconds:.1f} s, {epoch.images_per_second:,.0f} images/s"
        )
