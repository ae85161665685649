"""Measured choice: the fastest is taken, what was measured is kept, and nothing on disk can do harm."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from striate import engine, ops
from striate.engine import Pass, cache, tuning
from striate.engine.aten import AtenBackend
from striate.geometry import parse

X, W = torch.randn(1, 2, 5, 5), torch.randn(3, 2, 3, 3)
PROBLEM = "conv2d 1x2x5x5 3x2x3x3"


class Clock:
    """A clock that goes on when it is read, and when somebody sleeps: a busy machine measures what an idle one does."""

    now = 0.0

    def perf_counter(self) -> float:
        self.now += 1e-6
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


CLOCK = Clock()


@pytest.fixture(autouse=True)
def _a_clock_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "time", CLOCK)


class Other(AtenBackend):
    """PyTorch's kernels, ``delay`` seconds late."""

    name = "other"
    delay = 0.0
    recommended = False

    def recommends(self, problem, open_, channels_last):
        return self.recommended

    def contract(self, *how, **named):
        CLOCK.sleep(self.delay)
        return super().contract(*how, **named)


# The package's function of the same name hides the module.
table = importlib.import_module("striate.engine.backends")


@pytest.fixture
def other(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Other]:
    """A second competing backend, measuring on, and an empty folder."""
    monkeypatch.setenv("STRIATE_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(tuning, "_enabled", True)
    monkeypatch.setattr(tuning, "_ALLOWANCE", float("inf"))
    known = {name: backend for name, backend in table._TABLE.items() if name != "llvm"}
    monkeypatch.setattr(table, "_TABLE", {"other": (made := Other()), **known})
    table.forget()
    yield made
    monkeypatch.undo()
    table.forget()


def slow_aten(monkeypatch: pytest.MonkeyPatch) -> None:
    real = AtenBackend.contract

    def late(self, *how, **named):
        if self.name == "aten":
            CLOCK.sleep(0.002)
        return real(self, *how, **named)

    monkeypatch.setattr(AtenBackend, "contract", late)


def chosen(**named) -> str | None:
    return engine.explain(PROBLEM, **named).chosen[Pass.OUTPUT]


def test_the_fastest_is_taken_and_told(other: Other, monkeypatch: pytest.MonkeyPatch) -> None:
    slow_aten(monkeypatch)
    ops.conv2d(X, W)
    told = engine.explain(PROBLEM)
    assert told.chosen[Pass.OUTPUT] == "other"
    assert told.seconds[Pass.OUTPUT]["aten"] > 0.002 > told.seconds[Pass.OUTPUT]["other"]
    assert " us" in str(told)
    assert told.seconds[Pass.INPUT_GRAD] == {}


def test_what_there_is_no_time_to_measure_is_pytorchs_until_there_is(
    other: Other, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_aten(monkeypatch)
    other.recommended = True
    monkeypatch.setattr(tuning, "_ALLOWANCE", 1e-9)
    monkeypatch.setattr(tuning, "_begun", 0.0)
    monkeypatch.setattr(tuning, "_spent", 0.0)
    monkeypatch.setattr(tuning, "put_off", False)
    ops.conv2d(X, W)  # the first problem is always affordable
    assert tuning._spent > 0.002
    asked = []
    real = tuning.in_turns
    monkeypatch.setattr(tuning, "in_turns", lambda *how: asked.append(how) or real(*how))
    wide = torch.randn(1, 2, 9, 9)
    ops.conv2d(wide, W)
    assert tuning.put_off
    assert asked == []
    assert engine.explain("conv2d 1x2x9x9 3x2x3x3").seconds[Pass.OUTPUT] == {}
    ops.conv2d(wide, W)
    assert asked == []
    CLOCK.sleep(10)
    ops.conv2d(wide, W)
    assert len(asked) == 1
    assert not tuning.put_off
    assert engine.explain("conv2d 1x2x9x9 3x2x3x3").chosen[Pass.OUTPUT] == "other"


def test_all_at_once(other: Other, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "_ALLOWANCE", 0.0)
    monkeypatch.setattr(tuning, "_SHARE", 0.0)
    ops.conv2d(X, W)
    assert engine.explain(PROBLEM).seconds[Pass.OUTPUT] == {}
    with tuning.at_once():
        ops.conv2d(X, W)
    assert engine.explain(PROBLEM).seconds[Pass.OUTPUT].keys() == {"aten", "other"}
    assert not tuning.put_off


def test_a_slower_challenger_is_not(other: Other) -> None:
    other.delay, other.recommended = 0.002, True
    assert chosen() == "other"  # by its own rule, as long as nobody has measured
    ops.conv2d(X, W)
    assert chosen() == "aten"


@pytest.mark.slow
def test_each_pass_layout_dtype_and_number_of_threads_is_a_question_of_its_own(other: Other, tmp_path: Path) -> None:
    x, w = X.clone().requires_grad_(), W.clone().requires_grad_()
    ops.conv2d(x, w).sum().backward()
    ops.conv2d(X.contiguous(memory_format=torch.channels_last), W)
    ops.conv2d(X.double(), W.double())
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        ops.conv2d(X, W)
    finally:
        torch.set_num_threads(threads)
    (file,) = tmp_path.iterdir()
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert len({line["question"] for line in lines}) == len(lines) == 6
    assert all(set(line["seconds"]) == {"aten", "other"} for line in lines)
    assert file.stat().st_mode & 0o077 == 0


def test_images_of_nearly_one_size_are_measured_once(other: Other, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = []
    real = tuning.in_turns
    monkeypatch.setattr(tuning, "in_turns", lambda runs: measured.append(1) or real(runs))
    for height in range(97, 113):
        ops.conv2d(torch.zeros(1, 2, height, 100), W)
    assert len(measured) == 1


def test_another_process_knows(other: Other, monkeypatch: pytest.MonkeyPatch) -> None:
    slow_aten(monkeypatch)
    ops.conv2d(X, W)
    table.forget()
    monkeypatch.setattr(tuning, "in_turns", lambda runs: pytest.fail("measured again"))
    ops.conv2d(X, W)
    assert chosen() == "other"


def test_garbage_in_the_file_is_passed_over(other: Other, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow_aten(monkeypatch)
    ops.conv2d(X, W)
    (file,) = tmp_path.iterdir()
    good = file.read_text()
    question = json.loads(good)["question"]
    rubbish = [
        b"\xff\xfe\x00",
        b'{"question": 3}',
        b"[]",
        b"null",
        json.dumps({"question": question, "seconds": {"aten": -1, "other": 1}}).encode(),
        json.dumps({"question": question, "seconds": {"aten": "fast", "other": 1}}).encode(),
        good.encode()[: len(good) // 2],
    ]
    file.write_bytes(b"\n".join([rubbish[0], good.encode().strip(), *rubbish[1:]]))
    table.forget()
    assert chosen() == "other"
    file.write_bytes(rubbish[0] * 1000)
    table.forget()
    torch.testing.assert_close(ops.conv2d(X, W), torch.nn.functional.conv2d(X, W))


def test_a_folder_that_cannot_be_written(other: Other, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("STRIATE_CACHE_DIR", str(tmp_path / "file" / "below"))
    table.forget()
    torch.testing.assert_close(ops.conv2d(X, W), torch.nn.functional.conv2d(X, W))
    assert cache.read("anything") is None


def test_nothing_is_measured_where_results_must_repeat(other: Other, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "in_turns", lambda runs: pytest.fail("measured"))
    with tuning.fixed():
        ops.conv2d(X, W)
        assert chosen() == "aten"
        other.recommended = True
        table.forget()
        assert chosen() == "other"


def test_what_was_measured_before_does_not_count_there(other: Other, monkeypatch: pytest.MonkeyPatch) -> None:
    slow_aten(monkeypatch)
    shape = parse(PROBLEM)
    asked = (shape, Pass.OUTPUT, X, False, lambda backend: lambda: backend.contract(shape, Pass.OUTPUT, X, W, None))
    assert engine.choose(*asked).name == "other"
    with tuning.fixed():
        assert engine.choose(*asked).name == "aten"
    assert engine.choose(*asked).name == "other"


def test_the_environment_says_so() -> None:
    settings = ["STRIATE_TUNE=0", "STRIATE_DETERMINISTIC=1", "STRIATE_TUNE=1"]
    environment = {key: said for key, said in os.environ.items() if not key.startswith("STRIATE_")}
    code = (
        "import importlib, os\n"
        "from striate.engine import tuning\n"
        f"for setting in {settings}:\n"
        "    name, _, os.environ[name] = setting.partition('=')\n"
        "    print(importlib.reload(tuning).measuring())\n"
        "    del os.environ[name]\n"
    )
    out = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["False", "False", "True"]


def test_threads_that_ask_at_once_agree(other: Other, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = []
    real = tuning.in_turns
    monkeypatch.setattr(tuning, "in_turns", lambda runs: measured.append(1) or real(runs))
    found: list[torch.Tensor] = []
    workers = [threading.Thread(target=lambda: found.append(ops.conv2d(X, W))) for _ in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(found) == 8
    assert len(measured) == 1


def test_medians_are_of_every_candidate() -> None:
    taken = tuning.in_turns({"quick": lambda: None, "slow": lambda: CLOCK.sleep(0.003)})
    assert taken["quick"] < 0.003 <= taken["slow"]


def test_noise_does_not_change_the_choice() -> None:
    assert tuning.fastest({"a": 1.0, "b": 0.99}, ["a", "b"]) == "a"
    assert tuning.fastest({"a": 1.0, "b": 0.9}, ["a", "b"]) == "b"
    assert tuning.fastest({"a": 30e-6, "b": 24e-6}, ["a", "b"]) == "a"


@given(st.integers(0, 10**6))
def test_rounding_keeps_three_bits_and_never_lessens(number: int) -> None:
    found = tuning.rounded(number)
    assert number <= found <= number * 1.25 + 1
    assert tuning.rounded(found) == found


def test_files_are_whole_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STRIATE_CACHE_DIR", str(tmp_path / "new" / "folder"))
    cache.write("name.o", b"content")
    assert cache.read("name.o") == b"content"
    place = tmp_path / "new" / "folder"
    assert cache.folder() == place
    assert [path.name for path in place.iterdir()] == ["name.o"]
    assert (place / "name.o").stat().st_mode & 0o077 == 0

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    cache.write("name.o", b"other content")
    assert cache.read("name.o") == b"content"
    assert [path.name for path in place.iterdir()] == ["name.o"]


def test_questions_name_all_that_times_depend_on() -> None:
    line = tuning.TimingKey(parse(PROBLEM + " stride=2"), 2, torch.float32, "cpu", True, 3).line()
    assert line == "conv2d 1x2x5x5 3x2x3x3 stride=2 | pass 2 | float32 channels_last on cpu | threads 3"


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="files have no owner here")
def test_what_others_may_write_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STRIATE_CACHE_DIR", str(tmp_path))
    cache.write("name.o", b"content")
    (tmp_path / "name.o").chmod(0o666)
    assert cache.read("name.o") is None
    (tmp_path / "name.o").chmod(0o600)
    assert cache.read("name.o") == b"content"
    me = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: me + 1)
    assert cache.read("name.o") is None


def test_what_takes_long_is_timed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[str] = []
    monkeypatch.setattr(tuning, "LONG", 0.0)
    taken = tuning.in_turns({"one": lambda: runs.append("one"), "other": lambda: runs.append("other")})
    assert runs == ["one", "one", "other", "other"]
    assert all(seconds >= 0 for seconds in taken.values())
