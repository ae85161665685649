"""The command that shows why: explain."""

from __future__ import annotations

import dataclasses
import errno
import functools
import json
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from striate.cli.app import Json, MaxPixels, app, is_network, print_json, refuse_loss, say, show
from striate.cli.help import FileCommand
from striate.errors import DataError, ExplainError, RunError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from striate.data import Normalization
    from striate.explain import Check, Explanation, Pictured
    from striate.tasks.explained import Explained

_LIST: Final = "list"
#: The default methods. Grad-CAM weights whole channels, so it would show all objects of a class.
_OF_CLASSES: Final = "grad_cam"
_OF_OBJECTS: Final = "layer_cam"
#: Largest number of images on one picture; for more images, there are several pictures.
_SHEET: Final = 12
#: Largest number of images that a view uses together.
_TOGETHER: Final = 64


@dataclasses.dataclass(frozen=True, eq=False)
class _Asked:
    """The network and the target to explain.

    Args:
        network: with a score for each class.
        read: from an image file to the fitted image, uint8 (1, C, H, W).
        normalization: from fitted images to the network's input.
        classes: their names.
        wanted: the class to explain, if the target is a class.
        number: of the object to explain, if the target is an object.
        aim: from an image's input to its target.
    """

    network: torch.nn.Module
    read: Callable[[str], Tensor]
    normalization: Normalization
    classes: tuple[str, ...]
    wanted: int | None
    number: int | None
    aim: Callable[[Tensor], Explained]


