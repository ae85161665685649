"""The command that shows why: explain."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from striate.cli.app import Json, app, is_network, print_json, show
from striate.errors import ExplainError, RunError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from striate.data import Normalization

_LIST = "list"


@app.command()
def explain(
    images: Annotated[list[Path] | None, typer.Argument(metavar="IMAGE...", help="PNG, JPEG, BMP or WebP.")] = None,
    model: Annotated[
        str | None, typer.Option(metavar="MODEL|RUN", help="A network with ImageNet weights, or a run's folder.")
    ] = None,
    method: Annotated[str, typer.Option(help="Its name; list tells all of them.")] = "grad_cam",
    layer: Annotated[
        str | None, typer.Option(help="Path of a layer [default: the last with places that the score hangs on].")
    ] = None,
    channel: Annotated[int | None, typer.Option(help="Of the layer, for maximize, deep_dream, top_patches.")] = None,
    target: Annotated[
        str | None, typer.Option(metavar="CLASS", help="Its number or name [default: the predicted class].")
    ] = None,
    weights: Annotated[
        str | None, typer.Option(metavar="FILE|hf-hub:...", help="Of a network [default: those that a package ships].")
    ] = None,
    out: Annotated[Path, typer.Option(metavar="PNG", help="Where the picture goes.")] = Path("explanation.png"),
    check: Annotated[
        bool, typer.Option("--check", help="Measure what the map is worth: deletion, insertion, random weights.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show on images why a network says what it says.

    \b
    Example:
      striate explain photo.jpg --model efficientnet_lite0 --out why.png
      striate explain digit.png --model runs/first --method integrated_gradients --target 3 --check
      striate explain photo.jpg --model efficientnet_lite0 --method hierarchy
      striate explain digit.png --model runs/first --method maximize --layer c3 --channel 5
      striate explain --method list
    """
    from striate.explain import ExplainWarning
    from striate.explain import check as checking
    from striate.explain import methods as known
    from striate.explain.views import VIEWS
    from striate.report import explanations

    if method == _LIST:
        described = {name: known.describe(name) for name in (*known.METHODS, *VIEWS)}
        if as_json:
            print_json(described)
        else:
            show(explanations.methods(described))
        return
    chosen = known.method_named(method).__name__
    if not images:
        raise RunError("explain", "got no image", "needed one or more", "striate explain photo.jpg --model M")
    if model is None:
        raise RunError("--model", "got none", "needed a network with ImageNet weights, or a run's folder")
    if chosen in VIEWS:
        if check:
            raise RunError("--check", f"got it for {chosen}", "needed a method that maps evidence")
        _look(chosen, model, weights, images, layer, channel, target, out, as_json)
        return
    making = known.METHODS[chosen]
    if channel is not None:
        raise RunError("--channel", f"{chosen} takes none", "needed a method of a channel, as maximize")
    if layer is not None and not known.takes_layer(chosen):
        raise RunError("--layer", f"{chosen} looks at the input only", "needed a method of a layer, as grad_cam")
    options: dict[str, Any] = {} if layer is None else {"layer": layer}
    network, pictures, normalization, classes = _asked(model, weights, images)
    inputs = normalization(pictures)
    wanted = None if target is None else _class(target, classes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExplainWarning)  # the notes say so, below
        checked = checking(making, network, inputs, wanted, **options) if check else None
        found = checked.explanation if checked else making(network, inputs, wanted, **options)
    found = found.on(pictures, names=classes)
    path = found.save(out)
    if as_json:
        files = {"images": [str(image) for image in images], "picture": str(path)}
        print_json({**files, **found.to_dict(), **({"check": checked.to_dict()} if checked else {})})
        return
    show(explanations.told(found, path))
    if checked:
        show(explanations.checked(checked))


def _look(
    method: str,
    model: str,
    weights: str | None,
    images: Sequence[Path],
    layer: str | None,
    channel: int | None,
    target: str | None,
    out: Path,
    as_json: bool,
) -> None:
    """Views: they show something else than a map of evidence."""
    import dataclasses

    import torch

    from striate.explain import Perturbation
    from striate.explain.views import Question, view
    from striate.report import views

    network, pictures, normalization, classes = _asked(model, weights, images)
    mean, std = (torch.tensor(each)[:, None, None] for each in (normalization.mean, normalization.std))
    wanted = None if target is None else _class(target, classes)
    asked = Question(network, pictures / 255, lambda pixels: (pixels - mean) / std, layer, channel, wanted)
    found = view(method, asked)
    if isinstance(found, Perturbation):
        before, after = found.before.on(names=classes), found.after.on(names=classes)
        found = dataclasses.replace(found, before=before, after=after)
    path = found.save(out)
    if as_json:
        print_json({"images": [str(image) for image in images], "picture": str(path), **found.to_dict()})
    else:
        show(views.told(found, path))


def _asked(
    model: str, weights: str | None, images: Sequence[Path]
) -> tuple[torch.nn.Module, Tensor, Normalization, tuple[str, ...]]:
    """The network, the images as it sees them (uint8), what makes its input of them, and the names of its classes."""
    import torch

    from striate import models
    from striate.data import as_channels, fit_image, load_image
    from striate.training import Run

    if is_network(model):
        known = models.pretrained(model, weights or "pretrained")
        fitted = torch.cat([known.preprocessing.fit(load_image(image)[None]) for image in images])
        return known.model, fitted, known.preprocessing.normalization, known.classes
    if weights is not None:
        raise RunError("--weights", f"got {weights!r} for {model!r}", "needed a network: a run has its own weights")
    run = Run.open(model)
    settings = run.settings
    loaded = [as_channels(load_image(image), settings.channels) for image in images]
    fitted = torch.stack([fit_image(image, settings.image_size) for image in loaded])
    return run.model(), fitted, settings.normalization, settings.classes


def _class(text: str, classes: Sequence[str]) -> int:
    """A class by its name, or by its number."""
    names = [name.lower() for name in classes]
    if text.lower() in names:
        return names.index(text.lower())
    if text.isdecimal():
        return int(text)
    near = difflib.get_close_matches(text.lower(), names, n=3)
    raise ExplainError(
        "--target",
        f"got {text!r}",
        f"needed a class's name or 0 to {len(classes) - 1}",
        "near: " * bool(near) + ", ".join(near),
    )
