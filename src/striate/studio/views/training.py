"""Training, live: curves, the confusion matrix, filters and one picture's maps from checkpoint to checkpoint."""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING, Any

import torch
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from torch import Tensor

from striate.studio.jobs import Report
from striate.studio.requests import RequestError, answer, packed, text, whole, workspace_of
from striate.studio.views.why import jobs_of, tab_of
from striate.studio.workspace import Picture, Workspace

if TYPE_CHECKING:
    from striate.studio.explaining import ShownResult
    from striate.studio.live import Follower, Snapshot

_guard = threading.Lock()
_followers: weakref.WeakKeyDictionary[Workspace, Follower] = weakref.WeakKeyDictionary()


def follower_of(workspace: Workspace) -> Follower:
    """The follower of the studio's run, created at the first call.

    Raises:
        RequestError: the studio doesn't show a run.
    """
    with _guard:
        if workspace not in _followers:
            if workspace.subject.run is None:
                raise RequestError(
                    "training", "the studio shows no run", "needed one", "start it with a run's folder", status=404
                )
            # Importing this takes a second, and studios without a run don't need it.
            from striate.studio.live import Follower

            _followers[workspace] = Follower(workspace.subject.run)
        return _followers[workspace].start()


def begin(workspace: Workspace) -> None:
    """Begins to follow the studio's run, so that no checkpoint is missed."""
    follower_of(workspace)


def _snapshot(request: Request) -> tuple[Follower, Snapshot]:
    follower = follower_of(workspace_of(request))
    number = whole(request, "at", -1, low=-1)
    return follower, follower.snapshot(None if number < 0 else number)


async def _training(request: Request) -> Response:
    """The run: epochs, checkpoints, and layers that can be shown."""
    workspace = workspace_of(request)
    if workspace.subject.run is None:
        return answer({"run": None})
    follower = follower_of(workspace)

    def told() -> dict[str, Any]:
        follower.look()
        return follower.to_dict() | {"convolutions": _convolutions(workspace)}

    return answer(await workspace.read(told))


def _convolutions(workspace: Workspace) -> list[dict[str, Any]]:
    return [
        {"name": name, "kernels": len(layer.weight), "size": list(layer.kernel_size)}
        for name, layer in workspace.subject.whole.named_modules()
        if isinstance(layer, torch.nn.Conv2d)
    ]


async def _kernels(request: Request) -> Response:
    """The first kernels of ``layer`` at checkpoint ``at``, (F, C, h, w)."""
    workspace = workspace_of(request)
    follower, snapshot = _snapshot(request)
    layer = text(request, "layer", most=300)
    found = await workspace.read(follower.kernels, snapshot, layer)
    return packed(
        snapshot.to_dict() | {"layer": layer, "call": _call(workspace, f"kernels = state['{layer}.weight']")}, found
    )


async def _maps(request: Request) -> Response:
    """The first maps of ``layer`` for ``picture`` at checkpoint ``at``, (K, h, w), and the network's prediction."""
    workspace = workspace_of(request)
    follower, snapshot = _snapshot(request)
    picture = workspace.picture(request.query_params.get("picture"))
    layer = text(request, "layer", "", most=300)
    header, maps = await workspace.compute(_maps_of, follower, snapshot, picture, layer)
    lines = f"model.load_state_dict(state)\nactivation_maps(model, inputs[0], {header['layer']!r}).maps"
    return packed(snapshot.to_dict() | header | {"call": _call(workspace, lines, picture)}, maps)


def _maps_of(follower: Follower, snapshot: Snapshot, picture: Picture, layer: str) -> tuple[dict[str, Any], Tensor]:
    from striate.explain import activation_maps
    from striate.explain.probe import grids_in
    from striate.studio.live import MOST_SHOWN

    model = follower.model(snapshot)
    layers = list(grids_in(model, picture.inputs))
    if not layers:
        raise RequestError("layer", "the network has none with maps", "needed one")
    chosen = layer or layers[0]
    maps = activation_maps(model, picture.inputs[0], chosen).maps
    says: list[float] = []
    with torch.no_grad():
        output = model(picture.inputs)
    if isinstance(output, Tensor) and output.dim() == 2:
        says = output[0].double().softmax(0).tolist()
    return {"layer": chosen, "layers": layers, "says": says, "channels": len(maps)}, maps[:MOST_SHOWN]


async def _confusion(request: Request) -> Response:
    """Begins a job that computes the confusion matrix of checkpoint ``at`` on the held-out images."""
    follower, snapshot = _snapshot(request)

    def done(report: Report) -> ShownResult:
        from striate.studio.explaining import ShownResult

        report("testing on the held-out images", 0, None)
        call = (
            "from striate.training import Run, evaluate\n\nevaluate(Run.open(path)).confusion  # once it is finished\n"
        )
        return ShownResult(follower.confusion(snapshot) | snapshot.to_dict() | {"kind": "confusion", "call": call})

    return answer(jobs_of(request).begin("confusion matrix", tab_of(request), done).to_dict())


def _call(workspace: Workspace, lines: str, picture: Picture | None = None) -> str:
    """Python code that reads the newest checkpoint of the run."""
    run = workspace.subject.run
    head = [
        "from pathlib import Path",
        "",
        "from striate.explain import activation_maps",
        "from striate.training.checkpoint import Checkpoint",
        "",
        f"checkpoint = Checkpoint.load(Path({str(run)!r}) / 'checkpoint.safetensors')  # while it trains",
        "state = checkpoint.average or checkpoint.model",
    ]
    given = [] if picture is None else ["", picture.code, "model = ...  # the run's network"]
    return "\n".join([*head, *given, "", lines]) + "\n"


routes = [
    Route("/api/training", _training),
    Route("/api/training/kernels", _kernels),
    Route("/api/training/maps", _maps),
    Route("/api/training/confusion", _confusion, methods=["POST"]),
]
