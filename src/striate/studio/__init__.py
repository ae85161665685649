"""The studio: any network with its numbers, in the browser.

``striate studio MODEL`` and :func:`show` start a server that only this machine can reach. The page shows the network's
operators as a graph, the numbers of every tensor for a picture, and how each number was computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from striate.errors import StudioError

if TYPE_CHECKING:
    import torch

    from striate.data import Preprocessing
    from striate.studio.server import Studio

__all__ = ["show"]


def show(
    model: torch.nn.Module,
    images: Any = None,
    *,
    name: str | None = None,
    classes: Sequence[str] = (),
    preprocessing: Preprocessing | None = None,
    port: int = 0,
    open_browser: bool = False,
) -> Studio:
    """Serves a network with its numbers to the browser, from a thread of this process; shown as a link in notebooks.

    Args:
        model: any network; it is used in its current mode.
        images: the inputs. With ``preprocessing``: image files, or pictures uint8 (N, C, H, W). Without: the network's
            input, either a float tensor (N, C, H, W), whose N images are separate pictures, or any other input (a list
            of positional inputs, a dictionary by name), which is one picture.
        name: the name on the page; the class of the network by default.
        classes: the names of the outputs.
        preprocessing: converts pictures to the network's input.
        port: the port; 0 for any free one.
        open_browser: whether to open the page.

    Returns:
        The server: open ``address`` in a browser, and call ``stop()`` to end it. It also ends with the process.

    Raises:
        StudioError: there are no inputs, or the packages of the studio aren't installed.

    >>> import torch
    >>> studio = show(torch.nn.Conv2d(1, 2, 3), torch.rand(2, 1, 8, 8))
    >>> len(studio.workspace.pictures()), studio.address.startswith("http://127.0.0.1:")
    (2, True)
    >>> studio.stop()
    """
    needs()
    from torch import Tensor

    from striate.studio.samples import pictures_of
    from striate.studio.server import Studio
    from striate.studio.subject import of_module
    from striate.studio.workspace import Workspace

    subject = of_module(model, name=name, classes=tuple(classes), preprocessing=preprocessing)
    if images is None and preprocessing is None:
        raise StudioError(
            "show", "got no images", "needed what the network takes", "show(model, torch.rand(1, 3, 64, 64))"
        )
    if preprocessing is None:
        several = isinstance(images, Tensor) and images.dim() == 4
        inputs = images.split(1) if several else [images]
        pictures = [subject.given(each, f"input {place}", id=f"p{place}") for place, each in enumerate(inputs)]
    elif isinstance(images, Tensor):
        pictures = [subject.picture(each, f"picture {place}", id=f"p{place}") for place, each in enumerate(images)]
    else:
        files = [images] if isinstance(images, str | Path) else list(images or ())
        pictures = pictures_of(subject, files)
    studio = Studio(Workspace(subject, pictures), port=port).start()
    if open_browser:
        import webbrowser

        webbrowser.open(studio.address)
    return studio


def needs() -> None:
    """Checks that the studio's packages are installed.

    Raises:
        StudioError: a package is missing.
    """
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise StudioError("studio", f"{error.name} isn't installed", remedy="pip install 'striate[studio]'") from error
