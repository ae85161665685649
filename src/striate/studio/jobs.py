"""Work that takes longer than a request: in the background, one after the other, with progress and cancelling.

A page asks for its jobs again and again. A job that nobody has asked for in a while belongs to a tab that was closed,
and ends at its next step.
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
#: Tells how far a job is: what is done, how much of it, of how much. Raises where the job is to end.
Report: TypeAlias = Callable[[str, int, int | None], None]

#: Jobs that may wait, of all tabs together and of one.
MOST_WAITING: Final = 12
MOST_OF_A_TAB: Final = 4
#: Finished jobs whose results are kept.
MOST_KEPT: Final = 24
#: Seconds without a question after which a job's page counts as closed.
PATIENCE: Final = 20.0

_LOG: Final = logging.getLogger("striate.studio")


class CancelledError(Exception):
    """A job that is to end."""


@dataclass
class Job:
    """One piece of work.

    Args:
        id: in addresses.
        kind: what is done, for people.
        tab: of the browser, that asked for it.
        work: is given a report, and returns the result.
        state: where it stands.
        what, done, total: how far it is; ``total`` is None where that isn't known.
        result: what ``work`` returned.
        error: one line, where it failed.
        asked: when its page asked last, by ``time.monotonic``.
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
        """Whether nothing more will come."""
        return self.state in ("done", "failed", "cancelled")

    def to_dict(self) -> dict[str, Any]:
        """What the page shows while it waits."""
        names = ("id", "kind", "state", "what", "done", "total", "error", "seconds")
        return {name: getattr(self, name) for name in names}


class Jobs:
    """The jobs of one studio, done by one thread, since a network has one set of hooks.

    Args:
        patience: seconds without a question after which a job ends.
    """

    def __init__(self, patience: float = PATIENCE) -> None:
        self._patience = patience
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._guard = threading.Lock()
        self._queue: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def begin(self, kind: str, tab: str, work: Callable[[Report], Any]) -> Job:
        """Puts work at the end of the queue.

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
        """The job with an id, whose page is still there, since it asks.

        Raises:
            RequestError: there is none, or not any more.
        """
        with self._guard:
            job = self._jobs.get(id)
        if job is None:
            raise RequestError("job", f"got {id[:40]!r}", "needed one that was begun", "begin it again", status=404)
        job.asked = time.monotonic()
        return job

    def result(self, id: str) -> Any:
        """The result of a job that is done.

        Raises:
            RequestError: it isn't, or it failed, with the line that says why.
        """
        job = self.find(id)
        if job.state != "done":
            raise RequestError("job", job.error or f"is {job.state}", "needed one that is done", status=409)
        return job.result

    def cancel(self, id: str) -> Job:
        """Ends a job: at once if it waits, at its next step if it runs."""
        job = self.find(id)
        with self._guard:
            self._end(job)
        return job

    def close(self, tab: str) -> None:
        """Ends all jobs of a tab."""
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
            from striate.explain.progress import reporting  # which takes a second, and the server starts without it

            with reporting(report):
                result, state = work(report), "done"
        except CancelledError:
            state = "cancelled"
        except BaseException as failure:  # whatever a user's network raises, the server goes on
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
