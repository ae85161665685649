"""Fitting: from a recipe to a finished run, in a locked folder."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

import torch

from striate import data, models
from striate.data import Fit
from striate.errors import DataError, RunError, WeightsWarning, is_out_of_memory
from striate.files import read_json, write_json
from striate.tasks.task import Task
from striate.training.display import Display
from striate.training.distributed import Team, team
from striate.training.environment import Stop, enough_memory, find_device, reproducible
from striate.training.events import check_tensorboard
from striate.training.folder import SETTINGS, fresh_folder, is_finished, locked, refuse_occupied
from striate.training.images import absolute, admitted, collect, divided, weights_preprocessing, workers
from striate.training.loop import Training
from striate.training.recipe import Recipe
from striate.training.record import Record
from striate.training.run import Run, Settings, build, task_of, versions
from striate.training.telling import told
from striate.training.transfer import Learning
from striate.training.update import peak, stepper

_AS_BEGUN: Final = "resume with the run's own settings, or take another folder"


def fit(recipe: Recipe, *, resume: bool = False, quiet: bool = False) -> Run:
    """Trains by a recipe, in a folder of its own, and returns the finished run.

    The folder gets settings, metrics, weights, the evaluation and samples; ``striate.report`` draws the pictures.

    Args:
        recipe: the settings.
        resume: continue the run in ``recipe.out``. A run that was stopped or killed ends with the same numbers as
            without the interruption. A finished run is returned. If there is no run, a new one begins.
        quiet: show no progress on stderr.

    Raises:
        RunError: an occupied folder, other settings than the run's, a damaged checkpoint, a loss that isn't finite.
        ModelError, DataError: an unknown model; data that can't be read or don't suit it.
        Interrupted: Ctrl-C, after a checkpoint.
    """
    if recipe.tensorboard:
        check_tensorboard()
    with team() as members:
        return _fit(recipe, members, resume=resume, quiet=quiet or not members.leads)


def _fit(recipe: Recipe, team: Team, *, resume: bool, quiet: bool) -> Run:
    begun = None
    if recipe.weights is not None:  # an absolute path, so that a resumed run finds the same file
        recipe = dataclasses.replace(recipe, weights=models.located(recipe.weights))
    if recipe.out is None and not team.alone:
        raise RunError("out", "got no folder", "needed one that all processes see")
    if recipe.out is not None:
        begun = _begun(Path(recipe.out), recipe, resume=resume)
        if begun is not None and is_finished(Path(recipe.out)):
            display = Display(1, quiet=quiet)
            if team.leads and absolute(recipe.data) != begun.source:
                _move(Path(recipe.out), begun, recipe, display)
            display.note(f"{recipe.out} holds this run, finished: nothing to do")
            return Run.open(recipe.out)
    elif resume:
        raise RunError("resume", "got no folder", "needed the one of the run to go on with")
    display = Display(recipe.epochs, quiet=quiet)
    # All errors of the recipe are found before the folder is created.
    prepared = _prepare(recipe, begun, team, display)
    settings, split = prepared.settings, prepared.split
    path = fresh_folder(recipe) if recipe.out is None else Path(recipe.out)
    team.meet()  # no process writes before all have checked the folder
    with locked(path) if team.leads else contextlib.nullcontext():
        if team.leads:
            _begin(path, prepared, resume=resume)
        team.meet()
        device = torch.device(settings.device)
        for line in told(settings, split, prepared.record):
            display.note(line)
        display.plan(math.ceil(len(split.train) / recipe.batch_size))
        with (
            reproducible(recipe.seed, settings.threads, device, recipe.engine),
            enough_memory(recipe, settings),
            display,
            Stop() as stop,
        ):
            outcome = Training(path, settings, split, display, stop, team).run()
        team.meet()
    return dataclasses.replace(Run.open(path), outcome=outcome)


@dataclass(frozen=True)
class Prepared:
    """A run's settings, its images, and their record."""

    settings: Settings
    split: data.Split
    record: Record


def _begin(path: Path, prepared: Prepared, *, resume: bool) -> None:
    """Writes the run's settings, or checks that a resumed run has the same settings."""
    begun = _begun(path, prepared.settings.recipe, resume=resume)  # another process may have begun it meanwhile
    if begun is None:
        prepared.record.save(path)
        write_json(path / SETTINGS, prepared.settings.to_dict())
    elif different := prepared.settings.differences(begun):
        raise RunError(str(path), f"the run was begun otherwise: now {', '.join(different)}", remedy=_AS_BEGUN)
    elif prepared.settings.source != begun.source:
        write_json(path / SETTINGS, dataclasses.replace(begun, source=prepared.settings.source).to_dict())


def _move(path: Path, begun: Settings, recipe: Recipe, display: Display) -> None:
    """Records the current location of a finished run's images, if they are the same.

    Raises:
        DataError: none of the images that were held out.
    """
    record = Record.load(path)
    if record is not None:
        how = begun.preprocessing
        found, changes = record.find(collect(recipe, recipe.data, how.how, how.channels, skip_broken=True))
        if "test" not in found:
            raise DataError(recipe.data, "has none of the images that the run held out", "needed the run's images")
        for line in changes.told():
            display.note(line)
    write_json(path / SETTINGS, dataclasses.replace(begun, source=absolute(recipe.data)).to_dict())
    display.note(f"its images lie in {recipe.data} now")


