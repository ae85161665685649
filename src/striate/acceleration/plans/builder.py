"""The tensors of a plan under construction: where they lie, and copies where an operator wants them otherwise."""

from __future__ import annotations

from collections.abc import Collection

import torch

from striate.acceleration.plans.capture import Refusal, Value
from striate.acceleration.plans.placement import Placement, along, is_dense, is_nhwc
from striate.engine.llvm.codegen.isa import the_isa
from striate.engine.llvm.codegen.program import Buffer, Foreign, Operand, Step
from striate.engine.llvm.functions import elementwise

#: Multiplications below which a step isn't worth waiting for another thread.
_SHARED = 60_000
#: Numbers side by side that are few to be copied by themselves, and shares of work that are enough.
_SHORT, _SHARES = 64, 32
#: What reading, changing and writing a number counts as.
PASS = 4


def operand_of(place: Placement) -> Operand:
    """A tensor as operators of PyTorch's get it."""
    return Operand(place.buffer, place.shape, place.meta.stride(), int(place.meta.storage_offset()))


class Builder:
    """Values by their places, and the steps that have been needed so far, for ``threads`` threads at most."""

    def __init__(self, threads: int) -> None:
        self.threads, self.isa = threads, the_isa()
        self.places: dict[Value, Placement] = {}
        #: Images that are wanted as rows of numbers, for those who can take them as they lie.
        self.flattened: dict[Value, Placement] = {}
        self.steps: list[Step | Foreign] = []
        #: How results of foreign steps lie.
        self.made_outside: dict[Buffer, Operand] = {}

    def place(self, value: Value) -> Placement:
        if value in self.flattened and value not in self.places:
            image = self.rows_of(self.flattened[value])
            self.places[value] = Placement(image.buffer, image.meta.view(value.shape))
        if value not in self.places:
            raise Refusal("a tensor is asked for before it is made")
        return self.places[value]

    def fresh(self, shape: tuple[int, ...], stride: tuple[int, ...]) -> Placement:
        meta = torch.empty_strided(shape, stride, device="meta")
        return Placement(Buffer(meta.numel()), meta)

    def fresh_image(self, shape: tuple[int, ...]) -> Placement:
        _, channels, height, width = shape
        return self.fresh(shape, (height * width * channels, 1, width * channels, channels))

    def nhwc(self, value: Value) -> Placement:
        """An image with its channels side by side and nothing between positions."""
        place = self.place(value)
        if is_nhwc(place.meta):
            return place
        wanted = self.fresh_image(place.shape)
        self.copy(place, wanted)
        self.places[value] = wanted
        return wanted

    def dense(self, value: Value) -> Placement:
        """A tensor that fills its buffer, in whatever order."""
        place = self.place(value)
        if is_dense(place):
            return place
        return self.nhwc(value) if place.meta.dim() == 4 and place.meta.stride(1) == 1 else self.rows(value)

    def rows(self, value: Value) -> Placement:
        """A tensor in the order of its axes."""
        self.places[value] = self.rows_of(self.place(value))
        return self.places[value]

    def rows_of(self, place: Placement) -> Placement:
        if place.meta.is_contiguous() and place.meta.storage_offset() == 0:
            return place
        made = self.fresh(place.shape, torch.empty(place.shape, device="meta").stride())
        self.copy(place, made)
        return made

    def copy(self, source: Placement, target: Placement) -> None:
        """A step that copies numbers into another order, to where nothing else lies."""
        order = sorted(range(source.meta.dim()), key=target.meta.stride().__getitem__, reverse=True)
        # Neighbouring axes that lie in the source as they do in the target are one.
        axes: list[tuple[int, int]] = []
        for axis in order:
            size, stride = source.meta.shape[axis], source.meta.stride(axis)
            if size == 1:
                continue
            if axes and axes[-1][1] == size * stride:
                axes[-1] = axes[-1][0] * size, stride
            else:
                axes.append((size, stride))
        name = f"copy of {'x'.join(map(str, source.shape))} from {source.meta.stride()} to {target.meta.stride()}"
        if len(axes) <= 2 and (not axes or axes[-1][1] == 1):
            (count, pitch), (length, _) = [*[(1, 0)] * (2 - len(axes)), *axes] if axes else [(1, 0), (1, 1)]
            start = int(source.meta.storage_offset())
            self.copy_rows(name, count, length, (source.buffer, start, pitch), (target.buffer, 0, length))
            return
        if len(axes) > 4 or source.meta.storage_offset():
            args = (operand_of(target), operand_of(source))
            self.steps.append(Foreign(name, torch.ops.aten.copy_.default, args, {}, (None,)))
            return
        if 1 < len(axes) < 4 and axes[-1][0] < _SHORT:
            # Rows of a few numbers: shares of work are many of them.
            size, stride = axes[-2]
            shares = next((each for each in range(_SHARES, size) if size % each == 0), size)
            axes[-2:-1] = [(shares, size // shares * stride), (size // shares, stride)]
        axes = [*axes[:-1], *[(1, 0)] * (4 - len(axes)), axes[-1]]
        if axes[2] == (1, 0):
            axes[1:3] = axes[2:0:-1] if axes[-1][0] < _SHORT else axes[1:3]
        shape, strides = zip(*axes, strict=True)
        items = shape[0] * shape[1]
        threads = min(items, self.shared(source.meta.numel() * PASS))
        words: list[int | Buffer] = [source.buffer, target.buffer, *shape[1:], *strides]
        self.steps.append(Step(name, elementwise.copy(self.isa), items, threads, words))

    def copy_rows(
        self, name: str, rows: int, length: int, source: tuple[Buffer, int, int], target: tuple[Buffer, int, int]
    ) -> None:
        """A step that copies so many rows of numbers side by side; of source and target the start and the pitch."""
        threads = min(rows, self.shared(rows * length * PASS))
        block = -(-rows // (1 if threads == 1 else 4 * threads))
        words: list[int | Buffer] = [source[0], target[0], length, rows, block, *source[1:], *target[1:]]
        items = -(-rows // block)
        self.steps.append(Step(name, elementwise.rows(self.isa), items, min(threads, items), words))

    def result(self, place: Placement, taken: Collection[Buffer], stride: tuple[int, ...]) -> Buffer:
        """The buffer that is a result, in the strides that it is asked for in.

        ``taken``: buffers that may not be it, of inputs and of other results.
        """
        wanted = self.fresh(place.shape, stride)
        if not is_dense(wanted):
            raise Refusal("a result that doesn't fill its memory")
        # An operator of PyTorch's gives back a tensor of its own, which has to be the result as it is.
        made = self.made_outside.get(place.buffer)
        fits = made is None or (made.shape == place.shape and made.stride == stride)
        if place.buffer not in taken and fits and is_dense(place) and along(place.meta, wanted.meta):
            return place.buffer
        if place.meta.dtype != torch.float32:
            result = operand_of(wanted)
            self.made_outside[wanted.buffer] = result
            name = f"clone of {'x'.join(map(str, place.shape))}"
            args = (operand_of(place),)
            self.steps.append(Foreign(name, torch.ops.aten.clone.default, args, {}, (result,), True))
            return wanted.buffer
        self.copy(place, wanted)
        return wanted.buffer

    def shared(self, cost: int) -> int:
        """The threads that a step is worth."""
        return self.threads if cost >= _SHARED else 1
