"""Fitting: from a recipe to a finished run, in a folder that nobody else writes to."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path
from typing import Final, cast

import torch

from striate import data, models
from striate.errors import RunError
from striate.training.assess import loss_of
from striate.training.display import Display
from striate.training.distributed import Team, team
from striate.training.environment import Stop, find_device, reproducible
from striate.training.events import check_tensorboard
from striate.training.files import read_json, write_json
from striate.training.folder import SETTINGS, fresh_folder, is_finished, locked, refuse_occupied
from striate.training.images import load_data, workers
from striate.training.loop import Training
from striate.training.recipe import Recipe
from striate.training.run import Run, Settings, build, versions
from striate.training.transfer import Learning

_AS_BEGUN: Final = "resume with the run's own settings, or take another folder"


def fit(recipe: Recipe, *, resume: bool = False, quiet: bool = False) -> Run:
    """Trains by a recipe, in a folder of its own, and gives back the finished run. The last epoch's weights count.

    The folder gets settings, metrics, weights, the evaluation and samples; pictures are ``striate.report``'s.

    Args:
        recipe: what to train, and how.
        resume: go on with what lies in ``recipe.out``: a run that was stopped or killed ends with the numbers that it
            would have had; a finished one is given back; where nothing was begun, it begins.
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
    if recipe.out is None and not team.alone:
        raise RunError("out", "got no folder", "needed one that all processes see")
    if recipe.out is not None:
        begun = _begun(Path(recipe.out), recipe, resume=resume)
        if begun is not None and is_finished(Path(recipe.out)):
            Display(1, 1, quiet=quiet).note(f"{recipe.out} holds this run, finished: nothing to do")
            return Run.open(recipe.out)
    elif resume:
        raise RunError("resume", "got no folder", "needed the one of the run to go on with")
    # All that can be wrong with the recipe shows before there is a folder.
    threads = recipe.threads or (begun.threads if begun else torch.get_num_threads())
    settings, split = _prepare(recipe, threads, team, weights=recipe.weights if begun is None else None)
    path = fresh_folder(recipe) if recipe.out is None else Path(recipe.out)
    team.meet()  # nobody writes before all have looked
    with locked(path) if team.leads else contextlib.nullcontext():
        if team.leads:
            _begin(path, settings, resume=resume)
        team.meet()
        device = torch.device(settings.device)
        with (
            reproducible(recipe.seed, settings.threads, device, recipe.engine),
            Display(recipe.epochs, math.ceil(len(split.train) / recipe.batch_size), quiet=quiet) as display,
            Stop() as stop,
        ):
            Training(path, settings, split, display, stop, team).run()
        team.meet()
    return Run.open(path)


def _begin(path: Path, settings: Settings, *, resume: bool) -> None:
    """Writes down what the run is made with, or sees that it goes on as it began."""
    begun = _begun(path, settings.recipe, resume=resume)  # another process may have been here meanwhile
    if begun is None:
        write_json(path / SETTINGS, settings.to_dict())
    elif different := settings.differences(begun):
        raise RunError(str(path), f"the run was begun otherwise: now {', '.join(different)}", remedy=_AS_BEGUN)


def _begun(path: Path, recipe: Recipe, *, resume: bool) -> Settings | None:
    """The settings of the run that was begun in a folder; None if there is none."""
    refuse_occupied(path, resume=resume)
    if not (path / SETTINGS).exists():
        return None
    begun = Settings.from_dict(read_json(path / SETTINGS))
    if different := recipe.differences(begun.recipe):
        raise RunError(str(path), f"the run was begun otherwise: now {', '.join(different)}", remedy=_AS_BEGUN)
    return begun


def _prepare(recipe: Recipe, threads: int, team: Team, weights: str | None) -> tuple[Settings, data.Split]:
    """Finds the device, loads the data, and sees that the network takes them and can learn as the recipe says."""
    device = team.device(find_device(recipe.device))
    with torch.random.fork_rng([]):  # weights that are only looked at; the caller's random numbers go on undisturbed
        with torch.device("meta"):
            made_for = cast(tuple[int, int], models.create(recipe.model).input_size)
        split = load_data(recipe, recipe.data, recipe.image_size or made_for, recipe.channels)
        train = split.train
        small = models.has_small_form(recipe.model, train.image_size)
        classes, shape = len(train.classes), (train.channels, *train.image_size)
        model = build(recipe.model, classes, shape, weights, small).eval()
    loss_of(model, recipe.label_smoothing, mixed=recipe.mixup > 0 or recipe.cutmix > 0)
    Learning.of(model, recipe, classes)
    try:
        with torch.inference_mode():
            model(torch.zeros(1, *shape))
    except (RuntimeError, ValueError) as error:
        size, needed = ("x".join(map(str, sides)) for sides in (train.image_size, made_for))
        raise RunError(
            recipe.model,
            f"can't take images of {size} ({str(error).partition(chr(10))[0]})",
            f"needed {needed}, as it was made for",
            "leave image_size out",
        ) from error
    return Settings(
        recipe=recipe,
        versions=versions(),
        device=str(device),
        threads=threads,
        classes=train.classes,
        normalization=data.Normalization.of(train, workers(recipe)),
        image_size=train.image_size,
        channels=train.channels,
        small_input=small,
        train_images=len(train),
        test_images=len(split.test),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        processes=team.size,
    ), split
