"""The studio's server: Starlette's routes behind the guard, run by uvicorn in a thread or in the foreground."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from striate.errors import StriateError, StudioError, is_out_of_memory
from striate.studio import views
from striate.studio.guard import Guard, new_token
from striate.studio.requests import RequestError, answer, packed, word, workspace_of
from striate.studio.workspace import Workspace

STATIC: Final = Path(__file__).parent / "static"
_LOG: Final = logging.getLogger("striate.studio")


def build(workspace: Workspace, token: str, host: str = "127.0.0.1") -> ASGIApp:
    """The whole application: the page, the subject and all views, behind the guard."""
    app = Starlette(
        routes=[
            Route("/", _index),
            Route("/api/subject", _subject),
            Route("/api/pixels/{picture}", _pixels),
            *views.routes(),
            Mount("/static", StaticFiles(directory=STATIC)),
        ],
        exception_handlers={HTTPException: _refused, StriateError: _mended, Exception: _failed},
    )
    app.state.workspace = workspace
    views.begin(workspace)
    return Guard(_Survivor(app), token, host)


class _Survivor:
    """Answers what no handler has: Starlette sends a 500 and raises the error again, which would only fill the log."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await self._app(scope, receive, send)
        except Exception as error:
            from striate.studio.guard import TooLargeError

            if isinstance(error, TooLargeError):
                raise
            _LOG.debug("answered with 500", exc_info=error)


async def _index(request: Request) -> Response:
    return FileResponse(STATIC / "index.html", media_type="text/html")


async def _subject(request: Request) -> Response:
    workspace = workspace_of(request)
    return answer(
        workspace.subject.to_dict()
        | {"pictures": [each.to_dict() for each in workspace.pictures()], "views": list(views.VIEWS)}
    )


async def _pixels(request: Request) -> Response:
    """A picture's pixels, (C, H, W) from 0 to 255: what the network sees, or with ``what=source`` the picture."""
    picture = workspace_of(request).picture(str(request.path_params["picture"]))
    shown = picture.source if word(request, "what", ("seen", "source"), "seen") == "source" else picture.pixels
    if shown is None:
        raise RequestError("picture", f"{picture.name} is no picture", "needed one with pixels", status=404)
    return packed({"name": picture.name}, shown)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return answer({"error": f"{request.url.path[:80]}: {error.detail}"}, error.status_code)


async def _mended(request: Request, error: Exception) -> Response:
    return answer({"error": str(error)}, error.status if isinstance(error, RequestError) else 422)


async def _failed(request: Request, error: Exception) -> Response:
    if is_out_of_memory(error):
        return answer({"error": "memory: ran out; take a smaller picture or network"}, 507)
    _LOG.error("%s failed", request.url.path, exc_info=error)
    return answer({"error": "studio: failed at this request; the terminal that it was started in says where"}, 500)


class Studio:
    """A server that shows a workspace, at :attr:`address`.

    Args:
        workspace: what is shown.
        host: the address to bind to; only this machine reaches the default.
        port: 0 for any that is free.

    Raises:
        StudioError: the port is taken, or there is no such address.
    """

    def __init__(self, workspace: Workspace, host: str = "127.0.0.1", port: int = 0) -> None:
        self.workspace, self.host, self.token = workspace, host, new_token()
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            self._socket = socket.socket(family)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.bind((host, port))
        except (OSError, OverflowError) as error:
            raise StudioError(
                f"{host}:{port}", f"can't be bound ({error})", "needed a free port of this machine", "try --port 0"
            ) from error
        self.port: int = self._socket.getsockname()[1]
        config = uvicorn.Config(
            build(workspace, self.token, host), log_level="warning", access_log=False, lifespan="off",
            server_header=False, timeout_graceful_shutdown=2, h11_max_incomplete_event_size=32 << 10, http="h11",
            ws="none",
        )  # fmt: skip
        self._server = uvicorn.Server(config)
        self._thread: threading.Thread | None = None

    @property
    def origin(self) -> str:
        """``http://127.0.0.1:PORT``, without the token."""
        shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"http://{f'[{shown}]' if ':' in shown else shown}:{self.port}"

    @property
    def address(self) -> str:
        """What a browser opens; whoever has it sees the network and its pictures."""
        return f"{self.origin}/?token={self.token}"

    def start(self) -> Studio:
        """Serves in a thread, and returns once the server answers."""
        self._thread = threading.Thread(target=self._run, name="striate-studio", daemon=True)
        self._thread.start()
        threading.Thread(target=self.workspace.warm, name="striate-studio-warm", daemon=True).start()
        while not self._server.started and self._thread.is_alive():
            time.sleep(0.005)
        return self

    def _run(self) -> None:
        self._server.run(sockets=[self._socket])

    def serve(self, ready: Callable[[], object] = lambda: None) -> None:
        """Serves in the foreground until Ctrl-C; ``ready`` is called once the server answers."""
        self.start()
        ready()
        try:
            while self._thread is not None and self._thread.is_alive():
                self._thread.join(0.5)
        finally:
            self.stop()

    def stop(self) -> None:
        """Ends the server; a page that is open says that it has gone."""
        self._server.should_exit = True
        if self._thread is not None:
            self._thread.join(5)
        self._socket.close()

    def __enter__(self) -> Studio:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _repr_html_(self) -> str:
        """In a notebook: a link."""
        return f'<a href="{self.address}" target="_blank" rel="noopener">striate studio</a>'
