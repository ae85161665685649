"""Progress of long computations, on a terminal's stderr, or reported to a function of the same thread."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress

T = TypeVar("T")

#: A function of the computation's name, the finished amount and the total amount, if known. An exception from it ends
#: the computation.
Report: TypeAlias = Callable[[str, int, int | None], object]

_REPORT: Final[ContextVar[Report | None]] = ContextVar("report", default=None)

#: The bars that are shown; a computation within another one adds its own beneath.
_shown: list[Progress] = []


@contextmanager
def reporting(report: Report) -> Iterator[None]:
    """Within it, in this thread, progress goes to ``report`` instead of stderr.

    >>> with reporting(lambda what, done, total: print(what, done, total)):
    ...     squares = [number**2 for number in watched(range(2), "squares")]
    squares 0 2
    squares 1 2
    squares 2 2
    """
    before = _REPORT.set(report)
    try:
        yield
    finally:
        _REPORT.reset(before)


def is_reported() -> bool:
    """Whether this thread has a function for reports."""
    return _REPORT.get() is not None


def watched(things: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
    """The same things, with a bar on stderr while they are taken; nothing where stderr is no terminal."""
    report = _REPORT.get()
    if report is not None:
        yield from _told(things, what, len(things) if total is None and isinstance(things, Sized) else total, report)
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import Progress

    console = Console(stderr=True)
    if not console.is_interactive:
        yield from things
        return
    bars = _shown[-1] if _shown else Progress(console=console, transient=True)
    outermost = not _shown
    if outermost:
        _shown.append(bars)
        bars.start()
    known = len(things) if isinstance(things, Sized) else None
    bar = bars.add_task(escape(what), total=known if total is None else total)
    try:
        for thing in things:
            yield thing
            bars.advance(bar)
    finally:
        bars.remove_task(bar)
        if outermost:
            bars.stop()
            _shown.clear()


def _told(things: Iterable[T], what: str, total: int | None, report: Report) -> Iterator[T]:
    done = 0
    report(what, done, total)
    for thing in things:
        yield thing
        done += 1
        report(what, done, total)
