"""Reads and checks the parameters of requests, and builds responses: JSON, or binary numbers.

A bad request raises a :class:`RequestError`, which becomes a 4xx status with a message of one line.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from torch import Tensor

from striate.errors import StriateError

if TYPE_CHECKING:
    from striate.studio.workspace import Workspace

#: The most bytes of a JSON body.
MAX_JSON: Final = 4 << 20
#: The most digits of an integer in a request.
_DIGITS: Final = 15


class RequestError(StriateError, ValueError):
    """A bad request; ``status`` is the HTTP status of the response."""

    def __init__(self, where: str, got: str, needed: str = "", remedy: str = "", status: int = 400) -> None:
        super().__init__(where, got[:200], needed, remedy)
        self.status = status


def workspace_of(request: Request) -> Workspace:
    """The workspace that the server shows."""
    workspace: Workspace = request.app.state.workspace
    return workspace


def whole(request: Request, name: str, default: int | None = None, *, low: int = 0, high: int = 1 << 31) -> int:
    """An integer of the query or the path, from ``low`` to ``high``; required if there is no default."""
    text = request.path_params.get(name, request.query_params.get(name))
    if text is None:
        if default is None:
            raise RequestError(name, "got none", f"needed a whole number from {low} to {high}")
        return default
    return _whole(name, str(text), low, high)


def wholes(request: Request, name: str, *, low: int = 0, high: int = 1 << 31, most: int = 64) -> tuple[int, ...] | None:
    """Integers separated by commas (``at=0,3,1,1``); None if the parameter is missing."""
    text = request.query_params.get(name)
    if text is None:
        return None
    parts = text.split(",") if text else []
    if len(parts) > most:
        raise RequestError(name, f"got {len(parts)} numbers", f"needed at most {most}")
    return tuple(_whole(name, part, low, high) for part in parts)


def _whole(name: str, text: str, low: int, high: int) -> int:
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdecimal() and len(digits) <= _DIGITS) or not low <= int(text) <= high:
        raise RequestError(name, f"got {text!r}", f"needed a whole number from {low} to {high}")
    return int(text)


def number(request: Request, name: str, default: float, *, low: float = -1e9, high: float = 1e9) -> float:
    """A finite number of the query."""
    text = request.query_params.get(name)
    if text is None:
        return default
    try:
        value = float(text) if len(text) < 40 else math.nan
    except ValueError:
        value = math.nan
    if not low <= value <= high:
        raise RequestError(name, f"got {text!r}", f"needed a number from {low:g} to {high:g}")
    return value


def word(request: Request, name: str, known: Collection[str], default: str | None = None) -> str:
    """A parameter that has to be one of the known words."""
    text = request.query_params.get(name, default)
    if text is None or text not in known:
        got = "none" if text is None else repr(text)
        raise RequestError(name, f"got {got}", f"needed one of {', '.join(sorted(known))}")
    return text


def text(request: Request, name: str, default: str | None = None, *, most: int = 1000) -> str:
    """A text parameter of the query, of limited length."""
    value = request.query_params.get(name, default)
    if value is None or len(value) > most:
        got = "none" if value is None else f"{len(value)} characters"
        raise RequestError(name, f"got {got}", f"needed at most {most} characters")
    return value


async def body(request: Request, most: int) -> bytes:
    """The body of a request, of at most ``most`` bytes."""
    parts, size = [], 0
    try:
        async for part in request.stream():
            size += len(part)
            if size > most:
                raise RequestError(
                    "request", f"got more than {most} bytes", "needed less", "send a smaller file", status=413
                )
            parts.append(part)
    except ClientDisconnect as gone:
        raise RequestError("request", "the page has gone", "needed a whole body") from gone
    return b"".join(parts)


async def json_of(request: Request, most: int = MAX_JSON) -> Mapping[str, Any]:
    """The JSON object in a request's body."""
    try:
        value = json.loads(await body(request, most))
    except (ValueError, RecursionError) as error:
        raise RequestError("request", "got a body that isn't JSON", "needed a JSON object") from error
    if not isinstance(value, dict):
        raise RequestError("request", f"got {type(value).__name__}", "needed a JSON object")
    return value


def answer(content: Any, status: int = 200) -> Response:
    """A JSON response; NaN and infinities, which JSON lacks, become the words ``"nan"``, ``"inf"`` and ``"-inf"``."""
    return JSONResponse(plain(content), status)


def plain(value: Any) -> Any:
    """Converts a value to finite numbers, strings, lists and dictionaries."""
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(each) for each in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    return value


def packed(header: Mapping[str, Any], numbers: Tensor) -> Response:
    """A response of binary float32 numbers, little-endian, after a header in JSON.

    The first four bytes are the length of the header, little-endian. The header ends with spaces that align the numbers
    to four bytes. ``shape`` in the header is the shape of the numbers.
    """
    head = json.dumps(plain({**header, "shape": list(numbers.shape)}), allow_nan=False).encode()
    head += b" " * (-len(head) % 4)
    array = numbers.detach().to("cpu", torch.float32).contiguous().numpy().astype("<f4", copy=False)
    return Response(len(head).to_bytes(4, "little") + head + array.tobytes(), media_type="application/octet-stream")
