"""The tensors of a plan under construction: their memory layouts, and copies if an operator needs another layout."""

from __future__ import annotations

from collections.abc import Collection

import torch

from striate.acceleration.plans.capture import Refusal, Value
from striate.acceleration.plans.placement import Placement, along, is_dense, is_nhwc
from striate.engine.llvm.codegen.isa import the_isa
from striate.engine.llvm.codegen.program import Buffer, Foreign, Operand, Step
from striate.engine.llvm.functions import elementwise

#: Steps with fewer multiplications run on one thread, because a barrier would take longer.
_SHARED = 60_000
#: The longest row that is too short for a work item of its own, and the number of work items that is enough.
_SHORT, _SHARES = 64, 32
#: The cost of reading, changing and writing a number, in multiplications.
PASS = 4


def operand_of(place: Placement) -> Operand:
    """The operand of a foreign step for a placed tensor."""
    return Operand(place.buffer, place.shape, place.meta.stride(), int(place.meta.storage_offset()))


class Builder:
    """The placements of values, and the steps so far, for at most ``threads`` threads."""

    def __init__(self, threads: int) -> None:
        self.threads, self.isa = threads, the_isa()
        self.places: dict[Value, Placement] = {}
        #: Images that are flattened, so that a linear layer can read them without a copy.
        self.flattened: dict[Value, Placement] = {}
        self.steps: list[Step | Foreign] = []
        #: The layouts of the results of foreign steps.
        self.made_outside: dict[Buffer, Operand] = {}

    def place(self, value: Value) -> Placement:
        if value in self.flattened and value not in self.places:
            image = self.rows_of(self.flattened[value])
            self.places[value] = Placement(image.buffer, image.meta.view(value.shape))
        if value not in self.places:
            raise Refusal("a tensor is used before it is computed")
        return self.places[value]

    def fresh(self, shape: tuple[int, ...], stride: tuple[int, ...]) -> Placement:
        meta = torch.empty_strided(shape, stride, device="meta")
        return Placement(Buffer(meta.numel()), meta)

    def fresh_image(self, shape: tuple[int, ...]) -> Placement:
        _, channels, height, width = shape
        return self.fresh(shape, (height * width * channels, 1, width * channels, channels))

    def nhwc(self, value: Value) -> Placement:
        """The placement of an image in channels last without gaps; copies it if necessary."""
        place = self.place(value)
        if is_nhwc(place.meta):
            return place
        wanted = self.fresh_image(place.shape)
        self.copy(place, wanted)
        self.places[value] = wanted
        return wanted

    def dense(self, value: Value) -> Placement:
        """The placement of a tensor without gaps, in any order of axes; copies it if necessary."""
        place = self.place(value)
        if is_dense(place):
            return place
        return self.nhwc(value) if place.meta.dim() == 4 and place.meta.stride(1) == 1 else self.rows(value)

    def rows(self, value: Value) -> Placement:
        """The placement of a contiguous tensor; copies it if necessary."""
        self.places[value] = self.rows_of(self.place(value))
        return self.places[value]

    def rows_of(self, place: Placement) -> Placement:
        if place.meta.is_contiguous() and place.meta.storage_offset() == 0:
            return place
        made = self.fresh(place.shape, torch.empty(place.shape, device="meta").stride())
        self.copy(place, made)
        return made

    def copy(self, source: Placement, target: Placement) -> None:
        """Adds a step that copies a tensor to another layout."""
        order = sorted(range(source.meta.dim()), key=target.meta.stride().__getitem__, reverse=True)
        # Merge neighbouring axes that have the same relative strides in source and target.
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
            # Rows are short, so a work item has many of them.
            size, stride = axes[-2]
            shares = next((each for each in range(_SHARES, size) if size % each == 0), size)
            axes[-2:-1] = [(shares, size // shares * stride), (size // shares, stride)]
        axes = [*axes[:-1], *[(1, 0)] * (4 - len(axes)), axes[-1]]
        if axes[2] == (1, 0):
            axes[1:3] = axes[2:0:-1] if axes[-1][0] < _SHORT else axes[1:3]
        shape, strides = zip(*axes, strict=True)
        items = shape[0] * shape[1]
        threads = min(items, self.shared(source.meta.numel() * PASS))
        kernel, names = elementwise.copy(self.isa), ("first", "second", "third", "fourth")
        sizes = dict(zip(names[1:], shape[1:], strict=True))
        sizes |= {f"{axis}_stride": stride for axis, stride in zip(names, strides, strict=True)}
        words = kernel.words(x=source.buffer, y=target.buffer, **sizes)
        self.steps.append(Step(name, kernel, items, threads, words))

    def copy_rows(
        self, name: str, rows: int, length: int, source: tuple[Buffer, int, int], target: tuple[Buffer, int, int]
    ) -> None:
        """Adds a step that copies contiguous rows; ``source`` and ``target`` have buffer, start and pitch."""
        threads = min(rows, self.shared(rows * length * PASS))
        block = -(-rows // (1 if threads == 1 else 4 * threads))
        kernel, items = elementwise.rows(self.isa), -(-rows // block)
        (x, x_start, x_pitch), (y, y_start, y_pitch) = source, target
        places = {"x_start": x_start, "x_pitch": x_pitch, "y_start": y_start, "y_pitch": y_pitch}
        words = kernel.words(x=x, y=y, length=length, rows=rows, block=block, **places)
        self.steps.append(Step(name, kernel, items, min(threads, items), words))

    def result(self, place: Placement, taken: Collection[Buffer], stride: tuple[int, ...]) -> Buffer:
        """The buffer of a result with the required strides.

        ``taken``: buffers that can't be used, because they are inputs or other results.
        """
        wanted = self.fresh(place.shape, stride)
        if not is_dense(wanted):
            raise Refusal("a result that doesn't fill its memory")
        # A foreign step returns a tensor of its own, which can be the result only if it has the right layout.
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
        """The number of threads for a step of this cost."""
        return self.threads if cost >= _SHARED else 1
