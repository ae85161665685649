"""Gradients of a loss or an output by every value, parameter and single weight; single steps of gradient descent."""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import torch
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from torch import Tensor

from striate.studio import requests, tensors
from striate.studio.backwards import backward_of
from striate.studio.derivation import position
from striate.studio.gradients import MOST_STEPS, Backward, Gradients, Target, by_layer, by_parameter, descend, strength
from striate.studio.recording import operands
from striate.studio.requests import RequestError, answer, packed, workspace_of
from striate.studio.sharing import share_of, weight_gradient
from striate.studio.workspace import Workspace

#: The most bytes of gradients that are cached, besides the latest ones.
_KEPT: Final = 128 << 20
#: The most numbers in a response.
_MOST: Final = 1 << 20

_KNOWN: Final[weakref.WeakKeyDictionary[Backward, OrderedDict[Target, Gradients]]] = weakref.WeakKeyDictionary()


async def _computed(request: Request, act: Callable[[Workspace, Backward, Gradients], Any]) -> Any:
    """The result of ``act`` for the gradients that a request describes."""
    workspace = workspace_of(request)
    picture = workspace.picture(request.query_params.get("picture"))
    training = requests.word(request, "training", ("0", "1"), "0") == "1"

    def made() -> Any:
        backward = backward_of(workspace, picture.id, training=training)
        return act(workspace, backward, _gradients(backward, _target(request, backward)))

    return await workspace.compute(made)


def _target(request: Request, backward: Backward) -> Target:
    """The target from ``of=V`` (by default the output), ``at=place`` or ``label=class``; by default its maximum."""
    recording = backward.recording
    if "of" in request.query_params:
        value = requests.whole(request, "of", high=len(recording.values) - 1)
    else:
        value = backward.default()
    at = requests.wholes(request, "place", most=16)
    if "label" in request.query_params:
        return Target(value, at or (0,), requests.whole(request, "label"))
    if at is not None:
        return Target(value, position(recording, value, at))
    tensor = recording.numbers[value]
    if not tensor.numel():
        raise RequestError("of", f"value {value} is empty", "needed one with numbers")
    flat = torch.nan_to_num(tensor.detach().float().reshape(-1)).argmax()
    where = np.unravel_index(int(flat), tensor.shape) if tensor.dim() else ()
    return Target(value, tuple(int(each) for each in where))


def _gradients(backward: Backward, target: Target) -> Gradients:
    kept = _KNOWN.setdefault(backward, OrderedDict())
    if target not in kept:
        while kept and sum(each.bytes for each in kept.values()) > _KEPT:
            kept.popitem(last=False)
        kept[target] = backward.of(target)
    kept.move_to_end(target)
    return kept[target]


async def _summary(request: Request) -> Response:
    """``GET /api/gradients?picture=P&of=V&label=c``: the number, and the magnitudes of all gradients."""

    def made(workspace: Workspace, backward: Backward, found: Gradients) -> dict[str, Any]:
        recording, target = backward.recording, found.target
        shape = recording.values[target.value].shape
        outputs = [recording.number_of(value) for value in dict.fromkeys(recording.trace.outputs)]
        return {
            "target": {"value": target.value, "place": list(target.place), "label": target.label},
            "name": recording.names[target.value],
            "shape": list(shape),
            "number": found.number,
            "outputs": [
                {"value": each, "name": recording.names[each], "shape": list(recording.values[each].shape)}
                for each in outputs
                if each in backward.differentiable
            ],
            "losses": len(shape) == 2,
            "layers": [each.to_dict() for each in by_layer(recording, found)],
            "parameters": [each.to_dict() for each in by_parameter(recording, found)],
            "values": sorted(found.of),
            "call": _code(workspace, request, backward, target),
        }

    return answer(await _computed(request, made))


def _code(workspace: Workspace, request: Request, backward: Backward, target: Target) -> str:
    """Python code that computes these gradients, with the library's public names."""
    picture = workspace.picture(request.query_params.get("picture"))
    options = ", training=True" if backward.recording.training else ""
    label = "" if target.label is None else f", label={target.label}"
    return (
        f"{workspace.subject.code}\n\n{picture.code}\n\n"
        "from striate.studio.gradients import Backward, Target\nfrom striate.studio.recording import record\n\n"
        f"recording = record(model, inputs{options})\n"
        f"gradients = Backward(model, inputs, recording).of(Target({target.value}, {target.place}{label}))\n"
        "print(gradients.number, {recording.names[each]: float(g.norm()) for each, g in gradients.of.items()})\n"
    )


