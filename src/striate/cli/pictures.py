"""The pictures and texts for people that lie in a run's folder, or in that of an evaluation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from striate.training import Example, Run
    from striate.training.assess import Tested
    from striate.training.scores import Measures, Scores

#: The model card, in a run's folder.
CARD: Final = "card.md"
#: Mistakes in a gallery.
_WORST: Final = 24


def save(run: Run) -> None:
    """Draws what a training that has just ended tells, into the run's folder."""
    from striate.cli.cards import facts_of
    from striate.report import card, evaluation, figures
    from striate.training.files import write_whole

    figures_: dict[str, Callable[[], Figure]] = {
        "curves": lambda: figures.curves(run.history, **_circumstances(run)),
        "confusion": lambda: figures.confusion(run.evaluation),
    }
    examples = run.examples()
    if examples:
        figures_["predictions"] = lambda: figures.predictions(examples, run.classes)
    wrong = [example for example in examples if not example.right]
    if wrong:
        figures_["errors"] = lambda: evaluation.errors(wrong, [example.name for example in wrong])
    if run.outcome is not None:
        figures_ |= _judged(run.outcome.measures, run.outcome.scores)
    figures.save_each(run.path, figures_)
    if run.outcome is not None:
        write_whole(run.path / CARD, card.card(facts_of(run, run.outcome.measures)).encode())


def _circumstances(run: Run) -> dict[str, Any]:
    """In what the training images' loss differs from that of the held-out ones, for the curves."""
    import torch

    from striate import models
    from striate.training.assess import loss_of

    recipe = run.recipe
    with torch.device("meta"):
        model = models.create(recipe.model, small_input=run.settings.small_input)
    loss = loss_of(model, recipe.label_smoothing)
    smoothing = getattr(loss, "keywords", {}).get("label_smoothing", 0.0)
    changed = run.settings.augment != "none" or max(recipe.erase, recipe.mixup, recipe.cutmix) > 0
    return {"smoothing": smoothing, "changed": changed}


def report(folder: Path, run: Run, tested: Tested, measures: Measures) -> None:
    """Writes predictions, measures and pictures of an evaluation into a folder, which is made."""
    from striate.report import evaluation, figures
    from striate.training.files import write_json
    from striate.training.folder import EVALUATION, PREDICTIONS
    from striate.training.predictions import write_predictions

    folder.mkdir(parents=True, exist_ok=True)
    write_predictions(folder / PREDICTIONS, tested.scores)
    write_json(folder / EVALUATION, tested.evaluation.to_dict() | {"measures": measures.to_dict()})
    worst = _worst(tested)
    figures_ = {"confusion": lambda: figures.confusion(tested.evaluation)} | _judged(measures, tested.scores)
    if worst:
        figures_["errors"] = lambda: evaluation.errors(worst, [example.name for example in worst])
    figures.save_each(folder, figures_)


def _worst(tested: Tested) -> list[Example]:
    import torch

    from striate.training import Example

    scores, identities = tested.scores, tested.images.identities()
    return [
        Example(
            tested.images.gather(torch.tensor([index]))[0],
            scores.classes[int(scores.labels[index])],
            scores.classes[int(scores.predicted[index])],
            float(scores.confidence[index]),
            identities[index].name,
            identities[index].digest,
        )
        for index in scores.worst_errors(_WORST)
    ]


def _judged(measures: Measures, scores: Scores) -> dict[str, Callable[[], Figure]]:
    from striate.report import evaluation

    return {
        "reliability": lambda: evaluation.reliability(measures.calibration, measures.scaled, measures.temperature),
        "recall": lambda: evaluation.recalls(measures),
        "rankings": lambda: evaluation.rankings(scores),
    }


__all__: Sequence[str] = ["report", "save"]
