"""Kernels are compiled in the background while PyTorch's functions compute."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import striate
from striate.acceleration import plan_of
from striate.engine import compilation, tuning
from striate.engine.llvm.codegen import compiler, machine_code
from striate.engine.llvm.codegen.compiler import Job
from striate.engine.llvm.codegen.ir import Function
from striate.engine.llvm.codegen.isa import the_isa
from striate.engine.llvm.codegen.launch import Kernel, module


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def kernel(name: str) -> Kernel:
    return Kernel(Function(name, the_isa()), the_isa())


@pytest.fixture
def _empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STRIATE_CACHE_DIR", str(tmp_path))


def test_a_job_is_done_in_the_background() -> None:
    begun, go = threading.Event(), threading.Event()

    def make() -> bytes:
        begun.set()
        assert go.wait(60)
        return b"code"

    job = Job(make)
    assert not job.request()
    assert begun.wait(60)
    assert not job.request()  # and isn't begun again
    go.set()
    until(job.request)
    assert job.code() == b"code"


def test_a_failed_job_fails_the_call_that_needs_it() -> None:
    tried: list[int] = []

    def make() -> bytes:
        tried.append(len(tried))
        raise ValueError("no such instruction")

    job = Job(make)
    assert not job.request()
    until(job.request)  # there is nothing to wait for
    with pytest.raises(ValueError, match="no such instruction"):
        job.code()
    assert tried == [0, 1]
    later = Job(lambda: b"fine")
    later.request()
    until(later.request)  # the background thread goes on


def test_without_a_thread_jobs_are_done_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start)
        job = Job(lambda: b"code")
        assert job.request()
    later = Job(lambda: b"later")
    later.request()
    until(later.request)


def test_who_waits_goes_first() -> None:
    order: list[str] = []
    go = threading.Event()

    def make(name: str) -> bytes:
        assert go.wait(60)
        order.append(name)
        return b""

    jobs = [Job(lambda name=name: make(name)) for name in ("a", "b", "c")]  # type: ignore[misc]
    for job in jobs:
        job.request()
    until(lambda: compilation.backlog == 2)

    def need() -> None:
        with compiler.urgent():
            order.append("needed")

    thread = threading.Thread(target=need)
    thread.start()
    until(lambda: bool(compiler._urgent))
    go.set()
    thread.join()
    until(lambda: len(order) == 4)
    assert order == ["a", "needed", "b", "c"]


@pytest.mark.usefixtures("_empty_cache")
def test_kernels_are_found_missing_and_later_there() -> None:
    one = kernel("missing")
    with compilation.without_waiting(), pytest.raises(compilation.NotCompiledError):
        _ = one.part
    assert compilation.waits()
    until(one.request)
    with compilation.without_waiting():
        assert one.part
    # In the cache now, so the next process finds the kernel at once.
    assert kernel("missing").request()


@pytest.mark.usefixtures("_empty_cache")
def test_who_needs_a_kernel_waits() -> None:
    assert kernel("needed").part


@pytest.mark.usefixtures("_empty_cache", "measuring")
def test_plans_begin_when_their_kernels_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "_ALLOWANCE", 0.0)
    monkeypatch.setattr(tuning, "_SHARE", 1e6)  # time is always left
    monkeypatch.setattr(tuning, "in_turns", lambda runs, *_: {name: float(name[:1] in "P") for name in runs})
    later: list[Job] = []
    monkeypatch.setattr(compiler, "compile_later", later.append)
    # An odd activation, so that no other test has made the kernels.
    layers = torch.nn.Conv2d(3, 19, 3), torch.nn.LeakyReLU(0.0371), torch.nn.Conv2d(19, 5, 3)
    model = striate.accelerate(torch.nn.Sequential(*layers).eval(), quiet=True)
    x = torch.randn(2, 3, 17, 17)
    with torch.no_grad():
        expected = model._call_impl(x)
        for _ in range(4):
            torch.testing.assert_close(model(x), expected)
        assert "not taken yet" in plan_of(model, x)
        assert len(later) >= 2
        for job in later:
            job.code()
        model(x)
        assert plan_of(model, x)[:1].isdigit()
        torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)


_QUEUED = """
import os, sys
from striate.engine.llvm.codegen.ir import Function
from striate.engine.llvm.codegen.isa import the_isa
from striate.engine.llvm.codegen.launch import Kernel
from striate.engine import compilation
kernels = []
for count in range(30):
    f = Function(f"kernel{count}", the_isa())
    place = f.pointer("x")
    for _ in range(400):
        f.store(f.load(place), place)
    kernels.append(Kernel(f, the_isa()))
    kernels[-1].request()
"""


@pytest.mark.usefixtures("_empty_cache")
def test_a_process_may_end_meanwhile(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", _QUEUED], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(list(tmp_path.glob("*.o"))) < 30


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.usefixtures("_empty_cache")
def test_a_process_may_fork_meanwhile() -> None:
    code = _QUEUED + (
        "for turn in range(5):\n"
        "    if (child := os.fork()) == 0:\n"
        "        Kernel(Function(f'forked{turn}', the_isa()), the_isa()).part\n"
        "        os._exit(7)\n"
        "    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_code_is_what_a_waiting_call_gets() -> None:
    f = Function("same", the_isa())
    assert Job(lambda: machine_code.to_object(module(f), the_isa())).code() == machine_code.code(module(f), the_isa())
