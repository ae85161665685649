"""The view "Why": explanations, filters, patches and synthesised pictures, computed by jobs and drawn by the page."""

from __future__ import annotations

import copy
import inspect
import io
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor, nn

from striate.drawing import Pictured
from striate.errors import StriateError, StudioError
from striate.explain import METHODS, Filters, Patches, Synthesis, filters, maximize, top_patches
from striate.explain.methods import describe, takes_layer
from striate.explain.probe import grids_in
from striate.explain.result import Explanation
from striate.explain.views import VIEWS, Question, view
from striate.models.dense import dense_part
from striate.studio.following import likeliest
from striate.studio.gallery import Gallery
from striate.studio.pictures import pixels_code, preprocessing_code
from striate.studio.recording import Recording
from striate.studio.subject import Subject
from striate.studio.workspace import Picture, Workspace

#: The views that the page draws itself; the others are figures by the library.
DRAWN: Final = ("filters", "top_patches", "maximize")
#: Views that need more than a picture, a layer and a channel, or that the studio shows elsewhere.
_LEFT_OUT: Final = ("activation_maps",)
_MOST_STEPS: Final = 1024
_MOST_CLASSES: Final = 2000
#: The most kernels that are shown; those with the largest norms.
_MOST_FILTERS: Final = 64


@dataclass(frozen=True)
class Ask:
    """A page's request for a result.

    Args:
        method: one of ``explain.METHODS`` or ``explain.views.VIEWS``.
        picture: an id; None for the first.
        layer, channel, target: None for the method's default.
        steps, seed: of ``maximize``.
    """

    method: str
    picture: str | None = None
    layer: str | None = None
    channel: int | None = None
    target: int | None = None
    steps: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        known = [*METHODS, *VIEWS]
        if self.method not in known or self.method in _LEFT_OUT:
            raise StudioError("method", f"got {self.method[:40]!r}", "needed one of " + ", ".join(known))
        if not 1 <= self.steps <= _MOST_STEPS:
            raise StudioError("steps", f"got {self.steps}", f"needed 1 to {_MOST_STEPS}")


@dataclass(frozen=True, eq=False)
class ShownResult:
    """A result for the page.

    Args:
        header: text and small numbers, for JSON.
        parts: tensors by name, which the page requests one by one.
        result: the library's result, which can draw figures.
    """

    header: dict[str, Any]
    parts: Mapping[str, Tensor] = field(default_factory=dict)
    result: Pictured | None = None

    def figure(self) -> bytes:
        """The library's figure of the result, as PNG.

        Raises:
            StudioError: there is no figure of this result.
        """
        if self.result is None:
            raise StudioError("figure", "got a result without one", "needed another")
        made = io.BytesIO()
        self.result.figure().savefig(made, format="png", dpi=110)
        return made.getvalue()


def options(workspace: Workspace, picture: Picture) -> dict[str, Any]:
    """The choices for a picture: methods, layers with maps, convolutions, classes."""
    subject = workspace.subject
    recording = workspace.recording(picture.id)
    classes, says = _outputs(recording), likeliest(recording, subject.classes)
    if not classes and subject.task:
        classes, says = _scored(scoring(subject.whole, subject.task), picture), []
    try:
        grids = grids_in(subject.model, picture.inputs)
    except StriateError:
        grids = {}
    about = {name: describe(name) for name in (*METHODS, *VIEWS) if name not in _LEFT_OUT}
    return {
        "methods": [{"name": name, "about": about[name], "layer": takes_layer(name)} for name in METHODS],
        "views": [
            {"name": name, "about": about[name], "drawn": name in DRAWN, "takes": _takes(name)}
            for name in VIEWS
            if name in about
        ],
        "layers": [{"name": name, "channels": grid.channels, "size": list(grid.size)} for name, grid in grids.items()],
        "convolutions": [
            {"name": name, "kernels": len(layer.weight), "size": list(layer.kernel_size)}
            for name, layer in subject.model.named_modules()
            if isinstance(layer, nn.modules.conv._ConvNd) and len(layer.kernel_size) <= 2
        ],
        "classes": [
            {"number": number, "name": subject.classes[number] if number < len(subject.classes) else f"class {number}"}
            for number in range(classes)
        ],
        "says": says,
    }


def _takes(name: str) -> list[str]:
    given = inspect.signature(VIEWS[name]).parameters
    return [each for each in ("layer", "channel", "target") if each in given] + ["layer"] * ("layers" in given)


def _outputs(recording: Recording) -> int:
    """The number of classes of a recording's output; 0 if the output isn't class scores."""
    if not isinstance(recording.outputs, int):
        return 0
    shape = recording.numbers[recording.outputs].shape
    return int(shape[1]) if len(shape) == 2 and shape[0] == 1 and shape[1] <= _MOST_CLASSES else 0


