"""How far a long computation is, on a terminal's stderr."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress

T = TypeVar("T")

#: The bars that are shown; a computation within another one adds its own beneath.
_shown: list[Progress] = []


def watched(things: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
    """The same things, with a bar on stderr while they are taken; nothing where stderr is no terminal."""
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
