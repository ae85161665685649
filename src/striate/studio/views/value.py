"""The derivation of one number: its operands and terms, its receptive field, and the influence of each position."""

from __future__ import annotations

from typing import Any

import torch
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from torch import Tensor

from striate.errors import StriateError
from striate.studio import requests
from striate.studio.backwards import backward_of
from striate.studio.derivation import derive, position
from striate.studio.derivation.result import number_of
from striate.studio.recording import Recording
from striate.studio.requests import answer, packed, workspace_of
from striate.studio.seen import receptive_field, source_of, strengths
from striate.studio.workspace import Picture


async def _value(request: Request) -> Response:
    """``GET /api/value/V?picture=P&at=n,c,y,x``: the derivation of a number; ``group=c`` for one channel's terms."""
    workspace = workspace_of(request)
    training = _training(request)
    picture = workspace.picture(request.query_params.get("picture"))
    recording = await workspace.recorded(picture.id, training=training)
    value, place = _asked(request, recording)
    group = requests.whole(request, "group") if "group" in request.query_params else None

    def made() -> dict[str, Any]:
        derived = derive(recording, value, place)
        found = derived.to_dict(group)
        sources = {hop.value for hop in (*derived.hops, *derived.added)}
        sources |= {strand.value for strand in derived.terms.strands} if derived.terms else set()
        sources |= {derived.window.value} if derived.window else set()
        found["operands"] = {str(each): _about(recording, each) for each in sorted(sources)}
        found["call"] = _code(workspace.subject.code, picture, recording, derived.call)
        return (
            found
            | _about(recording, value)
            | {"place": list(place), "number": _shown(recording, value, place)}
            | (_pixel(picture, recording, value, place))
        )

    return answer(await workspace.read(made))


def _training(request: Request) -> bool:
    return requests.word(request, "training", ("0", "1"), "0") == "1"


def _asked(request: Request, recording: Recording) -> tuple[int, tuple[int, ...]]:
    value = requests.whole(request, "value", high=len(recording.values) - 1)
    return value, position(recording, value, requests.wholes(request, "at", most=16) or ())


def _about(recording: Recording, value: int) -> dict[str, Any]:
    known = recording.values[value]
    return {
        "value": value,
        "name": recording.names[value],
        "valueKind": known.kind,
        "shape": list(known.shape),
        "dtype": str(known.dtype).removeprefix("torch."),
    }


def _shown(recording: Recording, value: int, place: tuple[int, ...]) -> Any:
    return number_of(recording.numbers[value][place])


def _pixel(picture: Picture, recording: Recording, value: int, place: tuple[int, ...]) -> dict[str, Any]:
    """For a number of an input, the pixel before scaling."""
    pixels = picture.pixels
    known = recording.values[value]
    if known.kind != "input" or pixels is None or tuple(known.shape[1:]) != tuple(pixels.shape) or value != 0:
        return {}
    return {"pixel": int(pixels[place[1:]])}


def _code(code: str, picture: Picture, recording: Recording, call: str) -> str:
    options = ", training=True" if recording.training else ""
    before = f"{code}\n\n{picture.code}\n\nfrom striate.studio.recording import record\n\n"
    return f"{before}recording = record(model, inputs{options})\n{call}\n"


async def _field(request: Request) -> Response:
    """``GET /api/value/V/field?picture=P&at=...``: maps (2, H, W) of the receptive field and of the influence."""
    workspace = workspace_of(request)
    training = _training(request)
    picture = workspace.picture(request.query_params.get("picture"))
    recording = await workspace.recorded(picture.id, training=training)
    value, place = _asked(request, recording)

    def made() -> tuple[dict[str, Any], Tensor]:
        size = source_of(recording).shape[2:]
        header: dict[str, Any] = {"name": recording.names[value], "notes": []}
        mask: Tensor | None = None
        strength: Tensor | None = None
        try:
            mask = receptive_field(recording, value, place)
        except StriateError as error:
            header["notes"].append(str(error))
        try:
            strength = strengths(backward_of(workspace, picture.id, training=training), value, place)
        except StriateError as error:
            header["notes"].append(str(error))
        places = torch.zeros(0, len(size)) if mask is None else mask.nonzero()
        header |= {
            "known": mask is not None,
            "counts": strength is not None,
            "seen": len(places),
            "of": int(torch.Size(size).numel()),
            "box": [[int(low), int(high)] for low, high in zip(places.amin(0), places.amax(0), strict=True)]
            if len(places)
            else None,
            "total": None if strength is None else float(strength.sum()),
        }
        empty = torch.zeros(tuple(size))
        maps = torch.stack([empty if mask is None else mask.float(), empty if strength is None else strength.cpu()])
        return header, maps if maps.dim() == 3 else maps.reshape(2, 1, -1)

    header, maps = await workspace.compute(made)
    return packed(header, maps)


routes = [Route("/api/value/{value}", _value), Route("/api/value/{value}/field", _field)]
