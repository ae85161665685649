"""What a recipe says of its images: which, how they reach the network, how they are changed, who decodes."""

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
    """All images of a source, by part, brought to a size.

    Raises:
        DataError: as :func:`striate.data.load`.
    """
    reading = Reading(fit, channels, recipe.max_pixels or MAX_PIXELS)
    return gather(source, Wanted(reading, None if recipe.workers is None else True, skip_broken))


def admitted(collection: Collection[Any], task: Task) -> Collection[Any]:
    """All images of a source with what a task needs of them.

    Raises:
        DataError: they haven't got it.
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
    """What is done to pictures by the recipe's weights or words, at the recipe's size; None where the data decide.

    Raises:
        RunError: weights that don't say, though they are to; other channels than theirs.
        ModelError: weights that can't be had.
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
    """Processes that decode images where these stay in their files."""
    return min(4, os.cpu_count() or 1) if recipe.workers is None else recipe.workers


def absolute(source: str) -> str:
    """A source whose place is told from the root, so that it means the same wherever a program is started.

    >>> absolute("digits")
    'digits'
    """
    kind, colon, place = source.partition(":")
    if kind in WITHOUT_FILES:
        return source
    path, split, part = place, "", ""
    if kind == "hf":  # maybe a name on the Hub, maybe with a split
        before, split, part = place.rpartition(":")
        path = before if split and not expanded(place).exists() else place
        if not expanded(path).exists():
            return source
        split, part = (split, part) if path == before and split else ("", "")
    places = [path] if expanded(path).exists() else path.split(",")  # annotations and where their pictures lie
    return f"{kind}:{','.join(str(expanded(each).absolute()) for each in places)}{split}{part}" if colon else source
