"""Results, shown: :mod:`striate.report.tables` on the terminal, :mod:`striate.report.figures` in pictures, and
:mod:`striate.report.measures` for both of what a network costs and sees.

They know the result types (``Epoch``, ``Evaluation``, ``Summary``, ``ReceptiveFields``) and nothing of how these came
about, so whoever makes them can show them. JSON needs no help from here: the types have ``to_dict``.

:func:`draw` makes a figure of a result, :func:`save` a file, each by the result's type.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from striate.report.drawing import draw, save

__all__ = ["draw", "save"]


def __getattr__(name: str) -> Any:
    # Matplotlib takes a second to import, and tables don't need it.
    if name in __all__:
        return getattr(importlib.import_module("striate.report.drawing"), name)
    raise AttributeError(f"module 'striate.report' has no attribute {name!r}")
