"""Geometry: sequences of windows, their formulas with numbers filled in, and small layers computed step by step."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from striate.studio.formulas import describe
from striate.studio.presets import PRESETS
from striate.studio.requests import RequestError, answer, text, whole, word, workspace_of
from striate.studio.windows import KINDS, MOST_CHANNELS, MOST_KERNEL, MOST_LAYERS, MOST_SIZE, Layer
from striate.studio.worked import MOST_CELLS, work_out

_DIGITS = 30


async def _geometry(request: Request) -> Response:
    """A sequence of layers: ``size``, ``channels``, ``dims``, and ``layers`` separated by semicolons."""
    lines = text(request, "layers", "conv", most=200 * MOST_LAYERS).split(";")
    if len(lines) > MOST_LAYERS:
        raise RequestError("layers", f"got {len(lines)}", f"needed {MOST_LAYERS} or fewer")
    layers = [Layer.parse(line) for line in lines]
    size, dims = whole(request, "size", 9, low=1, high=MOST_SIZE), whole(request, "dims", 2, low=1, high=2)
    channels = whole(request, "channels", 1, low=1, high=MOST_CHANNELS)

    def made() -> dict[str, Any]:
        told = describe(size, channels, layers, dims)
        return told | {"worked": _worked(request, layers, size, channels, dims)}

    return answer(await workspace_of(request).read(made))


def _worked(request: Request, layers: list[Layer], size: int, channels: int, dims: int) -> dict[str, Any] | None:
    """The numbers of a single small layer with one channel, if requested."""
    if word(request, "numbers", ("0", "1"), "0") == "0":
        return None
    (layer,) = layers if len(layers) == 1 else (None,)
    if layer is None or channels != 1:
        raise RequestError("numbers", f"got {len(layers)} layers of {channels} channels", "needed one layer of one")
    flipped = word(request, "flipped", ("0", "1"), "0") == "1"
    x, w, g = (_numbers(request, name) for name in "xwg")
    return work_out(layer, size, dims, x=x, w=w, g=g, flipped=flipped)


def _numbers(request: Request, name: str) -> list[float]:
    given = text(request, name, "", most=_DIGITS * MOST_CELLS)
    found = []
    for each in given.split(",") if given else ():
        try:
            found.append(float(each) if len(each) < _DIGITS else float("nan"))
        except ValueError:
            raise RequestError(name, f"got {each!r}", "needed numbers, separated by commas") from None
    return found


async def _presets(request: Request) -> Response:
    """The worked examples, and the limits of requests."""
    most = {"size": MOST_SIZE, "kernel": MOST_KERNEL, "channels": MOST_CHANNELS, "layers": MOST_LAYERS}
    return answer({"presets": [each.to_dict() for each in PRESETS], "kinds": KINDS, "most": most, "cells": MOST_CELLS})


routes = [Route("/api/geometry", _geometry), Route("/api/geometry/presets", _presets)]
