"""Serves the page's files, and answers all other requests while the network is being loaded.

Nothing here imports PyTorch, so a browser can show the page while PyTorch is being imported.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

import anyio
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route, Router
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

STATIC: Final = Path(__file__).parent / "static"
#: Seconds between two checks whether the application is ready.
_PAUSE: Final = 0.03


async def _index(request: Request) -> Response:
    return FileResponse(STATIC / "index.html", media_type="text/html")


#: The routes of the page.
PAGE: Final = (Route("/", _index), Mount("/static", StaticFiles(directory=STATIC)))


class Starting:
    """Serves the page; API calls wait until ``app`` is set, which then answers them.

    Whenever ``doing`` changes, a waiting call is answered with status 202 and that text; the page then calls again.

    Attributes:
        app: the application, which answers everything once it is set.
        doing: a description of the current activity, for display.
        patience: the most seconds that a call waits.
    """

    def __init__(self) -> None:
        self.app: ASGIApp | None = None
        self.doing = "starting"
        self.patience = 5.0
        self._page = Router(PAGE, default=self._later)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await (self.app or self._page)(scope, receive, send)

    async def _later(self, scope: Scope, receive: Receive, send: Send) -> None:
        doing, end = self.doing, time.monotonic() + self.patience
        while self.app is None and self.doing == doing and time.monotonic() < end:
            await anyio.sleep(_PAUSE)
        told = {"error": f"studio: is {self.doing}; ask again", "starting": self.doing}
        await (self.app or JSONResponse(told, 202))(scope, receive, send)
