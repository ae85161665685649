"""The end of a server: calls that still compute are answered at once.

uvicorn waits for such calls for a while, then cancels them and logs a traceback for each. A thread that computes can't
be stopped; its result goes nowhere.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Ending:
    """Passes calls on, and answers those that wait with status 503 once the server ends.

    Args:
        app: what answers until then.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._ends = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: set[asyncio.Task[Any]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._loop = asyncio.get_running_loop()
        self._waiting.add(task)

        async def sent(message: Message) -> None:
            self._waiting.discard(task)  # an answer that has begun is left to its end
            await send(message)

        try:
            if not self._ends:
                await self._app(scope, receive, sent)
                return
        except asyncio.CancelledError:
            if not self._ends:
                raise
        finally:
            self._waiting.discard(task)
        if scope["type"] == "http":
            await JSONResponse({"error": "studio: has ended; start it again"}, 503)(scope, receive, send)

    def end(self) -> None:
        """Answers all calls that wait, from any thread, and those that still come."""
        self._ends = True
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed already
                self._loop.call_soon_threadsafe(self._cut)

    def _cut(self) -> None:
        for task in self._waiting:
            task.cancel()
