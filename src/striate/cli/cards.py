"""The model card of a run: collects the facts for it from the run's folder."""

from __future__ import annotations

import datetime
import shlex
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from striate.training.folder import WEIGHTS
from striate.training.recipe import Recipe

if TYPE_CHECKING:
    from striate.report.card import CardFacts
    from striate.tasks.scores import Measures
    from striate.training import Run

#: Names of the parts of a run's images in a card.
_PARTS: Final = {"train": "training", "val": "validation", "test": "test"}
#: Pictures that a card shows if they exist.
_PICTURES: Final = {
    "How far the probabilities can be believed": "reliability.png",
    "Which class is taken for which": "confusion.png",
    "The share of each class that is recognised": "recall.png",
}


def facts_of(run: Run, measures: Measures) -> CardFacts:
    """The facts about a finished run.

    Args:
        run: the run.
        measures: of its held-out images.
    """
    from striate.report.card import CardFacts

    settings, recipe, record = run.settings, run.recipe, run.record()
    parts: dict[str, list[int]] = {}
    if record is not None:
        counts = record.counts()
        parts = {_PARTS[part]: [counts.get(name, {}).get(part, 0) for name in run.classes] for part in record.parts}
    folder = run.path.name
    settled = {
        "augment": settings.augment,
        "learning_rate": settings.learning_rate,
        "optimizer": settings.optimizer,
        "freeze_batch_norm": recipe.keeps_statistics,
    }
    left_to_us = [name for name in settled if getattr(recipe, name) is None]
    trained = datetime.date.fromtimestamp((run.path / WEIGHTS).stat().st_mtime)
    return CardFacts(
        model=recipe.model,
        parameters=settings.parameters,
        date=trained.isoformat(),
        source=settings.source,
        classes=run.classes,
        parts=parts,
        measures=measures,
        measured_on="test",
        evaluation=run.evaluation,
        split=_split(run),
        seed=recipe.seed,
        preprocessing=settings.preprocessing.to_dict(),
        settings=_told(recipe) | settled,
        # Settings that were left to the program aren't listed as the user's choices.
        defaults=_told(Recipe(recipe.model)) | {name: settled[name] for name in left_to_us},
        versions=settings.versions,
        device=settings.device,
        seconds=sum(epoch.seconds for epoch in run.history),
        usage=(
            f"striate predict PHOTO.jpg --model {shlex.quote(folder)}",
            f"striate evaluate {shlex.quote(folder)} --data folder:OTHER",
            f"striate explain PHOTO.jpg --model {shlex.quote(folder)}",
        ),
        skipped=dict(Counter(reason for _, reason in record.left_out)) if record else {},
        overlap=record.overlap() if record else None,
        chosen_on="validation" if recipe.selects else "",
        pictures={title: name for title, name in _PICTURES.items() if (run.path / name).exists()},
    )


def _told(recipe: Recipe) -> dict[str, Any]:
    """A recipe's settings without the folder, in which the card itself lies."""
    return {name: value for name, value in recipe.to_dict().items() if name != "out"}


def _split(run: Run) -> str:
    recipe, settings = run.recipe, run.settings
    if recipe.folds is not None:
        return f"fold {recipe.fold} of {recipe.folds} is the test set, stratified by class, drawn with the seed"
    sizes = {"training": settings.train_images, "validation": settings.val_images, "test": settings.test_images}
    shares = f"test {recipe.test_fraction:.0%}"
    if recipe.val_fraction:
        shares += f", validation {recipe.val_fraction:.0%}"
    return (
        ", ".join(f"{count:,} {part}" for part, count in sizes.items() if count)
        + f" images; parts that the data don't bring were held out of each class, drawn with the seed ({shares})"
    )
