"""Detects changes of tensors by digests of their memory, natively and in microseconds.

A tensor is divided into blocks of 64 numbers, and the digest of every block is stored. A check compares all blocks of a
small tensor, and :data:`SAMPLES` blocks of a large one, different ones at every check. So scaling, replacing or
averaging a tensor is detected at once; a change of a single number in a large tensor is detected after some checks.
"""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Callable, Sequence
from functools import cache
from typing import Final, NamedTuple

import torch
from torch import Tensor

from striate.engine.llvm.codegen import machine_code
from striate.engine.llvm.codegen.isa import Isa

#: Numbers in a block.
BLOCK: Final = 64
#: Blocks of a large tensor that one check compares.
SAMPLES: Final = 4
#: The most blocks of a tensor that is compared as a whole.
WHOLE: Final = 32

# A row of the table: address of the numbers, their count, the blocks, address of the digests. ``look`` checks all rows.
_CODE: Final = """
define internal i64 @digest(ptr %here, i64 %count) nounwind {{
entry:
  %whole = icmp eq i64 %count, {block}
  br i1 %whole, label %vectors, label %test
vectors:
  %v0 = load <16 x i32>, ptr %here, align 4
  %p1 = getelementptr i32, ptr %here, i64 16
  %v1 = load <16 x i32>, ptr %p1, align 4
  %p2 = getelementptr i32, ptr %here, i64 32
  %v2 = load <16 x i32>, ptr %p2, align 4
  %p3 = getelementptr i32, ptr %here, i64 48
  %v3 = load <16 x i32>, ptr %p3, align 4
  %t0 = call <16 x i32> @llvm.fshl.v16i32(<16 x i32> %v0, <16 x i32> %v0, <16 x i32> splat (i32 7))
  %s1 = add <16 x i32> %t0, %v1
  %t1 = call <16 x i32> @llvm.fshl.v16i32(<16 x i32> %s1, <16 x i32> %s1, <16 x i32> splat (i32 7))
  %s2 = add <16 x i32> %t1, %v2
  %t2 = call <16 x i32> @llvm.fshl.v16i32(<16 x i32> %s2, <16 x i32> %s2, <16 x i32> splat (i32 7))
  %s3 = add <16 x i32> %t2, %v3
  %m = mul <16 x i32> %s3, <{odd}>
  %w = zext <16 x i32> %m to <16 x i64>
  %n = mul <16 x i64> %w, <{wide}>
  %d = call i64 @llvm.vector.reduce.add.v16i64(<16 x i64> %n)
  ret i64 %d
test:
  %i = phi i64 [ 0, %entry ], [ %next, %body ]
  %h = phi i64 [ 1, %entry ], [ %hash, %body ]
  %more = icmp slt i64 %i, %count
  br i1 %more, label %body, label %end
body:
  %place = getelementptr i32, ptr %here, i64 %i
  %value = load i32, ptr %place, align 4
  %long = zext i32 %value to i64
  %turned = call i64 @llvm.fshl.i64(i64 %h, i64 %h, i64 9)
  %scaled = mul i64 %long, {prime}
  %hash = add i64 %turned, %scaled
  %next = add i64 %i, 1
  br label %test
end:
  ret i64 %h
}}

define internal i64 @of_block(ptr %numbers, i64 %count, i64 %block) nounwind {{
  %start = mul i64 %block, {block}
  %left = sub i64 %count, %start
  %here = call i64 @llvm.smin.i64(i64 %left, i64 {block})
  %place = getelementptr i32, ptr %numbers, i64 %start
  %digest = call i64 @digest(ptr %place, i64 %here)
  ret i64 %digest
}}

; Writes the digests of all blocks of one row.
define void @take(ptr %row) nounwind {{
entry:
  %numbers = load ptr, ptr %row
  %count.place = getelementptr i64, ptr %row, i64 1
  %count = load i64, ptr %count.place
  %blocks.place = getelementptr i64, ptr %row, i64 2
  %blocks = load i64, ptr %blocks.place
  %digests.place = getelementptr i64, ptr %row, i64 3
  %digests = load ptr, ptr %digests.place
  br label %test
test:
  %block = phi i64 [ 0, %entry ], [ %next, %body ]
  %more = icmp slt i64 %block, %blocks
  br i1 %more, label %body, label %end
body:
  %digest = call i64 @of_block(ptr %numbers, i64 %count, i64 %block)
  %place = getelementptr i64, ptr %digests, i64 %block
  store i64 %digest, ptr %place
  %next = add i64 %block, 1
  br label %test
end:
  ret void
}}

; 1 if every block that is looked at this time has its digest. A block's number is start + j * blocks / samples.
define i64 @look(ptr %table, i64 %rows, i64 %turn) nounwind {{
entry:
  br label %test
test:
  %which = phi i64 [ 0, %entry ], [ %following, %row.done ]
  %more = icmp slt i64 %which, %rows
  br i1 %more, label %row.open, label %same
row.open:
  %row.offset = mul i64 %which, 4
  %row = getelementptr i64, ptr %table, i64 %row.offset
  %numbers = load ptr, ptr %row
  %count.place = getelementptr i64, ptr %row, i64 1
  %count = load i64, ptr %count.place
  %blocks.place = getelementptr i64, ptr %row, i64 2
  %blocks = load i64, ptr %blocks.place
  %digests.place = getelementptr i64, ptr %row, i64 3
  %digests = load ptr, ptr %digests.place
  %small = icmp sle i64 %blocks, {whole}
  %step.large = sdiv i64 %blocks, {samples}
  %step = select i1 %small, i64 1, i64 %step.large
  %many = select i1 %small, i64 %blocks, i64 {samples}
  %start.large = srem i64 %turn, %blocks
  %start = select i1 %small, i64 0, i64 %start.large
  br label %sample
sample:
  %j = phi i64 [ 0, %row.open ], [ %j.next, %alike ]
  %left = icmp slt i64 %j, %many
  br i1 %left, label %compare, label %row.done
compare:
  %away = mul i64 %j, %step
  %far = add i64 %start, %away
  %over = icmp sge i64 %far, %blocks
  %back = sub i64 %far, %blocks
  %block = select i1 %over, i64 %back, i64 %far
  %digest = call i64 @of_block(ptr %numbers, i64 %count, i64 %block)
  %kept.place = getelementptr i64, ptr %digests, i64 %block
  %kept = load i64, ptr %kept.place
  %equal = icmp eq i64 %digest, %kept
  br i1 %equal, label %alike, label %changed
alike:
  %j.next = add i64 %j, 1
  br label %sample
row.done:
  %following = add i64 %which, 1
  br label %test
same:
  ret i64 1
changed:
  ret i64 0
}}

declare <16 x i32> @llvm.fshl.v16i32(<16 x i32>, <16 x i32>, <16 x i32>)
declare i64 @llvm.fshl.i64(i64, i64, i64)
declare i64 @llvm.vector.reduce.add.v16i64(<16 x i64>)
declare i64 @llvm.smin.i64(i64, i64)
"""
#: The lanes' factors are odd multiples of the golden ratio's fraction, so that no two lanes have the same weight.
_GOLDEN: Final = 0x9E3779B97F4A7C15


