"""The learning-rate range test, which shows the learning rates that a network can be trained with.

The rate rises from step to step. The loss falls fastest at suitable rates, and rises again when the rate is too large.

Source: Smith, "Cyclical learning rates for training neural networks" (2017), section 3.3.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Final

import torch

from striate.data.progress import progress
from striate.tasks.task import Batches, Loading
from striate.training.distributed import Team
from striate.training.environment import enough_memory, reproducible, seed_step
from striate.training.fitting import prepare
from striate.training.images import workers
from striate.training.recipe import Recipe
from striate.training.update import Updates

#: The weight of the previous losses in the smoothed loss.
_SMOOTHING: Final = 0.9
#: The search ends when the smoothed loss is this many times the smallest one.
_TOO_LARGE: Final = 3.0
#: The suggestion is the rate with the smallest loss divided by this, because there the loss is about to rise.
_SAFETY: Final = 10.0


@dataclass(frozen=True)
class RateSearch:
    """Losses over learning rates.

    Args:
        rates: of the steps, ascending.
        losses: the loss of each step's batch, before the step.
        smoothed: exponential mean of the losses, corrected for its bias towards the start.
        suggestion: the schedule's peak: a tenth of the rate with the smallest smoothed loss.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    suggestion: float

    @classmethod
    def of(cls, rates: list[float], losses: list[float]) -> RateSearch:
        """The search result for rates and losses.

        >>> search = RateSearch.of([0.001, 0.01, 0.1, 1.0], [2.0, 1.5, 1.0, 9.0])
        >>> round(search.suggestion, 4)
        0.01
        """
        smoothed = list(_smooth(losses))
        best = smoothed.index(min(smoothed))
        return cls(tuple(rates), tuple(losses), tuple(smoothed), rates[best] / _SAFETY)

    def to_dict(self) -> dict[str, Any]:
        """All fields, for JSON."""
        return asdict(self)


def find_learning_rate(
    recipe: Recipe, *, lowest: float = 1e-5, highest: float = 10.0, steps: int = 100, quiet: bool = False
) -> RateSearch:
    """Tries learning rates on a network with random weights, or those of the recipe; the network is then discarded.

    Args:
        recipe: the training's settings; all but the learning rate are used.
        lowest, highest: the rates of the first and the last step; between them they rise by the same factor.
        steps: largest number of steps; the search ends early if the loss is three times the smallest.
        quiet: show no progress on stderr.

    Raises:
        RunError, DataError, ModelError: as :func:`striate.training.fit`.
    """
    prepared = prepare(recipe, quiet=quiet)
    settings, split = prepared.settings, prepared.split
    device = torch.device(settings.device)
    rates: list[float] = []
    losses: list[float] = []
    with (
        reproducible(recipe.seed, settings.threads, device, recipe.engine),
        enough_memory(recipe, settings),
        progress("trying learning rates", steps) as advance,
    ):
        model = settings.new_model(recipe.weights).to(device)
        updates = Updates(model, recipe, settings.task, split.train, Team(), highest)
        updates.train()
        loading = Loading(recipe.batch_size, settings.preprocessing, device, workers=workers(recipe), seed=recipe.seed)
        batches = settings.task.batches(split.train, loading, style=settings.augment)
        for step, (images, labels) in enumerate(itertools.islice(_endless(batches), steps)):
            seed_step(recipe.seed, 0, step, 0)
            rate = lowest * (highest / lowest) ** (step / max(1, steps - 1))
            loss = updates.step(images, labels, rate=rate, number=step, whole=len(images))["loss"]
            advance()
            if not math.isfinite(loss.item()):
                break
            rates.append(rate)
            losses.append(loss.item())
            smoothed = list(_smooth(losses))
            if smoothed[-1] > _TOO_LARGE * min(smoothed):
                break
    return RateSearch.of(rates, losses)


def _endless(batches: Batches) -> Iterator[tuple[Any, Any]]:
    for epoch in itertools.count():
        yield from batches.epoch(epoch)


def _smooth(losses: list[float]) -> Iterator[float]:
    mean = 0.0
    for number, loss in enumerate(losses, start=1):
        mean = _SMOOTHING * mean + (1 - _SMOOTHING) * loss
        yield mean / (1 - _SMOOTHING**number)
