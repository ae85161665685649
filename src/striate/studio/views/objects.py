"""Objects: a detector's boxes, the boxes that suppression removes, predictions by position, and classes of pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from striate.studio.jobs import Report
from striate.studio.requests import RequestError, answer, number, whole, wholes, workspace_of
from striate.studio.views.why import jobs_of, tab_of

if TYPE_CHECKING:
    from striate.studio.explaining import ShownResult


async def _objects(request: Request) -> Response:
    """Begins a job that detects objects; ``score`` and ``overlap`` are thresholds, by default the network's own."""
    workspace = workspace_of(request)
    picture = workspace.picture(request.query_params.get("picture"))
    score, overlap = (number(request, name, -1.0, low=-1, high=1) for name in ("score", "overlap"))

    def done(report: Report) -> ShownResult:
        from striate.studio.finding import objects

        report("looking for objects", 0, 2)
        return objects(workspace, picture, None if score < 0 else score, None if overlap < 0 else overlap, report)

    return answer(jobs_of(request).begin("objects", tab_of(request), done).to_dict())


async def _position(request: Request) -> Response:
    """``GET /api/objects/JOB/position?level=0&at=3,5``: the predictions at a position, for a finished job."""
    workspace = workspace_of(request)
    found = jobs_of(request).result(str(request.path_params["job"]))
    predicted = getattr(found, "predicted", None)
    if predicted is None:
        raise RequestError("job", "says nothing about positions", "needed one of a detector", status=404)
    level = whole(request, "level", 0, high=len(predicted.levels) - 1)
    place = wholes(request, "at", most=2) or (0, 0)
    size = predicted.levels[level].scores.shape[:2]
    if len(place) != 2 or any(each >= side for each, side in zip(place, size, strict=True)):
        raise RequestError("at", f"got {place}", f"needed row and column within {tuple(size)}")

    def told() -> dict[str, Any]:
        from striate.studio.finding import name_of
        from striate.studio.predictions import at

        said = at(predicted, level, *place)
        for each in said["boxes"]:
            label = each.pop("label")
            each["name"] = name_of(workspace.subject, label) if label else "object"
        return said

    return answer(await workspace.read(told))


routes = [
    Route("/api/objects", _objects, methods=["POST"]),
    Route("/api/objects/{job}/position", _position),
]
