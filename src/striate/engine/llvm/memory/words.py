"""Whether words of memory still hold what they held, compared natively: a nanosecond a word."""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Callable, Sequence
from functools import cache
from typing import Final, NamedTuple

from striate.engine.llvm.codegen import machine_code
from striate.engine.llvm.codegen.isa import Isa

# A row of the table: a word's address, and what it held.
_CODE: Final = """
; Writes what all words hold now.
define void @take(ptr %table, i64 %rows) nounwind {
entry:
  br label %test
test:
  %at = phi i64 [ 0, %entry ], [ %next, %body ]
  %more = icmp slt i64 %at, %rows
  br i1 %more, label %body, label %end
body:
  %first = mul i64 %at, 2
  %row = getelementptr i64, ptr %table, i64 %first
  %word = load ptr, ptr %row
  %value = load i64, ptr %word
  %second = getelementptr i64, ptr %row, i64 1
  store i64 %value, ptr %second
  %next = add i64 %at, 1
  br label %test
end:
  ret void
}

; 1 if all words hold what they held. Nothing behind the first other one is read.
define i64 @same(ptr %table, i64 %rows) nounwind {
entry:
  br label %test
test:
  %at = phi i64 [ 0, %entry ], [ %next, %equal ]
  %more = icmp slt i64 %at, %rows
  br i1 %more, label %body, label %all
body:
  %first = mul i64 %at, 2
  %row = getelementptr i64, ptr %table, i64 %first
  %word = load ptr, ptr %row
  %value = load volatile i64, ptr %word
  %second = getelementptr i64, ptr %row, i64 1
  %held = load i64, ptr %second
  %alike = icmp eq i64 %value, %held
  br i1 %alike, label %equal, label %other
equal:
  %next = add i64 %at, 1
  br label %test
all:
  ret i64 1
other:
  ret i64 0
}
"""


class _Native(NamedTuple):
    take: Callable[[int, int], None]
    same: Callable[[int, int], int]


@cache
def _native(isa: Isa) -> _Native:
    take, same = machine_code.link(_CODE, isa, ("take", "same"))
    # Python's lock is held, so that nobody writes meanwhile.
    return _Native(
        ctypes.PYFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)(take),
        ctypes.PYFUNCTYPE(ctypes.c_int64, ctypes.c_void_p, ctypes.c_int64)(same),
    )


class Words:
    """Words of eight bytes at some addresses, as they are now.

    They are compared in the order in which they are given, up to the first that has changed. So a word may tell whether
    the addresses behind it still belong to whoever is meant; the caller keeps all others where they are.
    """

    def __init__(self, addresses: Sequence[int], isa: Isa) -> None:
        self._native = _native(isa)
        table = array("Q", bytes(16 * len(addresses)))
        table[::2] = array("Q", addresses)
        self._table, self._words = table, (table.buffer_info()[0], len(addresses))
        self.take()

    def take(self) -> None:
        """From now on it counts what they hold now."""
        self._native.take(*self._words)

    def same(self) -> bool:
        """Whether they still hold that."""
        return self._native.same(*self._words) == 1
