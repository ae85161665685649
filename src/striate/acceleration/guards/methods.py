"""Which methods a model's classes have, and which attributes its objects: what Dynamo doesn't guard."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Iterable, Iterator
from operator import itemgetter
from types import FunctionType, ModuleType
from typing import Any, Final

import torch
from torch import Tensor

from striate.acceleration.guards.unchanged import identical


class Methods:
    """What Dynamo doesn't guard: the methods of a model's classes, and which attributes its objects have.

    Classes are those of its modules and of the objects that their attributes lead to. A new attribute may hide a
    class's or a child, or come before what a ``__getattr__`` answers.

    Args:
        model: the model as it is now.
        before: what it had at an earlier capture that Dynamo may still use. A layer that was replaced since may come
            back, so its class is still watched, and the layer itself for as long as somebody keeps it.
    """

    def __init__(self, model: torch.nn.Module, before: Methods | None = None) -> None:
        objects = [*model.modules(), *_helpers(model)]
        kinds = {kind for each in objects for kind in type(each).__mro__}
        #: Of the modules, and of the objects that their attributes lead to.
        self.dicts = [vars(each) for each in objects]
        self._counts = list(map(len, self.dicts))
        watched = zip(map(_weakly, objects), self._counts, strict=True)
        self._watched = [(each, count) for each, count in watched if each is not None]
        #: Objects that the model had, and how many attributes they had then.
        self._gone: list[tuple[weakref.ref[object], int]] = []
        if before is not None:
            here = set(map(id, objects))
            old = (*before._watched, *before._gone)
            self._gone = [(each, count) for each, count in old if each() is not None and id(each()) not in here]
        held = [type(value) for kind in kinds for value in vars(kind).values() if hasattr(value, "__get__")]
        kinds |= {kind for each in held if not _is_others(each) for kind in each.__mro__}
        # Tracers replace methods of torch.nn.Module for as long as they run, and go their own way.
        kinds -= {torch.nn.Module, object}
        if before is not None:
            kinds.update(before.kinds)
        self.kinds: list[type] = list(kinds)
        self._tables = [vars(kind) for kind in kinds]
        self._sizes = list(map(len, self._tables))
        names = [[name for name, value in table.items() if hasattr(value, "__get__")] for table in self._tables]
        pairs = zip(self._tables, names, strict=True)
        self._read = [(itemgetter(*found), table) for table, found in pairs if found]
        self._held = [read(table) for read, table in self._read]

    def same(self) -> bool:
        if list(map(len, self._tables)) != self._sizes or list(map(len, self.dicts)) != self._counts:
            return False
        if any((found := each()) is not None and len(vars(found)) != count for each, count in self._gone):
            return False
        try:
            now = [read(table) for read, table in self._read]
        except KeyError:
            return False
        return all(map(identical, now, self._held))


def _weakly(value: object) -> weakref.ref[object] | None:
    try:
        return weakref.ref(value)
    except TypeError:
        return None


def _helpers(model: torch.nn.Module) -> Iterator[object]:
    """Objects, of classes written in Python, that a model's attributes lead to."""
    attributes = ((name, value) for module in model.modules() for name, value in vars(module).items())
    waiting = [value for name, value in attributes if name != "_compiled_call_impl"]
    seen = set(map(id, waiting))
    for value in waiting:  # which grows
        inside: Iterable[Any] = ()
        if isinstance(value, (list, tuple, set, frozenset, deque)):
            inside = value
        elif isinstance(value, dict):
            inside = value.values()
        if not isinstance(value, (Tensor, torch.nn.Module, type, ModuleType, FunctionType)):
            held = getattr(value, "__dict__", None)
            if isinstance(held, dict) and not _is_others(type(value)):
                inside = (*inside, *held.values())
                yield value
        new = [each for each in inside if id(each) not in seen]
        seen.update(map(id, new))
        if len(waiting) < _MOST:
            waiting += new


def _is_others(kind: type) -> bool:
    """Whether a class comes from where nobody replaces methods."""
    return kind.__module__.partition(".")[0] in _OTHERS


_OTHERS: Final = ("torch", "numpy", "builtins", "collections", "functools", "random", "threading", "logging")
#: Objects that are looked at.
_MOST: Final = 10_000
