"""A run: its settings, and finished runs read from their folders."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

import striate
from striate import models
from striate.data import Normalization, Preprocessing
from striate.errors import RunError
from striate.files import read_json
from striate.tasks import task_class, task_settings
from striate.tasks.task import SAMPLES, Outcome, Task
from striate.training.folder import EVALUATION, FOLDS, SETTINGS, WEIGHTS, go_on, read_metrics
from striate.training.images import WITHOUT_FILES
from striate.training.recipe import Recipe
from striate.training.record import Record
from striate.training.results import Epoch

_CHUNK: Final = 1024  # images predicted at a time


@dataclass(frozen=True)
class Settings:
    """All settings of a run: ``settings.json``.

    Args:
        recipe: the recipe as given.
        versions: of python, torch and striate.
        device: the actual device: ``"cpu"``, ``"cuda:0"``.
        threads: PyTorch's on the CPU.
        classes: the names of the K classes.
        preprocessing: of pictures, for training, testing and all use of the network.
        source: the source of the images when the run began, with an absolute path.
        augment: how training images are changed.
        learning_rate: the schedule's peak.
        optimizer: its name.
        new_head: whether the last layer is new, not that of the initial weights.
        small_input: whether the network has its form for small images.
        train_images: number of training images.
        test_images: number of test images.
        parameters: number of the network's parameters, including frozen ones.
        processes: number of processes that trained together.
        val_images: number of validation images.
    """

    recipe: Recipe
    versions: dict[str, str]
    device: str
    threads: int
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    source: str
    augment: str
    learning_rate: float
    optimizer: str
    new_head: bool
    small_input: bool
    train_images: int
    test_images: int
    parameters: int
    processes: int = 1
    val_images: int = 0

    @property
    def normalization(self) -> Normalization:
        """The normalization of pixels."""
        return self.preprocessing.normalization

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W) of the network's input."""
        return self.preprocessing.image_size

    @property
    def channels(self) -> int:
        """Channels of the network's input."""
        return self.preprocessing.channels

    @property
    def task(self) -> Task:
        """The task that the network is trained for."""
        return task_of(self.recipe)

    @property
    def is_users(self) -> bool:
        """Whether the images are the user's own, not images that come with striate."""
        return self.source.partition(":")[0] not in WITHOUT_FILES

    def to_dict(self) -> dict[str, Any]:
        """All fields, for JSON."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return fields | {"recipe": self.recipe.to_dict(), "preprocessing": self.preprocessing.to_dict()}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Settings:
        """The inverse of :meth:`to_dict`.

        Raises:
            RunError: fields that are missing or unknown.
        """
        if fields.keys() >= _OLD:
            fields = _renewed(fields)
        if "optimizer" not in fields:  # written by a version in which networks didn't choose an optimizer
            recipe = fields["recipe"]
            fields = {**fields, "optimizer": recipe.get("optimizer") or ("adamw" if recipe.get("weights") else "sgd")}
        if odd := fields.keys() ^ {field.name for field in dataclasses.fields(cls)}:
            raise RunError("settings", f"missing or unknown: {', '.join(sorted(odd))}", "needed those of this striate")
        converted = {
            "recipe": Recipe.from_dict(fields["recipe"]),
            "preprocessing": Preprocessing.from_dict(fields["preprocessing"]),
            "classes": tuple(fields["classes"]),
        }
        return cls(**{**fields, **converted})

    def differences(self, other: Settings) -> list[str]:
        """The differences that would change the numbers if a run begun with ``other`` were resumed with these."""
        return self.recipe.differences(other.recipe) + [
            f"{field.name} {getattr(self, field.name)!r}, not {getattr(other, field.name)!r}"
            for field in dataclasses.fields(self)
            if field.name not in ("recipe", "versions", "source")
            and getattr(self, field.name) != getattr(other, field.name)
        ]

    def new_model(self, weights: str | None = None) -> torch.nn.Module:
        """The network with random weights or given ones, on the CPU."""
        shape = (self.channels, *self.image_size)
        return build(self.recipe.model, self.task.outputs(len(self.classes)), shape, weights, self.small_input)


#: Settings that aren't compared: the recipe's fields are compared one by one, and the others don't change numbers.
_ELSEWHERE: Final = ("recipe", "versions", "source")
#: Fields of version 0.1.0 instead of a preprocessing.
_OLD: Final = {"normalization", "image_size", "channels"}


def _renewed(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Converts settings of version 0.1.0, in which all runs framed their images."""
    recipe = fields["recipe"]
    size = list(fields["image_size"])
    framed = {"resize": None, "crop": size, "normalization": fields["normalization"], "mode": "frame"}
    rate = 0.001 if recipe.get("optimizer") == "adamw" else 0.05
    return {name: value for name, value in fields.items() if name not in _OLD} | {
        "preprocessing": framed,
        "source": recipe["data"],
        "augment": recipe.get("augment", "none"),
        "learning_rate": recipe.get("learning_rate") or rate,
        "new_head": False,
        "val_images": 0,
    }


def build(
    name: str, num_classes: int, shape: tuple[int, int, int], weights: str | None, small_input: bool
) -> torch.nn.Module:
    """A network for images of (C, H, W); if its weights depend on the size, it is adapted to this one."""
    model = models.create(name, num_classes, shape[0], weights, small_input=small_input)
    resize = getattr(model, "resize", None)
    if resize is not None and model.input_size != shape[1:]:
        resize(shape[1:])
    return model


