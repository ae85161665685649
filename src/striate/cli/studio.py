"""The command that shows a network in the browser: studio."""

from __future__ import annotations

from typing import Annotated

import typer

from striate.cli.app import MaxPixels, app, say
from striate.cli.help import FileCommand
from striate.errors import RunError


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
    from striate.studio.default import default_subject
    from striate.studio.guard import is_loopback
    from striate.studio.samples import pictures_of
    from striate.studio.server import Studio
    from striate.studio.subject import find
    from striate.studio.workspace import Workspace

    if model is None and (weights is not None or size is not None):
        raise RunError(
            "--weights" if weights else "--size", "got no network", "needed its name", "striate studio resnet18"
        )
    subject = default_subject(say) if model is None else find(model, weights=weights, size=_size(size))
    pictures = pictures_of(subject, image or (), max_pixels=max_pixels)
    shown = Studio(Workspace(subject, pictures), host, port)
    if not is_loopback(host):
        say(
            f"warning: {host} can be reached from other machines; whoever has the address sees the network and pictures"
        )

    def ready() -> None:
        print(shown.address, flush=True)
        if open_browser:
            import webbrowser

            webbrowser.open(shown.address)

    shown.serve(ready)


def _size(text: str | None) -> tuple[int, int, int] | None:
    if text is None:
        return None
    sides = text.lower().split("x")
    if len(sides) != 3 or not all(side.isascii() and side.isdecimal() and 0 < int(side) < 1 << 14 for side in sides):
        raise RunError("--size", f"got {text!r}", "needed channels x height x width, as 3x224x224")
    channels, height, width = map(int, sides)
    return channels, height, width
