"""The matrices of Winograd's convolution, and bounds on the rounding error of an output.

The matrices follow from n - 1 points at which polynomials are evaluated, and infinity, exactly, as fractions.

Sources: Winograd, "Arithmetic complexity of computations" (1980); Lavin & Gray, "Fast algorithms for convolutional
neural networks", CVPR 2016, sections 4.1 and 5; for the bound Barabasz, Anderson, Soodhalter & Gregg, "Error analysis
and improving the accuracy of Winograd convolution for deep neural networks", ACM Transactions on Mathematical Software
46 (2020), article 37, which also sums the channels in parts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final, TypeAlias

from striate.engine.llvm.codegen.ir import Function

Matrix: TypeAlias = tuple[tuple[Fraction, ...], ...]


#: The points by their number. 0 and 1 need the fewest operations. With four points besides 0, those at 5/8 and 3/2 keep
#: the magnitudes of the entries close together, and so the rounding small (0, 1 and 2, as in the paper: five times
#: more).
_POINTS: Final = {3: (0, 1, -1), 5: (0, Fraction(5, 8), Fraction(-5, 8), Fraction(3, 2), Fraction(-3, 2))}


@dataclass(frozen=True)
class WinogradForm:
    """The matrices for tiles of m outputs of windows of r taps along an axis."""

    outputs: int
    taps: int

    @property
    def size(self) -> int:
        """Inputs along an axis of a tile, n."""
        return self.outputs + self.taps - 1

    @property
    def elements(self) -> int:
        return self.size**2

    @property
    def points(self) -> tuple[Fraction, ...]:
        return tuple(map(Fraction, _POINTS[self.size - 1]))

    @property
    def a(self) -> Matrix:
        """A, n x m: powers of the points."""
        return self._powers(self.outputs)

    @property
    def g(self) -> Matrix:
        """G, n x r: powers of the points, divided by the products of their distances from all others."""
        *rows, last = self._powers(self.taps)
        scales = [math.prod(point - other for other in self.points if other != point) for point in self.points]
        return (*(tuple(x / scale for x in row) for row, scale in zip(rows, scales, strict=True)), last)

    @property
    def b(self) -> Matrix:
        """B', n x n: coefficients of the product of (x - other) over all others, and over all for infinity."""
        rows = [_product([other for other in self.points if other != point]) for point in self.points]
        return (*((*row, Fraction(0)) for row in rows), _product(self.points))

    @property
    def growth(self) -> Fraction:
        """The factor by which rounded numbers may exceed their result: the largest sum of squares of

            V[t, p] = sum over e of |A[e, i]| |G[e, t]| |B'[e, p]|

        over the outputs i of a tile. By Cauchy & Schwarz the sum of w[t] V[t, p] d[p] is at most the root of this times
        the norms of w and d, and for two axes, where V is the product of one for each, the root's square.
        """
        a, g, b = (tuple(tuple(map(abs, row)) for row in matrix) for matrix in (self.a, self.g, self.b))
        pairs = [(t, p) for t in range(self.taps) for p in range(self.size)]
        return max(
            Fraction(sum(sum(a[e][i] * g[e][t] * b[e][p] for e in range(self.size)) ** 2 for t, p in pairs))
            for i in range(self.outputs)
        )

    def bound(self, channels: int) -> float:
        """The largest error of an output, in units of 2 ** -24 times the norm of its filter and the norm of its input
        tile, as vectors over all channels.

        A number is rounded at most as often as the sums that it passes through have terms: two sums for each
        transformation, whose factors round once more, and the sum over channels.
        """
        chains = [max(sum(map(bool, row)) for row in matrix) + 1 for matrix in (transposed(self.a), self.b, self.g)]
        return float((sum_length(channels) + 2 * sum(chains)) * self.growth)

    def _powers(self, count: int) -> Matrix:
        infinity = tuple(Fraction(int(i == count - 1)) for i in range(count))
        return (*(tuple(point**i for i in range(count)) for point in self.points), infinity)


#: Channels are summed in groups of this size, because longer sums have larger rounding errors.
TOGETHER: Final = 32


def sum_length(channels: int) -> int:
    """The largest number of roundings in a sum over channels."""
    return min(TOGETHER, channels) + -(-channels // TOGETHER)


def _product(roots: Sequence[Fraction]) -> tuple[Fraction, ...]:
    """Coefficients of the polynomial with these roots, the constant one first."""
    found = [Fraction(1)]
    for root in roots:
        found = [low - root * high for low, high in zip([Fraction(0), *found], [*found, Fraction(0)], strict=True)]
    return tuple(found)


def transposed(matrix: Matrix) -> Matrix:
    return tuple(zip(*matrix, strict=True))


TileValues: TypeAlias = list[list[str]]


def both(f: Function, matrix: Matrix, tile: TileValues) -> TileValues:
    """matrix * tile * matrix', where the elements of the tile are vectors."""
    columns = [times(f, matrix, column) for column in zip(*tile, strict=True)]
    return [times(f, matrix, row) for row in zip(*columns, strict=True)]


def times(f: Function, matrix: Matrix, values: Sequence[str]) -> list[str]:
    """A matrix of numbers times a column of vectors.

    Two rows that differ only in signs, as the rows of opposite points do, share their partial sums: a + b and a - b.
    """
    found: dict[int, str] = {}
    for i, row in enumerate(matrix):
        if i in found:
            continue
        even: list[Fraction] | None = None
        for j in range(i + 1, len(matrix)):
            other = matrix[j]
            if j not in found and row != other and all(abs(x) == abs(y) for x, y in zip(row, other, strict=True)):
                even = [x if x == y else Fraction(0) for x, y in zip(row, other, strict=True)]
                break
        if even is None or not any(even):
            found[i] = _combined(f, row, values)
            continue
        odd = [x - y for x, y in zip(row, even, strict=True)]
        one, two = _combined(f, even, values), _combined(f, odd, values)
        found[i], found[j] = f.arithmetic("fadd", one, two), f.arithmetic("fsub", one, two)
    return [found[i] for i in range(len(matrix))]


def _combined(f: Function, factors: Sequence[Fraction], values: Sequence[str]) -> str:
    """The sum of factor * value, starting with terms that need no multiplication."""
    terms = sorted((pair for pair in zip(factors, values, strict=True) if pair[0]), key=lambda pair: pair[0] != 1)
    if not terms:
        return f.zeros()
    common = {abs(factor) for factor, _ in terms}
    if len(terms) > 1 and len(common) == 1 and common != {Fraction(1)}:
        # All factors have the same magnitude: multiply once, at the end.
        (size,) = common
        inner = _combined(f, [factor / size for factor, _ in terms], [value for _, value in terms])
        return f.arithmetic("fmul", inner, f.constant(float(size)))
    total = ""
    for factor, value in terms:
        if not total:
            if factor == 1:
                total = value
            elif factor == -1:
                total = f.negative(value)
            else:
                total = f.arithmetic("fmul", value, f.constant(float(factor)))
        elif abs(factor) == 1:
            total = f.arithmetic("fadd" if factor > 0 else "fsub", total, value)
        else:
            total = f.fma(value, f.constant(float(factor)), total)
    return total
