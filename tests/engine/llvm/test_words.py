"""Words of memory are compared with what they held, up to the first that is another."""

from __future__ import annotations

from array import array

import pytest

from striate.engine.llvm.codegen.isa import host
from striate.engine.llvm.memory.words import Words

ISA = host()
pytestmark = pytest.mark.skipif(ISA is None, reason="there are no kernels for this machine")


@pytest.mark.parametrize("count", [0, 1, 2, 7, 100])
def test_each_word_counts(count: int) -> None:
    memory = array("Q", range(count + 1))
    start = memory.buffer_info()[0]
    words = Words([start + 8 * at for at in range(count)], ISA)
    assert words.same()
    for at in range(count):
        for change in (1, 1 << 63):
            memory[at] ^= change
            assert not words.same()
            memory[at] ^= change
            assert words.same()
    memory[count] += 1
    assert words.same()


def test_what_they_hold_may_be_taken_anew() -> None:
    memory = array("Q", [1, 2])
    words = Words([memory.buffer_info()[0]], ISA)
    memory[0] = 3
    assert not words.same()
    words.take()
    assert words.same()


def test_nothing_is_read_behind_a_word_that_has_changed() -> None:
    memory = array("Q", [1, 2])
    start = memory.buffer_info()[0]
    words = Words([start, start + 8], ISA)
    words._table[2] = 8  # an address that nobody may read
    memory[0] = 5
    assert not words.same()
