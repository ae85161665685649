"""Addresses in CPython's objects: words of memory that change whenever an object is written to.

CPython doesn't guarantee this memory layout, nor the version tag of dictionaries, which newer versions remove. So
:func:`tells` tries each kind of write once per process. If a write isn't detected, guards are evaluated at every call.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from collections import OrderedDict
from functools import cache
from types import CellType, MappingProxyType
from typing import Any, Final

from striate.engine.llvm.codegen.isa import Isa
from striate.engine.llvm.memory.words import Words

#: Offsets in CPython's objects: the type, the fields after it, a dictionary's version, and a list's items.
_TYPE, _REST, _VERSION, _ITEMS = 8, 16, 24, 24
_WORD: Final = 8
#: The flag of immutable types.
IMMUTABLE: Final = 1 << 8


def version(table: dict[Any, Any]) -> int:
    """The address of a dictionary's version tag, which every write changes."""
    return id(table) + _VERSION


def kind(value: object) -> int:
    """The address of the word that refers to an object's class."""
    return id(value) + _TYPE


def memory(value: object) -> list[int]:
    """The addresses of an object's own fields: the references of a function, a cell, or an object with slots."""
    return [*range(id(value) + _REST, id(value) + type(value).__basicsize__ - _WORD + 1, _WORD)]


def items(held: list[Any]) -> list[int]:
    """The addresses of a list's length, of the pointer to its items, and of each item.

    If one of the first two words has changed, the others may no longer belong to the list.
    """
    start = ctypes.c_uint64.from_address(id(held) + _ITEMS).value
    return [id(held) + _REST, id(held) + _ITEMS, *range(start, start + _WORD * len(held), _WORD)]


def order(kind: type) -> list[int]:
    """The address of the word that refers to a class's method resolution order."""
    size: int = vars(type)["__basicsize__"].__get__(type) // _WORD
    words = (ctypes.c_uint64 * size).from_address(id(kind))
    return [id(kind) + _WORD * at for at in range(size) if words[at] == id(kind.__mro__)]


def behind(proxy: MappingProxyType[str, Any]) -> Any:
    """The dictionary behind a proxy, such as that of a class's attributes."""
    (table,) = gc.get_referents(proxy)
    return table


@cache
def tells(isa: Isa) -> bool:
    """Whether this Python's dictionaries, lists, functions, cells and objects have the memory layout assumed here.

    Tries every kind of write that has to be detected, so often that the interpreter specialises the code.
    """
    with_lock: bool = getattr(sys, "_is_gil_enabled", lambda: True)()
    if sys.implementation.name != "cpython" or not with_lock:
        return False

    class Some:
        number: Any = None

    class Other(Some):
        pass

    class Slotted:
        __slots__ = ("number",)
        number: Any

    def function(number: Any = None) -> Any:
        return number

    plain, slotted, cell = Some(), Slotted(), CellType(None)
    table: dict[str, Any] = {"number": None}
    ordered: OrderedDict[str, Any] = OrderedDict(number=None)
    held: list[Any] = [None]
    plain.number, slotted.number = None, None
    attributes = behind(vars(Some))

    def attribute(value: Any) -> None:
        plain.number = value

    def new_attribute(value: Any) -> None:
        vars(plain).pop("other", None)
        plain.other = value  # type: ignore[attr-defined]

    def of_class(value: Any) -> None:
        Some.number = value

    def slot(value: Any) -> None:
        slotted.number = value

    def another_class(value: Any) -> None:
        plain.__class__ = Other if type(plain) is Some else Some

    def item(value: Any) -> None:
        table["number"] = value

    def ordered_item(value: Any) -> None:
        ordered["number"] = value

    def deleted(value: Any) -> None:
        table[f"{id(value)}"] = value
        table.popitem()

    def list_item(value: Any) -> None:
        held[0] = value

    def longer(value: Any) -> None:
        held.append(value)

    def default(value: Any) -> None:
        function.__defaults__ = (value,)

    def contents(value: Any) -> None:
        cell.cell_contents = value

    writes: list[tuple[Any, Any]] = [
        (attribute, lambda: [version(vars(plain))]),
        (new_attribute, lambda: [version(vars(plain))]),
        (of_class, lambda: [version(attributes)]),
        (another_class, lambda: [kind(plain)]),
        (slot, lambda: memory(slotted)),
        (item, lambda: [version(table)]),
        (deleted, lambda: [version(table)]),
        (ordered_item, lambda: [version(ordered)]),
        (list_item, lambda: items(held)[2:3]),
        (longer, lambda: items(held)[:1]),
        (default, lambda: memory(function)),
        (contents, lambda: memory(cell)),
    ]
    for write, places in writes:
        for _ in range(_TRIALS):
            words = Words(places(), isa)
            unmoved = words.same()
            write(object())
            if not unmoved or words.same():
                return False
    return True


#: The number of writes of each kind after which the interpreter has specialised the code.
_TRIALS: Final = 40
