"""Who gets nothing: names that were turned to this machine, other sites' pages, callers without the token."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import pytest

from striate.studio.guard import MAX_BODY, POLICY, TOKEN, Guard, is_loopback
from striate.studio.server import Studio


def refused(client: Any, status: int, path: str = "/api/subject", **how: Any) -> str:
    got, content = client.ask(path, **how)
    assert got == status, content
    return content.decode()


def test_the_token_opens(studio: Any) -> None:
    assert studio.json("/api/subject")["name"] == "lenet5"


@pytest.mark.parametrize("token", ["", "wrong", "é" * 8])
def test_without_the_token_there_is_nothing(studio: Any, token: str) -> None:
    headers = {TOKEN: token.encode().decode("latin-1")}
    told = refused(studio, 401, headers=headers)
    assert studio.studio.token not in told


def test_every_route_of_the_api_asks_for_the_token(studio: Any) -> None:
    for path in ("/api/network", "/api/tensor/3", "/api/nothing", "/api", "/api/pixels/p0"):
        refused(studio, 401, path, headers={TOKEN: ""})


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "", "a b", "[::1"]
)
def test_a_name_that_was_turned_to_this_machine_gets_nothing(studio: Any, host: str) -> None:
    refused(studio, 403, headers={"Host": host})
    refused(studio, 403, "/", headers={"Host": host})


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]"])
def test_this_machine_has_three_names(studio: Any, host: str) -> None:
    status, _ = studio.ask("/api/subject", headers={"Host": f"{host}:{studio.studio.port}"})
    assert status == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://127.0.0.1", "http://127.0.0.1:1"])
def test_other_sites_pages_get_nothing(studio: Any, origin: str) -> None:
    refused(studio, 403, headers={"Origin": origin})


def test_its_own_page_may_ask(studio: Any) -> None:
    port = studio.studio.port
    status, _ = studio.ask("/api/subject", headers={"Host": f"localhost:{port}", "Origin": f"http://localhost:{port}"})
    assert status == 200


def test_a_link_from_elsewhere_opens_the_page_and_nothing_else(studio: Any) -> None:
    foreign = {"Sec-Fetch-Site": "cross-site"}
    assert studio.ask("/", headers=foreign)[0] == 200
    refused(studio, 403, headers=foreign)
    refused(studio, 403, "/static/app.js", headers=foreign)


def test_large_bodies_are_refused_before_they_are_read(studio: Any) -> None:
    with socket.create_connection(("127.0.0.1", studio.studio.port), timeout=20) as connection:
        connection.sendall(
            f"POST /api/pictures HTTP/1.1\r\nHost: 127.0.0.1\r\n{TOKEN}: {studio.studio.token}\r\n"
            f"Content-Length: {MAX_BODY + 1}\r\n\r\n".encode()
        )
        assert connection.recv(100).startswith(b"HTTP/1.1 413")


def test_large_bodies_of_no_said_length_end_too(start: Callable[..., Any]) -> None:
    async def reads(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        raise AssertionError("all was read")

    sent: list[Any] = []
    pieces = iter([{"type": "http.request", "body": b"x" * 600, "more_body": True}] * 4)

    async def receive() -> Any:
        return next(pieces)

    async def send(message: Any) -> None:
        sent.append(message)

    import asyncio

    scope = {"type": "http", "path": "/", "method": "POST", "headers": [(b"host", b"localhost")]}
    asyncio.run(Guard(reads, "t", max_body=1000)(scope, receive, send))
    assert sent[0]["status"] == 413


@pytest.mark.parametrize(
    "path",
    [
        "/static/../server.py",
        "/static/%2e%2e/server.py",
        "/static/..%2fserver.py",
        "/static//etc/passwd",
        "/../etc/passwd",
        "/static/....//server.py",
        "/static/%00",
        "/static/lib",
        "/static/",
    ],
)
def test_no_path_leads_out_of_the_pages_files(studio: Any, path: str) -> None:
    status, content = studio.ask(path)
    assert 400 <= status < 500, content
    assert b"uvicorn" not in content
    assert b"root:" not in content


def test_answers_bind_the_page(studio: Any) -> None:
    from http.client import HTTPConnection

    connection = HTTPConnection("127.0.0.1", studio.studio.port)
    connection.request("GET", "/")
    headers = connection.getresponse().headers
    assert headers["Content-Security-Policy"] == POLICY
    assert POLICY.startswith("default-src 'self';")
    assert "unsafe" not in POLICY
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"  # the address has the token in it
    assert "Access-Control-Allow-Origin" not in headers


def test_tokens_differ(start: Callable[..., Any], studio: Any) -> None:
    other = Studio(studio.studio.workspace)
    try:
        assert other.token != studio.studio.token
        assert len(other.token) >= 32
        assert other.token in other.address
    finally:
        other.stop()


def test_it_listens_on_this_machine_alone(studio: Any) -> None:
    assert studio.studio.origin.startswith("http://127.0.0.1:")
    assert is_loopback(studio.studio.host)
    assert not is_loopback("0.0.0.0")
    assert not is_loopback("example.org")


def test_bound_to_all_addresses_it_still_refuses_names(studio: Any) -> None:
    guard = Guard(lambda *_: None, "t", "0.0.0.0")  # type: ignore[arg-type, return-value]
    assert guard._is_own("192.168.1.7:8000")
    assert not guard._is_own("evil.example:8000")
    assert not Guard(lambda *_: None, "t")._is_own("192.168.1.7:8000")  # type: ignore[arg-type, return-value]


def test_web_sockets_are_closed(studio: Any) -> None:
    status, _ = studio.ask(
        "/", headers={"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
    )
    assert status < 500
