"""Where CPython keeps what is in objects: addresses of words that hold other numbers after a write.

CPython promises neither this layout nor the version tag of dictionaries, which newer versions drop. So :func:`tells`
tries each kind of write once a process. If one goes unnoticed, the guards are evaluated at every call.
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

#: Where CPython keeps an object's type, what comes after it, a dictionary's version, and a list's items.
_TYPE, _REST, _VERSION, _ITEMS = 8, 16, 24, 24
_WORD: Final = 8
#: The flag of types that cannot be changed.
IMMUTABLE: Final = 1 << 8


def version(table: dict[Any, Any]) -> int:
    """A dictionary's version, another one after every write."""
    return id(table) + _VERSION


def kind(value: object) -> int:
    """Which class an object is of."""
    return id(value) + _TYPE


def memory(value: object) -> list[int]:
    """All that an object keeps in itself: what a function, a cell, or an object with slots refers to."""
    return [*range(id(value) + _REST, id(value) + type(value).__basicsize__ - _WORD + 1, _WORD)]


def items(held: list[Any]) -> list[int]:
    """A list's length, where its items are, and each of them.

    Once the first two have changed the others are somebody else's memory.
    """
    start = ctypes.c_uint64.from_address(id(held) + _ITEMS).value
    return [id(held) + _REST, id(held) + _ITEMS, *range(start, start + _WORD * len(held), _WORD)]


def order(kind: type) -> list[int]:
    """A class's bases, in the order in which they are asked: the word of the class that refers to them."""
    size: int = vars(type)["__basicsize__"].__get__(type) // _WORD
    words = (ctypes.c_uint64 * size).from_address(id(kind))
    return [id(kind) + _WORD * at for at in range(size) if words[at] == id(kind.__mro__)]


def behind(proxy: MappingProxyType[str, Any]) -> Any:
    """The dictionary that a view shows, such as that of a class's attributes."""
    (table,) = gc.get_referents(proxy)
    return table


@cache
def tells(isa: Isa) -> bool:
    """Whether dictionaries, lists, functions, cells and objects of this Python lie in memory as is assumed here.

    Every kind of write that is relied on is tried, as often as it takes the interpreter to specialise its code.
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


#: Writes of a kind after which the interpreter has specialised its code.
_TRIALS: Final = 40
