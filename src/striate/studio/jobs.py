"""Background jobs for work that takes longer than a request: one after the other, with progress and cancellation.

A page polls its jobs. If a job hasn't been polled for a while, its tab was closed, and the job ends at its next step.
"""

from __future__ import annotations

import logging
import queue
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

from striate.errors import StriateError, StudioError, is_out_of_memory, readable
from striate.studio.requests import RequestError

State = Literal["waiting", "running", "done", "failed", "cancelled"]
#: Reports a job's progress: description, amount done, total. Raises an error if the job has to end.
Report: TypeAlias = Callable[[str, int, int | None], None]

#: The most waiting jobs, of all tabs together and of one tab.
MOST_WAITING: Final = 12
MOST_OF_A_TAB: Final = 4
#: The most finished jobs whose results are kept.
MOST_KEPT: Final = 24
#: Seconds without a poll after which a job's page counts as closed.
PATIENCE: Final = 20.0

_LOG: Final = logging.getLogger("striate.studio")


class CancelledError(Exception):
    """A job was cancelled."""


@dataclass
class Job:
    """A background job.

    Args:
        id: its id in addresses.
        kind: a description for display.
        tab: the browser tab that began it.
        work: called with a function that reports progress; returns the result.
        state: its state.
        what, done, total: its progress; ``total`` is None if it isn't known.
        result: the return value of ``work``.
        error: one line, if it failed.
        asked: the time of the last poll, by ``time.monotonic``.
    """

    id: str
    kind: str
    tab: str
    work: Callable[[Report], Any] | None
    state: State = "waiting"
    what: str = ""
    done: int = 0
    total: int | None = None
    result: Any = None
    error: str = ""
    asked: float = field(default_factory=time.monotonic)
    seconds: float = 0.0

    @property
    def is_over(self) -> bool:
        """Whether the job has ended."""
        return self.state in ("done", "failed", "cancelled")

    def to_dict(self) -> dict[str, Any]:
        """The job's progress, for the page."""
        names = ("id", "kind", "state", "what", "done", "total", "error", "seconds")
        return {name: getattr(self, name) for name in names}


class Jobs:
    """The jobs of one studio, run by one thread, because a network has only one set of hooks.

    Args:
        patience: seconds without a poll after which a job ends.
    """

    def __init__(self, patience: float = PATIENCE) -> None:
        self._patience = patience
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._guard = threading.Lock()
        self._queue: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def begin(self, kind: str, tab: str, work: Callable[[Report], Any]) -> Job:
        """Adds work to the end of the queue.

        Raises:
            RequestError: too many jobs are waiting, of all tabs or of this one.
        """
        job = Job(secrets.token_hex(8), kind, tab, work)
        with self._guard:
            open_ = [each for each in self._jobs.values() if not each.is_over]
            own = [each for each in open_ if each.tab == tab]
            if len(open_) >= MOST_WAITING or len(own) >= MOST_OF_A_TAB:
                most = MOST_OF_A_TAB if len(own) >= MOST_OF_A_TAB else MOST_WAITING
                raise RequestError(
                    kind, f"{most} jobs are waiting already", "needed fewer", "wait, or cancel one", status=429
                )
            self._jobs[job.id] = job
            over = [each.id for each in self._jobs.values() if each.is_over]
            for old in over[: max(0, len(over) - MOST_KEPT)]:
                del self._jobs[old]
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="striate-studio-jobs", daemon=True)
                self._thread.start()
        self._queue.put(job)
        return job

    def find(self, id: str) -> Job:
        """The job with an id; this counts as a poll by its page.

        Raises:
            RequestError: there is no such job, or it has been removed.
        """
        with self._guard:
            job = self._jobs.get(id)
        if job is None:
            raise RequestError("job", f"got {id[:40]!r}", "needed one that was begun", "begin it again", status=404)
        job.asked = time.monotonic()
        return job

    def result(self, id: str) -> Any:
        """The result of a finished job.

        Raises:
            RequestError: the job isn't finished, or it failed; the message has the reason.
        """
        job = self.find(id)
        if job.state != "done":
            raise RequestError("job", job.error or f"is {job.state}", "needed one that is done", status=409)
        return job.result

    def cancel(self, id: str) -> Job:
        """Cancels a job: at once if it is waiting, at its next step if it is running."""
        job = self.find(id)
        with self._guard:
            self._end(job)
        return job

    def close(self, tab: str) -> None:
        """Cancels all jobs of a tab."""
        with self._guard:
            for job in self._jobs.values():
                if job.tab == tab:
                    self._end(job)

    def _end(self, job: Job) -> None:
        if not job.is_over:
            job.state, job.work = "cancelled", None

    def _work(self) -> None:
        while True:
            self._do(self._queue.get())

    def _do(self, job: Job) -> None:
        with self._guard:
            self._leave_if_alone(job)
            work, job.work = job.work, None
            if job.is_over or work is None:
                return
            job.state = "running"
        began = time.monotonic()

        def report(what: str, done: int, total: int | None) -> None:
            with self._guard:
                self._leave_if_alone(job)
                if job.is_over:
                    raise CancelledError
                job.what, job.done, job.total = what, done, total
                job.seconds = time.monotonic() - began

        state: State = "failed"
        result, error = None, ""
        try:
            from striate.explain.progress import reporting  # slow to import, and not needed at the start

            with reporting(report):
                result, state = work(report), "done"
        except CancelledError:
            state = "cancelled"
        except BaseException as failure:  # the user's network may raise any error, and the server has to go on
            error = _line(job.kind, failure)
        with self._guard:
            job.seconds = time.monotonic() - began
            if not job.is_over:
                job.state, job.result, job.error = state, result, error

    def _leave_if_alone(self, job: Job) -> None:
        if time.monotonic() - job.asked > self._patience:
            self._end(job)


def _line(kind: str, failure: BaseException) -> str:
    if is_out_of_memory(failure):
        return f"{kind}: memory ran out; take a smaller picture, fewer steps or a smaller network"
    if isinstance(failure, StriateError):
        return str(failure)
    _LOG.error("%s failed", kind, exc_info=failure)
    first = (str(failure).strip().splitlines() or ["no reason given"])[0]
    return readable(str(StudioError(kind, f"failed ({type(failure).__name__}: {first[:300]})")))
