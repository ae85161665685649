"""Shows results: :mod:`striate.report.tables` on the terminal, :mod:`striate.report.figures` as pictures, and
:mod:`striate.report.measures` costs and receptive fields in both forms.

These modules use only the result types (``Epoch``, ``Evaluation``, ``Summary``, ``ReceptiveFields``), not the code that
computes the results. JSON is independent of this room: the types have ``to_dict``.

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
