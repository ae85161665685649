"""Non-maximum suppression of boxes that are sorted by class, and within a class by falling score.

    for every box that isn't suppressed, in order
        for every vector of boxes after it, up to the end of its class
            suppressed |= shared / (area + areas - shared) > limit

A box is compared only with later boxes of its class, and a suppressed box with none. Results are the same to the last
bit as those of comparing one pair after the other.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from striate.engine import fresh
from striate.engine.backends import fixed
from striate.engine.llvm.codegen.ir import Function, Int, real_word
from striate.engine.llvm.codegen.isa import Isa, host, the_isa
from striate.engine.llvm.codegen.launch import Kernel

#: The four sides of a box, and its area.
_LINES = 5
_LIMIT = 1 << 31


def generate(isa: Isa) -> Function:
    f = Function("nms", isa)
    boxes, ends, gone = f.pointer("boxes"), f.pointer("ends", "i64"), f.pointer("gone", "i32")
    count, pitch = f.size("count"), f.size("pitch")
    limit = f.real("limit")
    lines = [boxes + line * pitch for line in range(_LINES)]

    def above(own: list[str], others: list[str]) -> str:
        (left, top, right, bottom, area), (x1, y1, x2, y2, areas) = own, others
        width = f.at_least(f.arithmetic("fsub", f.at_most(x2, right), f.at_least(x1, left)), f.zeros())
        height = f.at_least(f.arithmetic("fsub", f.at_most(y2, bottom), f.at_least(y1, top)), f.zeros())
        shared = f.arithmetic("fmul", width, height)
        union = f.arithmetic("fsub", f.arithmetic("fadd", area, areas), shared)
        # For two boxes without area this is 0 / 0, NaN, which isn't above the limit.
        return f.compare("ogt", f.arithmetic("fdiv", shared, union), limit)

    with f.loop(f.first, f.last), f.loop(0, count) as box, f.when(f.value(f"icmp eq i32 {f.scalar(gone + box)}, 0")):
        own = [f.broadcast(line + box) for line in lines]
        end = Int(f, f.scalar(ends + box))
        with f.loop(box + 1, end, f.lanes) as other:
            found = above(own, [f.load(line + other) for line in lines])
            found = f.value(f"and {f.mask} {found}, {f.below(f.positions(other), end)}")
            f.store(f.select(found, "splat (i32 1)", f.load_as(gone + other), "i32"), gone + other, kind="i32")
    return f


@cache
def _kernel(isa: Isa) -> Kernel:
    return Kernel(generate(isa), isa)


def takes(boxes: Tensor) -> bool:
    """Whether the kernel supports these boxes."""
    plain = boxes.is_cpu and boxes.dtype == torch.float32 and 0 < len(boxes) < _LIMIT
    return plain and fixed() in (None, "llvm") and host() is not None


def stays(boxes: Tensor, ends: Tensor, limit: float) -> Tensor:
    """The mask (N,) of the boxes that are kept.

    Args:
        boxes: (N, 4), float32 on the CPU, sorted by class and then by falling score.
        ends: (N,) int64, for each box the index at which its class ends.
        limit: the largest IoU that doesn't suppress, a float32 number.
    """
    isa, count = the_isa(), len(boxes)
    pitch = count + isa.lanes  # the last vectors read beyond the last box
    lines = fresh.zeros(_LINES, pitch)
    lines[:4, :count] = boxes.T
    lines[4, :count] = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    gone, ends = fresh.zeros(pitch, dtype=torch.int32), ends.contiguous()
    tables = {"boxes": lines.data_ptr(), "ends": ends.data_ptr(), "gone": gone.data_ptr()}
    _kernel(isa)(1, 1, **tables, count=count, pitch=pitch, limit=real_word(limit))
    return gone[:count] == 0
