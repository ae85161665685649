"""Writes LLVM IR from Python: numbers and pointers overload operators, and loops are ``with`` blocks.

For example, ``with f.loop(0, rows) as row: total.set(f.fma(f.load(x + row * pitch), w, total.get()))`` appends the text
of a loop. Integers that are known when the kernel is generated are Python integers, and are computed in Python.
Variables are stack slots, which LLVM's first pass turns into registers.

Source for the instructions: the LLVM Language Reference Manual.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

from striate.engine.llvm.codegen.isa import Isa

#: Numbers in a cache line, and the prefetch distance in numbers (two pages).
LINE, AHEAD = 16, 2048
#: The bits of a float32 without its sign.
MAGNITUDE = (1 << 31) - 1


@dataclass(frozen=True, eq=False)
class Int:
    """A 64-bit integer that is known when the kernel runs."""

    f: Function
    text: str

    def __str__(self) -> str:
        return self.text

    def __add__(self, other: Number) -> Number:
        return self if _is(other, 0) else self.f.integer("add nsw", self, other)

    __radd__ = __add__

    def __sub__(self, other: Number) -> Number:
        return self if _is(other, 0) else self.f.integer("sub nsw", self, other)

    def __rsub__(self, other: int) -> Number:
        return self.f.integer("sub nsw", other, self)

    def __mul__(self, other: Number) -> Number:
        if _is(other, 0):
            return 0
        return self if _is(other, 1) else self.f.integer("mul nsw", self, other)

    __rmul__ = __mul__

    # Rounds towards zero, unlike Python's; kernels never divide negative numbers.
    def __floordiv__(self, other: Number) -> Number:
        return self if _is(other, 1) else self.f.integer("sdiv", self, other)

    def __rfloordiv__(self, other: int) -> Number:
        return self.f.integer("sdiv", other, self)

    def __rmod__(self, other: int) -> Number:
        return self.f.integer("srem", other, self)

    def __mod__(self, other: Number) -> Number:
        return 0 if _is(other, 1) else self.f.integer("srem", self, other)


Number: TypeAlias = Int | int


def _is(number: Number, value: int) -> bool:
    return isinstance(number, int) and number == value


@dataclass(frozen=True, eq=False)
class Pointer:
    """An address of elements of one type; adding moves by elements."""

    f: Function
    text: str
    element: str = "float"

    def __add__(self, offset: Number) -> Pointer:
        if _is(offset, 0):
            return self
        moved = self.f.value(f"getelementptr {self.element}, ptr {self.text}, i64 {offset}")
        return Pointer(self.f, moved, self.element)


@dataclass(frozen=True, eq=False)
class Variable:
    """A value that changes as the kernel runs."""

    f: Function
    slot: str
    type: str

    def get(self) -> str:
        return self.f.value(f"load {self.type}, ptr {self.slot}")

    def set(self, value: str) -> None:
        self.f.line(f"store {self.type} {value}, ptr {self.slot}")


class Function:
    """A kernel under construction: ``void name(ptr arguments, i64 first, i64 last, i64 thread)``.

    ``arguments`` is a table of 64-bit words: addresses and sizes in the order in which :meth:`pointer` and
    :meth:`size` read them. The kernel computes the work items ``first`` to ``last`` (exclusive). Each argument has a
    name, by which launchers pass it (:meth:`striate.engine.llvm.codegen.launch.Kernel.words`).
    """

    def __init__(self, name: str, isa: Isa) -> None:
        self.name, self.isa, self.lanes = name, isa, isa.lanes
        self.vector, self.mask = f"<{isa.lanes} x float>", f"<{isa.lanes} x i1>"
        self.first, self.last, self.thread = (Int(self, f"%{word}") for word in ("first", "last", "thread"))
        self._lines: list[str] = []
        self._slots: list[str] = []
        self._declared: dict[str, str] = {}
        self._names = 0
        #: The names of the arguments, in order.
        self.arguments: list[str] = []
        iota = ", ".join(f"i32 {lane}" for lane in range(isa.lanes))
        self._iota = f"<{iota}>"

    # ---------------------------------------------------------------- text

    def line(self, text: str) -> None:
        self._lines.append(f"  {text}")

    def value(self, text: str) -> str:
        self._names += 1
        self.line(f"%v{self._names} = {text}")
        return f"%v{self._names}"

    def call(self, result: str, name: str, *arguments: tuple[str, str]) -> str:
        """A call of one of LLVM's intrinsic functions, from (type, value) pairs."""
        self._declared[name] = f"declare {result} @{name}({', '.join(kind for kind, _ in arguments)})"
        text = f"call {result} @{name}({', '.join(f'{kind} {value}' for kind, value in arguments)})"
        if result == "void":
            self.line(text)
            return ""
        return self.value(text)

    def text(self) -> str:
        """The text of the function, for an LLVM module."""
        # Without this attribute, LLVM splits 512-bit vectors for processors on which they are slow.
        wide = ' "prefer-vector-width"="512" "min-legal-vector-width"="512"' if self.lanes == 16 else ""
        head = (
            f"define internal void @{self.name}(ptr %arguments, i64 %first, i64 %last, i64 %thread) nounwind{wide} {{"
        )
        body = ["entry:", *self._slots, *self._lines, "  ret void", "}"]
        return "\n".join([*self._declared.values(), head, *body, ""])

    # ---------------------------------------------------------------- integers and addresses

    def size(self, name: str) -> Int:
        """The next argument, an integer."""
        return Int(self, self.value(f"load i64, ptr {self._next(name)}"))

    def pointer(self, name: str, element: str = "float") -> Pointer:
        """The next argument, an address."""
        return Pointer(self, self.value(f"inttoptr i64 {self.size(name)} to ptr"), element)

    def real(self, name: str) -> str:
        """The next argument, a float (see :func:`real_word`), in all lanes."""
        return self.splat(self.value(f"fptrunc double {self.double(name)} to float"))

    def double(self, name: str) -> str:
        """The next argument, a float (see :func:`real_word`), as a single 64-bit number."""
        return self.value(f"load double, ptr {self._next(name)}")

    def _next(self, name: str) -> str:
        assert name not in self.arguments, f"{self.name} has two arguments named {name}"
        self.arguments.append(name)
        return self.value(f"getelementptr i64, ptr %arguments, i64 {len(self.arguments) - 1}")

    def integer(self, operation: str, first: Number, second: Number) -> Int:
        return Int(self, self.value(f"{operation} i64 {first}, {second}"))

    def smaller(self, first: Number, second: Number) -> Number:
        if isinstance(first, int) and isinstance(second, int):
            return min(first, second)
        return Int(self, self.call("i64", "llvm.smin.i64", ("i64", str(first)), ("i64", str(second))))

    def larger(self, first: Number, second: Number) -> Number:
        if isinstance(first, int) and isinstance(second, int):
            return max(first, second)
        return Int(self, self.call("i64", "llvm.smax.i64", ("i64", str(first)), ("i64", str(second))))

    def ceil_div(self, number: Number, by: Number) -> Number:
        """``ceil(number / by)``, 0 for negative numbers."""
        return (self.larger(number, 0) + (by - 1)) // by

    def less(self, first: Number, second: Number) -> str:
        return self.value(f"icmp slt i64 {first}, {second}")

    def same(self, first: Number, second: Number) -> str:
        return self.value(f"icmp eq i64 {first}, {second}")

    def both(self, first: str, second: str) -> str:
        return self.value(f"and i1 {first}, {second}")

    # ---------------------------------------------------------------- control

    def _label(self, word: str) -> str:
        self._names += 1
        return f"{word}{self._names}"

    def variable(self, value: str, kind: str = "") -> Variable:
        """A new variable of type ``kind`` (by default a vector), with the value ``value``."""
        kind = kind or self.vector
        slot = f"%slot{len(self._slots)}"
        self._slots.append(f"  {slot} = alloca {kind}, align 64")
        made = Variable(self, slot, kind)
        made.set(value)
        return made

    @contextmanager
    def loop(self, start: Number, stop: Number, step: Number = 1) -> Iterator[Int]:
        """A loop: the block runs for start, start + step, ... below stop."""
        counter = self.variable(str(start), "i64")
        test, body, done = self._label("test"), self._label("body"), self._label("done")
        self.line(f"br label %{test}")
        self._lines.append(f"{test}:")
        now = Int(self, counter.get())
        self.line(f"br i1 {self.less(now, stop)}, label %{body}, label %{done}")
        self._lines.append(f"{body}:")
        yield now
        counter.set(str(now + step))
        self.line(f"br label %{test}")
        self._lines.append(f"{done}:")

    def each(self, start: Number, stop: Number, step: int, written_out: bool) -> Iterator[Number]:
        """A loop like :meth:`loop`, for a ``for`` statement; ``written_out`` unrolls it, if the bounds are known."""
        if written_out:
            assert isinstance(start, int)
            assert isinstance(stop, int)
            yield from range(start, stop, step)
            return
        with self.loop(start, stop, step) as now:
            yield now

    @contextmanager
    def when(self, condition: str) -> Iterator[None]:
        """A branch: the block runs if the condition holds."""
        yes, done = self._label("when"), self._label("done")
        self.line(f"br i1 {condition}, label %{yes}, label %{done}")
        self._lines.append(f"{yes}:")
        yield
        self.line(f"br label %{done}")
        self._lines.append(f"{done}:")

    def choose(self, condition: str, yes: Number, no: Number) -> Int:
        """Selects one of two integers."""
        return Int(self, self.value(f"select i1 {condition}, i64 {yes}, i64 {no}"))

    def negation(self, condition: str) -> str:
        return self.value(f"xor i1 {condition}, true")

    def either(self, condition: str, yes: Pointer, no: Pointer) -> Pointer:
        """Selects one of two addresses."""
        return Pointer(self, self.value(f"select i1 {condition}, ptr {yes.text}, ptr {no.text}"), yes.element)

    def opaque(self, place: Pointer) -> Pointer:
        """Hides from LLVM how an address was computed, so that it computes the address where it is used."""
        return Pointer(self, self.value(f'call ptr asm "", "=r,0"(ptr {place.text})'), place.element)

    # ---------------------------------------------------------------- vectors

    def zeros(self) -> str:
        return "zeroinitializer"

    def constant(self, number: float) -> str:
        """A number known in Python, rounded to float32, in all lanes."""
        return f"splat (float {single(number)})"

    def splat(self, scalar: str, kind: str = "float") -> str:
        """A vector with one value in all lanes."""
        wide = f"<{self.lanes} x {kind}>"
        one = self.value(f"insertelement {wide} poison, {kind} {scalar}, i64 0")
        return self.value(f"shufflevector {wide} {one}, {wide} poison, <{self.lanes} x i32> zeroinitializer")

    def load_as(self, place: Pointer, mask: str = "") -> str:
        """A vector of the pointer's element type."""
        kind = place.element
        wide = f"<{self.lanes} x {kind}>"
        if not mask:
            return self.value(f"load {wide}, ptr {place.text}, align {_BYTES[kind]}")
        arguments = ((f"ptr align {_BYTES[kind]}", place.text), (self.mask, mask), (wide, "zeroinitializer"))
        return self.call(wide, f"llvm.masked.load.v{self.lanes}{_SUFFIX.get(kind, kind)}.p0", *arguments)

    def magnitude_bits(self, value: str) -> str:
        """Absolute values as 32-bit integers of the same order: NaN is above infinity, and infinity above the rest."""
        wide = f"<{self.lanes} x i32>"
        return self.value(
            f"and {wide} {self.value(f'bitcast {self.vector} {value} to {wide}')}, splat (i32 {MAGNITUDE})"
        )

    def scalar(self, place: Pointer) -> str:
        return self.value(f"load {place.element}, ptr {place.text}")

    def broadcast(self, place: Pointer) -> str:
        """The number at an address in all lanes."""
        return self.splat(self.scalar(place))

    def load(self, place: Pointer, mask: str = "", other: str = "zeroinitializer") -> str:
        """Loads a vector; lanes outside the mask read nothing and have the values of ``other``."""
        if not mask:
            return self.value(f"load {self.vector}, ptr {place.text}, align 4")
        return self.call(
            self.vector,
            f"llvm.masked.load.v{self.lanes}f32.p0",
            ("ptr align 4", place.text),
            (self.mask, mask),
            (self.vector, other),
        )

    def prefetch(self, place: Pointer, *, write: bool = False) -> None:
        """Prefetches the cache line at an address, which may be invalid, to the second-level cache."""
        arguments = (("ptr", place.text), ("i32", str(int(write))), ("i32", "2"), ("i32", "1"))
        self.call("void", "llvm.prefetch.p0", *arguments)

    def store(self, value: str, place: Pointer, mask: str = "", kind: str = "float") -> None:
        """Stores a vector; memory of lanes outside the mask isn't touched."""
        wide = f"<{self.lanes} x {kind}>"
        if not mask:
            self.line(f"store {wide} {value}, ptr {place.text}, align {_BYTES[kind]}")
            return
        name = f"llvm.masked.store.v{self.lanes}{_SUFFIX.get(kind, kind)}.p0"
        self.call("void", name, (wide, value), (f"ptr align {_BYTES[kind]}", place.text), (self.mask, mask))

    def store_first(self, value: str, place: Pointer, count: int) -> None:
        """Stores the first lanes in pieces of powers of two: masked stores are ten times as slow on some processors."""
        done = 0
        while done < count:
            piece = 1 << (count - done).bit_length() - 1
            part = self.shuffle(value, value, range(done, done + piece))
            self.line(f"store <{piece} x float> {part}, ptr {(place + done).text}, align 4")
            done += piece

    def store_apart(self, value: str, place: Pointer, step: Number) -> None:
        """Stores the lanes ``step`` elements of the pointer's type apart."""
        wide = f"<{self.lanes} x {place.element}>"
        for lane in range(self.lanes):
            self.put(self.value(f"extractelement {wide} {value}, i64 {lane}"), place + lane * step)

    def inside(self, start: Number, stop: Number) -> str:
        """The mask of the lanes whose position, ``start + lane``, is 0 or more and below ``stop``."""
        return self.below(self.positions(start), stop)

    def below(self, positions: str, stop: Number) -> str:
        """The mask of the lanes whose 32-bit position is 0 or more and below ``stop``."""
        limit = self.splat(self.narrow(stop), "i32")
        # As an unsigned number, a negative position is larger than any size.
        return self.value(f"icmp ult <{self.lanes} x i32> {positions}, {limit}")

    def mask_or(self, first: str, second: str) -> str:
        return self.value(f"or {self.mask} {first}, {second}")

    def any(self, mask: str) -> str:
        """Whether the mask is set in at least one lane."""
        return self.call("i1", f"llvm.vector.reduce.or.v{self.lanes}i1", (self.mask, mask))

    def select(self, mask: str, yes: str, no: str, kind: str = "float") -> str:
        """Lanes of ``yes`` where the mask is set, of ``no`` elsewhere."""
        wide = f"<{self.lanes} x {kind}>"
        return self.value(f"select {self.mask} {mask}, {wide} {yes}, {wide} {no}")

    def gather(self, base: Pointer, positions: str, mask: str = "", other: str = "zeroinitializer") -> str:
        """Gathers the numbers at 32-bit positions from an address; lanes outside the mask are those of ``other``."""
        wide = self.value(f"sext <{self.lanes} x i32> {positions} to <{self.lanes} x i64>")
        places = self.value(f"getelementptr float, ptr {base.text}, <{self.lanes} x i64> {wide}")
        every = "splat (i1 true)"
        return self.call(
            self.vector,
            f"llvm.masked.gather.v{self.lanes}f32.v{self.lanes}p0",
            (f"<{self.lanes} x ptr> align 4", places),
            (self.mask, mask or every),
            (self.vector, other),
        )

    def positions(self, start: Number, step: Number = 1) -> str:
        """``start + lane * step`` in every lane, as 32-bit numbers."""
        kind = f"<{self.lanes} x i32>"
        lanes = self._iota
        if not _is(step, 1):
            lanes = self.value(f"mul {kind} {lanes}, {self.splat(self.narrow(step), 'i32')}")
        return self.value(f"add {kind} {self.splat(self.narrow(start), 'i32')}, {lanes}")

    def widened(self, number: str, kind: str) -> Int:
        """An integer of a narrower type, extended to 64 bits."""
        return Int(self, number if kind == "i64" else self.value(f"sext {kind} {number} to i64"))

    def narrow(self, number: Number) -> str:
        return str(number) if isinstance(number, int) else self.value(f"trunc i64 {number} to i32")

    def fma(self, first: str, second: str, third: str) -> str:
        """``first * second + third``, rounded once if the instruction set has FMA, else twice."""
        if not self.isa.fma:
            product = self.value(f"fmul {self.vector} {first}, {second}")
            return self.value(f"fadd {self.vector} {product}, {third}")
        vectors = ((self.vector, first), (self.vector, second), (self.vector, third))
        return self.call(self.vector, f"llvm.fma.v{self.lanes}f32", *vectors)

    def arithmetic(self, operation: str, first: str, second: str) -> str:
        """``fadd``, ``fsub``, ``fmul`` or ``fdiv`` of two vectors."""
        return self.value(f"{operation} {self.vector} {first}, {second}")

    def compare(self, condition: str, first: str, second: str) -> str:
        """The mask of the lanes for which a condition (``olt``, ``oge``, ...) holds."""
        return self.value(f"fcmp {condition} {self.vector} {first}, {second}")

    def at_least(self, value: str, bound: str) -> str:
        """The larger of two; NaN stays NaN."""
        return self.select(self.compare("olt", value, bound), bound, value)

    def at_most(self, value: str, bound: str) -> str:
        """The smaller of two; NaN stays NaN."""
        return self.select(self.compare("ogt", value, bound), bound, value)

    def negative(self, value: str) -> str:
        return self.value(f"fneg {self.vector} {value}")

    def root(self, value: str) -> str:
        """The square root."""
        return self.call(self.vector, f"llvm.sqrt.v{self.lanes}f32", (self.vector, value))

    def real_of(self, number: Number) -> str:
        """An integer as a float in all lanes."""
        return self.splat(self.value(f"sitofp i64 {number} to float"))

    def shuffle(self, first: str, second: str, lanes: Sequence[int], kind: str = "float") -> str:
        """Picks lanes from two vectors laid end to end."""
        wide = f"<{self.lanes} x {kind}>"
        picked = ", ".join(f"i32 {lane}" for lane in lanes)
        return self.value(f"shufflevector {wide} {first}, {wide} {second}, <{len(lanes)} x i32> <{picked}>")

    def put(self, number: str, place: Pointer) -> None:
        """Writes one number of the pointer's element type."""
        self.line(f"store {place.element} {number}, ptr {place.text}")

    def add_to(self, place: Pointer, number: str) -> None:
        """Adds a number to the one at an address."""
        sum_ = self.value(f"fadd float {self.scalar(place)}, {number}")
        self.line(f"store float {sum_}, ptr {place.text}")

    def total(self, value: str) -> str:
        """The sum of all lanes, by halving, always in the same order."""
        width = self.lanes
        while width > 1:
            half = width // 2
            # Add the upper half to the lower half; the lanes above that are no longer used.
            swap = [lane + half if lane < half else lane for lane in range(self.lanes)]
            value = self.arithmetic("fadd", value, self.shuffle(value, value, swap))
            width = half
        return self.value(f"extractelement {self.vector} {value}, i64 0")


_BYTES = {"float": 4, "double": 8, "i8": 1, "i16": 2, "i32": 4, "i64": 8}
#: Names of types in the names of LLVM's intrinsics, if they differ from the type's name.
_SUFFIX = {"float": "f32", "double": "f64"}


def single(number: float) -> str:
    """A number, rounded to float32, in LLVM's notation."""
    (rounded,) = struct.unpack("<f", struct.pack("<f", number))
    return f"0x{struct.unpack('<Q', struct.pack('<d', rounded))[0]:016X}"


def real_word(number: float) -> int:
    """A number as the 64-bit word that :meth:`Function.real` and :meth:`Function.double` read."""
    word: int = struct.unpack("<q", struct.pack("<d", number))[0]
    return word
