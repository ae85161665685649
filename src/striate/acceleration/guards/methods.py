"""Watches what Dynamo doesn't guard: the methods of a model's classes, and the names of its objects' attributes."""

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
    """A snapshot of the methods of a model's classes, and of the attributes that its objects have.

    The classes are those of its modules, and of the objects that their attributes refer to. New attributes matter,
    because they may hide an attribute of the class or a child, or take precedence over ``__getattr__``.

    Args:
        model: the model as it is now.
        before: the snapshot of an earlier capture, which Dynamo may still use. A layer that has been replaced since may
            come back. So its class is still watched, and the layer itself as long as it is alive.
    """

    def __init__(self, model: torch.nn.Module, before: Methods | None = None) -> None:
        objects = [*model.modules(), *_helpers(model)]
        kinds = {kind for each in objects for kind in type(each).__mro__}
        #: The dictionaries of the modules, and of the objects that their attributes refer to.
        self.dicts = [vars(each) for each in objects]
        self._counts = list(map(len, self.dicts))
        watched = zip(map(_weakly, objects), self._counts, strict=True)
        self._watched = [(each, count) for each, count in watched if each is not None]
        #: Objects that the model had before, and the number of attributes that they had then.
        self._gone: list[tuple[weakref.ref[object], int]] = []
        if before is not None:
            here = set(map(id, objects))
            old = (*before._watched, *before._gone)
            self._gone = [(each, count) for each, count in old if each() is not None and id(each()) not in here]
        held = [type(value) for kind in kinds for value in vars(kind).values() if hasattr(value, "__get__")]
        kinds |= {kind for each in held if not _is_others(each) for kind in each.__mro__}
        # Tracers replace methods of torch.nn.Module while they run, but then the model's own code runs anyway.
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
    """The objects of Python classes that a model's attributes refer to."""
    attributes = ((name, value) for module in model.modules() for name, value in vars(module).items())
    waiting = [value for name, value in attributes if name != "_compiled_call_impl"]
    seen = set(map(id, waiting))
    for value in waiting:  # grows during the loop
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
    """Whether a class comes from a library whose methods aren't replaced."""
    return kind.__module__.partition(".")[0] in _OTHERS


_OTHERS: Final = ("torch", "numpy", "builtins", "collections", "functools", "random", "threading", "logging")
#: The most objects that are visited.
_MOST: Final = 10_000
