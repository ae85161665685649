"""The pictures and texts for people that lie in a run's folder, or in that of an evaluation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from striate.tasks.scores import Measures, Scores
    from striate.tasks.task import Outcome
    from striate.training import Run
    from striate.training.assess import Tested

#: The model card, in a run's folder.
CARD: Final = "card.md"


def save(run: Run) -> None:
    """Draws what a training tells into the run's folder, and writes the model card.

    Of a run that has just ended all is at hand; of one whose pictures were never made its images are tested again.
    """
    from striate.cli.cards import facts_of
    from striate.files import write_whole
    from striate.report import card, evaluation, figures

    outcome = run.outcome
    if outcome is None:
        if (run.path / CARD).exists():
            return
        outcome = _tested_again(run)
    makers: dict[str, Callable[[], Figure]] = {
        "curves": lambda: figures.curves(run.history, **_circumstances(run)),
        "confusion": lambda: figures.confusion(run.evaluation),
    }
    if outcome is not None:
        if outcome.examples:
            makers["predictions"] = lambda: figures.predictions(outcome.examples, run.classes)
        if outcome.errors:
            makers["errors"] = lambda: evaluation.errors(outcome.errors, [error.name for error in outcome.errors])
        makers |= _judged(outcome.measures, outcome.tested.scores)
    figures.save_each(run.path, makers)
    if outcome is not None:
        write_whole(run.path / CARD, card.card(facts_of(run, outcome.measures)).encode())


def _tested_again(run: Run) -> Outcome | None:
    """What a training has at its end, of a run that was opened; None if its images aren't there any more."""
    from striate.errors import DataError
    from striate.tasks.samples import worst
    from striate.tasks.scores import Measures
    from striate.tasks.task import Outcome
    from striate.training.assess import assess_run

    try:
        tested = assess_run(run)
    except DataError:
        return None
    shown = run.recipe.keep_images != "none"
    errors = tuple(worst(tested.images, tested.scores)) if shown else ()
    examples = tuple(run.examples()) if shown else ()
    return Outcome(tested.assessment, Measures.of(tested.scores), {}, examples, errors)


def _circumstances(run: Run) -> dict[str, Any]:
    """In what the training images' loss differs from that of the held-out ones, for the curves."""
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


def report(folder: Path, tested: Tested, measures: Measures) -> None:
    """Writes predictions, measures and pictures of an evaluation into a folder, which is made."""
    from striate.files import write_json
    from striate.report import evaluation, figures
    from striate.tasks.predictions import PREDICTIONS, write_predictions
    from striate.tasks.samples import worst
    from striate.training.folder import EVALUATION

    folder.mkdir(parents=True, exist_ok=True)
    write_predictions(folder / PREDICTIONS, tested.scores)
    write_json(folder / EVALUATION, tested.evaluation.to_dict() | {"measures": measures.to_dict()})
    errors = worst(tested.images, tested.scores)
    called = "Images" if tested.changes is None else "Held-out images"
    makers = {"confusion": lambda: figures.confusion(tested.evaluation, called)} | _judged(measures, tested.scores)
    if errors:
        makers["errors"] = lambda: evaluation.errors(errors, [error.name for error in errors])
    figures.save_each(folder, makers)


def _judged(measures: Measures, scores: Scores) -> dict[str, Callable[[], Figure]]:
    from striate.report import evaluation

    return {
        "reliability": lambda: evaluation.reliability(measures.calibration, measures.scaled, measures.temperature),
        "recall": lambda: evaluation.recalls(measures),
        "rankings": lambda: evaluation.rankings(scores),
    }


__all__: Sequence[str] = ["report", "save"]
