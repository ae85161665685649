"""Why: maps of evidence, filters with spectra, patches, a channel's maximising picture, computed in the background."""

from __future__ import annotations

import functools
import threading
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from striate.studio.gallery import gallery_of
from striate.studio.jobs import Jobs, Report
from striate.studio.requests import RequestError, answer, json_of, packed, text, workspace_of

if TYPE_CHECKING:
    from striate.studio.explaining import Ask, ShownResult

_MOST_NAME = 300
_guard = threading.Lock()


def jobs_of(request: Request) -> Jobs:
    """The jobs of a studio, created at the first call."""
    state = request.app.state
    with _guard:
        if not hasattr(state, "jobs"):
            state.jobs = Jobs()
    jobs: Jobs = state.jobs
    return jobs


def tab_of(request: Request) -> str:
    """The id of the page's tab."""
    return request.headers.get("x-striate-tab", "")[:64]


async def _options(request: Request) -> Response:
    workspace = workspace_of(request)
    picture = workspace.picture(request.query_params.get("picture"))

    def told() -> dict[str, Any]:
        # Explanations take a second to import, and aren't needed to start the server.
        from striate.studio.explaining import options

        return options(workspace, picture)

    return answer(await workspace.compute(told))


async def _begin(request: Request) -> Response:
    """Begins a job: ``method``, and optionally ``picture``, ``layer``, ``channel``, ``target``, ``steps``, ``seed``."""
    workspace, given = workspace_of(request), await json_of(request)
    ask = await workspace.read(_asked, given)
    workspace.picture(ask.picture)  # refuses what isn't there

    def done(report: Report) -> ShownResult:
        from striate.studio.explaining import work

        report(ask.method, 0, None)
        return work(workspace, ask, functools.partial(gallery_of, workspace.subject, workspace.pictures()))

    return answer(jobs_of(request).begin(ask.method, tab_of(request), done).to_dict())


def _asked(given: Any) -> Ask:
    from striate.studio.explaining import Ask

    return Ask(
        method=_word(given, "method") or "",
        picture=_word(given, "picture"),
        layer=_word(given, "layer"),
        channel=_number(given, "channel"),
        target=_number(given, "target"),
        steps=_number(given, "steps") or 128,
        seed=_number(given, "seed") or 0,
    )


def _word(given: Any, name: str) -> str | None:
    value = given.get(name)
    if value is None or value == "":
        return None
    if not isinstance(value, str) or len(value) > _MOST_NAME:
        raise RequestError(name, f"got {str(value)[:40]!r}", "needed a name")
    return value


def _number(given: Any, name: str) -> int | None:
    value = given.get(name)
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 31:
        raise RequestError(name, f"got {str(value)[:40]!r}", "needed a whole number, 0 or more")
    return value


async def _state(request: Request) -> Response:
    return answer(jobs_of(request).find(str(request.path_params["job"])).to_dict())


async def _cancel(request: Request) -> Response:
    return answer(jobs_of(request).cancel(str(request.path_params["job"])).to_dict())


async def _close(request: Request) -> Response:
    """Cancels the jobs of a tab; a page sends this when it closes."""
    jobs_of(request).close(tab_of(request))
    return answer({"closed": True})


async def _result(request: Request) -> Response:
    """The header of a finished job, or with ``part`` one of its tensors."""
    found = _shown(request)
    part = text(request, "part", "", most=40)
    if not part:
        shapes = {name: list(tensor.shape) for name, tensor in found.parts.items()}
        return answer(found.header | {"parts": shapes, "figure": found.result is not None})
    if part not in found.parts:
        raise RequestError("part", f"got {part!r}", "needed one of " + (", ".join(found.parts) or "none"), status=404)
    return packed({"part": part}, found.parts[part])


async def _figure(request: Request) -> Response:
    """The library's figure of a finished job's result, as PNG."""
    found = _shown(request)
    # matplotlib isn't thread-safe, so take the network's lock as well.
    return Response(await workspace_of(request).compute(found.figure), media_type="image/png")


def _shown(request: Request) -> ShownResult:
    found: ShownResult = jobs_of(request).result(str(request.path_params["job"]))
    return found


routes = [
    Route("/api/why", _options),
    Route("/api/jobs", _begin, methods=["POST"]),
    Route("/api/jobs", _close, methods=["DELETE"]),
    Route("/api/jobs/{job}", _state),
    Route("/api/jobs/{job}", _cancel, methods=["DELETE"]),
    Route("/api/jobs/{job}/result", _result),
    Route("/api/jobs/{job}/figure", _figure),
]
