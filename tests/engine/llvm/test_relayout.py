"""Copies of images across layouts: the same numbers in the other order."""

from __future__ import annotations

import pytest
import torch

from striate.engine.llvm.memory import relayout

SHAPES = [(3, 16, 16, 16), (2, 33, 9, 15), (1, 40, 1, 128), (5, 17, 31, 2), (2, 64, 8, 8), (1, 300, 4, 5)]
#: Fewer channels, or positions, than a vector has lanes; one and several parts.
SHAPES += [(4, 3, 64, 65), (90, 6, 7, 5), (4, 15, 20, 19), (4, 2, 50, 50), (7, 300, 3, 3), (4, 2500, 1, 2)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("threads", [1, 2])
def test_numbers_stay_and_order_changes(shape: tuple[int, ...], channels_last: bool, threads: int) -> None:
    here, there = relayout._FORMATS[not channels_last], relayout._FORMATS[channels_last]
    x = torch.randn(shape).contiguous(memory_format=here)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        made = relayout.moved(x, channels_last)
    finally:
        torch.set_num_threads(before)
    assert made is not None
    assert torch.equal(made, x)
    assert made.stride() == x.contiguous(memory_format=there).stride()
    assert relayout.laid_out(x, not channels_last) is x


@pytest.mark.usefixtures("narrower")
def test_every_instruction_set_moves_the_same() -> None:
    for shape in SHAPES:
        x = torch.randn(shape)
        made = relayout.moved(x, True)
        assert made is not None
        assert torch.equal(made, x)


def test_what_a_kernel_does_not_move_is_laid_out_all_the_same() -> None:
    wide = torch.randn(2, 32, 16, 20)[..., 2:-2]
    for x in (torch.randn(2, 3, 50, 50), torch.randn(1, 16, 4, 4), torch.randn(2, 32, 16, 16).double(), wide):
        assert relayout.moved(x, True) is None
        made = relayout.laid_out(x, True)
        assert torch.equal(made, x)
        assert made.is_contiguous(memory_format=torch.channels_last)
