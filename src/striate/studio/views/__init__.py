"""The studio's views, one file each: ``routes`` has a view's API, and ``static/views/NAME.js`` is its page."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import anyio.to_thread
from starlette.routing import Route, Router
from starlette.types import Receive, Scope, Send

if TYPE_CHECKING:
    from striate.studio.workspace import Workspace

#: The names of the views, in the order of the page.
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


#: The views that are imported at the start.
FIRST: Final = ("network",)


def routes(names: Sequence[str] = VIEWS) -> list[Route]:
    """The routes of views; imports the views."""
    found: list[Route] = []
    for name in names:
        found += importlib.import_module(f"{__name__}.{name}").routes
    return found


class Others:
    """Serves the views that aren't imported at the start; the first request for one of them imports them."""

    def __init__(self) -> None:
        self._router: Router | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._router is None:
            names = [name for name in VIEWS if name not in FIRST]
            self._router = Router(await anyio.to_thread.run_sync(routes, names))
        await self._router(scope, receive, send)


def begin(workspace: Workspace) -> None:
    """Makes the training view follow a run from the studio's start, even if the view isn't open."""
    if workspace.subject.run is not None:
        from striate.studio.views import training

        training.begin(workspace)