@app.command(cls=FileCommand)
def explain(
    images: Annotated[
        list[str] | None, typer.Argument(metavar="IMAGE...", help="Image files; folders stand for theirs.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="MODEL|RUN", help="A network with ImageNet weights, or a run's folder.")
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(help="Its name; list tells all of them [default: grad_cam; of one object layer_cam]."),
    ] = None,
    layer: Annotated[
        str | None, typer.Option(help="Path of a layer [default: the last with places that the score hangs on].")
    ] = None,
    channel: Annotated[int | None, typer.Option(help="Of the layer, for maximize, deep_dream, top_patches.")] = None,
    target: Annotated[
        str | None,
        typer.Option(
            metavar="CLASS|OBJECT",
            help="A class's name or number; of a detector also an object's number, 1 for the surest "
            "[default: the predicted class].",
            show_default=False,
        ),
    ] = None,
    weights: Annotated[
        str | None, typer.Option(metavar="FILE|hf-hub:...", help="Of a network [default: those that a package ships].")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
    max_pixels: MaxPixels = None,
    out: Annotated[Path, typer.Option(metavar="PNG", help="Where the picture goes.")] = Path("explanation.png"),
    check: Annotated[
        bool, typer.Option("--check", help="Measure what the map is worth: deletion, insertion, random weights.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show on images why a network gives its answers.

    If images can't be read, they are reported, the others are explained, and the exit code is 1. For more than twelve
    images there are several pictures: why.png, why-2.png, ...

    A detector's score of a class is the one at the place where it is highest; the score of an object is the one at the
    object's own place, and the object is framed. If classes have numbers as names, object:2 is the second object and 2
    is a class. A segmentation network's score of a class is the mean over the pixels predicted as this class.

    \b
    Example:
      striate explain photo.jpg --model efficientnet_lite0 --out why.png
      striate explain runs/first/samples --model runs/first
      striate explain digit.png --model runs/first --method integrated_gradients --target 3 --check
      striate explain scene.png --model runs/detector --target object:2
      striate explain photo.jpg --model efficientnet_lite0 --method hierarchy
      striate explain digit.png --model runs/first --method maximize --layer c3 --channel 5
      striate explain --method list
    """
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
    chosen = known.method_named(method or _OF_CLASSES).__name__
    if not images:
        raise RunError("explain", "got no image", "needed one or more", "striate explain photo.jpg --model M")
    if model is None:
        raise RunError("--model", "got none", "needed a network with ImageNet weights, or a run's folder")
    if chosen in VIEWS:
        if check:
            raise RunError("--check", f"got it for {chosen}", "needed a method that makes a map of evidence")
    elif channel is not None:
        raise RunError("--channel", f"{chosen} takes none", "needed a method of a channel, as maximize")
    elif layer is not None and not known.takes_layer(chosen):
        raise RunError("--layer", f"{chosen} uses the input only", "needed a method that uses a layer, as grad_cam")
    if not out.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(out))
    asked = _asked(model, weights, device, max_pixels, target)
    if method is None and asked.number is not None:
        chosen = _OF_OBJECTS
    read = _Reading(images, asked.read)
    for number in range(1, 2 + len(read) // _SHEET):
        refuse_loss(out if number == 1 else out.with_stem(f"{out.stem}-{number}"), read.found)
    if chosen in VIEWS:
        if asked.number is not None:
            raise RunError("--target", f"got object {asked.number} for {chosen}", "needed a class")
        _look(chosen, asked, read, layer, channel, out, as_json)
    else:
        _map(chosen, asked, read, layer, out, check, as_json)
    if read.errors:
        raise typer.Exit(1)


def _map(
    method: str,
    asked: _Asked,
    read: _Reading,
    layer: str | None,
    out: Path,
    check: bool,
    as_json: bool,
) -> None:
    """Computes maps of evidence one image at a time; after drawing, only the rows of the table are kept."""

    from striate.explain import METHODS, ExplainWarning
    from striate.explain import check as checking
    from striate.explain.methods import takes_layer
    from striate.explain.result import joined
    from striate.explain.sanity import pooled
    from striate.report import explanations
    from striate.report.objects import framed

    sheet: list[Explanation] = []
    pictures: list[Path] = []
    rows: list[explanations.Row] = []
    maps: list[Tensor] = []
    checks: list[Check] = []
    told: list[dict[str, Any]] = []

    def draw() -> None:
        path = out if not pictures else out.with_stem(f"{out.stem}-{len(pictures) + 1}")
        pictures.append(joined(sheet).save(path))
        sheet.clear()

    for file, picture in read:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExplainWarning)  # the notes say so, below
            inputs = asked.normalization(picture)
            if (why := read.unless_refused(file, functools.partial(asked.aim, inputs))) is None:
                continue
            given = (why.network, inputs, why.target)
            suits = (layer or why.layer) if takes_layer(method) else None
            options: dict[str, Any] = {} if suits is None else {"layer": suits}
            checked = checking(METHODS[method], *given, **options) if check else None
            found = checked.explanation if checked else METHODS[method](*given, **options)
        if why.layer is None:
            layer = found.layer  # the same for all images
        found = found.on(picture if why.box is None else framed(picture, why.box), names=asked.classes, images=[file])
        if len(sheet) == _SHEET:
            draw()
        sheet.append(found)
        rows.append(explanations.row(found))
        if checked:
            checks.append(checked if not checks else dataclasses.replace(checked, explanation=checks[0].explanation))
        if as_json:
            told.append(found.to_dict() | {"map": None})
            maps.append(found.map[0])
    if not rows:
        raise typer.Exit(2)
    draw()
    together = {"check": pooled(checks).to_dict()} if checks else {}
    if as_json:
        columns = _columns(told)
        files = {"picture": str(pictures[0]), "pictures": list(map(str, pictures)), "errors": read.errors}
        _print_maps({**columns, **files, **together}, maps)
        return
    show(explanations.listed(rows, pictures))
    if checks:
        show(explanations.checked(pooled(checks)))


def _columns(told: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The results of single images as lists; values that are the same for all images appear once."""
    columns = dict(told[0])
    for key in ("images", "target", "classes", "scores", "predictions"):
        if columns[key] is not None:
            columns[key] = [value for each in told for value in each[key]]
    columns["measures"] = {
        name: [value for each in told for value in each["measures"][name]] for name in columns["measures"]
    }
    columns["notes"] = list(dict.fromkeys(note for each in told for note in each["notes"]))
    del columns["map"]
    return columns


def _print_maps(told: dict[str, Any], maps: Iterable[Tensor]) -> None:
    """Prints one JSON object and writes its maps one after the other, because they are large as text."""
    print(json.dumps(told, allow_nan=False)[:-1], end=', "map": [')
    for place, each in enumerate(maps):
        print(", " * bool(place) + json.dumps(each.tolist(), allow_nan=False), end="")
    print("]}")


def _look(
    method: str,
    asked: _Asked,
    read: _Reading,
    layer: str | None,
    channel: int | None,
    out: Path,
    as_json: bool,
) -> None:
    """Shows a view, which is something else than a map of evidence."""
    from striate.report import views

    found = _seen(method, asked, read, layer, channel)
    path = found.save(out)
    if as_json:
        files = {"images": read.files, "picture": str(path), "errors": read.errors}
        print_json({**found.to_dict(), **files})
    else:
        show(views.told(found, path))


def _seen(method: str, asked: _Asked, read: _Reading, layer: str | None, channel: int | None) -> Pictured:
    import torch

    from striate.explain import Patches, Perturbation, default_layer
    from striate.explain.activations import strongest_of
    from striate.explain.views import Question, takes_several, view

    scale = asked.normalization
    mean, std = (torch.tensor(each)[:, None, None] for each in (scale.mean, scale.std))

    def prepare(pixels: Tensor) -> Tensor:
        return (pixels - mean.to(pixels)) / std.to(pixels)

    several = takes_several(method)
    if not several and len(read) > 1:
        raise ExplainError(method, f"got {len(read)} images", "needed one")
    parts: list[Patches] = []
    for files, pictures in _chunks(read, _TOGETHER if several else 1):
        if several and layer is None:
            layer = default_layer(asked.network, prepare(pictures[:1] / 255))  # the same for all images
        found = view(method, Question(asked.network, pictures / 255, prepare, layer, channel, asked.wanted))
        if isinstance(found, Perturbation):
            before, after = (each.on(names=asked.classes, images=files) for each in (found.before, found.after))
            return dataclasses.replace(found, before=before, after=after)
        if not isinstance(found, Patches):
            return found
        parts.append(dataclasses.replace(found, names=tuple(files)))
        parts = [strongest_of(parts)]
    return parts[0]


def _chunks(read: Iterable[tuple[str, Tensor]], size: int) -> Iterator[tuple[list[str], Tensor]]:
    import itertools

    import torch

    rest = iter(read)
    while part := list(itertools.islice(rest, size)):
        yield [file for file, _ in part], torch.cat([picture for _, picture in part])


class _Reading:
    """Reads and fits picture files one by one. Files that can't be read are reported on stderr and counted.

    The program ends if no file can be read.
    """

    def __init__(self, given: Sequence[str], read: Callable[[str], Tensor]) -> None:
        self._found = list(_expanded(given))
        self._read = read
        self.files: list[str] = []
        self.errors: list[dict[str, str]] = []

    def __len__(self) -> int:
        return len(self._found)

    @property
    def found(self) -> list[str]:
        """The named files, readable or not."""
        return [file for file, _ in self._found]

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        from striate.explain.progress import watched

        for file, refusal in watched(self._found, "explaining images") if len(self) > 1 else self._found:
            try:
                if refusal is not None:
                    raise refusal
                picture = self._read(file)
            except (DataError, OSError) as error:
                self.errors.append({"image": file, "error": str(error)})
                say(f"error: {error}")
                continue
            self.files.append(file)
            yield file, picture
        if not self.files:
            raise typer.Exit(2)

    def unless_refused(self, file: str, asked: Callable[[], Explained]) -> Explained | None:
        """The target for an image; if there is none, such as an object that wasn't detected, this is reported."""
        try:
            return asked()
        except ExplainError as error:
            self.files.remove(file)
            self.errors.append({"image": file, "error": str(error)})
            say(f"error: {file}: {error}")
            return None


def _expanded(given: Iterable[str]) -> Iterator[tuple[str, DataError | None]]:
    """The files that arguments name, including those in folders; and the reasons of arguments that name none."""
    from striate.data import image_files

    for text in given:
        try:
            files, _ = image_files([text])
        except DataError as error:
            yield text, error
        else:
            yield from ((str(file), None) for file in files)


def _asked(model: str, weights: str | None, device: str, max_pixels: int | None, target: str | None) -> _Asked:
    from striate import models
    from striate.data import MAX_PIXELS
    from striate.tasks.classification import Classification
    from striate.tasks.explained import Explained
    from striate.tasks.task import Task
    from striate.training import Run
    from striate.training.environment import find_device

    place = find_device(device)
    source: models.Pretrained | Run
    task: Task
    if is_network(model):
        source = models.pretrained(model, weights or "pretrained")
        task, whole = Classification(), source.model
    elif weights is not None:
        raise RunError("--weights", f"got {weights!r} for {model!r}", "needed a network: a run has its own weights")
    else:
        source = Run.open(model)
        task, whole = source.task, source.model()
    whole = whole.to(place)
    network, classes = task.explained(whole), source.classes
    number = None if target is None else task.object_number(target, classes)
    wanted = None if target is None or number is not None else _class(target, classes)
    prepared = source.preprocessing
    read = prepared.reading(max_pixels or MAX_PIXELS)

    def aim(inputs: Tensor) -> Explained:
        if number is None:
            return Explained(network, wanted, layer=getattr(whole, "map_layer", None))
        return task.explained_object(whole, inputs[0].to(place), number)

    return _Asked(network, lambda file: read(file)[None], prepared.normalization, classes, wanted, number, aim)


def _class(text: str, classes: Sequence[str]) -> int:
    """A class by name or number; if the text is ambiguous, stderr says how it was understood."""
    from striate.explain import class_named

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        number = class_named(text, classes, "--target")
    for each in told:
        say(f"note: {each.message}")
    return number
