"""The network as a graph: places of nodes and open boxes, costs, receptive fields, small maps, search."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable
from fractions import Fraction
from typing import Any, Final

import torch
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from torch import Tensor

from striate.analysis import memory
from striate.analysis.field import FieldRow, rows_by_value
from striate.errors import AnalysisError
from striate.studio import requests, tensors
from striate.studio.graph import GraphNode, Network, network_of
from striate.studio.nesting import arrange
from striate.studio.recording import Recording
from striate.studio.requests import RequestError, answer, packed, workspace_of

#: The sizes of nodes.
WIDTH: Final = 196.0
NARROW: Final = 132.0
LINES: Final = 78.0
MAPS: Final = 42.0
#: The side of a small map in pixels, the number of small maps of a node, and the number of elements shown of a vector.
SMALL: Final = 36
FEW: Final = 4
_VECTOR: Final = 40
#: The most values in one request for small maps.
_MOST: Final = 400
#: The most cached views of a graph.
_KEPT: Final = 12
#: With more nodes, no node has small maps.
_MANY: Final = 400


async def network(request: Request) -> Response:
    """``GET /api/network?picture=P&open=a,b&width=1400``: nodes, boxes and edges with their places."""
    workspace = workspace_of(request)
    recording = await workspace.recorded(request.query_params.get("picture"))
    width = requests.whole(request, "width", 1400, low=300, high=20_000)
    text = request.query_params.get("open")
    if text is not None and len(text) > 100_000:
        raise RequestError("open", f"got {len(text)} characters", "needed at most 100000")
    opened = None if text is None else frozenset(text.split(","))
    found = await workspace.read(_placed, recording, opened, width)
    picture = workspace.picture(request.query_params.get("picture"))
    call = (
        f"{workspace.subject.code}\n\n{picture.code}\n\nfrom striate.analysis import receptive_field, summarize\n\n"
        "costs = summarize(model, inputs)\nfields = receptive_field(model, inputs)"
    )
    return answer(found | {"call": call})


def _placed(recording: Recording, opened: frozenset[str] | None, width: int) -> dict[str, Any]:
    return _once(recording, ("placed", opened, width), lambda graph: _arranged(graph, opened, width))


def _once(recording: Recording, asked: Hashable, make: Callable[[Network], dict[str, Any]]) -> dict[str, Any]:
    """The cached result of a request, or a new one; recent results are cached."""
    graph = network_of(recording)
    found: dict[str, Any] | None = graph.made.get(asked)
    if found is None:
        found = graph.made[asked] = make(graph)
        for each in list(graph.made)[:-_KEPT]:
            graph.made.pop(each, None)
    return found


def _arranged(graph: Network, opened: frozenset[str] | None, width: int) -> dict[str, Any]:
    open_ = graph.first() if opened is None else graph.known(opened)
    view = graph.view(open_)
    small = len(view.nodes) <= _MANY
    sizes = {name: size_of(node, small) for name, node in view.nodes.items()}
    placed = arrange(view, sizes.__getitem__, float(width))
    nodes = [
        dataclasses.asdict(node) | {"box": placed.nodes[name], "maps": small and _has_maps(node)}
        for name, node in view.nodes.items()
    ]
    boxes = [
        {**dataclasses.asdict(box), "contents": len(box.contents), "box": placed.boxes[name]}
        for name, box in reversed(view.boxes.items())  # outer boxes first, because inner ones are drawn over them
        if name
    ]
    edges = [
        dataclasses.asdict(edge) | {"points": [[round(x, 1), round(y, 1)] for x, y in points]}
        for edge, points in zip(view.edges, placed.edges, strict=True)
    ]
    return {
        "nodes": nodes,
        "boxes": boxes,
        "edges": edges,
        "open": sorted(open_),
        "width": placed.width,
        "height": placed.height,
        "totals": totals(graph),
    }


def _has_maps(node: GraphNode) -> bool:
    return bool(node.shape) and len(node.shape) >= 2 and 0 not in node.shape


def size_of(node: GraphNode, small: bool) -> tuple[float, float]:
    """The width and height of a node, with small maps of its result if ``small``."""
    maps = MAPS if small and _has_maps(node) else 0.0
    if node.kind in ("input", "output"):
        return NARROW, 46.0 + (MAPS if maps else 0.0)
    return WIDTH, LINES + maps


def totals(graph: Network) -> dict[str, Any]:
    """The costs of the whole network, as counted by :func:`striate.analysis.summarize`."""
    view = graph.view(frozenset())
    trace = graph.recording.trace
    distinct = dict.fromkeys(trace.parameters.values())
    return {
        "parameters": sum(value.numel for value in distinct),
        "macs": sum(node.macs for node in view.nodes.values()),
        "flops": sum(node.flops for node in view.nodes.values()),
        "bytes": sum(node.bytes for node in view.nodes.values()),
        "peak": memory.peak(trace),
        "operators": len(trace.operations),
    }


async def fields(request: Request) -> Response:
    """``GET /api/network/fields?picture=P``: the receptive field of every tensor, by its number."""
    workspace = workspace_of(request)
    recording = await workspace.recorded(request.query_params.get("picture"))
    return answer(await workspace.read(_fields, recording))


def _fields(recording: Recording) -> dict[str, Any]:
    return _once(recording, "fields", lambda graph: _seen(recording))


def _seen(recording: Recording) -> dict[str, Any]:
    try:
        rows = rows_by_value(recording.trace)
    except AnalysisError as error:
        return {"fields": {}, "note": str(error)}
    except (RecursionError, MemoryError, NotImplementedError, RuntimeError, IndexError, KeyError, TypeError) as error:
        return {"fields": {}, "note": f"receptive fields aren't known: {type(error).__name__}"}
    numbers = {value: number for number, value in enumerate(recording.values)}
    return {"fields": {str(numbers[value]): _field(row) for value, row in rows.items() if value in numbers}, "note": ""}


def _field(row: FieldRow) -> dict[str, Any]:
    stride = [float(each) if isinstance(each, Fraction) else each for each in row.stride]
    return {"size": row.size, "stride": stride, "start": row.start, "whole": row.whole, "note": row.note}


async def thumbnails(request: Request) -> Response:
    """``GET /api/network/thumbnails?picture=P&values=1,2``: small maps in one row, and the offset of each."""
    workspace = workspace_of(request)
    recording = await workspace.recorded(request.query_params.get("picture"))
    values = requests.wholes(request, "values", high=len(recording.values) - 1, most=_MOST) or ()
    found, numbers = await workspace.read(_small, recording, values)
    return packed({"maps": found}, numbers)


def _small(recording: Recording, values: tuple[int, ...]) -> tuple[list[dict[str, Any]], Tensor]:
    told, parts, start = [], [], 0
    for value in dict.fromkeys(values):
        tensor = recording.numbers[value]
        if not tensor.numel() or tensor.dim() < 1:
            continue
        shape = tuple(tensor.shape)
        form = tensors.forms_of(shape)[0]
        if form.name == "vector":
            row = tensor.reshape(form.samples, -1)[:1, :_VECTOR]
            form = dataclasses.replace(form, samples=1, height=1, width=row.shape[1])
            maps = tensors.maps_of(row, form)
        else:
            maps = tensors.maps_of(tensor, form)[: FEW if form.channels != 3 else 3]
            maps, _ = tensors.reduced(maps, SMALL)
        maps = maps.float()
        finite = torch.where(maps.isfinite(), maps, torch.zeros(()))
        told.append(
            {
                "value": value,
                "start": start,
                "shape": list(maps.shape),
                "form": form.name,
                "low": float(finite.min()),
                "high": float(finite.max()),
            }
        )
        parts.append(maps.reshape(-1))
        start += maps.numel()
    return told, torch.cat(parts) if parts else torch.zeros(0)


async def search(request: Request) -> Response:
    """``GET /api/network/search?q=words``: layers and operators by name or type, with the boxes to open for each."""
    workspace = workspace_of(request)
    words = requests.text(request, "q", "", most=200).strip()
    recording = await workspace.recorded(request.query_params.get("picture"))
    found = await workspace.read(lambda: list(network_of(recording).search(words)) if words else [])
    return answer({"found": [{"id": name, "text": text, "open": open_} for name, text, open_ in found]})


routes = [
    Route("/api/network", network),
    Route("/api/network/fields", fields),
    Route("/api/network/thumbnails", thumbnails),
    Route("/api/network/search", search),
]
