"""Training: the settings (:class:`Recipe`), the training itself (:func:`fit`), and the result (:class:`Run`).

A run lives in a folder. If it is killed at any instant, it can continue from there and ends with the same numbers.

>>> import tempfile
>>> from striate.training import Recipe, fit
>>> with tempfile.TemporaryDirectory() as folder:
...     recipe = Recipe("lenet5", data="digits", epochs=2, out=f"{folder}/first")
...     run = fit(recipe)
>>> run.evaluation.accuracy > 0.9
True
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from striate.tasks.evaluation import Evaluation, Example
    from striate.training.assess import evaluate
    from striate.training.fitting import fit
    from striate.training.loop import Interrupted
    from striate.training.recipe import Recipe
    from striate.training.results import Epoch
    from striate.training.run import Run, Settings, recipe_for

# Names are imported on first access: the command line reads the recipe's defaults for its help without PyTorch.
_HOMES = {
    "Epoch": "training.results",
    "Evaluation": "tasks.evaluation",
    "Example": "tasks.evaluation",
    "Interrupted": "training.loop",
    "Recipe": "training.recipe",
    "Run": "training.run",
    "Settings": "training.run",
    "evaluate": "training.assess",
    "fit": "training.fitting",
    "recipe_for": "training.run",
}

__all__ = [
    "Epoch",
    "Evaluation",
    "Example",
    "Interrupted",
    "Recipe",
    "Run",
    "Settings",
    "evaluate",
    "fit",
    "recipe_for",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"striate.{_HOMES[name]}"), name)