def recipe_for(given: Mapping[str, Any], *, resume: bool) -> Recipe:
    """The recipe from given settings; if a run is resumed, they override those of the run in ``given["out"]``.

    Raises:
        RunError: no model is given, and there is no run to take it from; an invalid setting.
    """
    begun: Mapping[str, Any] = {}
    if resume and "out" in given and (settings := Path(given["out"]) / SETTINGS).exists():
        saved = Settings.from_dict(read_json(settings))
        begun = saved.recipe.to_dict() | {"data": saved.source}  # an absolute path
    if "model" not in begun and "model" not in given:
        if resume and "out" in given:
            raise RunError(str(given["out"]), "holds no run to resume", "needed a model's name to begin one")
        raise RunError("train", "got no model" + (" and no run to resume" if resume else ""), "needed a model's name")
    return Recipe(**{**begun, **given})


def task_of(recipe: Recipe) -> Task:
    """The task of a recipe's network, with the recipe's settings.

    Raises:
        RunError: a setting that belongs to another task.
    """
    found = task_class(recipe.model)
    own = {field.name for field in dataclasses.fields(found)}
    for name in sorted(task_settings() - own):
        default = Recipe.__dataclass_fields__[name].default
        if (value := getattr(recipe, name)) != default:
            raise RunError(
                name, f"got {value!r}", f"needed none: {recipe.model} is for {found.name}, without this setting"
            )
    return found.of(vars(recipe))


def versions() -> dict[str, str]:
    """The versions of the packages that the numbers depend on."""
    return {"python": platform.python_version(), "torch": str(torch.__version__), "striate": striate.__version__}


@dataclass(frozen=True)
class Run:
    """A finished run.

    Args:
        path: its folder.
        settings: its settings.
        history: its epochs.
        evaluation: on the held-out images, after the last epoch.
        outcome: results of a training that has just ended that aren't in the folder; None if the run was opened.
    """

    path: Path
    settings: Settings
    history: tuple[Epoch, ...]
    evaluation: Any
    outcome: Outcome | None = field(default=None, repr=False, compare=False)

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """Reads a run's folder.

        Raises:
            RunError: a folder without a run, a run that isn't finished, damaged files.
        """
        path = Path(path)
        if not (path / SETTINGS).is_file():
            if (path / FOLDS).is_file():
                raise RunError(
                    str(path), "holds the folds of a cross-validation", "needed one", f"as {path / 'fold-1'}"
                )
            got = "no run in there" if path.is_dir() else "no such folder"
            raise RunError(str(path), got, "needed the folder of a run, as striate train makes it")
        if not (path / EVALUATION).is_file():
            raise RunError(str(path), "the run isn't finished", remedy=f"finish it: {go_on(path)}")
        settings = Settings.from_dict(read_json(path / SETTINGS))
        try:
            # Detects a truncated file by its length; the file is read when the network is needed.
            with safe_open(path / WEIGHTS, framework="pt"):
                pass
        except (OSError, SafetensorError) as error:
            raise RunError(
                str(path / WEIGHTS), f"incomplete weights ({error})", remedy="restore the file, or train again"
            ) from error
        return cls(path, settings, read_metrics(path), settings.task.evaluation(read_json(path / EVALUATION)))

    @property
    def recipe(self) -> Recipe:
        """The recipe that the run was trained by."""
        return self.settings.recipe

    @property
    def task(self) -> Task:
        """The task that the network was trained for."""
        return self.settings.task

    def model(self) -> torch.nn.Module:
        """The trained network, in evaluation mode, on the CPU.

        Raises:
            ModelError: weights that can't be read or belong to another network.
        """
        model = self.settings.new_model()
        models.load_weights(model, self.path / WEIGHTS)
        return model.eval()

    @cached_property
    def _model(self) -> torch.nn.Module:
        return self.model()

    @torch.inference_mode()
    def predict(self, images: Tensor) -> Tensor:
        """The probabilities (N, K) of the K classes, for uint8 images (N, C, H, W) of any size, grey or colour."""
        fitted = self.preprocessing.fit(images)
        parts = torch.split(fitted, _CHUNK)
        return torch.cat([self._model(self.settings.normalization(part)).softmax(1) for part in parts])

    @property
    def preprocessing(self) -> Preprocessing:
        """The preprocessing of pictures."""
        return self.settings.preprocessing

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the network's outputs."""
        return self.settings.classes

    def classify(self, paths: Sequence[str | Path], *, top: int = 3) -> list[list[tuple[str, float]]]:
        """For each image file its ``top`` likeliest classes with their probabilities, the likeliest first.

        Raises:
            DataError: a file that can't be read as an image.
        """
        return models.classify(self._model, self.preprocessing, self.classes, paths, top=top)

    def record(self) -> Record | None:
        """The record of the run's images; None for a run of version 0.1.0, which has no record."""
        return Record.load(self.path)

    def examples(self) -> list[Any]:
        """Held-out images with the network's predictions: the run's copies, or else those images of the data whose
        content is unchanged."""
        if self.outcome is not None:
            return list(self.outcome.examples)
        return list(self.task.examples(self.path / SAMPLES, self.preprocessing, self.settings.source))
