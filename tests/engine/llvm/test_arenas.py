"""Memory that is lent: by one call after the other the same, at once several, at most so much, and back at the end."""

from __future__ import annotations

import gc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from striate.engine.llvm.memory.arenas import Arena, Arenas


class Program:
    pass


def test_one_after_the_other_gets_the_same() -> None:
    arenas, programs = Arenas(1 << 20), [Program() for _ in range(3)]
    for at, each in enumerate(programs):
        arenas.reserve(each, 100 * (at + 1))
    first = arenas.borrow(300)
    arenas.give_back(first)
    for numbers in (100, 300, 200):
        again = arenas.borrow(numbers)
        assert again is first
        arenas.give_back(again)
    assert arenas.bytes == 1200
    assert first.address % 64 == 0
    assert first.address + 1200 <= first.memory.data_ptr() + 4 * first.memory.numel()


def test_at_once_there_are_several_up_to_a_limit() -> None:
    arenas, program = Arenas(4 * 250), Program()
    arenas.reserve(program, 100)
    lent = [arenas.borrow(100) for _ in range(3)]
    assert [each is not None for each in lent] == [True, True, False]
    assert lent[0].address != lent[1].address
    assert arenas.fits(250)
    assert not arenas.fits(251)
    arenas.give_back(lent[0])
    assert arenas.borrow(150) is not None  # in the place of the one that was free


def test_memory_goes_back_with_the_last_program_that_needed_it() -> None:
    arenas, small, large = Arenas(1 << 20), Program(), Program()
    arenas.reserve(small, 100)
    arenas.reserve(large, 1000)
    arenas.give_back(arenas.borrow(1000))
    arenas.give_back(arenas.borrow(100))
    del large
    gc.collect(1)  # the youngest: to look at all there is takes seconds
    assert arenas.bytes == 0
    arenas.give_back(arenas.borrow(100))
    assert arenas.bytes == 400
    lent = arenas.borrow(100)
    del small
    gc.collect(1)
    arenas.give_back(lent)
    assert arenas.bytes == 0


def test_nothing_is_kept_where_nothing_is_to_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    arenas, program = Arenas(1 << 20), Program()
    arenas.reserve(program, 100)
    monkeypatch.setenv("STRIATE_KEEP_MEMORY", "0")
    arenas.give_back(arenas.borrow(100))
    assert arenas.bytes == 0


@given(st.lists(st.tuples(st.sampled_from(["new", "gone", "borrow", "back"]), st.integers(1, 50)), max_size=40))
def test_books_are_kept(steps: list[tuple[str, int]]) -> None:
    arenas = Arenas(4 * 100)
    programs: list[tuple[Program, int]] = []
    lent: list[Arena] = []
    for step, number in steps:
        if step == "new":
            programs.append((Program(), number))
            arenas.reserve(*programs[-1])
        elif step == "gone" and programs:
            programs.pop(number % len(programs))
        elif step == "borrow" and programs:
            numbers = programs[number % len(programs)][1]
            arena = arenas.borrow(numbers)
            assert arena is None or arena.numbers >= numbers
            lent += [] if arena is None else [arena]
        elif step == "back" and lent:
            arenas.give_back(lent.pop(number % len(lent)))
        assert sum(4 * each.numbers for each in lent) <= arenas.bytes <= arenas.most
    for each in lent:
        arenas.give_back(each)
    programs.clear()
    assert arenas.bytes == 0
