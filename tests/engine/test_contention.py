"""Waiting threads sleep while others compete for the processors: the scheduler's counts are made up here."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import pytest
import torch

from striate.engine import contention, openmp
from striate.engine.contention import Contention
from striate.engine.llvm.codegen import compiler

pytestmark = pytest.mark.skipif(
    not contention.waits() or openmp.runtime() is None, reason="no scheduler's counts, or no libgomp"
)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Contention:
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    while compiler._worker is not None:
        time.sleep(0.01)  # another test's thread, which would be counted
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2})
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    return Contention()


class Scheduler:
    """Counts that grow by a share of the time that passes between two looks."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock, self.counts = 100.0, {"1": 0, "2": 0}
        monkeypatch.setattr(contention, "waits", lambda: dict(self.counts))
        monkeypatch.setattr(time, "perf_counter", lambda: self.clock)

    def pass_by(self, *shares: float, seconds: float = 0.25) -> None:
        self.clock += seconds
        for task, share in zip(self.counts, shares, strict=True):
            self.counts[task] += int(share * seconds * 1e9)


def tasks() -> int:
    return len(os.listdir("/proc/self/task"))


def test_a_team_sleeps_while_others_compete(watched: Contention, monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler, before = Scheduler(monkeypatch), tasks()
    watched.look()
    assert not watched.competing  # one look says nothing about the time between two
    scheduler.pass_by(0.01, 0.02)
    watched.look()
    assert not watched.competing
    scheduler.pass_by(0.3, 0.2)
    watched.look()
    assert watched.competing
    # One has started the other two. With PyTorch's two there are more than the three processors.
    assert tasks() - before == 3
    scheduler.pass_by(0.1, 0.05)
    watched.look()
    assert watched.competing  # between the two limits nothing changes
    scheduler.pass_by(0.02, 0.02)
    watched.look()
    assert not watched.competing
    deadline = time.monotonic() + 10
    while tasks() > before and time.monotonic() < deadline:
        time.sleep(0.01)  # the system takes a moment to end threads
    assert tasks() == before


def test_a_process_that_competes_with_itself_adapts_at_once(
    watched: Contention, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = Scheduler(monkeypatch)
    watched.expect()
    assert watched.competing
    scheduler.pass_by(0.0, 0.0)
    watched.look()
    assert not watched.competing


def test_one_thread_waits_for_nobody(watched: Contention, monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = Scheduler(monkeypatch)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    watched.expect()
    assert not watched.competing
    watched.look()
    scheduler.pass_by(0.5, 0.5)
    watched.look()
    assert not watched.competing


def test_threads_that_come_and_go_are_counted_while_they_are_there(
    watched: Contention, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = Scheduler(monkeypatch)
    scheduler.counts = {"1": 0, "2": 10**12}
    watched.look()
    del scheduler.counts["2"]
    scheduler.counts["3"] = 0
    scheduler.pass_by(0.0, 0.5)
    watched.look()
    assert watched.competing
    scheduler.pass_by(0.0, 0.0)
    watched.look()
    assert not watched.competing


@pytest.mark.parametrize("name", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT"])
def test_who_has_decided_is_left_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "1")
    assert Contention().due == float("inf")


def test_a_system_without_counts_is_asked_once(watched: Contention, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contention, "waits", dict)
    assert watched.due < time.perf_counter()
    watched.look()
    assert watched.due == float("inf")
    assert not watched.competing


def test_looks_are_seldom(watched: Contention, monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = Scheduler(monkeypatch)
    monkeypatch.setattr(contention, "_contention", watched)
    looks: list[float] = []
    monkeypatch.setattr(contention, "waits", lambda: looks.append(scheduler.clock) or {"1": 1})
    for _ in range(100):
        scheduler.clock += 0.01
        contention.look()
    assert 4 <= len(looks) <= 6


def test_the_systems_counts_name_every_thread() -> None:
    left = threading.Event()
    thread = threading.Thread(target=left.wait)
    thread.start()
    try:
        counts = contention.waits()
        assert {str(thread.native_id), str(threading.get_native_id())} <= counts.keys()
        assert all(count >= 0 for count in counts.values())
    finally:
        left.set()
        thread.join()


def test_results_are_the_same_with_a_team() -> None:
    x = torch.randn(64, 3, 40, 40)
    before = torch.nn.functional.conv2d(x, torch.ones(8, 3, 3, 3)).sum((0, 2, 3))
    team = contention.Team()
    try:
        assert torch.equal(torch.nn.functional.conv2d(x, torch.ones(8, 3, 3, 3)).sum((0, 2, 3)), before)
    finally:
        team.leave()


def test_a_forked_child_has_no_team_and_ends() -> None:
    code = (
        "import os\n"
        "from striate.engine import contention\n"
        "contention._contention._team = contention.Team()\n"
        "if (child := os.fork()) == 0:\n"
        "    os._exit(contention._contention.competing)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "0"
