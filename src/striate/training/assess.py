"""Running a network over images whose classes are known, and the loss that it is measured by."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from striate import data
from striate.errors import RunError
from striate.training.environment import find_device
from striate.training.recipe import Recipe
from striate.training.results import Evaluation
from striate.training.run import Run

#: From outputs (N, K) and labels (N,) to a scalar, a mean over the images.
Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]

_SMOOTHING: Final = 0.1


def loss_of(model: torch.nn.Module, label_smoothing: float | None) -> Loss:
    """The network's own loss, ``model.loss``, or cross entropy where it has none.

    Args:
        model: the network.
        label_smoothing: of the cross entropy; None for 0.1 if it is that.

    Raises:
        RunError: label smoothing for a network that brings its own loss.
    """
    own: Loss | None = getattr(model, "loss", None)
    if own is None:
        smoothing = _SMOOTHING if label_smoothing is None else label_smoothing
        return functools.partial(F.cross_entropy, label_smoothing=smoothing)
    if label_smoothing:
        raise RunError("label_smoothing", f"got {label_smoothing}", "needed none: the model brings a loss of its own")
    return own


@dataclass(frozen=True)
class Assessment:
    """The evaluation, and for each image the class it is taken for, int64 (N,), with its probability, float32 (N,)."""

    evaluation: Evaluation
    predicted: Tensor
    probability: Tensor


def assess(model: torch.nn.Module, batches: data.Batches, each_batch: Callable[[], None] = lambda: None) -> Assessment:
    """Runs a network, in evaluation mode, over all images of an unshuffled set; ``each_batch`` is called after each."""
    assert batches.shuffle_seed is None
    loss = loss_of(model, label_smoothing=0.0)
    losses, predicted, probability = [], [], []
    training = model.training
    model.eval()
    with torch.inference_mode():
        for images, labels in batches.epoch(0):
            output = model(images)
            losses.append(loss(output, labels) * len(labels))
            best = output.softmax(1).max(1)
            predicted.append(best.indices)
            probability.append(best.values)
            each_batch()
    model.train(training)
    known, guesses = batches.images, torch.cat(predicted).cpu()
    mean = sum(torch.stack(losses).tolist()) / len(known)
    evaluation = Evaluation.of(known.labels, guesses, known.classes, mean)
    return Assessment(evaluation, guesses, torch.cat(probability).cpu())


def evaluate(run: Run, source: str | None = None, *, device: str = "auto") -> Evaluation:
    """Tests a run's network on held-out images.

    Args:
        run: the run.
        source: other data than the run's, with the same classes.
        device: where to compute.

    Raises:
        RunError: data with other classes.
    """
    settings, where = run.settings, find_device(device)
    test = load_data(run.recipe, source or run.recipe.data, settings.image_size, settings.channels).test
    if test.classes != settings.classes:
        got, needed = (f"{len(names)} classes: {', '.join(names[:5])}" for names in (test.classes, settings.classes))
        raise RunError(source or run.recipe.data, f"has {got}", f"needed the run's {needed}")
    batches = data.Batches(test, run.recipe.batch_size, settings.normalization, device=where)
    return assess(run.model().to(where), batches).evaluation


def load_data(recipe: Recipe, source: str, image_size: tuple[int, int], channels: int | None) -> data.Split:
    """The images of a source, brought to a size, with the recipe's hold-out where the source has none."""
    return data.load(
        source, image_size=image_size, channels=channels, test_fraction=recipe.test_fraction, seed=recipe.seed
    )
