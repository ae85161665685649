"""What a network can be trained for, each task behind one contract.

``task.py`` is the contract; ``classification.py``, ``detection.py``, ``semantic.py`` and ``instance.py`` are tasks, of
which :func:`task_class` finds the one of a network. The other files are what a task measures and writes.
"""

from __future__ import annotations

import dataclasses
import importlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from striate.tasks.task import Task

#: The module and the class of each task, which are imported when a network needs them.
_TASKS: Final = {
    "classification": ("classification", "Classification"),
    "detection": ("detection", "Detection"),
    "semantic": ("semantic", "Semantic"),
    "instance": ("instance", "Instance"),
}


def task_class(model: str) -> type[Task]:
    """The task of a network, by its name in the register.

    >>> task_class("lenet5").name
    'classification'
    """
    from striate.models import task_of

    module, name = _TASKS[task_of(model)]
    found: type[Task] = getattr(importlib.import_module(f"{__name__}.{module}"), name)
    return found


def task_settings() -> frozenset[str]:
    """The settings of a recipe that belong to some task."""
    found = [getattr(importlib.import_module(f"{__name__}.{module}"), name) for module, name in _TASKS.values()]
    return frozenset(field.name for task in found for field in dataclasses.fields(task))


__all__ = ["task_class", "task_settings"]