class _Native(NamedTuple):
    take: Callable[[int], None]
    look: Callable[[int, int, int], int]


@cache
def _native(isa: Isa) -> _Native:
    odd = [(_GOLDEN * (2 * lane + 1) >> 16) % (1 << 32) | 1 for lane in range(16)]
    wide = [(_GOLDEN * (2 * lane + 33)) % (1 << 63) | 1 for lane in range(16)]
    ir = _CODE.format(
        block=BLOCK,
        samples=SAMPLES,
        whole=WHOLE,
        odd=", ".join(f"i32 {each - (1 << 32) if each >> 31 else each}" for each in odd),
        wide=", ".join(f"i64 {each}" for each in wide),
        prime=_GOLDEN >> 1,
    )
    take, look = machine_code.link(ir, isa, ("take", "look"))
    # The GIL is kept, unlike in kernels, because the checks are short.
    return _Native(
        ctypes.PYFUNCTYPE(None, ctypes.c_void_p)(take),
        ctypes.PYFUNCTYPE(ctypes.c_int64, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)(look),
    )


class Fingerprints:
    """Digests of tensors as they are now; the caller has to keep the tensors alive."""

    def __init__(self, tensors: Sequence[Tensor], isa: Isa) -> None:
        self._native = _native(isa)
        held = [each for each in tensors if each.is_cpu and each.numel()]
        # Tensors with gaps, or with elements that aren't multiples of four bytes, are compared with a copy.
        dense = [each for each in held if _is_dense(each)]
        self._others = [(each.detach(), each.detach().clone()) for each in held if not _is_dense(each)]
        sizes = [each.numel() * each.element_size() // 4 for each in dense]
        blocks = [-(-size // BLOCK) for size in sizes]
        self._digests = torch.empty(sum(blocks) + 1, dtype=torch.int64, device="cpu")
        place, rows = self._digests.data_ptr(), []
        for tensor, size, many in zip(dense, sizes, blocks, strict=True):
            rows += [tensor.data_ptr(), size, many, place]
            place += 8 * many
        self._table, self._rows, self._turn = array("q", rows), len(dense), 0
        self._place = self._table.buffer_info()[0]
        for at in range(self._rows):
            self._native.take(self._place + 32 * at)

    def same(self) -> bool:
        """Whether the blocks that are checked this time are unchanged."""
        self._turn += 1
        if self._native.look(self._place, self._rows, self._turn) != 1:
            return False
        return all(torch.equal(now, before) for now, before in self._others)


def _is_dense(tensor: Tensor) -> bool:
    return tensor.element_size() % 4 == 0 and torch.ops.aten.is_non_overlapping_and_dense(tensor)
