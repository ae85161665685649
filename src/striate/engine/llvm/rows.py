"""Reading a row of a plane into vectors, with the stride of a window between lanes and zeros where there is padding.

Lane l of the vector for tap t of output position o holds the input at ``(o + l) * stride - before + t * dilation``.
Whether a tile of outputs sees padding is asked once; only those that do pay for masks.
"""

from __future__ import annotations

from dataclasses import dataclass

from striate.engine.llvm.emit import Function, Number, Pointer, Variable


@dataclass(frozen=True)
class Axis:
    """What a kernel is generated for along one axis; sizes are known when it runs. ``before`` may be negative."""

    kernel: int
    stride: int
    before: int
    dilation: int

    @property
    def reach(self) -> int:
        """Input positions from the first tap to the last."""
        return (self.kernel - 1) * self.dilation


def sees_no_padding(f: Function, axis: Axis, output: Number, outputs: int, size: Number) -> str:
    """Whether all that ``outputs`` positions from ``output`` on read lies on the input."""
    first = output * axis.stride - axis.before
    last = first + ((outputs - 1) * axis.stride + axis.reach)
    return f.both(f.less(-1, first), f.less(last, size))


def taps_inside(f: Function, axis: Axis, output: Number, size: Number) -> tuple[Number, Number]:
    """The taps (from, to) of one output position that fall on the input."""
    first = output * axis.stride - axis.before
    start = f.smaller(f.ceil_div(0 - first, axis.dilation), axis.kernel)
    stop = f.smaller(f.ceil_div(size - first, axis.dilation), axis.kernel)
    return start, stop


class Columns:
    """A tile of ``vectors`` vectors of outputs from position ``output`` on: where their inputs lie in any row.

    Args:
        size, outputs: input and output positions of a row.
        masked: some lane sees padding or lies beyond the outputs; ask :meth:`free`.
    """

    def __init__(
        self, f: Function, axis: Axis, output: Number, vectors: int, size: Number, outputs: Number, masked: bool
    ) -> None:
        self.f, self.axis, self.output, self.masked = f, axis, output, masked
        self.start = output * axis.stride - axis.before
        self.masks: dict[int, Variable] = {}
        self.outputs = [f.inside(output + v * f.lanes, outputs) if masked else "" for v in range(vectors)]
        if not masked:
            return
        for v in range(vectors):
            for tap in range(axis.kernel):
                for offset in self._loads(v, tap):
                    if offset in self.masks:
                        continue
                    if axis.stride <= 2:
                        mask = f.inside(self.start + offset, size)
                    else:
                        mask = f.below(f.positions(self.start + offset, axis.stride), size)
                    self.masks[offset] = f.keep_mask(mask)

    @staticmethod
    def free(f: Function, axis: Axis, output: Number, vectors: int, size: Number, outputs: Number) -> str:
        """Whether neither padding nor the end of the row concerns these outputs."""
        # Every second number is picked out of two vectors, of which the last number may not be wanted at all.
        read = sees_no_padding(f, axis, output, vectors * f.lanes, size - int(axis.stride == 2))
        return f.both(read, f.less(output + (vectors * f.lanes - 1), outputs))

    def _loads(self, vector: int, tap: int) -> list[int]:
        """Input positions, from the first one's on, at which what a tap sees is loaded."""
        stride, lanes, offset = self.axis.stride, self.f.lanes, tap * self.axis.dilation
        if stride == 2:
            even = vector * 2 * lanes + offset - offset % 2
            return [even, even + lanes]
        return [vector * lanes * stride + offset]

    def reader(self, row: Pointer) -> RowReader:
        return RowReader(self, row)


class RowReader:
    """Vectors of one row, whose input position 0 is at ``row``; what two taps share is loaded once."""

    def __init__(self, columns: Columns, row: Pointer) -> None:
        self.columns, self.row = columns, row + columns.start
        self._loaded: dict[int, str] = {}

    def read(self, vector: int, tap: int) -> str:
        """The input that the vector's output positions see through a tap."""
        columns, f = self.columns, self.columns.f
        loads = [self._load(offset) for offset in columns._loads(vector, tap)]
        if columns.axis.stride != 2:
            return loads[0]
        odd = tap * columns.axis.dilation % 2
        return f.shuffle(loads[0], loads[1], range(odd, 2 * f.lanes, 2))

    def _load(self, offset: int) -> str:
        columns, f = self.columns, self.columns.f
        if offset not in self._loaded:
            mask = f.kept_mask(columns.masks[offset]) if columns.masked else ""
            if columns.axis.stride <= 2:
                value = f.load(self.row + offset, mask)
            else:
                value = f.gather(self.row + offset, f.positions(0, columns.axis.stride), mask)
            self._loaded[offset] = value
        return self._loaded[offset]
