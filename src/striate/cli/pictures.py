"""The pictures and texts for people in the folder of a run or an evaluation."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from striate.tasks.task import Outcome
    from striate.training import Run
    from striate.training.assess import Tested

#: The model card, in a run's folder.
CARD: Final = "card.md"


def save(run: Run) -> None:
    """Draws the pictures of a training into the run's folder, and writes the model card.

    For a run that has just ended, all results are available. For a run without pictures, its images are tested again.
    """
    from striate.files import write_whole
    from striate.report import figures, presenting

    outcome = run.outcome
    if outcome is None:
        if (run.path / CARD).exists():
            return
        outcome = _tested_again(run)
    makers = {"curves": lambda: _curves(run)}
    if outcome is not None:
        makers |= presenting.pictures(outcome, run.classes)
    elif run.task.name == "classification":
        makers["confusion"] = lambda: figures.confusion(run.evaluation)
    figures.save_each(run.path, makers)
    if outcome is not None:
        write_whole(run.path / CARD, _card(run, outcome).encode())


def _tested_again(run: Run) -> Outcome | None:
    """The outcome of a run that was opened, computed again; None if its images don't exist any more."""
    from striate.errors import DataError
    from striate.training.assess import assess_run

    try:
        tested = assess_run(run)
    except DataError:
        return None
    outcome = run.task.outcome(tested.images, tested.assessment)
    return outcome if run.recipe.keep_images != "none" else dataclasses.replace(outcome, examples=(), errors=())


def _card(run: Run, outcome: Outcome) -> str:
    from striate.cli.cards import facts_of
    from striate.report import card, short_card

    if run.task.name == "classification":
        return card.card(facts_of(run, outcome.measures))
    return short_card.short_card(run)


def _curves(run: Run) -> Figure:
    from striate.report import curves, figures

    if run.task.name == "classification":
        return figures.curves(run.history, **_circumstances(run))
    return curves.measure_curves(run.history)


def _circumstances(run: Run) -> dict[str, Any]:
    """The differences between the training loss and the held-out loss, which the curves mention."""
    import torch

    from striate import models
    from striate.tasks.classification import loss_of

    recipe = run.recipe
    with torch.device("meta"):
        model = models.create(recipe.model, small_input=run.settings.small_input)
    loss = loss_of(model, recipe.label_smoothing)
    smoothing = getattr(loss, "keywords", {}).get("label_smoothing", 0.0)
    changed = run.settings.augment != "none" or max(recipe.erase, recipe.mixup, recipe.cutmix) > 0
    return {"smoothing": smoothing, "changed": changed}


def report(folder: Path, run: Run, tested: Tested, outcome: Outcome) -> None:
    """Writes predictions, measures and pictures of an evaluation into a folder, which is created."""
    from striate.files import write_json
    from striate.report import figures, presenting
    from striate.training.folder import EVALUATION

    folder.mkdir(parents=True, exist_ok=True)
    run.task.write(folder, tested.images, tested.assessment)
    write_json(folder / EVALUATION, outcome.record)
    called = "Images" if tested.changes is None else "Held-out images"
    shown = dataclasses.replace(outcome, examples=())
    figures.save_each(folder, presenting.pictures(shown, run.classes, called))


__all__: Sequence[str] = ["report", "save"]
