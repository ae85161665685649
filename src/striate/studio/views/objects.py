"""Objects: what a detector finds on a picture, what suppression removes and why, and the classes of pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from striate.studio.jobs import Report
from striate.studio.requests import answer, number, workspace_of
from striate.studio.views.why import jobs_of, tab_of

if TYPE_CHECKING:
    from striate.studio.explaining import Shown


async def _objects(request: Request) -> Response:
    """Begins a job that looks for objects; ``score`` and ``overlap`` are thresholds, the network's own by default."""
    workspace = workspace_of(request)
    picture = workspace.picture(request.query_params.get("picture"))
    score, overlap = (number(request, name, -1.0, low=-1, high=1) for name in ("score", "overlap"))

    def done(report: Report) -> Shown:
        from striate.studio.finding import objects

        report("looking for objects", 0, None)
        return objects(workspace, picture, None if score < 0 else score, None if overlap < 0 else overlap)

    return answer(jobs_of(request).begin("objects", tab_of(request), done).to_dict())


routes = [Route("/api/objects", _objects, methods=["POST"])]