def _scored(network: nn.Module, picture: Picture) -> int:
    """The number of classes of a network for objects or pixels; 0 if it can't be determined."""
    try:
        with torch.no_grad():
            return int(network(picture.inputs).shape[1])
    except (StriateError, AttributeError, IndexError, TypeError, RuntimeError):
        return 0


def scoring(whole: nn.Module, task: str) -> nn.Module:
    """Wraps a network for pictures, objects or pixels as one that returns a score for each class, (N, K).

    A detector without class scores is returned unchanged; the methods report what they need.
    """
    from striate.tasks.explained import object_scores, pixel_scores

    try:
        if task in ("detection", "instance"):
            return object_scores(whole)
        if task == "semantic":
            return pixel_scores(whole)
    except StriateError:
        pass
    return whole


# ---------------------------------------------------------------------------------------------------------- working


def work(workspace: Workspace, ask: Ask, gallery: Callable[[], Gallery]) -> ShownResult:
    """Computes the result of a request on a copy of the network, so that the studio can go on meanwhile.

    Raises:
        StriateError: the error of the method.
    """
    subject, picture = workspace.subject, workspace.picture(ask.picture)
    with workspace.lock:
        whole = copy.deepcopy(subject.whole).eval()
    model = dense_part(whole) or whole
    scores = scoring(whole, subject.task)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the result's notes contain the warnings
        if ask.method in METHODS:
            return _explained(scores, picture, ask, subject)
        if ask.method == "filters":
            return _filtered(model, ask, subject)
        if ask.method == "top_patches":
            return _patched(model, ask, subject, gallery())
        if ask.method == "maximize":
            return _maximized(scores if ask.layer is None else model, ask, subject)
        return _viewed(scores, picture, ask, subject)


def _call(subject: Subject, lines: str, *names: str, first: str = "") -> str:
    imports = "\n".join(f"from {each.rpartition('.')[0]} import {each.rpartition('.')[2]}" for each in names)
    parts = [subject.code, first, imports, lines]
    return "\n\n".join(part for part in parts if part) + "\n"


def _scoring_code(subject: Subject) -> str:
    """Python code that wraps ``model`` as a network with one score for each class, if it isn't one."""
    name = {"detection": "object_scores", "instance": "object_scores", "semantic": "pixel_scores"}.get(subject.task)
    return f"from striate.tasks.explained import {name}\n\nmodel = {name}(model)\n\n" if name else ""


def _given(**options: Any) -> str:
    return "".join(f", {name}={value!r}" for name, value in options.items() if value is not None)


def _explained(model: nn.Module, picture: Picture, ask: Ask, subject: Subject) -> ShownResult:
    more = {"layer": ask.layer} if ask.layer is not None and takes_layer(ask.method) else {}
    found: Explanation = METHODS[ask.method](model, picture.inputs, ask.target, **more)
    if picture.pixels is not None and picture.pixels.shape[1:] == found.map.shape[1:]:
        found = found.on(picture.pixels, names=subject.classes)
    told = found.to_dict()
    told.pop("map")
    values = found.map[0]
    header = told | {
        "kind": "map",
        "about": describe(ask.method),
        "picture": picture.id,
        "detail": found.detail,
        "low": float(values.min()),
        "high": float(values.max()),
        "call": _call(
            subject,
            f"{_scoring_code(subject)}{ask.method}(model, inputs{_given(target=ask.target, **more)})",
            f"striate.explain.{ask.method}",
            first=picture.code,
        ),
    }
    return ShownResult(header, {"map": values[None]}, found)


def _filtered(model: nn.Module, ask: Ask, subject: Subject) -> ShownResult:
    found: Filters = filters(model, ask.layer, fit=False, most=_MOST_FILTERS)
    header = {
        "kind": "filters",
        "about": describe("filters"),
        "layer": found.layer,
        "of": found.kind,
        "total": found.total,
        "order": list(found.order),
        "filters": [each.to_dict() for each in found.filters],
        "call": _call(
            subject,
            f"found = filters(model{_given(layer=ask.layer)}, fit=False, most={_MOST_FILTERS})\n"
            "found.kernels, found.responses",
            "striate.explain.filters",
        ),
    }
    return ShownResult(
        header, {"kernels": found.kernels, "patterns": found.patterns, "responses": found.responses}, found
    )


