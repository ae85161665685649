"""The studio's application: the routes of the page's API, and the handling of errors."""

from __future__ import annotations

import logging
from typing import Any, Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from striate.errors import StriateError, is_out_of_memory
from striate.studio import views
from striate.studio.guard import TooLargeError
from striate.studio.page import PAGE
from striate.studio.requests import RequestError, answer, packed, word, workspace_of
from striate.studio.workspace import Workspace

_LOG: Final = logging.getLogger("striate.studio")


def build(workspace: Workspace) -> ASGIApp:
    """Builds the application: the page, the subject and all views.

    The graph's view is imported at once; the others at the first request for one of them, or when the studio is idle.
    """
    app = Starlette(
        routes=[
            Route("/api/subject", _subject),
            Route("/api/pixels/{picture}", _pixels),
            *views.routes(views.FIRST),
            *PAGE,
        ],
        exception_handlers={HTTPException: _refused, StriateError: _mended, Exception: _failed},
    )
    app.state.workspace = workspace
    app.router.default = views.Others()
    return _Survivor(app)


class _Survivor:
    """Handles unexpected errors: Starlette answers with a 500 and raises the error again; this drops the second."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await self._app(scope, receive, send)
        except Exception as error:
            if isinstance(error, TooLargeError):
                raise
            _LOG.debug("answered with 500", exc_info=error)


async def _subject(request: Request) -> Response:
    workspace = workspace_of(request)
    return answer(
        workspace.subject.to_dict()
        | {"pictures": [each.to_dict() for each in workspace.pictures()], "views": list(views.VIEWS)}
    )


async def _pixels(request: Request) -> Response:
    """A picture's pixels, (C, H, W) from 0 to 255: the network's view of it, or with ``what=source`` the original."""
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
