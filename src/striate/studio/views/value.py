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
    """``GET /api/value/V/field?picture=P&at=...``: a map (1, H, W), 1 where the number sees the picture."""
    workspace = workspace_of(request)
    training = _training(request)
    picture = workspace.picture(request.query_params.get("picture"))
    recording = await workspace.recorded(picture.id, training=training)
    value, place = _asked(request, recording)

    def made() -> tuple[dict[str, Any], Tensor]:
        size = source_of(recording).shape[2:]
        header: dict[str, Any] = {"name": recording.names[value], "known": True, "notes": []}
        try:
            mask = receptive_field(recording, value, place)
        except StriateError as error:
            mask = torch.zeros(tuple(size), dtype=torch.bool)
            header |= {"known": False, "notes": [str(error)]}
        places = mask.nonzero()
        header |= {
            "seen": len(places),
            "of": mask.numel(),
            "box": [[int(low), int(high)] for low, high in zip(places.amin(0), places.amax(0), strict=True)]
            if len(places)
            else None,
        }
        return header, _one_map(mask.float())

    return packed(*await workspace.read(made))


async def _strength(request: Request) -> Response:
    """``GET /api/value/V/strength?picture=P&at=...``: a map (1, H, W), how much each position counts.

    It is asked for by itself because it needs a gradient, and the first one another run of the network.
    """
    workspace = workspace_of(request)
    training = _training(request)
    picture = workspace.picture(request.query_params.get("picture"))
    recording = await workspace.recorded(picture.id, training=training)
    value, place = _asked(request, recording)

    def made() -> tuple[dict[str, Any], Tensor]:
        header: dict[str, Any] = {"name": recording.names[value], "notes": []}
        strength: Tensor | None = None
        try:
            strength = strengths(backward_of(workspace, picture.id, training=training), value, place)
        except StriateError as error:
            header["notes"].append(str(error))
        header |= {
            "counts": strength is not None,
            "total": None if strength is None else float(strength.sum()),
        }
        return header, _one_map(torch.zeros(tuple(source_of(recording).shape[2:])) if strength is None else strength)

    return packed(*await workspace.compute(made))


def _one_map(numbers: Tensor) -> Tensor:
    """Numbers over the picture as (1, H, W), those of a line or a volume in one row."""
    return numbers[None] if numbers.dim() == 2 else numbers.reshape(1, 1, -1)


routes = [
    Route("/api/value/{value}", _value),
    Route("/api/value/{value}/field", _field),
    Route("/api/value/{value}/strength", _strength),
]
