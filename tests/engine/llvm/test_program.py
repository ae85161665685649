"""Kernels in a row: where their memory lies, and who runs them."""

from __future__ import annotations

import itertools
import weakref

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from striate.engine import openmp
from striate.engine.llvm.codegen import launch
from striate.engine.llvm.codegen.isa import the_isa
from striate.engine.llvm.codegen.program import Buffer, Foreign, Operand, Program, Step, arranged
from striate.engine.llvm.functions import elementwise
from striate.engine.llvm.functions.epilogue import Epilogue
from striate.engine.llvm.memory.arenas import Arena


@given(st.lists(st.tuples(st.integers(1, 300), st.integers(0, 20), st.integers(0, 6)), min_size=1, max_size=15))
def test_what_lives_at_the_same_time_does_not_overlap(lives: list[tuple[int, int, int]]) -> None:
    buffers = {Buffer(numbers): (first, first + more) for numbers, first, more in lives}
    kernel = elementwise.copy(the_isa())
    steps = [
        Step("", kernel, 1, 1, [buffer for buffer, (first, last) in buffers.items() if at in (first, last)])
        for at in range(28)
    ]
    total, offsets = arranged(steps, set())
    for (one, (start, stop)), (other, (from_, to)) in itertools.combinations(buffers.items(), 2):
        if start <= to and from_ <= stop:
            apart = offsets[one] + one.numbers <= offsets[other] or offsets[other] + other.numbers <= offsets[one]
            assert apart
    assert all(offset % 16 == 0 and offset + buffer.numbers <= total for buffer, offset in offsets.items())


def test_memory_is_used_again() -> None:
    chain = [Buffer(1000) for _ in range(10)]
    kernel = elementwise.copy(the_isa())
    steps = [Step("", kernel, 1, 1, list(pair)) for pair in itertools.pairwise(chain)]
    assert arranged(steps, {chain[0], chain[-1]})[0] == 2 * 1008


def arena(numbers: int) -> Arena:
    memory = torch.full((numbers + 16,), torch.nan)
    return Arena(memory, numbers, -(-memory.data_ptr() // 64) * 64)


def doubling(source: Buffer, target: Buffer, positions: int, threads: int) -> Step:
    kernel = elementwise.pairs(the_isa(), "fadd", Epilogue())
    sizes = {"channels": 16, "positions": positions, "block": 1, "period": 1, "step": 16}
    return Step("twice", kernel, positions, threads, kernel.words(a=source, b=source, y=target, **sizes))


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("threads", [1, 2, 4])
def test_steps_wait_for_each_other(threads: int, together: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not together:
        monkeypatch.setattr(openmp, "runtime", lambda: None)
    torch.set_num_threads(4)
    try:
        chain = [Buffer(16 * 50) for _ in range(21)]
        # Steps of several threads and of one, in turns and one after the other.
        steps = [doubling(*pair, 50, threads if at % 5 else 1) for at, pair in enumerate(itertools.pairwise(chain))]
        program = Program(steps, [chain[0]], [chain[-1]], the_isa(), threads)
        x, y = torch.randn(50, 16), torch.empty(50, 16)
        # Another call may get other memory.
        arenas = [arena(program.numbers) for _ in range(2)]
        for turn in range(50):
            program([x, y.fill_(torch.nan)], arenas[turn % 2])
            assert torch.equal(y, x * 2**20)
    finally:
        torch.set_num_threads(1)


def test_a_forked_process_walks_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    chain = [Buffer(64), Buffer(64)]
    program = Program([doubling(*chain, 4, 2)], chain[:1], chain[1:], the_isa(), 2)

    def start(*_: object) -> None:
        raise AssertionError("threads that are gone")

    monkeypatch.setattr(program, "_start", start)
    monkeypatch.setattr(launch, "_forked", True)
    x, y = torch.randn(4, 16), torch.empty(4, 16)
    program([x, y], arena(0))
    assert torch.equal(y, 2 * x)


@pytest.mark.parametrize("threads", [1, 2])
def test_operators_of_pytorchs_between_kernels(threads: int) -> None:
    x, first, second, made, last = (Buffer(64) for _ in range(5))
    whole = Operand(first, (4, 16), (16, 1))

    def function(one: torch.Tensor, *, other: torch.Tensor) -> tuple[torch.Tensor, None, torch.Tensor]:
        # Results lie otherwise than is counted on, and one is a view of the operand.
        return (one + other).t().contiguous().t(), None, one[1:]

    results = (Operand(made, (4, 16), (16, 1)), None)
    foreign = Foreign("sum", function, (whole,), {"other": Operand(second, (4, 16), (0, 1), 16)}, results, True)
    steps = [doubling(x, first, 4, threads), doubling(first, second, 4, 1), foreign, doubling(made, last, 4, threads)]
    program = Program(steps, [x], [last], the_isa(), threads)
    assert made not in program._offsets
    given_, found = torch.randn(4, 16), torch.empty(4, 16)
    for at in range(6):
        program([given_, found.fill_(torch.nan)], arena(program.numbers))
        torch.testing.assert_close(found, 2 * (2 * given_ + 4 * given_[1]))
        given_ = torch.randn(4, 16) * at


def test_results_of_pytorchs_operators_go_after_their_last_use() -> None:
    x, first, second, last = (Buffer(64) for _ in range(4))
    made: list[weakref.ref[torch.Tensor]] = []
    alive: list[list[bool]] = []

    def function(one: torch.Tensor) -> torch.Tensor:
        alive.append([each() is not None for each in made])
        result = one + 1
        made.append(weakref.ref(result))
        return result

    def foreign(source: Buffer, target: Buffer) -> Foreign:
        shown = [Operand(each, (4, 16), (16, 1)) for each in (source, target)]
        return Foreign("more", function, (shown[0],), {}, (shown[1],))

    between, third = Buffer(64), Buffer(64)
    steps = [foreign(x, first), foreign(first, second), doubling(second, between, 4, 1), foreign(between, third)]
    program = Program([*steps, doubling(third, last, 4, 1)], [x], [last], the_isa(), 1)
    given_, found = torch.randn(4, 16), torch.empty(4, 16)
    program([given_, found], arena(program.numbers))
    torch.testing.assert_close(found, 2 * (2 * (given_ + 2) + 1))
    assert alive == [[], [True], [False, False]]


def test_views_of_a_buffer_are_copied_before_others_get_its_memory() -> None:
    x, y, first, made, second, one, other = (Buffer(64) for _ in range(7))
    shown = [Operand(each, (4, 16), (16, 1)) for each in (first, made)]
    view = Foreign("view", lambda operand: operand.view(4, 16), (shown[0],), {}, (shown[1],), True)
    steps = [doubling(x, first, 4, 1), view, doubling(y, second, 4, 1), doubling(second, one, 4, 1)]
    program = Program([*steps, doubling(made, other, 4, 1)], [x, y], [one, other], the_isa(), 1)
    assert program._offsets[first] == program._offsets[second]
    given_, found = torch.randn(2, 4, 16), torch.empty(2, 4, 16)
    program([*given_, *found], arena(program.numbers))
    assert torch.equal(found, torch.stack([4 * given_[1], 4 * given_[0]]))
