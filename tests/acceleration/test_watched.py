"""Dictionaries that are watched natively: every way of changing one is seen, and nothing else."""

from __future__ import annotations

import gc
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest

from striate.acceleration import watched as module
from striate.acceleration.watched import Watched
from striate.engine.llvm.isa import the_isa


class Thing:
    def __init__(self) -> None:
        self.one, self.two = object(), object()


def watched(*dictionaries: dict[Any, Any]) -> Watched:
    return Watched(dictionaries, the_isa())


def test_nothing_changes() -> None:
    thing = Thing()
    watch = watched(
        {}, {"a": 1, 2: thing}, vars(thing), OrderedDict(x=[1]), {}, {name: object() for name in range(999)}
    )
    for _ in range(3):
        gc.collect()
        assert watch.unchanged()
    assert watched().unchanged()


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(c=1),
        lambda d: d.update(a=object()),
        lambda d: d.update(b=object()),
        lambda d: d.pop("b"),
        lambda d: d.clear(),
        lambda d: d.update(a=d.pop("a")),
        lambda d: (d.pop("b"), d.update(c=None)),
    ],
)
@pytest.mark.parametrize("where", [0, 1, 2])
def test_changes_are_seen_wherever_they_are(change: Callable[[dict[str, Any]], object], where: int) -> None:
    dictionaries: list[dict[str, Any]] = [{"a": object(), "b": object()} for _ in range(3)]
    watch = watched(*dictionaries)
    assert watch.unchanged()
    change(dictionaries[where])
    assert not watch.unchanged()


def test_one_that_was_empty_and_attributes() -> None:
    empty: dict[str, int] = {}
    thing = Thing()
    watch = watched(empty, vars(thing))
    before = thing.one
    thing.one = object()
    assert not watch.unchanged()
    thing.one = before
    assert watch.unchanged()
    empty["x"] = 1
    assert not watch.unchanged()


def test_changes_are_seen_after_others_were_taken_back() -> None:
    """A dictionary that was another one and is the same again is looked at anew, and so are those after it."""
    dictionaries: list[dict[str, Any]] = [{"a": object()} for _ in range(3)]
    watch = watched(*dictionaries)
    for each in dictionaries:
        before = each["a"]
        each["b"] = 1
        assert not watch.unchanged()
        del each["b"]
        assert watch.unchanged()
        for other in dictionaries:
            kept, other["a"] = other["a"], object()
            assert not watch.unchanged()
            other["a"] = kept
        assert watch.unchanged()
        assert each["a"] is before


def test_assignments_that_the_interpreter_has_specialised() -> None:
    things = [Thing() for _ in range(2)]
    watch = watched(*map(vars, things))
    for turn in range(200):
        thing = things[turn % 2]
        before, thing.two = thing.two, object()
        assert not watch.unchanged()
        thing.two = before
        assert watch.unchanged()


@pytest.mark.parametrize("word", [0, 3])
def test_with_and_without_versions_of_dictionaries(word: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if word not in (0, module._version_word()):
        pytest.skip("this Python has none")
    monkeypatch.setattr(module, "_version_word", lambda: word)
    dictionaries: list[dict[str, Any]] = [{"a": object()}, {}]
    watch = watched(*dictionaries)
    assert watch.unchanged()
    dictionaries[1]["x"] = 1
    assert not watch.unchanged()
    del dictionaries[1]["x"]
    assert watch.unchanged()


def test_what_is_asked_for_in_advance_may_be_gone() -> None:
    watch = Watched([{"a": 1}], the_isa(), near=[(0, 64), (1 << 46, 192), (id(object()), 16)])
    assert watch.unchanged()


def test_what_was_held_keeps_its_address() -> None:
    """No other object gets it while it is watched."""
    held: dict[str, object] = {"a": object()}
    watch = watched(held)
    for _ in range(1000):
        held["a"] = object()
        assert not watch.unchanged()


def test_threads_watch_at_once() -> None:
    things = [Thing() for _ in range(50)]
    watch = watched(*map(vars, things))
    found: list[bool] = []
    workers = [threading.Thread(target=lambda: found.extend(watch.unchanged() for _ in range(500))) for _ in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(found) == 4000
    assert all(found)