def _patched(model: nn.Module, ask: Ask, subject: Subject, gallery: Gallery) -> ShownResult:
    layer = _named(ask.layer)
    assert subject.preprocessing is not None
    images = subject.as_own(subject.preprocessing.normalization(gallery.images))
    found: Patches = top_patches(model, images, layer, ask.channel or 0, count=12, batch_size=32)
    names = subject.classes
    told = []
    for patch in found.patches:
        label = gallery.labels[patch.image] if gallery.labels else None
        name = None if label is None else names[label] if label < len(names) else f"class {label}"
        told.append(patch.to_dict() | {"label": name})
    header = {
        "kind": "patches",
        "about": describe("top_patches"),
        "layer": layer,
        "channel": found.channel,
        "images": found.images,
        "of": gallery.name,
        "patches": told,
        "call": _call(
            subject,
            f"inputs = preprocessing.normalization(images)\n"
            f"top_patches(model, inputs, {layer!r}, {found.channel}, count=12)",
            "striate.explain.top_patches",
            first=f"{preprocessing_code(subject)}\n{gallery.code}",
        ),
    }
    return ShownResult(
        header, {"patches": _cut(gallery, found), "images": gallery.images[[p.image for p in found.patches]]}
    )


def _cut(gallery: Gallery, found: Patches) -> Tensor:
    """The patches' pixels, (N, C, h, w) from 0 to 255; NaN where a field reaches beyond the border or is smaller."""
    height = max(patch.inside.shape[0] for patch in found.patches)
    width = max(patch.inside.shape[1] for patch in found.patches)
    cut = torch.full((len(found.patches), gallery.images.shape[1], height, width), math.nan)
    for made, patch in zip(cut, found.patches, strict=True):
        rows, columns = patch.inside.any(1).nonzero()[:, 0], patch.inside.any(0).nonzero()[:, 0]
        top, left = int(rows[0]), int(columns[0])
        pixels = gallery.images[
            patch.image,
            :,
            patch.top + top : patch.top + int(rows[-1]) + 1,
            patch.left + left : patch.left + int(columns[-1]) + 1,
        ]
        made[:, top : top + pixels.shape[1], left : left + pixels.shape[2]] = pixels.float()
    return cut


def _named(layer: str | None) -> str:
    if layer is None:
        raise StudioError("layer", "got none", "needed a layer whose output has places")
    return layer


def _maximized(model: nn.Module, ask: Ask, subject: Subject) -> ShownResult:
    if subject.preprocessing is None:
        raise StudioError(subject.name, "takes something else than one picture", "needed a network of pictures")
    normalization = subject.preprocessing.normalization
    what: dict[str, Any] = (
        {"target": ask.target or 0} if ask.layer is None else {"layer": ask.layer, "channel": ask.channel or 0}
    )
    shape = (subject.preprocessing.channels, *subject.preprocessing.image_size)
    found: Synthesis = maximize(
        model,
        shape,
        prepare=lambda pixels: subject.as_own(normalization.of_bytes(255 * pixels)),
        steps=ask.steps,
        seed=ask.seed,
        count=2,
        **what,
    )
    given = ", ".join(f"{name}={value!r}" for name, value in what.items())
    header = found.to_dict() | {
        "kind": "maximize",
        "about": describe("maximize"),
        "call": _call(
            subject,
            "def prepare(pixels):\n    return preprocessing.normalization.of_bytes(255 * pixels)\n\n"
            f"maximize(model, {shape}, {given}, prepare=prepare, steps={ask.steps}, seed={ask.seed}, count=2).pictures",
            "striate.explain.maximize",
            first=preprocessing_code(subject),
        ),
    }
    return ShownResult(header, {"pictures": 255 * found.pictures}, found)


def _viewed(model: nn.Module, picture: Picture, ask: Ask, subject: Subject) -> ShownResult:
    """The result of a view that only the library draws."""
    if picture.pixels is None or subject.preprocessing is None:
        raise StudioError(picture.name, "is no picture", "needed one with pixels")
    normalization = subject.preprocessing.normalization
    takes = _takes(ask.method)
    asked = {name: getattr(ask, name) if name in takes else None for name in ("layer", "channel", "target")}
    pixels = picture.pixels[None].float() / 255
    found = view(
        ask.method,
        Question(model, pixels, lambda pixels: subject.as_own(normalization.of_bytes(255 * pixels)), **asked),
    )
    header = {
        "kind": "figure",
        "about": describe(ask.method),
        "data": found.to_dict(),
        "call": _call(
            subject,
            "def prepare(pixels):\n    return preprocessing.normalization.of_bytes(255 * pixels)\n\n"
            f"view({ask.method!r}, Question(model, pixels[None] / 255, prepare{_given(**asked)}))",
            "striate.explain.views.Question",
            "striate.explain.views.view",
            first=f"{pixels_code(picture)}\n{preprocessing_code(subject)}",
        ),
    }
    return ShownResult(header, {}, found)
