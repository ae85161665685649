"""The contents of every tensor: maps cropped to the screen, statistics, the tensor's origin and its uses."""

from __future__ import annotations

from typing import Any, Final

import torch
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from torch import Tensor

from striate.studio import requests, tensors
from striate.studio.graph import network_of
from striate.studio.recording import Recording
from striate.studio.requests import RequestError, answer, packed, workspace_of
from striate.studio.workspace import Picture

#: The most numbers in a response: 16 MB.
MOST: Final = 4 << 20
#: The default number of channels in a response.
CHANNELS: Final = 64


async def tensor(request: Request) -> Response:
    """``GET /api/tensor/V?picture=P&sample=0&form=maps&channels=0-63&size=64``: maps (C, H, W) with their header.

    ``size`` is the largest side, and ``single`` the largest side if there is only one map. ``at=c,y,x,h,w`` returns a
    window of one channel instead, at full size.
    """
    workspace = workspace_of(request)
    training = requests.word(request, "training", ("0", "1"), "0") == "1"
    picture = workspace.picture(request.query_params.get("picture"))
    recording = await workspace.recorded(picture.id, training=training)
    value = requests.whole(request, "value", high=len(recording.values) - 1)
    shape = tuple(recording.numbers[value].shape)
    form = tensors.form_named(shape, request.query_params.get("form"))
    sample = requests.whole(request, "sample", 0, high=max(form.samples - 1, 0))
    first, last = _range(request.query_params.get("channels"), form.channels)
    size = requests.whole(request, "size", 0, high=1 << 14)
    if form.channels == 1:
        size = max(size, requests.whole(request, "single", 0, high=1 << 14)) if size else 0
    cut = requests.wholes(request, "at", most=5)
    header, numbers = await workspace.read(_maps, recording, value, form, sample, first, last, size, cut)
    header["call"] = call(workspace.subject.code, picture, recording, value)
    return packed(header, numbers)


def _range(text: str | None, count: int) -> tuple[int, int]:
    """The first and last channel of ``"0-63"`` or ``"5"``."""
    if not text:
        return 0, min(count, CHANNELS) - 1
    first, dash, last = text.partition("-")
    if not all(each.isascii() and each.isdecimal() and len(each) < 10 for each in (first, last if dash else "0")):
        raise RequestError("channels", f"got {text!r}", "needed a range, as 0-63")
    begin, end = int(first), int(last if dash else first)
    if not begin <= end or begin >= max(count, 1):
        raise RequestError("channels", f"got {text!r}", f"needed a range within 0-{count - 1}")
    return begin, min(end, count - 1)


def _maps(
    recording: Recording,
    value: int,
    form: tensors.MapForm,
    sample: int,
    first: int,
    last: int,
    size: int,
    cut: tuple[int, ...] | None,
) -> tuple[dict[str, Any], Tensor]:
    own = recording.numbers[value]
    header = about(recording, value) | {"form": form.to_dict(), "sample": sample, "first": first, "factor": 1}
    if not own.numel():
        return header | {"channels": []}, torch.zeros(0, 0, 0)
    maps = tensors.maps_of(own, form, sample)
    if cut is not None:
        return header | _window(form, cut), _cut(maps, cut)
    chosen = maps[first : last + 1]
    shown, factor = tensors.reduced(chosen, size)
    if shown.numel() > MOST:
        raise RequestError("channels", f"asks for {shown.numel():,} numbers", f"needed at most {MOST:,}", "set size")
    return header | {"factor": factor, "channels": _extents(chosen), "extent": _extent(maps)}, shown


def _window(form: tensors.MapForm, cut: tuple[int, ...]) -> dict[str, Any]:
    if len(cut) != 5 or cut[0] >= form.channels or cut[1] >= form.height or cut[2] >= form.width or 0 in cut[3:]:
        raise RequestError("at", "got another window", "needed channel, y, x, height, width within the map")
    if cut[3] * cut[4] > MOST:
        raise RequestError("at", f"got {cut[3]}x{cut[4]}", "needed a smaller window")
    return {"window": list(cut), "first": cut[0]}


def _cut(maps: Tensor, cut: tuple[int, ...]) -> Tensor:
    channel, y, x, height, width = cut
    return maps[channel : channel + 1, y : y + height, x : x + width]


def _extents(maps: Tensor) -> list[list[float]]:
    """The smallest and largest finite number of each map."""
    flat = maps.reshape(len(maps), -1)
    low = torch.where(flat.isfinite(), flat, torch.full((), torch.inf)).amin(1)
    high = torch.where(flat.isfinite(), flat, torch.full((), -torch.inf)).amax(1)
    pairs = torch.stack([low, high], 1)
    found: list[list[float]] = torch.where(pairs.isfinite(), pairs, torch.zeros(())).tolist()
    return found


def _extent(maps: Tensor) -> list[float]:
    found = _extents(maps.reshape(1, -1))
    return found[0]


def about(recording: Recording, value: int) -> dict[str, Any]:
    """Information about a tensor without its contents."""
    known = recording.values[value]
    number_of = recording.number_of
    operation = recording.operation_of(value)
    graph = network_of(recording)
    made = None
    if operation is not None:
        made = {
            "operator": operation.name,
            "layer": recording.trace.calls[operation.call].path if recording.trace.calls else "",
            "inputs": [_named(recording, number_of(each)) for each in dict.fromkeys(operation.inputs)],
        }
    uses = []
    for place in recording.uses.get(value, ())[:12]:
        use = recording.trace.operations[place]
        if use.outputs:
            uses.append(_named(recording, number_of(use.outputs[0])) | {"operator": use.name})
    shape = tuple(known.shape)
    return {
        "value": value,
        "name": recording.names[value],
        "kind": known.kind,
        "dtype": str(known.dtype).removeprefix("torch."),
        "full": list(shape),
        "forms": [form.to_dict() for form in tensors.forms_of(shape)],
        "statistics": tensors.statistics(recording.numbers[value]),
        "made": made,
        "uses": uses,
        "node": graph.node_of(value),
        "training": recording.training,
    }


def _named(recording: Recording, value: int) -> dict[str, Any]:
    found = recording.values[value]
    return {"value": value, "name": recording.names[value], "kind": found.kind, "shape": list(found.shape)}


def call(code: str, picture: Picture, recording: Recording, value: int) -> str:
    """Python code that returns a tensor's contents."""
    options = ", training=True" if recording.training else ""
    return (
        f"{code}\n\n{picture.code}\n\nfrom striate.studio.recording import record\n\n"
        f"recording = record(model, inputs{options})\n"
        f"recording.numbers[{value}]  # {recording.names[value]}, {tuple(recording.values[value].shape)}"
    )


async def values(request: Request) -> Response:
    """``GET /api/tensors?picture=P``: all tensors in the order of their numbers: name, kind, shape."""
    workspace = workspace_of(request)
    recording = await workspace.recorded(request.query_params.get("picture"))
    listed = [_named(recording, number) for number in range(len(recording.values))]
    labels = [listed[recording.number_of(each)] for each in dict.fromkeys(recording.trace.outputs)]
    return answer({"tensors": listed, "outputs": [each["value"] for each in labels]})


routes = [Route("/api/tensor/{value}", tensor), Route("/api/tensors", values)]