def _begun(path: Path, recipe: Recipe, *, resume: bool) -> Settings | None:
    """The settings of the run that was begun in a folder; None if there is none."""
    refuse_occupied(path, resume=resume)
    if not (path / SETTINGS).exists():
        return None
    begun = Settings.from_dict(read_json(path / SETTINGS))
    if different := recipe.differences(begun.recipe):
        raise RunError(str(path), f"the run was begun otherwise: now {', '.join(different)}", remedy=_AS_BEGUN)
    return begun


def _prepare(recipe: Recipe, begun: Settings | None, team: Team, display: Display) -> Prepared:
    """Finds the device, loads the data, and checks that the network accepts them and the recipe's settings."""
    task = task_of(recipe)
    threads = recipe.threads or (begun.threads if begun else torch.get_num_threads())
    device = team.device(find_device(recipe.device))
    with torch.device("meta"):
        network = models.create(recipe.model)
    made_for = cast(tuple[int, int], network.input_size)
    weights = recipe.weights if begun is None else None  # a resumed run reads its checkpoint instead
    theirs = begun.preprocessing if begun is not None else weights_preprocessing(recipe)
    fit = theirs.how if theirs is not None else Fit(recipe.image_size or made_for, recipe.fit or task.fit(network))
    channels = theirs.channels if theirs is not None else recipe.channels
    split, record = _images(recipe, task, begun, fit, channels, display)
    if recipe.selects and split.val is None:
        raise RunError(
            "early_stopping, keep",
            "got no validation images",
            "needed some: nothing is chosen by the test images",
            "give val_fraction, --val-fraction, or a folder val/",
        )
    train = split.train
    names, size = task.names(train), fit.image_size
    small = models.has_small_form(recipe.model, size)
    classes, shape = len(names), (train.channels, *size)
    # These weights are only inspected; the caller's random generator isn't changed.
    with torch.random.fork_rng([]), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", WeightsWarning)
        model = build(recipe.model, task.outputs(classes), shape, weights, small).eval()
    new_head = any(issubclass(each.category, WeightsWarning) for each in caught)  # reported in another line
    if weights is not None and not new_head:  # as many classes, but different ones
        theirs_are = models.describe_weights(recipe.model, weights).classes
        new_head = bool(theirs_are) and theirs_are != names
    for each in caught:
        if not issubclass(each.category, WeightsWarning):
            warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)
    Learning.of(model, recipe, task, classes)
    try:
        task.check(model, classes, shape)
    except RunError:
        raise
    except (RuntimeError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        given, needed = ("x".join(map(str, sides)) for sides in (size, made_for))
        raise RunError(
            recipe.model,
            f"can't take images of {given} ({str(error).partition(chr(10))[0]})",
            f"needed {needed}, as it was made for",
            "" if recipe.image_size is None else "leave image_size out",
        ) from error
    if theirs is None:
        normalization = task.normalization(train, workers(recipe))
        theirs = data.Preprocessing(None, fit.image_size, normalization, fit.interpolation, fit.mode)
    settings = Settings(
        recipe=recipe,
        versions=versions(),
        device=str(device),
        threads=threads,
        classes=names,
        preprocessing=theirs,
        source=absolute(recipe.data),
        augment=task.style(theirs, trained=recipe.weights is not None),
        learning_rate=peak(model, recipe),
        optimizer=stepper(model, recipe),
        new_head=begun.new_head if begun is not None else new_head,
        small_input=small,
        train_images=len(train),
        test_images=len(split.test),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        processes=team.size,
        val_images=0 if split.val is None else len(split.val),
    )
    return Prepared(settings, split, record)


def _learnt_before(recipe: Recipe) -> frozenset[str]:
    """Digests of the images that the recipe's weights were trained on, if the weights lie in the folder of a run."""
    if recipe.weights is None or not Path(recipe.weights).exists():
        return frozenset()
    path = Path(recipe.weights)
    record = Record.load(path if path.is_dir() else path.parent)
    return record.learnt if record is not None else frozenset()


def prepare(recipe: Recipe, *, quiet: bool = False) -> Prepared:
    """Everything that training starts with: the resolved settings and the images.

    Raises:
        RunError, ModelError, DataError: as :func:`fit`.
    """
    display = Display(recipe.epochs, quiet=quiet)
    prepared = _prepare(recipe, None, Team(), display)
    for line in told(prepared.settings, prepared.split, prepared.record):
        display.note(line)
    return prepared


def _images(
    recipe: Recipe, task: Task, begun: Settings | None, fit: Fit, channels: int | None, display: Display
) -> tuple[data.Split, Record]:
    """The run's images: divided by the recipe, or for a resumed run, identified by its record."""
    record = None if begun is None or recipe.out is None else Record.load(Path(recipe.out))
    try:
        collection = collect(recipe, recipe.data, fit, channels, skip_broken=recipe.skip_broken or record is not None)
        collection = admitted(collection, task)
        if record is None:
            split = divided(recipe, collection)
            return split, Record.of(split, _learnt_before(recipe))
        split, changes = record.restored(collection)
    except DataError as error:
        if begun is None:
            raise
        kind = recipe.data.partition(":")[0]
        raise DataError(
            error.where, error.got, error.needed, error.remedy or f"say where they are now: --data {kind}:PLACE"
        ) from error
    for line in changes.told():
        display.note(f"since the run began: {line}")
    return split, record
