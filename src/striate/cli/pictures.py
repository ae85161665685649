"""The pictures and texts for people that lie in a run's folder, or in that of an evaluation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch

from striate.cli.app import say

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from striate.training import Example, Run
    from striate.training.assess import Tested
    from striate.training.scores import Measures, Scores

#: Mistakes in a gallery.
_WORST: Final = 24


def save(run: Run) -> None:
    """Draws what a training that has just ended tells, into the run's folder."""
    from striate.report import card, evaluation, figures

    figures_: dict[str, Callable[[], Figure]] = {
        "curves": lambda: figures.curves(run.history, run.recipe),
        "confusion": lambda: figures.confusion(run.evaluation),
    }
    examples = run.examples()
    if examples:
        figures_["predictions"] = lambda: figures.predictions(examples)
    wrong = [example for example in examples if not example.right]
    if wrong:
        figures_["errors"] = lambda: evaluation.errors(wrong, [example.name for example in wrong])
    if run.outcome is not None:
        figures_ |= _judged(run.outcome.measures, run.outcome.scores)
    _draw(run.path, figures_)
    if run.outcome is not None:
        _write(run.path / "card.md", lambda: card.card(card.facts_of(run)))


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
    _draw(folder, figures_)


def _worst(tested: Tested) -> list[Example]:
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


def _draw(folder: Path, drawn: dict[str, Callable[[], Figure]]) -> None:
    """Draws each figure; one that can't be drawn is a line, and no more: the results are there already."""
    from striate.report import figures
    from striate.training.files import write_whole

    for name, draw in drawn.items():
        _attempt(folder / f"{name}.png", lambda path, draw=draw: write_whole(path, figures.png(draw())))


def _write(path: Path, text: Callable[[], str]) -> None:
    from striate.training.files import write_whole

    _attempt(path, lambda place: write_whole(place, text().encode("utf-8", "backslashreplace")))


def _attempt(path: Path, write: Callable[[Path], None]) -> None:
    try:
        write(path)
    except Exception as error:  # whatever a name or a number brings forth: it is a picture of results that are safe
        say(f"warning: {path} can't be made ({type(error).__name__}: {' '.join(str(error).split())[:200]})")


__all__: Sequence[str] = ["report", "save"]
