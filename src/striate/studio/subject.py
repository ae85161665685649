"""The subject of a studio: a network with its preprocessing and classes, from a name, a run, a file or a module."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from striate.data import Normalization, Preprocessing
from striate.errors import StriateError, StudioError
from striate.studio.workspace import Picture

#: The normalisation of untrained networks: pixels from 0 to 1.
_UNIT: Final = {channels: Normalization((0.0,) * channels, (1.0,) * channels) for channels in (1, 3)}
#: The side of pictures for detectors with random weights, in pixels.
_LARGE: Final = 320
_USAGE: Final = "needed a network's name, the folder of a run, or FILE.py:factory"


@dataclass(frozen=True, eq=False)
class Subject:
    """A network with its preprocessing, classes and origin.

    Args:
        name: its name on the page.
        model: the network that is shown, in evaluation mode; for a detector, the part that computes maps.
        classes: the names of its outputs; empty if they have none.
        preprocessing: converts pictures to its input; None if its input isn't one picture.
        code: Python code that creates ``model``.
        found: the call of :func:`find` that returns this subject; empty if it has another origin.
        weights: the origin of its weights, for display: ``"random"``, ``"trained: runs/demo"``.
        run: the folder of its run.
        task: one of ``striate.models.TASKS``; empty if unknown.
        data: the source of the run's images, in the notation of :func:`striate.data.load`.
        examples: example inputs, if the input isn't one picture.
        detector: the whole network, if ``model`` is only the part that computes maps.
    """

    name: str
    model: torch.nn.Module
    classes: tuple[str, ...] = ()
    preprocessing: Preprocessing | None = None
    code: str = ""
    weights: str = ""
    found: str = ""
    run: Path | None = None
    task: str = ""
    data: str = ""
    examples: Any = field(default=None, repr=False)
    detector: torch.nn.Module | None = field(default=None, repr=False)

    @property
    def whole(self) -> torch.nn.Module:
        """The whole network: the detector, or :attr:`model`."""
        return self.model if self.detector is None else self.detector

    @property
    def input_shape(self) -> tuple[int, int, int] | None:
        """(C, H, W) of the network's input pictures; None if its input isn't one picture."""
        how = self.preprocessing
        return None if how is None else (how.channels, *how.image_size)

    def picture(self, source: Tensor, name: str, *, id: str, label: int | None = None, made: Any = None) -> Picture:
        """Preprocesses a picture, uint8 (C, H, W) of any size, for the network.

        Raises:
            StudioError: the network's input isn't one picture.
        """
        if self.preprocessing is None:
            raise StudioError(
                name, f"{self.name} takes something else than one picture", "needed a network of pictures"
            )
        pixels = self.preprocessing.fit(source[None])
        inputs = self.preprocessing.normalization(pixels)
        return Picture(id, name, self.as_own(inputs), pixels[0], source, label, made)

    def fitted(self, pixels: Tensor, name: str, *, id: str, label: int | None = None, made: Any = None) -> Picture:
        """Like :meth:`picture`, for pixels that have the network's size already, uint8 (C, H, W)."""
        if self.preprocessing is None or tuple(pixels.shape) != self.input_shape:
            raise StudioError(name, f"got pixels {tuple(pixels.shape)}", f"needed {self.input_shape}")
        return Picture(
            id, name, self.as_own(self.preprocessing.normalization(pixels[None])), pixels, pixels, label, made
        )

    def as_own(self, inputs: Tensor) -> Tensor:
        """Converts inputs to the network's dtype and device."""
        like = next((each for each in self.model.parameters() if each.is_floating_point()), None)
        return inputs if like is None else inputs.to(like.device, like.dtype)

    def given(self, inputs: Any, name: str, *, id: str) -> Picture:
        """Wraps inputs in the network's own form.

        A single tensor (1, 1 or 3, H, W) is shown as a picture, scaled from its smallest number (black) to its largest.
        """
        pixels = None
        if isinstance(inputs, Tensor) and inputs.dim() == 4 and inputs.shape[1] in (1, 3) and inputs.numel():
            numbers = inputs[0].detach().float().nan_to_num()
            low, high = numbers.min(), numbers.max()
            pixels = ((numbers - low) / (high - low).clamp(min=1e-12) * 255).round().to(torch.uint8).cpu()
        return Picture(id, name, inputs, pixels, pixels)

    def to_dict(self) -> dict[str, Any]:
        """A description of the subject, for the page."""
        return {
            "name": self.name,
            "classes": list(self.classes),
            "input_shape": self.input_shape,
            "preprocessing": None if self.preprocessing is None else str(self.preprocessing),
            "weights": self.weights,
            "code": self.code,
            "task": self.task,
            "run": None if self.run is None else self.run.name,
        }


