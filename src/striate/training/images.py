"""A recipe's images: source, division, preprocessing, and workers for decoding."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any, Final

from striate import data, models
from striate.data import Fit, Preprocessing
from striate.data.decoding import MAX_PIXELS, Reading
from striate.data.folds import folds
from striate.data.images import expanded
from striate.data.sources import Collection, divide, gather
from striate.data.streamed import Wanted, joined
from striate.errors import RunError
from striate.tasks.task import Task
from striate.training.recipe import Recipe

#: Sources that come with striate.
WITHOUT_FILES: Final = ("digits", "scenes")
#: Classes of ImageNet's challenge.
_IMAGENET: Final = 1000


def collect(recipe: Recipe, source: str, fit: Fit | None, channels: int | None, *, skip_broken: bool) -> Collection:
    """All images of a source by part, fitted to a size.

    Raises:
        DataError: as :func:`striate.data.load`.
    """
    reading = Reading(fit, channels, recipe.max_pixels or MAX_PIXELS)
    return gather(source, Wanted(reading, None if recipe.workers is None else True, skip_broken))


def admitted(collection: Collection[Any], task: Task) -> Collection[Any]:
    """All images of a source with the annotations that a task needs.

    Raises:
        DataError: the source doesn't have them.
    """
    return replace(collection, parts={part: task.admit(images) for part, images in collection.parts.items()})


def divided(recipe: Recipe, collection: Collection) -> data.Split:
    """The images of a source as the recipe divides them.

    Raises:
        DataError: as :func:`striate.data.sources.divide`; a class with fewer images than folds.
    """
    if recipe.folds is None or recipe.fold is None:
        return divide(
            collection,
            test_fraction=recipe.test_fraction,
            val_fraction=recipe.val_fraction,
            seed=recipe.seed,
            selects=recipe.selects,
        )
    images = joined(list(collection.parts.values()))
    train, test = folds(images.labels, images.classes, recipe.folds, recipe.seed)[recipe.fold - 1]
    note = f"tests on fold {recipe.fold} of {recipe.folds}: {len(test):,} of {len(images):,} images, seed {recipe.seed}"
    learnt = replace(collection, parts={"train": images.subset(train), "test": images.subset(test)}, notes=(note,))
    return divide(learnt, test_fraction=recipe.test_fraction, val_fraction=recipe.val_fraction, seed=recipe.seed)


def weights_preprocessing(recipe: Recipe) -> Preprocessing | None:
    """The preprocessing of the recipe's weights or of its setting, at the recipe's size; None if the data decide.

    Raises:
        RunError: weights without a preprocessing, if it is required; channels that don't fit the weights.
        ModelError: weights that can't be loaded.
    """
    word = recipe.preprocessing
    found: Preprocessing | None = None
    if recipe.weights is not None and word in (None, "weights"):
        found = models.describe_weights(recipe.model, recipe.weights).preprocessing
        if found is None and word is None and _is_imagenet(recipe.weights):
            word = "imagenet"
    if word == "weights" and found is None:
        got = "got no weights" if recipe.weights is None else "the weights don't say what it is"
        raise RunError("preprocessing", got, "needed weights that do", "imagenet or data")
    if word == "imagenet":
        found = models.imagenet_preprocessing(recipe.model)
    if found is None:
        return None
    if recipe.channels not in (None, found.channels):
        raise RunError("channels", f"got {recipe.channels}", f"needed {found.channels}, as the weights take them")
    if recipe.fit not in (None, found.mode):
        found = replace(found, mode=recipe.fit, resize=None)
    return found if recipe.image_size is None else found.at(recipe.image_size)


def _is_imagenet(weights: str) -> bool:
    """Whether weights have as many outputs as ImageNet has classes."""
    tensors = list(models.read_weights(weights).values())
    return bool(tensors) and tensors[-1].dim() > 0 and len(tensors[-1]) == _IMAGENET


def workers(recipe: Recipe) -> int:
    """The number of processes that decode images, if these are streamed."""
    return min(4, os.cpu_count() or 1) if recipe.workers is None else recipe.workers


def absolute(source: str) -> str:
    """A source with an absolute path, so that it doesn't depend on the working directory.

    >>> absolute("digits")
    'digits'
    """
    kind, colon, place = source.partition(":")
    if kind in WITHOUT_FILES:
        return source
    path, split, part = place, "", ""
    if kind == "hf":  # possibly a name on the Hub, possibly with a split
        before, split, part = place.rpartition(":")
        path = before if split and not expanded(place).exists() else place
        if not expanded(path).exists():
            return source
        split, part = (split, part) if path == before and split else ("", "")
    places = [path] if expanded(path).exists() else path.split(",")  # annotations and the folder of their pictures
    return f"{kind}:{','.join(str(expanded(each).absolute()) for each in places)}{split}{part}" if colon else source
