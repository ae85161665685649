"""The studio's views, one file each: ``routes`` is what a view answers, and ``static/views/NAME.js`` is its page."""

from __future__ import annotations

import importlib
from typing import Final

from starlette.routing import Route

#: The views' names in the order of the page.
VIEWS: Final[tuple[str, ...]] = ("network", "numbers", "pictures", "why", "training", "geometry")


def routes() -> list[Route]:
    """The routes of all views."""
    found: list[Route] = []
    for name in VIEWS:
        found += importlib.import_module(f"{__name__}.{name}").routes
    return found
