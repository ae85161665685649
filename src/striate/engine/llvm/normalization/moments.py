"""Mean and variance of many numbers, accurate to float32's last digits, also far from 0.

    of n numbers, summed in 64 bits, where a square of float32 is exact
        T = sum of (x - c),  Q = sum of (x - c)^2
        mean = c + T / n,  M = Q - T^2 / n                                   M: squares about the mean

    of two sets of numbers together, with T_a and T_b about the same c
        T = T_a + T_b,  M = M_a + M_b + n_a * n_b / (n_a + n_b) * (T_a / n_a - T_b / n_b)^2

c is 0 at first. The difference in M loses as many digits as Q is larger than M. If M is less than Q / 1024, which means
that the mean exceeds 32 deviations, the numbers are read again, about c = the mean just computed, rounded to float32.
So an outlier costs no digits at any position; a c from a few of the numbers would lose digits if these are far from the
others. Most maps are read once, because a channel whose mean exceeds 32 deviations is rare.

Sources: Welford, "Note on a method for calculating corrected sums of squares and products" (1962), for numbers joined
one by one; Chan, Golub & LeVeque, "Algorithms for computing the sample variance: analysis and recommendations" (1983),
for sets of numbers, for the effect of a shift, and for reading twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial, reduce

from striate.engine.llvm.codegen.ir import Function, Number, Variable

#: The smallest M / Q for which the numbers aren't read again.
_LEAST = 2.0**-10


@dataclass(frozen=True)
class Doubles:
    """64-bit arithmetic on vectors with as many numbers as a float32 vector; with ``lanes`` 1 on single numbers."""

    f: Function
    lanes: int

    @property
    def kind(self) -> str:
        return self._wide("double")

    def _wide(self, kind: str) -> str:
        return kind if self.lanes == 1 else f"<{self.lanes} x {kind}>"

    def _intrinsic(self, name: str, *operands: str) -> str:
        suffix = "f64" if self.lanes == 1 else f"v{self.lanes}f64"
        return self.f.call(self.kind, f"llvm.{name}.{suffix}", *((self.kind, operand) for operand in operands))

    def constant(self, number: float) -> str:
        """A constant that float32 represents exactly."""
        return repr(number) if self.lanes == 1 else f"splat (double {number!r})"

    def variable(self, value: str) -> Variable:
        return self.f.variable(value, self.kind)

    def of(self, value: str) -> str:
        """Converts from 32 bits."""
        return self.f.value(f"fpext {self._wide('float')} {value} to {self.kind}")

    def of_whole(self, number: Number) -> str:
        """Converts an integer, to all lanes."""
        return self.splat(self.f.value(f"sitofp i64 {number} to double"))

    def splat(self, number: str) -> str:
        return number if self.lanes == 1 else self.f.splat(number, "double")

    def rounded(self, value: str) -> str:
        """Rounds to 32 bits."""
        return self.f.value(f"fptrunc {self.kind} {value} to {self._wide('float')}")

    def arithmetic(self, operation: str, first: str, second: str) -> str:
        return self.f.value(f"{operation} {self.kind} {first}, {second}")

    def fma(self, first: str, second: str, third: str) -> str:
        """``first * second + third``, rounded once if the instruction set has FMA, else twice."""
        if self.f.isa.fma:
            return self._intrinsic("fma", first, second, third)
        return self.arithmetic("fadd", self.arithmetic("fmul", first, second), third)

    def negative(self, value: str) -> str:
        return self.f.value(f"fneg {self.kind} {value}")

    def root(self, value: str) -> str:
        return self._intrinsic("sqrt", value)

    def inverse(self, value: str) -> str:
        return self.arithmetic("fdiv", self.constant(1.0), value)

    def compare(self, condition: str, first: str, second: str) -> str:
        """A comparison (``olt``, ``oge``, ...): a mask, or a single condition for single numbers."""
        return self.f.value(f"fcmp {condition} {self.kind} {first}, {second}")

    def select(self, mask: str, yes: str, no: str) -> str:
        return self.f.value(f"select {self._wide('i1')} {mask}, {self.kind} {yes}, {self.kind} {no}")

    def at_least(self, value: str, bound: str) -> str:
        """The larger of two; NaN stays NaN."""
        return self.select(self.compare("olt", value, bound), bound, value)

    def total(self, value: str) -> str:
        """The sum of all lanes, by halving, always in the same order."""
        lanes = self.lanes
        while lanes > 1:
            kind, half = f"<{lanes} x double>", lanes // 2
            parts = [
                self.f.value(
                    f"shufflevector {kind} {value}, {kind} poison, "
                    f"<{half} x i32> <{', '.join(f'i32 {lane}' for lane in range(start, start + half))}>"
                )
                for start in (0, half)
            ]
            value = self.f.value(f"fadd <{half} x double> {parts[0]}, {parts[1]}")
            lanes = half
        return self.f.value(f"extractelement <1 x double> {value}, i64 0")


class VectorSums:
    """Sums of vectors, each in several independent parts, so that no addition waits for the one before."""

    def __init__(self, wide: Doubles, sums: int, parts: int = 1) -> None:
        self.wide = wide
        self.parts = [[wide.variable(wide.constant(0.0)) for _ in range(sums)] for _ in range(parts)]

    def put(self, more: list[str]) -> None:
        """Adds a vector to each sum."""
        for total, value in zip(self.parts[0], more, strict=True):
            total.set(self.wide.arithmetic("fadd", total.get(), value))

    def totals(self) -> list[str]:
        """The sums over all parts."""
        add = partial(self.wide.arithmetic, "fadd")
        return [reduce(add, (part.get() for part in parts)) for parts in zip(*self.parts, strict=True)]


class Shifted(VectorSums):
    """T and Q about a centre, or about 0 without one."""

    def __init__(self, wide: Doubles, centre: str = "", parts: int = 1) -> None:
        super().__init__(wide, 2, parts)
        self.centre = centre

    def add(self, values: str, part: int = 0) -> None:
        """Adds a vector of float32 numbers."""
        wide, (plain, square) = self.wide, self.parts[part]
        apart = wide.of(values)
        if self.centre:
            apart = wide.arithmetic("fsub", apart, self.centre)
        plain.set(wide.arithmetic("fadd", plain.get(), apart))
        square.set(wide.fma(apart, apart, square.get()))


def squares(wide: Doubles, plain: str, square: str, share: str) -> str:
    """M, from T, Q and 1 / n."""
    return wide.fma(wide.negative(plain), wide.arithmetic("fmul", plain, share), square)


def lost(wide: Doubles, plain: str, square: str, share: str) -> str:
    """The mask where M lost too many digits; not set for infinities and NaN, or if all numbers are 0."""
    bound = wide.arithmetic("fmul", square, wide.constant(_LEAST))
    return wide.compare("olt", squares(wide, plain, square, share), bound)


def centre(wide: Doubles, plain: str, share: str) -> str:
    """The c of the second reading, from T of the first."""
    return wide.of(wide.rounded(wide.arithmetic("fmul", plain, share)))


def variance(wide: Doubles, squares: str, share: str) -> str:
    """M / n, at least 0, because rounding may make M negative."""
    return wide.at_least(wide.arithmetic("fmul", squares, share), wide.constant(0.0))


class Moments:
    """Count, T about 0, and M of all sets that have been added."""

    def __init__(self, wide: Doubles, origin: str) -> None:
        self.wide, self.origin = wide, origin
        self.one = Doubles(wide.f, 1)
        self.count = self.one.variable(self.one.constant(0.0))
        self.plain, self.squares = (wide.variable(wide.constant(0.0)) for _ in range(2))

    def add(self, many: Number, centre: str, plain: str, square: str) -> None:
        """Adds a set of ``many`` numbers, given by its T and Q about its centre."""
        wide, one = self.wide, self.one
        # Divisions by counts are the same in all lanes, so they are done on single numbers.
        mine, theirs = self.count.get(), one.of_whole(many)
        count = one.arithmetic("fadd", mine, theirs)
        weight = wide.splat(one.arithmetic("fdiv", one.arithmetic("fmul", mine, theirs), count))
        share = wide.splat(one.inverse(theirs))
        # Before the first set there is no mean; its weight is 0, so any value is fine.
        mean = wide.arithmetic("fmul", self.plain.get(), wide.splat(one.inverse(one.at_least(mine, one.constant(1.0)))))
        about = wide.fma(wide.arithmetic("fsub", centre, self.origin), wide.splat(theirs), plain)
        distance = wide.fma(about, share, wide.negative(mean))
        between = wide.arithmetic("fmul", distance, wide.arithmetic("fmul", distance, weight))
        inside = squares(wide, plain, square, share)
        self.count.set(count)
        self.plain.set(wide.arithmetic("fadd", self.plain.get(), about))
        self.squares.set(wide.arithmetic("fadd", self.squares.get(), wide.arithmetic("fadd", inside, between)))

    def found(self) -> tuple[str, str]:
        """Mean and variance."""
        share = self.wide.splat(self.one.inverse(self.count.get()))
        mean = self.wide.fma(self.plain.get(), share, self.origin)
        return mean, variance(self.wide, self.squares.get(), share)
