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
from striate.acceleration import accelerate
from striate.errors import RunError
from striate.training.distributed import Team
from striate.training.environment import find_device
from striate.training.images import load_data
from striate.training.results import Evaluation
from striate.training.run import Run

#: From outputs (N, K) and labels (N,) to a scalar, a mean over the images.
Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]

_SMOOTHING: Final = 0.1


def loss_of(model: torch.nn.Module, label_smoothing: float | None, *, mixed: bool = False) -> Loss:
    """The network's own loss, ``model.loss``, or cross entropy where it has none.

    Args:
        model: the network.
        label_smoothing: of the cross entropy; None for 0.1 if it is that.
        mixed: whether labels are probabilities, as mixed images have them.

    Raises:
        RunError: label smoothing or mixed images for a network that brings its own loss.
    """
    own: Loss | None = getattr(model, "loss", None)
    if own is None:
        smoothing = _SMOOTHING if label_smoothing is None else label_smoothing
        return functools.partial(F.cross_entropy, label_smoothing=smoothing)
    if mixed:
        raise RunError(
            "mixup, cutmix", "got images to mix", "needed none: the model's own loss takes one class an image"
        )
    if label_smoothing:
        raise RunError("label_smoothing", f"got {label_smoothing}", "needed none: the model brings a loss of its own")
    return own


@dataclass(frozen=True)
class Assessment:
    """The evaluation, and for each image the class it is taken for, int64 (N,), with its probability, float32 (N,)."""

    evaluation: Evaluation
    predicted: Tensor
    probability: Tensor


def assess(
    model: torch.nn.Module,
    batches: data.Batches,
    each_batch: Callable[[], None] = lambda: None,
    team: Team = Team(),  # noqa: B008 - frozen
) -> Assessment:
    """Runs a network, in evaluation mode, over all images of an unshuffled set; ``each_batch`` is called after each.

    Of several processes each runs its part of every batch, and all get the whole.
    """
    assert batches.shuffle_seed is None
    loss = loss_of(model, label_smoothing=0.0)
    losses, predicted, probability = [], [], []
    training = model.training
    model.eval()
    with torch.inference_mode():
        for images, labels in batches.epoch(0):
            if len(labels):
                output = model(images)
                losses.append(loss(output, labels) * len(labels))
                best = output.softmax(1).max(1)
                predicted.append(best.indices)
                probability.append(best.values)
            each_batch()
        model.train(training)
        known = batches.images
        total, guesses, shares = (
            team.total(each)
            for each in (
                torch.tensor([sum(torch.stack(losses).tolist())], dtype=torch.float64),
                _placed(torch.cat(predicted), batches),
                _placed(torch.cat(probability), batches),
            )
        )
    evaluation = Evaluation.of(known.labels, guesses.cpu(), known.classes, total.item() / len(known))
    return Assessment(evaluation, guesses.cpu(), shares.cpu())


def _placed(values: Tensor, batches: data.Batches) -> Tensor:
    """Values of the images in this process's parts, at their places among all images, with zeros elsewhere."""
    number, count = batches.part
    places = [
        batch.tensor_split(count)[number] for batch in torch.arange(len(batches.images)).split(batches.batch_size)
    ]
    return values.new_zeros(len(batches.images)).index_copy_(0, torch.cat(places).to(values.device), values)


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
    model = run.model().to(where)
    return assess(accelerate(model, quiet=True) if where.type == "cpu" else model, batches).evaluation
