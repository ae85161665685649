"""Whether dictionaries still hold what they held, by one native call instead of a look at each from Python.

A model's attributes, parameters and hooks are looked at before every call of its plan, hundreds of dictionaries of
which none has changed. Compared are the addresses of keys and values, in their order, as ``PyDict_Next`` of Python's
stable interface gives them.
"""

from __future__ import annotations

import ctypes
import sysconfig
from array import array
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from striate.engine.llvm import compile as compiler
from striate.engine.llvm.isa import Isa

# A table: PyDict_Next, the number of dictionaries; then of each its address, pairs of keys and values, and a zero.
_UNCHANGED = """
define i64 @unchanged(ptr %table) nounwind {
entry:
  %position = alloca i64
  %key = alloca i64
  %value = alloca i64
  %next = load ptr, ptr %table
  %count.place = getelementptr i64, ptr %table, i64 1
  %count = load i64, ptr %count.place
  %start = getelementptr i64, ptr %table, i64 2
  br label %test
test:
  %which = phi i64 [ 0, %entry ], [ %following, %over ]
  %here = phi ptr [ %start, %entry ], [ %after, %over ]
  %more = icmp slt i64 %which, %count
  br i1 %more, label %open, label %same
open:
  %dictionary = load ptr, ptr %here
  store i64 0, ptr %position
  %first = getelementptr i64, ptr %here, i64 1
  br label %item
item:
  %pair = phi ptr [ %first, %open ], [ %further, %alike ]
  %got = call i32 %next(ptr %dictionary, ptr %position, ptr %key, ptr %value)
  %expected = load i64, ptr %pair
  %none = icmp eq i32 %got, 0
  br i1 %none, label %last, label %compare
compare:
  %found = load i64, ptr %key
  %same.key = icmp eq i64 %found, %expected
  br i1 %same.key, label %named, label %changed
named:
  %held = load i64, ptr %value
  %held.place = getelementptr i64, ptr %pair, i64 1
  %held.before = load i64, ptr %held.place
  %same.value = icmp eq i64 %held, %held.before
  br i1 %same.value, label %alike, label %changed
alike:
  %further = getelementptr i64, ptr %pair, i64 2
  br label %item
last:
  %all = icmp eq i64 %expected, 0
  br i1 %all, label %over, label %changed
over:
  %after = getelementptr i64, ptr %pair, i64 1
  %following = add i64 %which, 1
  br label %test
same:
  ret i64 1
changed:
  ret i64 0
}
"""


class Watched:
    """Dictionaries as they are now, kept alive with what they hold."""

    def __init__(self, dictionaries: Sequence[dict[Any, Any]], isa: Isa) -> None:
        self._dictionaries = list(dictionaries)
        self._held = [list(each.items()) for each in self._dictionaries]
        words = [_address("PyDict_Next"), len(self._dictionaries)]
        for each, held in zip(self._dictionaries, self._held, strict=True):
            words += [id(each), *(id(one) for pair in held for one in pair), 0]
        self._table = array("q", words)
        self._place, self._compare = self._table.buffer_info()[0], _comparison(isa)

    def unchanged(self) -> bool:
        """Whether all hold the same objects under the same keys. No also where nothing can be said."""
        return self._compare is not None and self._compare(self._place) == 1


@cache
def _address(name: str) -> int:
    return ctypes.cast(getattr(ctypes.pythonapi, name), ctypes.c_void_p).value or 0


@cache
def _comparison(isa: Isa) -> Callable[[int], int] | None:
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        return None  # somebody may change a dictionary meanwhile
    (address,) = compiler.link(_UNCHANGED, isa, ("unchanged",))
    # Python's lock is held, unlike in kernels.
    return ctypes.PYFUNCTYPE(ctypes.c_int64, ctypes.c_void_p)(address)
