"""The page itself, as files, and the answer to everything else while the network isn't there yet.

Nothing here imports PyTorch, so a browser has the page while PyTorch is still being imported.
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
#: Seconds between looks at whether the application is there.
_PAUSE: Final = 0.03


async def _index(request: Request) -> Response:
    return FileResponse(STATIC / "index.html", media_type="text/html")


#: The routes of the page.
PAGE: Final = (Route("/", _index), Mount("/static", StaticFiles(directory=STATIC)))


class Starting:
    """Answers with the page; calls wait until ``app`` is there, which answers them.

    A call that waits is answered with status 202 and what is being done whenever that changes; the page asks again.

    Attributes:
        app: the application, which answers everything once it is set.
        doing: what is being done, for people.
        patience: seconds that a call waits at most.
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