async def _maps(request: Request) -> Response:
    """``GET /api/gradients/V/maps?channels=0-31&size=64``: a gradient's maps (C, H, W) beside the value's own."""

    def made(_: Workspace, backward: Backward, found: Gradients) -> tuple[dict[str, Any], Tensor]:
        recording = backward.recording
        value = requests.whole(request, "value", high=len(recording.values) - 1)
        gradient = found.of.get(value)
        if gradient is None:
            raise RequestError(
                "value", f"{recording.names[value]} has no gradient here", "needed one that the number depends on",
                status=404,
            )  # fmt: skip
        edge = requests.whole(request, "edge", -1, low=-1, high=len(recording.trace.operations) - 1)
        if edge >= 0:
            share = share_of(recording, found, edge, recording.values[value])
            gradient = torch.zeros_like(gradient) if share is None else share
        named = request.query_params.get("form")
        if named is None and recording.values[value].kind == "parameter":
            # Filters side by side, for one input channel.
            named = next(
                (each.name for each in tensors.forms_of(tuple(gradient.shape)) if each.name == "filters"), None
            )
        form = tensors.form_named(tuple(gradient.shape), named)
        sample = requests.whole(request, "sample", 0, high=max(form.samples - 1, 0))
        first = requests.whole(request, "first", 0, high=max(form.channels - 1, 0))
        count = requests.whole(request, "count", 32, low=1, high=256)
        size = requests.whole(request, "size", 64, low=1, high=1024)
        maps = [
            tensors.maps_of(each, form, sample)[first : first + count] for each in (gradient, recording.numbers[value])
        ]
        shown = [tensors.reduced(each.cpu(), size) for each in maps]
        numbers = torch.stack([each for each, _ in shown])
        if numbers.numel() > _MOST:
            raise RequestError("count", f"asks for {numbers.numel()} numbers", f"needed at most {_MOST}", "set size")
        header = strength(recording, value, gradient).to_dict() | {
            "form": form.to_dict(),
            "first": first,
            "factor": shown[0][1],
            "shape_of_value": list(recording.values[value].shape),
            "edges": _edges(backward, found, value),
        }
        return header, numbers

    return packed(*await _computed(request, made))


def _edges(backward: Backward, found: Gradients, value: int) -> list[dict[str, Any]]:
    """The operators from which a value's gradient comes; each is an edge of the graph."""
    recording = backward.recording
    edges = []
    for place in recording.uses.get(value, ())[:16]:
        operation = recording.trace.operations[place]
        share = share_of(recording, found, place, recording.values[value])
        path = recording.trace.calls[operation.call].path if recording.trace.calls else ""
        names = [name for name, each in operands(operation) if each is recording.values[value]]
        edges.append(
            {
                "operation": place,
                "operator": operation.name.removeprefix("aten."),
                "layer": path,
                "operand": names[0] if names else "",
                "result": recording.number_of(operation.outputs[0]) if operation.outputs else None,
                "norm": None if share is None else float(share.double().norm()),
            }
        )
    return edges


async def _weight(request: Request) -> Response:
    """``GET /api/gradients/V/weight?at=k,c,y,x``: one weight's gradient as the sum over the places that share it."""

    def made(workspace: Workspace, backward: Backward, found: Gradients) -> dict[str, Any]:
        recording = backward.recording
        value = requests.whole(request, "value", high=len(recording.values) - 1)
        place = position(recording, value, requests.wholes(request, "at", most=16) or ())
        told = weight_gradient(recording, found, value, place).to_dict()
        return told | {
            "name": recording.names[value],
            "shape": list(recording.values[value].shape),
            "number": float(recording.numbers[value][place]),
            "call": _code(workspace, request, backward, found.target)
            + "\nfrom striate.studio.sharing import weight_gradient\n\n"
            f"print(weight_gradient(recording, gradients, {value}, {place}))\n",
        }

    return answer(await _computed(request, made))


async def _step(request: Request) -> Response:
    """``GET /api/gradients/step?rate=0.1&steps=1``: some steps of gradient descent on a copy of the weights."""
    rate = requests.number(request, "rate", 0.1, low=-1e6, high=1e6)
    steps = requests.whole(request, "steps", 1, high=MOST_STEPS)

    def made(workspace: Workspace, backward: Backward, found: Gradients) -> dict[str, Any]:
        picture = workspace.picture(request.query_params.get("picture"))
        recording = backward.recording
        told = descend(
            workspace.subject.model, picture.inputs, found.target, rate=rate, steps=steps,
            training=recording.training, seed=recording.seed,
        )  # fmt: skip
        options = f", rate={rate:g}, steps={steps}{', training=True' if recording.training else ''}"
        call = (
            f"{_code(workspace, request, backward, found.target)}\nfrom striate.studio.gradients import descend\n\n"
            f"print(descend(model, inputs, gradients.target{options}))\n"
        )
        return told.to_dict() | {"call": call}

    return answer(await _computed(request, made))


routes = [
    Route("/api/gradients", _summary),
    Route("/api/gradients/step", _step),
    Route("/api/gradients/{value}/maps", _maps),
    Route("/api/gradients/{value}/weight", _weight),
]
