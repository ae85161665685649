"""The studio's server, run by uvicorn in a thread or in the foreground.

It listens and serves the page before PyTorch is imported; the workspace can be set later.
"""

from __future__ import annotations

import gc
import socket
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import uvicorn

from striate.errors import StudioError
from striate.studio.ending import Ending
from striate.studio.guard import Guard, new_token
from striate.studio.page import Starting

if TYPE_CHECKING:
    from striate.studio.workspace import Workspace

#: Seconds from the start until the remaining views are imported, so that the first view isn't delayed.
_PATIENCE = 2.0


class Studio:
    """A server that shows a workspace, at :attr:`address`.

    Args:
        workspace: the workspace; None to set it later by :meth:`show`.
        host: the address to bind to; only this machine can reach the default.
        port: the port; 0 for any free one.

    Raises:
        StudioError: the port is taken, or the address doesn't exist.
    """

    workspace: Workspace

    def __init__(self, workspace: Workspace | None = None, host: str = "127.0.0.1", port: int = 0) -> None:
        self.host, self.token = host, new_token()
        self._starting = Starting()
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            # Named as TCP, which asyncio looks at before it lets small answers go at once.
            self._socket = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.bind((host, port))
        except (OSError, OverflowError) as error:
            raise StudioError(
                f"{host}:{port}", f"can't be bound ({error})", "needed a free port of this machine", "try --port 0"
            ) from error
        self.port: int = self._socket.getsockname()[1]
        self._ending = Ending(Guard(self._starting, self.token, host))
        config = uvicorn.Config(
            self._ending, log_level="warning", access_log=False, lifespan="off",
            server_header=False, timeout_graceful_shutdown=2, h11_max_incomplete_event_size=32 << 10, http="h11",
            ws="none",
        )  # fmt: skip
        self._server = uvicorn.Server(config)
        self._thread: threading.Thread | None = None
        self._alone = False
        if workspace is not None:
            self.show(workspace)

    def show(self, workspace: Workspace) -> None:
        """Sets the workspace to show."""
        from striate.studio.application import build

        self.workspace = workspace
        self._starting.app = build(workspace)
        threading.Thread(target=self._prepare, name="striate-studio-warm", daemon=True).start()

    def tell(self, doing: str) -> None:
        """Sets the text that a page shows while it waits for the network."""
        self._starting.doing = doing

    def _prepare(self) -> None:
        from striate.studio import views

        self.workspace.warm()
        views.begin(self.workspace)
        time.sleep(_PATIENCE)
        views.routes()
        if self._alone:
            # Looking through all that was imported would hold up a click for some tenths of a second now and then.
            gc.collect()
            gc.freeze()

    @property
    def origin(self) -> str:
        """``http://127.0.0.1:PORT``, without the token."""
        shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"http://{f'[{shown}]' if ':' in shown else shown}:{self.port}"

    @property
    def address(self) -> str:
        """The address for the browser, with the token; it gives access to the network and its pictures."""
        return f"{self.origin}/?token={self.token}"

    def start(self) -> Studio:
        """Serves in a thread, and returns once the server answers."""
        self._thread = threading.Thread(target=self._run, name="striate-studio", daemon=True)
        self._thread.start()
        while not self._server.started and self._thread.is_alive():
            time.sleep(0.005)
        return self

    def _run(self) -> None:
        self._server.run(sockets=[self._socket])

    def serve(self, ready: Callable[[], object] = lambda: None, made: Callable[[], Workspace] | None = None) -> None:
        """Serves in the foreground until Ctrl-C.

        Args:
            ready: called once the server answers.
            made: called after that; returns the workspace.
        """
        self._alone = True
        self.start()
        try:
            ready()
            if made is not None:
                self.show(_aside(made))
            while self._thread is not None and self._thread.is_alive():
                self._thread.join(0.5)
        finally:
            self.stop()

    def stop(self) -> None:
        """Stops the server; an open page shows that it is gone. Computations that still run are not waited for."""
        self._ending.end()
        self._server.should_exit = True
        if self._thread is not None:
            self._thread.join(5)
        self._socket.close()

    def __enter__(self) -> Studio:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _repr_html_(self) -> str:
        """A link, for notebooks."""
        return f'<a href="{self.address}" target="_blank" rel="noopener">striate studio</a>'


def _aside(made: Callable[[], Workspace]) -> Workspace:
    """Calls a function in a thread and waits for it, so that Ctrl-C reaches this thread, which imports nothing.

    Some packages take an interrupted import for a missing module, and go on or fail in their own way.
    """
    found: list[Workspace] = []
    failed: list[BaseException] = []

    def call() -> None:
        try:
            found.append(made())
        except BaseException as error:  # raised again where it is waited for
            failed.append(error)

    thread = threading.Thread(target=call, name="striate-studio-made", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.5)
    if failed:
        raise failed[0]
    return found[0]
