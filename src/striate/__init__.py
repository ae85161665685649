"""striate: convolutional networks on PyTorch that people can compute fast, train, measure exactly and see inside.

striate.Window, striate.ConvShape, striate.PoolShape      exact geometry, without a tensor
striate.ops      convolution and pooling as functions, with their derived gradients
striate.engine   who computes an operation: explain, use, backends
striate.nn       layers, drop-in for torch.nn's
striate.models   networks by name
striate.data     images and labels
striate.analysis what any network costs, sees, follows and knows
striate.explain  why a network says what it says, on real images
striate.studies  claims of the textbooks, tested by experiments
striate.training recipes, runs, evaluations
striate.report   results as pictures: draw, save
striate.studio   any network with its numbers, in the browser: show
striate.export   trained networks as files for other programs
striate.accelerate    any PyTorch model, computed by the engine; striate.acceleration tells what was made of it
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from striate.drawing import Drawer, drawn_by
from striate.errors import StriateError
from striate.geometry import ConvShape, PoolShape, Window

if TYPE_CHECKING:
    from striate import (
        acceleration,
        analysis,
        data,
        engine,
        explain,
        export,
        models,
        nn,
        ops,
        report,
        studies,
        studio,
        training,
    )
    from striate.acceleration import accelerate

__version__ = "0.1.0"

__all__ = [
    "ConvShape",
    "PoolShape",
    "StriateError",
    "Window",
    "accelerate",
    "acceleration",
    "analysis",
    "data",
    "engine",
    "explain",
    "export",
    "models",
    "nn",
    "ops",
    "report",
    "studies",
    "studio",
    "training",
]

# PyTorch takes seconds to import, and geometry and `striate --help` don't need it: rooms open when they are entered.
_ROOMS = (
    "acceleration",
    "analysis",
    "data",
    "engine",
    "explain",
    "export",
    "models",
    "nn",
    "ops",
    "report",
    "studies",
    "studio",
    "training",
)


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"striate.{name}")
    if name == "accelerate":
        return importlib.import_module("striate.acceleration").accelerate
    raise AttributeError(f"module 'striate' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _drawer() -> Drawer:
    drawing: Drawer = importlib.import_module("striate.report.drawing")
    return drawing


drawn_by(_drawer)
