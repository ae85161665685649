"""The studio's views, one file each: ``routes`` is what a view answers, and ``static/views/NAME.js`` is its page."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Final

from starlette.routing import Route

if TYPE_CHECKING:
    from striate.studio.workspace import Workspace

#: The views' names in the order of the page.
VIEWS: Final[tuple[str, ...]] = (
    "network",
    "numbers",
    "value",
    "gradients",
    "pictures",
    "why",
    "objects",
    "training",
    "geometry",
)


def routes() -> list[Route]:
    """The routes of all views."""
    found: list[Route] = []
    for name in VIEWS:
        found += importlib.import_module(f"{__name__}.{name}").routes
    return found


def begin(workspace: Workspace) -> None:
    """Lets views begin what goes on from the studio's start, whether or not anybody looks."""
    for name in VIEWS:
        start = getattr(importlib.import_module(f"{__name__}.{name}"), "begin", None)
        if start is not None:
            start(workspace)