def of_module(
    model: torch.nn.Module,
    *,
    name: str | None = None,
    classes: tuple[str, ...] = (),
    preprocessing: Preprocessing | None = None,
    code: str = "",
    weights: str = "",
) -> Subject:
    """The subject of any network, in its current mode."""
    if not isinstance(model, torch.nn.Module):
        raise StudioError("model", f"got {type(model).__name__}", "needed a torch.nn.Module")
    code = code or "model = ...  # the network that striate.studio.show was given"
    return Subject(name or type(model).__name__, model, classes, preprocessing, code, weights or "as given")


def find(what: str, *, weights: str | None = None, size: tuple[int, int, int] | None = None) -> Subject:
    """The subject for an argument of the command line.

    Args:
        what: a network of :func:`striate.models.names`, the folder of a run, or ``FILE.py:factory``.
        weights: for a network by name: a file, ``hf-hub:...``, ``"pretrained"``, or ``"random"`` for none. By default
            the weights that a package ships.
        size: (C, H, W) of its pictures; by default its own.

    Raises:
        StriateError: nothing has this name, or it can't be read.
    """
    options = [f"weights={weights!r}"] * (weights is not None) + [f"size={size}"] * (size is not None)
    return replace(_found(what, weights, size), found=f"find({', '.join([repr(what), *options])})")


def _found(what: str, weights: str | None, size: tuple[int, int, int] | None) -> Subject:
    from striate import models

    file, colon, factory = what.rpartition(":")
    if colon and file.endswith(".py"):
        return _of_file(Path(file), factory, size)
    if Path(what).is_dir() and what not in models.names():
        if weights is not None:
            raise StudioError("--weights", f"got {weights!r} for a run", "needed a network's name; a run has its own")
        return of_run(Path(what))
    if what.endswith(".py"):
        raise StudioError(what, "names no function", "needed FILE.py:factory", "a function that returns the network")
    if Path(what).exists():
        raise StudioError(what, "is a file", _USAGE)
    return of_zoo(what, weights, size)


def of_zoo(name: str, weights: str | None = None, size: tuple[int, int, int] | None = None) -> Subject:
    """The subject of a network of the zoo, with weights from a package, other weights, or random ones."""
    from striate import models
    from striate.models.shipped import SHIPPED
    from striate.models.weights import load_weights

    if weights is None and any(each.name == name for each in SHIPPED) and _is_installed(name):
        weights = "pretrained"
    task = models.task_of(name)
    if weights in (None, "random"):
        torch.manual_seed(0)
        model, shape, small = _random(name, size)
        own = shape
        if size is None:
            shape = _smaller(shape, task)
        resized = shape != own and callable(getattr(model, "resize", None))
        if resized:
            model.resize(shape[1:])  # type: ignore[operator]
        how = Preprocessing(
            None, shape[1:], _UNIT.get(shape[0]) or _unit(shape[0]), mode="crop" if shape[0] == 3 else "frame"
        )
        arguments = [repr(name)] + [f"in_channels={shape[0]}"] * (shape[0] not in (1, 3)) + ["small_input=True"] * small
        code = (
            "import torch\nfrom striate import models\n\ntorch.manual_seed(0)\n"
            f"model = models.create({', '.join(arguments)}).eval()" + f"\nmodel.resize({shape[1:]})" * resized
        )
        return _dense(Subject(name, model, (), how, code, "random weights", task=task))
    about = models.describe_weights(name, str(weights))
    code = f"from striate import models\n\nmodel = models.pretrained({name!r}, {weights!r}).model"
    if task == "classification":
        trained = models.pretrained(name, str(weights))
        how = trained.preprocessing if size is None else trained.preprocessing.at(size[1:])
        return Subject(name, trained.model, trained.classes, how, code, f"weights: {weights}", task=task)
    model = models.create(name, len(about.classes) or None)
    load_weights(model, str(weights))
    how = about.preprocessing or models.imagenet_preprocessing(name)
    code = f"from striate import models\n\nmodel = models.create({name!r}, weights={weights!r}).eval()"
    return _dense(Subject(name, model.eval(), about.classes, how, code, f"weights: {weights}", task=task))


def _random(name: str, size: tuple[int, int, int] | None) -> tuple[torch.nn.Module, tuple[int, int, int], bool]:
    """A network with random weights, (C, H, W) of its pictures, and whether it is the variant for small pictures."""
    from striate import models

    if size is None:
        # The network knows its size; models.input_shape would create it again.
        model = models.create(name).eval()
        first = next((layer for layer in model.modules() if isinstance(layer, torch.nn.Conv2d)), None)
        own = getattr(model, "input_size", None)
        if first is not None and own is not None:
            return model, (first.in_channels, int(own[0]), int(own[1])), False
        return model, models.input_shape(name), False
    small = models.has_small_form(name, size[1:])
    return models.create(name, in_channels=size[0], small_input=small).eval(), size, small


