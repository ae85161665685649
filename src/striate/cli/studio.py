"""The command that shows a network in the browser: studio."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from striate.cli.app import MaxPixels, app, say
from striate.cli.help import FileCommand
from striate.errors import RunError

if TYPE_CHECKING:
    from striate.studio.workspace import Workspace


@app.command(cls=FileCommand)
def studio(
    model: Annotated[
        str | None,
        typer.Argument(metavar="MODEL|RUN|FILE.py:FACTORY", help="[default: runs/demo, or LeNet-5 on the digits]"),
    ] = None,
    image: Annotated[
        list[str] | None,
        typer.Option("--image", metavar="FILE", help="An image file or a folder of them; may be given several times."),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(metavar="FILE|hf-hub:...|random", help="Of a network [default: those that a package ships]."),
    ] = None,
    size: Annotated[str | None, typer.Option(help="CxHxW of the pictures [default: the network's own].")] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="[default: any that is free]")] = 0,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    open_browser: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    max_pixels: MaxPixels = None,
) -> None:
    """Show a network with all its numbers in the browser; each number can be traced back to the pixels.

    The page is reachable only from this machine, at the printed address. Ctrl-C ends it.

    \b
    Example:
      striate studio
      striate studio resnet18 --image photo.jpg --open
      striate studio runs/first
      striate studio my_network.py:build --size 3x64x64
    """
    from striate.studio import needs

    needs()
    from striate import models
    from striate.studio.guard import is_loopback
    from striate.studio.server import Studio

    if model is None and (weights is not None or size is not None):
        raise RunError(
            "--weights" if weights else "--size", "got no network", "needed its name", "striate studio resnet18"
        )
    shape = _size(size)
    shown = Studio(host=host, port=port)

    def tell(text: str) -> None:
        say(text)
        shown.tell(text.partition(";")[0])

    def made() -> Workspace:
        shown.tell("importing PyTorch")
        from striate.studio.default import default_subject
        from striate.studio.samples import pictures_of
        from striate.studio.subject import find
        from striate.studio.workspace import Workspace

        shown.tell(f"making {model or 'the network'}")
        subject = default_subject(tell) if model is None else find(model, weights=weights, size=shape)
        return Workspace(subject, pictures_of(subject, image or (), max_pixels=max_pixels))

    if not is_loopback(host):
        say(
            f"warning: {host} can be reached from other machines; whoever has the address sees the network and pictures"
        )

    def ready() -> None:
        print(shown.address, flush=True)
        if open_browser:
            import webbrowser

            webbrowser.open(shown.address)

    # The page is there before PyTorch is imported, unless the name may be a mistake.
    known = model is None or model in models.names() or ":" in model or Path(model).is_dir()
    try:
        if not known:
            shown.show(made())
        shown.serve(ready, made if known else None)
    except KeyboardInterrupt:
        say("interrupted")
        # Threads that still compute would get in the way of the interpreter's own end, which PyTorch may abort.
        sys.stdout.flush()
        os._exit(130)


def _size(text: str | None) -> tuple[int, int, int] | None:
    if text is None:
        return None
    sides = text.lower().split("x")
    if len(sides) != 3 or not all(side.isascii() and side.isdecimal() and 0 < int(side) < 1 << 14 for side in sides):
        raise RunError("--size", f"got {text!r}", "needed channels x height x width, as 3x224x224")
    channels, height, width = map(int, sides)
    return channels, height, width
