"""How far a long computation is, on a terminal's stderr."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def watched(things: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
    """The same things, with a bar on stderr while they are taken; nothing where stderr is no terminal."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    yield from track(things, what, total=total, console=console, transient=True, disable=not console.is_interactive)
