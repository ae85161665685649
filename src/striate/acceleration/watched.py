"""Whether dictionaries still hold what they held, by one native call instead of a look at each from Python.

A model's attributes, parameters and hooks are looked at before every call of its plan, hundreds of dictionaries of
which none has changed. Compared are the addresses of keys and values, in their order, as ``PyDict_Next`` of Python's
stable interface gives them; and where Python gives dictionaries a version with every change, nothing as long as that
is the same.
"""

from __future__ import annotations

import ctypes
import sys
import sysconfig
from array import array
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any, Final

from striate.engine.llvm import compile as compiler
from striate.engine.llvm.isa import Isa

# A table: PyDict_Next, how many lines of the cache are asked for, how many dictionaries there are, and at which of
# their words they have a version (0 where they have none); the lines' addresses; each dictionary's address, how many
# lines its keys take, and its version; then of each its address, pairs of keys and values, and a zero.
_UNCHANGED = """
define i64 @unchanged(ptr %table) nounwind {
entry:
  %position = alloca i64
  %key = alloca i64
  %value = alloca i64
  %next = load ptr, ptr %table
  %lines.place = getelementptr i64, ptr %table, i64 1
  %lines = load i64, ptr %lines.place
  %count.place = getelementptr i64, ptr %table, i64 2
  %count = load i64, ptr %count.place
  %version.place = getelementptr i64, ptr %table, i64 3
  %version = load i64, ptr %version.place
  %versioned = icmp ne i64 %version, 0
  %near = getelementptr i64, ptr %table, i64 4
  %kept = getelementptr i64, ptr %near, i64 %lines
  %words = mul i64 %count, 3
  %start = getelementptr i64, ptr %kept, i64 %words
  br label %line
line:
  %at = phi i64 [ 0, %entry ], [ %at.next, %ask ]
  %more.lines = icmp slt i64 %at, %lines
  br i1 %more.lines, label %ask, label %asked
ask:
  %line.place = getelementptr i64, ptr %near, i64 %at
  %line.address = load ptr, ptr %line.place
  call void @llvm.prefetch.p0(ptr %line.address, i32 0, i32 3, i32 1)
  %at.next = add i64 %at, 1
  br label %line
asked:
  br i1 %versioned, label %version.of, label %keys.of

version.of:
  %old = phi i64 [ 0, %asked ], [ %old.next, %version.compare ]
  %more.old = icmp slt i64 %old, %words
  br i1 %more.old, label %version.compare, label %same
version.compare:
  %old.place = getelementptr i64, ptr %kept, i64 %old
  %old.dictionary = load ptr, ptr %old.place
  %old.version.place = getelementptr i64, ptr %old.place, i64 2
  %old.version = load i64, ptr %old.version.place
  %new.version.place = getelementptr i64, ptr %old.dictionary, i64 %version
  %new.version = load i64, ptr %new.version.place
  %old.next = add i64 %old, 3
  %as.old = icmp eq i64 %old.version, %new.version
  br i1 %as.old, label %version.of, label %keys.of

keys.of:
  %of = phi i64 [ 0, %asked ], [ 0, %version.compare ], [ %of.next, %keys.done ]
  %more.keys = icmp slt i64 %of, %words
  br i1 %more.keys, label %keys, label %test
keys:
  %owner.place = getelementptr i64, ptr %kept, i64 %of
  %owner = load ptr, ptr %owner.place
  %long.place = getelementptr i64, ptr %owner.place, i64 1
  %long = load i64, ptr %long.place
  %keys.place = getelementptr i64, ptr %owner, i64 4
  %keys.address = load ptr, ptr %keys.place
  br label %inside
inside:
  %within = phi i64 [ 0, %keys ], [ %within.next, %ask.keys ]
  %more.inside = icmp slt i64 %within, %long
  br i1 %more.inside, label %ask.keys, label %keys.done
ask.keys:
  %bytes = mul i64 %within, 64
  %keys.line = getelementptr i8, ptr %keys.address, i64 %bytes
  call void @llvm.prefetch.p0(ptr %keys.line, i32 0, i32 3, i32 1)
  %within.next = add i64 %within, 1
  br label %inside
keys.done:
  %of.next = add i64 %of, 3
  br label %keys.of

test:
  %which = phi i64 [ 0, %keys.of ], [ %following, %over ]
  %here = phi ptr [ %start, %keys.of ], [ %after, %over ]
  %more = icmp slt i64 %which, %count
  br i1 %more, label %open, label %all.alike
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

all.alike:
  br i1 %versioned, label %keep, label %same
keep:
  %new = phi i64 [ 0, %all.alike ], [ %new.next, %keep.one ]
  %more.new = icmp slt i64 %new, %words
  br i1 %more.new, label %keep.one, label %same
keep.one:
  %new.place = getelementptr i64, ptr %kept, i64 %new
  %new.dictionary = load ptr, ptr %new.place
  %now.place = getelementptr i64, ptr %new.dictionary, i64 %version
  %now = load i64, ptr %now.place
  %keep.place = getelementptr i64, ptr %new.place, i64 2
  store i64 %now, ptr %keep.place
  %new.next = add i64 %new, 3
  br label %keep
same:
  ret i64 1
changed:
  ret i64 0
}

declare void @llvm.prefetch.p0(ptr, i32, i32, i32)
"""

