"""Cross-validation: one recipe trained k times, each time tested on another part of the images."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from striate.files import write_json
from striate.tasks.intervals import FoldSummary
from striate.tasks.predictions import PREDICTIONS, PredictionWriter, read_predictions
from striate.training.fitting import fit
from striate.training.folder import FOLDS, fresh_folder
from striate.training.recipe import Recipe
from striate.training.run import Run


@dataclass(frozen=True)
class CrossValidation:
    """The runs of all folds.

    Args:
        path: the folder with the folds' folders, ``folds.json``, and ``predictions.csv`` for all images.
        runs: one run for each fold.
    """

    path: Path
    runs: tuple[Run, ...]

    @property
    def accuracy(self) -> FoldSummary:
        """Of the folds' held-out images."""
        return FoldSummary(tuple(run.evaluation.accuracy for run in self.runs))

    @property
    def loss(self) -> FoldSummary:
        """Of the folds' held-out images."""
        return FoldSummary(tuple(run.evaluation.loss for run in self.runs))

    def to_dict(self) -> dict[str, Any]:
        """Mean, spread and each fold, for JSON."""
        return {
            "folds": [str(run.path.relative_to(self.path)) for run in self.runs],
            "accuracy": self.accuracy.to_dict(),
            "loss": self.loss.to_dict(),
        }


def cross_validate(recipe: Recipe, folds: int, *, resume: bool = False, quiet: bool = False) -> CrossValidation:
    """Trains by a recipe once for each fold, in folders ``fold-1`` to ``fold-k``, and summarises the folds.

    Every image is tested exactly once, by a network that never saw it. The parts have the classes in the same
    proportion, and depend on the seed.

    Args:
        recipe: what to train; ``out`` is the folder of all folds.
        folds: k, 2 or more.
        resume: continue an earlier call that was stopped; finished folds are kept.
        quiet: show no progress on stderr.

    Raises:
        RunError, ModelError, DataError: as :func:`striate.training.fit`; a class with fewer images than folds.
    """
    path = Path(recipe.out) if recipe.out is not None else fresh_folder(recipe)
    runs = []
    for fold in range(1, folds + 1):
        out = path / f"fold-{fold}"
        runs.append(fit(dataclasses.replace(recipe, out=str(out), folds=folds, fold=fold), resume=resume, quiet=quiet))
    found = CrossValidation(path, tuple(runs))
    write_json(path / FOLDS, found.to_dict())
    rows = [row for run in runs for row in read_predictions(run.path / PREDICTIONS)]
    with PredictionWriter(path / PREDICTIONS, top=len(rows[0].ranked), truth=True) as writer:
        for row in rows:
            writer.write(row)
    return found
