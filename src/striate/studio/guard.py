"""Access control for the studio: which requests are accepted, their size, and what a page may load.

Every page that a browser has open can reach a server on the loopback address. Three checks keep other pages out. Host
has to name this machine by address, so that a host name that another site resolves to 127.0.0.1 (DNS rebinding) is
refused. Origin, if the browser sends one, has to be the studio's own. And every call under ``/api`` has to carry a
random token, which only the address that the program prints contains.
"""

from __future__ import annotations

import ipaddress
import secrets
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

#: The header that carries the token.
TOKEN: Final = "X-Striate-Token"
#: The most bytes of a request's body.
MAX_BODY: Final = 32 << 20

#: Scripts, styles and pictures may only come from the studio. Notebooks on this machine may embed it in a frame.
POLICY: Final = (
    "default-src 'self'; base-uri 'none'; form-action 'none'; object-src 'none'; "
    "frame-ancestors 'self' http://localhost:* http://127.0.0.1:*"
)
_HEADERS: Final = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")


def new_token() -> str:
    """A token that can't be guessed."""
    return secrets.token_urlsafe(24)


class TooLargeError(Exception):
    """A request's body exceeds the limit while it is read."""


class Guard:
    """Refuses requests that don't come from the studio's own page, and sets the headers that restrict this page.

    Args:
        app: the guarded application.
        token: the token that calls of the API have to carry.
        host: the address to which the server is bound.
        max_body: the most bytes of a body.
    """

    def __init__(self, app: ASGIApp, token: str, host: str = "127.0.0.1", max_body: int = MAX_BODY) -> None:
        self._app, self._token, self._host, self._max_body = app, token, host, max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # the studio has no web sockets
            await send({"type": "websocket.close", "code": 1008})
            return

        answered = False

        async def bound(message: Message) -> None:
            nonlocal answered
            if message["type"] == "http.response.start":
                answered = True
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                headers["Cache-Control"] = "no-store" if scope["path"].startswith("/api") else "no-cache"
            await send(message)

        refusal = self._refusal(scope)
        if refusal is not None:
            status, line = refusal
            await JSONResponse({"error": line}, status)(scope, receive, bound)
            return
        try:
            await self._app(scope, self._limited(receive), bound)
        except TooLargeError:
            if not answered:
                await JSONResponse({"error": self._too_large}, 413)(scope, receive, bound)

    @property
    def _too_large(self) -> str:
        return f"request: got more than {self._max_body >> 20} MiB; needed a smaller file"

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        """The status and message for a refused request; None if it is accepted."""
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self._is_own(hosts[0]):
            return 403, "Host: got another name; needed the address that striate studio printed"
        origin = headers.get("origin")
        if origin is not None and origin.lower() != f"http://{hosts[0]}".lower():
            return 403, "Origin: got another site's page; needed the studio's own"
        if headers.get("sec-fetch-site", "none") == "cross-site" and scope["path"] != "/":
            return 403, "Sec-Fetch-Site: got another site's page; needed the studio's own"
        if scope["path"].startswith("/api"):
            given = headers.get(TOKEN, "")
            if not secrets.compare_digest(given.encode(), self._token.encode()):
                return 401, f"{TOKEN}: got none or another; needed the token of the address that striate studio printed"
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdecimal()):
            return 400, "Content-Length: needed a number"
        if len(length) > 15 or int(length) > self._max_body:
            return 413, self._too_large
        return None

    def _is_own(self, host: str) -> bool:
        """Whether a Host header names this server by its address, which no other site's name can imitate."""
        name, port = _split(host.lower())
        if not port.isdecimal() and port:
            return False
        if name in _LOOPBACK or name == self._host.lower():
            return True
        if self._host in _LOOPBACK:
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def _limited(self, receive: Receive) -> Receive:
        read = 0

        async def limited() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self._max_body:
                raise TooLargeError
            return message

        return limited


def _split(host: str) -> tuple[str, str]:
    """The name and port of a Host header; an IPv6 address is in brackets."""
    if host.startswith("["):
        name, end, rest = host[1:].partition("]")
        return (name, rest.removeprefix(":")) if end else ("", "")
    name, _, port = host.partition(":")
    return name, port


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    if host in _LOOPBACK:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


__all__ = ["MAX_BODY", "POLICY", "TOKEN", "Guard", "TooLargeError", "is_loopback", "new_token"]
