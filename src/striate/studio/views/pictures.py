"""Pictures: uploaded, drawn, taken from the data set, moved; and how the network's maps follow a move."""

from __future__ import annotations

from typing import Any

import torch
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from striate.studio.following import MOST_MAPS, Place, follow, likeliest, place_of, places
from striate.studio.gallery import gallery_of
from striate.studio.pictures import MOST_BYTES, Moves, drawn, pixels_code, preprocessing_code, uploaded
from striate.studio.requests import RequestError, answer, body, packed, text, whole, workspace_of
from striate.studio.workspace import MARK, Picture, Workspace

#: The number of thumbnails of the data set in a response.
_PAGE = 40


async def _upload(request: Request) -> Response:
    """Adds the picture in a file, the request's body; ``name`` is the name of the file."""
    workspace = workspace_of(request)
    content, name = await body(request, MOST_BYTES), text(request, "name", "a file", most=300)
    made = await workspace.read(uploaded, content, name, workspace.subject, workspace.new_id())
    return answer(workspace.add(made).to_dict())


async def _draw(request: Request) -> Response:
    """Adds a drawing, bytes (channels, height, width); the drawing that it ``replaces`` is removed from the list."""
    workspace = workspace_of(request)
    channels, height, width = (whole(request, each, low=1, high=512) for each in ("channels", "height", "width"))
    content = await body(request, MOST_BYTES)
    made = await workspace.read(drawn, content, channels, height, width, workspace.subject, workspace.new_id())
    before = text(request, "replaces", "", most=40)
    if before:
        workspace.remove(before, replaced=True)
    return answer(workspace.add(made).to_dict())


async def _remove(request: Request) -> Response:
    workspace = workspace_of(request)
    name = str(request.path_params["picture"])
    workspace.picture(name)  # refuses what isn't there
    workspace.remove(name)
    return answer({"removed": name})


async def _sample(request: Request) -> Response:
    """Adds the picture ``number`` of the data set."""
    workspace = workspace_of(request)
    gallery = await workspace.read(gallery_of, workspace.subject, workspace.pictures())
    number = whole(request, "number", low=0, high=len(gallery) - 1)
    label = gallery.labels[number] if gallery.labels else None
    classes = workspace.subject.classes
    name = f"{gallery.name}, {number}" if label is None or label >= len(classes) else f"{classes[label]}, {number}"
    made = workspace.subject.fitted(gallery.images[number], name, id=workspace.new_id(), label=label, made=gallery.name)
    return answer(workspace.add(made).to_dict())


async def _gallery(request: Request) -> Response:
    """Thumbnails of the data set from ``first`` on: uint8 (n, C, H, W) as float32, and labels in the header."""
    workspace = workspace_of(request)
    gallery = await workspace.read(gallery_of, workspace.subject, workspace.pictures())
    first = whole(request, "first", 0, low=0, high=max(0, len(gallery) - 1))
    part = gallery.images[first : first + _PAGE]
    step = max(1, max(part.shape[2:]) // 48)
    labels = [gallery.labels[each] for each in range(first, first + len(part))] if gallery.labels else []
    return packed(
        {"name": gallery.name, "total": len(gallery), "first": first, "page": _PAGE, "labels": labels},
        part[:, :, ::step, ::step],
    )


async def _places(request: Request) -> Response:
    """The values with maps for a picture, and the network's prediction."""
    workspace = workspace_of(request)
    recording = await workspace.recorded(str(request.path_params["picture"]))
    found = await workspace.read(places, recording)
    said = likeliest(recording, workspace.subject.classes)
    return answer({"places": [each.to_dict() for each in found], "says": said})


async def _follow(request: Request) -> Response:
    """Maps of value ``value``, (3, K, h, w): of the picture, these moved like the picture, and of the moved picture."""
    workspace = workspace_of(request)
    name = str(request.path_params["picture"])
    of, mark, written = name.partition(MARK)
    if not mark:
        raise RequestError("picture", f"got {name!r}", "needed a moved one, as p0~x2")
    number, most = whole(request, "value"), whole(request, "most", MOST_MAPS, low=1, high=MOST_MAPS)
    picture, moves = workspace.picture(name), Moves.parse(written)
    before, after = await workspace.recorded(of), await workspace.recorded(name)
    assert picture.pixels is not None
    size = (picture.pixels.shape[1], picture.pixels.shape[2])

    def made() -> tuple[dict[str, Any], torch.Tensor]:
        place = place_of(before, number)
        found = follow(before, after, place, moves, size, most)
        classes = workspace.subject.classes
        header = place.to_dict() | {
            "error": found.error,
            "shown": found.channels,
            "says": [likeliest(each, classes) for each in (before, after)],
            "call": _call(workspace, workspace.picture(of), place, moves, size),
        }
        return header, torch.stack([found.before.float(), found.along.float(), found.after.float()])

    header, maps = await workspace.read(made)
    return packed(header, maps)


def _call(workspace: Workspace, picture: Picture, place: Place, moves: Moves, size: tuple[int, int]) -> str:
    """Python code that measures how well a layer follows the move."""
    shown = f"activation_maps(model, preprocessing.normalization(pixels[None])[0], {place.name!r}).maps"
    lines = [
        *moves.imports,
        "from striate.explain import activation_maps",
        workspace.subject.code,
        "",
        pixels_code(picture),
        preprocessing_code(workspace.subject),
        f"before = {shown}",
        *moves.lines,
        f"after = {shown}",
        "",
        "along, inside = before[None], torch.ones_like(before[None])",
        *moves.lines_along("along", place.apart(size)),
        *moves.lines_along("inside", place.apart(size)),
        "kept = inside[0, 0] > 1 - 1e-4",
        "print(((after - along[0])[:, kept].norm() / along[0][:, kept].norm()).item())",
    ]
    return "\n".join(lines) + "\n"


routes = [
    Route("/api/pictures", _upload, methods=["POST"]),
    Route("/api/pictures/drawing", _draw, methods=["POST"]),
    Route("/api/pictures/sample", _sample, methods=["POST"]),
    Route("/api/pictures/{picture}", _remove, methods=["DELETE"]),
    Route("/api/gallery", _gallery),
    Route("/api/places/{picture}", _places),
    Route("/api/follow/{picture}", _follow),
]
