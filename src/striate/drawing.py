"""Results that can be drawn, and who draws them.

A result is data and knows nothing of pictures. The package itself, which knows all of its rooms, says by
:func:`drawn_by` who draws. So whoever has a result may call ``figure`` and ``save``, and no room of results imports the
one that draws.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Drawer(Protocol):
    """Draws results by their type."""

    def draw(self, result: object, /, **options: Any) -> Figure:
        """A result as a matplotlib figure."""

    def save(self, result: object, path: str | Path, /) -> Path:
        """Writes a result or a figure as PNG."""


class Pictured(ABC):
    """A result that can be drawn and saved."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Its numbers, for JSON."""

    def figure(self) -> Figure:
        """It as a matplotlib figure."""
        return drawer().draw(self)

    def save(self, path: str | Path) -> Path:
        """Writes the figure as PNG, whole or not at all, and gives back where it lies.

        Raises:
            OSError: no room, no permission, no such folder.
        """
        return drawer().save(self.figure(), path)


_find: Callable[[], Drawer] | None = None


def drawn_by(find: Callable[[], Drawer]) -> None:
    """Says who draws; ``find`` is asked when something is drawn, so that importing results imports no drawing."""
    global _find
    _find = find


def drawer() -> Drawer:
    """Who draws."""
    assert _find is not None, "striate/__init__.py says who draws"
    return _find()
