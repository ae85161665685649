"""Testing a finished run's network, on the images that it held out or on others."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from striate.errors import DataError
from striate.tasks.scores import Scores
from striate.tasks.task import Loading
from striate.training.environment import enough_memory, find_device
from striate.training.images import admitted, collect, divided
from striate.training.record import Changes
from striate.training.run import Run
from striate.training.telling import left_out, overlapping


@dataclass(frozen=True)
class Tested:
    """A finished run's network tested on images.

    Args:
        images: the tested images, with the run's classes.
        assessment: the results.
        notes: remarks for the user on the choice of images.
        changes: how the run's data have changed since training; None for other data.
    """

    images: Any
    assessment: Any
    notes: tuple[str, ...] = ()
    changes: Changes | None = None

    @property
    def evaluation(self) -> Any:
        """The record, in the form of ``evaluation.json``."""
        return self.assessment.evaluation

    @property
    def scores(self) -> Scores:
        """A classifier's probabilities for each image."""
        scores: Scores = self.assessment.scores
        return scores


def images_to_test(
    run: Run, source: str | None = None, *, skip_broken: bool = False, max_pixels: int | None = None
) -> tuple[Any, tuple[str, ...], Changes | None]:
    """The images to test a run's network on: the held-out images of its record, or other data.

    Args:
        run: the run.
        source: other data, with the run's classes or some of them: its test set if it has one, else all images.
        skip_broken: leave out image files of other data that can't be read; the notes name them.
        max_pixels: largest number of pixels of an image file; None for the run's.

    Returns:
        The images, with the run's classes; remarks for the user; how the run's own data have changed.

    Raises:
        DataError: data that can't be read, an unknown class, no held-out image that still exists.
    """
    settings, record = run.settings, run.record()
    recipe = run.recipe if max_pixels is None else dataclasses.replace(run.recipe, max_pixels=max_pixels)
    how, channels = settings.preprocessing.how, settings.channels
    if source is not None:
        collection = collect(recipe, source, how, channels, skip_broken=skip_broken)
        images, notes = collection.tested()
        notes += tuple(left_out(collection.skipped))
        images = run.task.relabelled(run.task.admit(images), settings.classes)
        if record is None:
            return (
                images,
                (*notes, "the run has no record of its images, so it can't be told which it has learnt"),
                None,
            )
        seen = sum(each.digest in record.learnt for each in images.identities())
        if seen:
            whole = f"{seen:,} of the {len(images):,} images"
            notes += (f"{whole} are ones that the run has learnt from or was chosen by; they will look easier",)
        return images, notes, None
    try:
        collection = collect(recipe, settings.source, how, channels, skip_broken=record is not None)
    except DataError as error:
        kind = settings.source.partition(":")[0]
        remedy = f"if they were moved: striate train --resume --out {run.path} --data {kind}:PLACE"
        raise DataError(error.where, error.got, error.needed, error.remedy or remedy) from error
    if record is None:
        note = "the run has no record of its images, so the held-out ones are drawn anew; right if none were added"
        return divided(recipe, admitted(collection, run.task)).test, (note,), None
    found, changes = record.find(admitted(collection, run.task))
    if "test" not in found:
        raise DataError(
            settings.source,
            "has none of the images that the run held out",
            "needed them, wherever they lie",
            "or test on others: --data",
        )
    notes = (*changes.told(), *overlapping(record))
    return run.task.relabelled(found["test"], settings.classes), notes, changes


def assess_run(
    run: Run,
    source: str | None = None,
    *,
    device: str = "auto",
    views: int = 1,
    skip_broken: bool = False,
    max_pixels: int | None = None,
) -> Tested:
    """Tests a run's network, and keeps its predictions for each image.

    Args:
        run: the run.
        source: as :func:`images_to_test` takes it.
        device: where to compute.
        views: 2 for the mean probability of each image and its mirror image, 1 for the image alone.
        skip_broken, max_pixels: as for :func:`images_to_test`.

    Raises:
        RunError, DataError: as :func:`evaluate`.
    """
    where = find_device(device)
    images, notes, changes = images_to_test(run, source, skip_broken=skip_broken, max_pixels=max_pixels)
    batches = run.task.batches(images, Loading(run.recipe.batch_size, run.preprocessing, where))
    model = run.model().to(where)
    if where.type == "cpu":
        run.task.accelerated(model)
    with enough_memory(run.recipe, run.settings):
        return Tested(images, run.task.assess(run.task.viewed(model, views), batches), notes, changes)


def evaluate(run: Run, source: str | None = None, *, device: str = "auto") -> Any:
    """Tests a run's network on the images that it held out, or on other data.

    The held-out images are those that the run recorded, identified by their content. Images that were added to the data
    later aren't tested, since the network may have been trained on them.

    Args:
        run: the run.
        source: other data, with the run's classes or some of them. Its test set is tested if it has one, else all
            images.
        device: where to compute.

    Raises:
        RunError: no such device.
        DataError: data that can't be read, classes that the run doesn't have.
    """
    return assess_run(run, source, device=device).evaluation
