"""Jobs: in order, with progress, cancelled, left alone, failing, out of memory; the thread goes on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from striate import explain
from striate.errors import ExplainError
from striate.studio.jobs import MOST_KEPT, MOST_OF_A_TAB, MOST_WAITING, Job, Jobs, Report
from striate.studio.requests import RequestError


def wait(holds: Callable[[], bool], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "didn't come about"
        time.sleep(0.002)


class Slow:
    """Work in steps that a test lets go on."""

    def __init__(self) -> None:
        self.go, self.began, self.ended = threading.Semaphore(0), threading.Event(), threading.Event()

    def __call__(self, report: Report) -> str:
        try:
            for step in range(100):
                report("steps", step, 100)
                self.began.set()
                self.go.acquire(timeout=10)
            return "all steps"
        finally:
            self.ended.set()


def over(jobs: Jobs, job: Job) -> Job:
    wait(lambda: jobs.find(job.id).is_over)
    return job


def test_results_and_progress() -> None:
    jobs, slow = Jobs(), Slow()
    job = jobs.begin("count", "a", slow)
    assert slow.began.wait(5)
    for _ in range(42):
        slow.go.release()
    wait(lambda: jobs.find(job.id).done == 42)
    assert job.to_dict()["total"] == 100
    assert job.state == "running"
    with pytest.raises(RequestError, match="is running"):
        jobs.result(job.id)
    for _ in range(100):
        slow.go.release()
    assert over(jobs, job).state == "done"
    assert jobs.result(job.id) == "all steps"


def test_jobs_are_done_one_after_the_other() -> None:
    jobs, order = Jobs(), []
    first = Slow()
    one = jobs.begin("one", "a", first)
    assert first.began.wait(5)
    two = jobs.begin("two", "b", lambda report: order.append("two"))
    three = jobs.begin("three", "c", lambda report: order.append("three"))
    assert [each.state for each in (one, two, three)] == ["running", "waiting", "waiting"]
    jobs.cancel(one.id)
    first.go.release()
    over(jobs, three)
    assert order == ["two", "three"]


def test_a_running_job_ends_at_its_next_step_and_the_next_one_begins() -> None:
    jobs, slow = Jobs(), Slow()
    job = jobs.begin("slow", "a", slow)
    assert slow.began.wait(5)
    after = jobs.begin("after", "a", lambda report: 7)
    assert jobs.cancel(job.id).state == "cancelled"
    slow.go.release()
    assert slow.ended.wait(5)
    over(jobs, after)
    assert jobs.result(after.id) == 7
    with pytest.raises(RequestError, match="is cancelled"):
        jobs.result(job.id)


def test_a_waiting_job_never_begins_once_it_is_cancelled() -> None:
    jobs, slow, began = Jobs(), Slow(), []
    running = jobs.begin("slow", "a", slow)
    assert slow.began.wait(5)
    waiting = jobs.begin("waits", "a", lambda report: began.append(1))
    jobs.cancel(waiting.id)
    jobs.cancel(running.id)
    slow.go.release()
    over(jobs, jobs.begin("last", "a", lambda report: None))
    assert began == []
    assert waiting.state == "cancelled"


def test_a_closed_tab_ends_its_jobs_and_no_others() -> None:
    jobs, slow = Jobs(), Slow()
    mine = jobs.begin("mine", "a", slow)
    assert slow.began.wait(5)
    also = jobs.begin("also mine", "a", lambda report: 1)
    other = jobs.begin("another's", "b", lambda report: 2)
    jobs.close("a")
    slow.go.release()
    over(jobs, other)
    assert [mine.state, also.state, other.state] == ["cancelled", "cancelled", "done"]


def test_a_job_that_nobody_asks_for_ends() -> None:
    jobs, slow = Jobs(patience=0.2), Slow()
    job = jobs.begin("alone", "a", slow)
    assert slow.began.wait(5)
    for _ in range(4):
        time.sleep(0.1)
        jobs.find(job.id)
        slow.go.release()
    assert job.state == "running"
    time.sleep(0.3)
    slow.go.release()
    assert slow.ended.wait(5)
    wait(lambda: job.state == "cancelled")


@pytest.mark.parametrize(
    ("failure", "line"),
    [
        (ExplainError("layer", "got 'x'", "needed another"), "layer: got 'x'; needed another"),
        (ValueError("two\nlines"), "work: failed (ValueError: two)"),
        (MemoryError(), "work: memory ran out"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate"), "work: memory ran out"),
        (SystemExit(3), "work: failed (SystemExit: 3)"),
        (KeyboardInterrupt(), "work: failed (KeyboardInterrupt"),
    ],
)
def test_a_failure_is_one_line_and_the_thread_goes_on(failure: BaseException, line: str) -> None:
    jobs = Jobs()

    def fail(report: Report) -> None:
        raise failure

    job = over(jobs, jobs.begin("work", "a", fail))
    assert job.state == "failed"
    assert job.error.startswith(line)
    assert "\n" not in job.error
    with pytest.raises(RequestError) as caught:
        jobs.result(job.id)
    assert caught.value.status == 409
    assert over(jobs, jobs.begin("work", "a", lambda report: 1)).state == "done"


def test_their_number_is_bounded() -> None:
    jobs, slow = Jobs(), Slow()
    jobs.begin("slow", "a", slow)
    for _ in range(MOST_OF_A_TAB - 1):
        jobs.begin("more", "a", lambda report: None)
    with pytest.raises(RequestError, match=f"{MOST_OF_A_TAB} jobs are waiting") as caught:
        jobs.begin("too many", "a", lambda report: None)
    assert caught.value.status == 429
    for number in range(MOST_WAITING - MOST_OF_A_TAB):
        jobs.begin("others", f"tab {number}", lambda report: None)
    with pytest.raises(RequestError, match=f"{MOST_WAITING} jobs are waiting"):
        jobs.begin("too many", "new", lambda report: None)
    jobs.close("a")
    slow.go.release()


def test_old_results_go() -> None:
    jobs = Jobs()
    first = over(jobs, jobs.begin("first", "a", lambda report: torch.zeros(3)))
    for _ in range(MOST_KEPT + 2):
        last = over(jobs, jobs.begin("more", "a", lambda report: None))
    assert jobs.find(last.id) is last
    with pytest.raises(RequestError, match="needed one that was begun") as caught:
        jobs.find(first.id)
    assert caught.value.status == 404


@pytest.mark.parametrize("name", ["smooth_grad", "integrated_gradients", "occlusion", "rise", "score_cam"])
def test_explanations_tell_how_far_they_are_and_can_be_ended(name: str) -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 64, 3)]
    model, image = nn.Sequential(*layers), torch.rand(1, 1, 10, 10)
    jobs, seen = Jobs(), []

    def work(report: Report) -> Any:
        return explain.METHODS[name](model, image)

    job = over(jobs, jobs.begin(name, "a", work))
    assert job.state == "done", job.error
    assert job.done == job.total
    assert job.total is not None
    assert job.total >= 1
    assert torch.equal(jobs.result(job.id).map, explain.METHODS[name](model, image).map)

    def ended(report: Report) -> Any:
        seen.append(1)
        jobs.close("b")
        return explain.METHODS[name](model, image)

    job = over(jobs, jobs.begin(name, "b", ended))
    over(jobs, jobs.begin("after", "a", lambda report: None))
    assert job.state == "cancelled"
    assert job.result is None
    assert not any(module._forward_hooks for module in model.modules())
