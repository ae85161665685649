"""A server that ends: calls that compute are answered at once, begun answers come to their end, nothing is logged."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import nn

from striate.studio.ending import Ending


class Slow(nn.Module):
    """Runs until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.go = [threading.Event()], [threading.Event()]

    def __deepcopy__(self, memo: Any) -> Slow:
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.begun[0].set()
        self.go[0].wait(30)
        return x + 1


def test_calls_that_compute_are_answered_at_once(start: Callable[..., Any], caplog: pytest.LogCaptureFixture) -> None:
    model = Slow()
    client = start(model, torch.rand(1, 1, 2, 2))
    uvicorn = logging.getLogger("uvicorn")  # whose messages pytest doesn't see by itself
    uvicorn.addHandler(caplog.handler)
    try:
        with ThreadPoolExecutor() as pool, caplog.at_level(logging.INFO):
            asked = pool.submit(client.ask, "/api/network")
            assert model.begun[0].wait(20)
            time.sleep(0.2)  # the call waits for the run that the studio began by itself
            client.studio.stop()
            status, content = asked.result(20)
            assert not model.go[0].is_set()
        assert status == 503, content
        assert b"studio: has ended" in content
        assert [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING] == []
    finally:
        uvicorn.removeHandler(caplog.handler)
        model.go[0].set()


def test_an_answer_that_has_begun_comes_to_its_end() -> None:
    import asyncio

    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await asyncio.sleep(0.05)
        await send({"type": "http.response.body", "body": b"all"})

    async def send(message: Any) -> None:
        sent.append(message)

    async def run() -> None:
        ending = Ending(app)
        call = asyncio.create_task(ending({"type": "http"}, None, send))  # type: ignore[arg-type]
        await asyncio.sleep(0.01)
        ending.end()
        await call
        await ending({"type": "http"}, None, send)  # type: ignore[arg-type]

    asyncio.run(run())
    assert [each.get("status", each.get("body")) for each in sent[:3]] == [200, b"all", 503]


def test_a_call_that_its_page_cancels_is_cancelled() -> None:
    import asyncio

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(10)

    async def run() -> None:
        call = asyncio.create_task(Ending(app)({"type": "http"}, None, None))  # type: ignore[arg-type]
        await asyncio.sleep(0.01)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

    asyncio.run(run())