def _smaller(shape: tuple[int, int, int], task: str) -> tuple[int, int, int]:
    """A smaller size for networks that accept pictures of any size, because a recording keeps every tensor."""
    return shape if task == "classification" or max(shape[1:]) <= _LARGE else (shape[0], _LARGE, _LARGE)


def _is_installed(name: str) -> bool:
    from striate.models.shipped import shipped

    try:
        return shipped(name).file().is_file()
    except StriateError:
        return False


def _unit(channels: int) -> Normalization:
    return Normalization((0.0,) * channels, (1.0,) * channels)


def of_run(path: Path) -> Subject:
    """The subject of a run's folder; a run in progress has the weights of its checkpoint."""
    from striate.files import read_json
    from striate.training import Run
    from striate.training.checkpoint import Checkpoint
    from striate.training.folder import CHECKPOINT, EVALUATION, SETTINGS
    from striate.training.run import Settings

    if (path / SETTINGS).is_file() and not (path / EVALUATION).is_file():
        settings = Settings.from_dict(read_json(path / SETTINGS))
        model, told = settings.new_model().eval(), "random weights: no checkpoint yet"
        if (path / CHECKPOINT).is_file():
            at = Checkpoint.load(path / CHECKPOINT)
            model.load_state_dict(at.average or at.model)
            told = f"of the checkpoint after {len(at.history)} epochs"
        code = "model = ...  # the checkpoint of a run that isn't finished"
    else:
        run = Run.open(path)
        settings, model, told = run.settings, run.model(), f"trained: {path.name}"
        code = f"from striate.training import Run\n\nmodel = Run.open({str(path)!r}).model()"
    return _dense(
        Subject(
            settings.recipe.model, model, settings.classes, settings.preprocessing, code, told,
            run=path, task=settings.task.name, data=settings.source,
        )
    )  # fmt: skip


def _dense(subject: Subject) -> Subject:
    """Restricts a detector to the part that computes maps, because the rest depends on the objects in the picture."""
    from striate.models.dense import dense_part

    part = dense_part(subject.model)
    if part is None:
        return subject
    code = f"{subject.code}\nfrom striate.models.dense import dense_part\n\nmodel = dense_part(model)"
    return replace(subject, model=part, code=code, detector=subject.model)


def _of_file(path: Path, factory: str, size: tuple[int, int, int] | None) -> Subject:
    """The subject that a function in a user's file returns: a network, or a network and example inputs."""
    make = _function(path, factory)
    try:
        made = make()
    except Exception as error:
        raise StudioError(f"{path}:{factory}", f"fails ({type(error).__name__}: {_line(error)})") from error
    model, inputs = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(model, torch.nn.Module):
        raise StudioError(
            f"{path}:{factory}", f"returns {type(model).__name__}", "needed a torch.nn.Module, or (module, inputs)"
        )
    code = (
        f"from {path.stem} import {factory}\n\n"
        + ("model, inputs" if inputs is not None else "model")
        + f" = {factory}()"
    )
    how = None
    if inputs is None:
        channels, height, width = size or _size_of(model, f"{path}:{factory}")
        how = Preprocessing(None, (height, width), _unit(channels), mode="crop" if channels == 3 else "frame")
    subject = of_module(model.eval(), name=factory, preprocessing=how, code=code, weights=f"made by {path}:{factory}")
    return replace(subject, examples=inputs)


def _function(path: Path, name: str) -> Callable[[], Any]:
    if not path.is_file():
        raise StudioError(str(path), "no such file", "needed a Python file", "FILE.py:factory")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)
    sys.path.insert(0, str(path.parent.resolve()))  # for imports from the file's folder
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise StudioError(str(path), f"can't be imported ({type(error).__name__}: {_line(error)})") from error
    finally:
        sys.path.pop(0)
    found = getattr(module, name, None)
    if not callable(found):
        known = [each for each, value in vars(module).items() if inspect.isfunction(value) or inspect.isclass(value)]
        raise StudioError(f"{path}:{name}", "no such function", f"the file has {', '.join(known[:8]) or 'none'}")
    return found  # type: ignore[no-any-return]


def _size_of(model: torch.nn.Module, where: str) -> tuple[int, int, int]:
    """The (C, H, W) that a network declares, or a size that suits its first convolution."""
    first = next((layer for layer in model.modules() if isinstance(layer, torch.nn.Conv2d)), None)
    if first is None:
        raise StudioError(where, "its input can't be told", "needed --size CxHxW", "or return (module, inputs)")
    own = getattr(model, "input_size", None)
    size = own if isinstance(own, tuple) and len(own) == 2 else (28, 28) if first.in_channels == 1 else (224, 224)
    return first.in_channels, int(size[0]), int(size[1])


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or ["no reason given"])[0]