_LINE: Final = 64
#: The version that no dictionary has had, which stands in the table at first.
_NEVER: Final = -1
#: The word that comes after a dictionary's size.
_AFTER_SIZE: Final = 3
#: Bytes of a dictionary, of what comes before a table of keys and of an entry, in all of CPython's versions so far.
_DICTIONARY, _HEAD, _ENTRY = 48, 96, 24


class Watched:
    """Dictionaries as they are now, kept alive with what they hold.

    After a large network's kernels all this has left the caches, and a look at one thing waits for the one before. So
    memory is asked for in advance, that of ``near`` objects as well, which the caller is going to look at: (address,
    bytes) each. Nothing but speed hangs on where CPython keeps a dictionary's keys.
    """

    def __init__(self, dictionaries: Sequence[dict[Any, Any]], isa: Isa, near: Iterable[tuple[int, int]] = ()) -> None:
        self._dictionaries = list(dictionaries)
        self._held = [list(each.items()) for each in self._dictionaries]
        objects = [*near, *((id(each), _DICTIONARY) for each in self._dictionaries)]
        lines = list(dict.fromkeys(line for start, size in objects for line in _lines(start, size)))
        words = [_address("PyDict_Next"), len(lines), len(self._dictionaries), _version_word(), *lines]
        for each, held in zip(self._dictionaries, self._held, strict=True):
            words += [id(each), len(_lines(0, _HEAD + _ENTRY * len(held))) if held else 0, _NEVER]
        for each, held in zip(self._dictionaries, self._held, strict=True):
            words += [id(each), *(id(one) for pair in held for one in pair), 0]
        self._table = array("q", words)
        self._place, self._compare = self._table.buffer_info()[0], _comparison(isa)

    def unchanged(self) -> bool:
        """Whether all hold the same objects under the same keys. No also where nothing can be said."""
        return self._compare is not None and self._compare(self._place) == 1


def _lines(start: int, size: int) -> range:
    return range(start // _LINE * _LINE, start + size, _LINE)


@cache
def _version_word() -> int:
    """Which word of a dictionary is another one after every change of it (PEP 509; Python has had it up to 3.11).

    0 where there is none. Interpreters that are built to look for mistakes have longer objects, so it is tried out.
    """
    if sys.implementation.name != "cpython" or sys.version_info >= (3, 12):
        return 0
    tried: dict[str, int] = {}
    word = ctypes.c_int64.from_address(id(tried) + 8 * _AFTER_SIZE)
    seen = [word.value]
    for change in (lambda: tried.update(a=1), lambda: tried.update(a=2), tried.clear):
        change()
        seen.append(word.value)
        if "a" in tried and word.value != seen[-1]:
            return 0  # changes by being looked at
    return _AFTER_SIZE if len(set(seen)) == len(seen) else 0


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
