"""Copies of a plan bring numbers from any strides into any order."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from striate.acceleration.plans.builder import Builder
from striate.acceleration.plans.placement import Placement
from striate.engine.llvm.codegen.isa import host
from striate.engine.llvm.codegen.program import Buffer, Program
from striate.engine.llvm.memory.arenas import Arena

pytestmark = pytest.mark.skipif(host() is None, reason="there are no kernels for this machine")


@settings(max_examples=150)
@given(st.data())
def test_copies(data: st.DataObject) -> None:
    dims = data.draw(st.integers(0, 6))
    sizes = [data.draw(st.sampled_from((1, 2, 3, 5, 8, 33, 70) if at < 2 else (1, 2, 3))) for at in range(dims)]
    whole = torch.arange(float(torch.Size(sizes).numel())).view(sizes)
    source = whole.permute(data.draw(st.permutations(range(dims))))
    for axis in range(dims):
        start = data.draw(st.integers(0, source.shape[axis] - 1))
        stop, step = data.draw(st.integers(start + 1, source.shape[axis])), data.draw(st.integers(1, 2))
        source = source[(slice(None),) * axis + (slice(start, stop, step),)]
    if data.draw(st.booleans()):
        source = source.unsqueeze(0).expand(3, *source.shape)
    order = data.draw(st.permutations(range(source.dim())))
    wanted = torch.empty([source.shape[axis] for axis in order]).permute([order.index(at) for at in range(len(order))])
    made = Builder(data.draw(st.sampled_from((1, 2))))
    x = Placement(Buffer(whole.numel()), torch.empty(whole.shape, device="meta").as_strided(
        source.shape, source.stride(), source.storage_offset()
    ))  # fmt: skip
    y = made.fresh(tuple(source.shape), wanted.stride())
    made.copy(x, y)
    program = Program(made.steps, [x.buffer], [y.buffer], made.isa, 1)
    memory = torch.empty(program.numbers + 16)
    found = torch.full((wanted.numel(),), torch.nan)
    program([whole, found], Arena(memory, program.numbers, -(-memory.data_ptr() // 64) * 64))
    assert torch.equal(found.as_strided(wanted.shape, wanted.stride()), source)
