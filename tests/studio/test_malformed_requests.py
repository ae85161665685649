"""2,000 requests that nobody should make: nothing but 4xx, no path or trace in an answer, and the server goes on."""

from __future__ import annotations

import random
from typing import Any

import numpy as np

from striate.studio.guard import TOKEN

COUNT = 2000
METHODS = ("GET", "POST", "PUT", "DELETE", "HEAD", "PATCH", "OPTIONS", "TRACE", "BREW")
WORDS = (
    "",
    "-1",
    "0",
    "1",
    "p0",
    "nan",
    "1e9",
    "1" * 30,
    "../../etc/passwd",
    "%00",
    "٣",
    "a,b,c",
    "0-",
    "-",
    "0,0,0,0",
    "9" * 5000,
    "true",
    "null",
    "[]",
    "{}",
    "'",
    '"',
    "<script>",
    "\x7f",
    "1.5",
    "0x10",
    "1_0",
    " 1",
    "+1",
    "form",
    "maps",
    "tokens",
    "0-63",
    "63-0",
    "c1",
    "c1,c3",
    "\udc80".encode("utf-8", "surrogateescape").decode("latin-1"),
)
NAMES = (
    "picture",
    "open",
    "width",
    "values",
    "q",
    "form",
    "sample",
    "channels",
    "size",
    "at",
    "training",
    "single",
    "what",
    "token",
    "x",
    "target",
    "kernel",
    "problem",
    "window",
)


def quoted(text: str) -> str:
    from urllib.parse import quote

    return quote(text, safe=random.choice(["", "/", "%"]))


def paths(server: Any) -> list[str]:
    """All routes of the API, of whatever views there are."""
    from starlette.routing import Route

    from striate.studio import views

    listed = [route.path for route in views.routes() if isinstance(route, Route)]
    return [*listed, "/api/subject", "/api/pixels/{picture}", "/static/{file}", "/", "/api/none/{x}"]


def request(known: list[str]) -> tuple[str, str, bytes | None, dict[str, str]]:
    path = random.choice(known)
    while "{" in path:
        begin, _, rest = path.partition("{")
        path = begin + quoted(random.choice(WORDS)) + rest.partition("}")[2]
    query = "&".join(
        f"{quoted(random.choice(NAMES))}={quoted(random.choice(WORDS))}" for _ in range(random.randrange(5))
    )
    body = None
    if random.random() < 0.5:
        noise = bytes(random.randrange(256) for _ in range(random.randrange(200)))
        body = random.choice(
            [noise, b"{", b"[1]", b"null", b"[" * 5000, b'{"a":' * 300, b'{"id": 7}', b"\x89PNG\r\n\x1a\n" + noise]
        )
    headers = (
        {TOKEN: "", "Content-Type": random.choice(["application/json", "image/png", "x", ""])}
        if random.random() < 0.1
        else {}
    )
    if random.random() < 0.1:
        headers["Content-Length"] = random.choice(["-1", "abc", "99999999999999999999", "1e3"])
    return random.choice(METHODS), f"{path}?{query}", body, headers


def test_malformed_requests_get_4xx(studio: Any) -> None:
    random.seed(7)
    known = paths(studio)
    codes: dict[int, int] = {}
    for _ in range(COUNT):
        method, path, body, headers = request(known)
        try:
            status, content = studio.ask(path, method, body, headers)
        except (ConnectionError, OSError, ValueError):  # the client itself won't send it, or the server hung up on it
            continue
        codes[status] = codes.get(status, 0) + 1
        told = (method, path, body, headers, content[:300])
        assert status < 500, told
        assert studio.studio.token.encode() not in content, told
        if status >= 400 and content:
            for secret in (b"Traceback", b"site-packages", b"/src/striate", b"/home/", b'.py"'):
                assert secret not in content, told
            assert content.count(b"\n") <= 1, told
    assert sum(codes.values()) > COUNT * 0.8
    assert sum(count for code, count in codes.items() if 400 <= code < 500) > COUNT / 2
    header, numbers = studio.numbers("/api/tensor/0")
    assert header["full"] == [1, 1, 28, 28]
    assert np.isfinite(numbers).all()
