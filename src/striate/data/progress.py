"""A progress bar on stderr."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_PATIENCE = 1.0  # seconds


@contextmanager
def progress(description: str, total: int) -> Iterator[Callable[[], None]]:
    """A function to call after each image. It shows a bar, but only on a terminal and after a short wait."""
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import Progress

    console = Console(stderr=True)
    # rich treats a pipe as a terminal if colours are requested.
    watched = console.is_interactive and console.file.isatty()
    shown, began = Progress(console=console, transient=True), time.monotonic()
    bar = shown.add_task(escape(description), total=total)  # it may name a folder

    def advance() -> None:
        shown.advance(bar)
        if watched and not shown.live.is_started and time.monotonic() - began > _PATIENCE:
            shown.start()

    try:
        yield advance
    finally:
        if shown.live.is_started:
            shown.stop()
