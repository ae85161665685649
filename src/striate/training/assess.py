"""Running a network over images whose classes are known, and the loss that it is measured by."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from striate import data
from striate.acceleration import accelerate
from striate.data import LabelledImages
from striate.data.streamed import relabelled
from striate.errors import DataError, RunError
from striate.training.distributed import Team
from striate.training.environment import enough_memory, find_device
from striate.training.images import collect, divided
from striate.training.record import Changes
from striate.training.results import Evaluation
from striate.training.run import Run
from striate.training.scores import Scores
from striate.training.telling import left_out, overlapping

#: From outputs (N, K) and labels (N,) to a scalar, a mean over the images.
Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]

_SMOOTHING: Final = 0.1


def loss_of(
    model: torch.nn.Module, label_smoothing: float | None, *, mixed: bool = False, weights: Tensor | None = None
) -> Loss:
    """The network's own loss, ``model.loss``, or cross entropy where it has none.

    Args:
        model: the network.
        label_smoothing: of the cross entropy; None for 0.1 if it is that.
        mixed: whether labels are probabilities, as mixed images have them.
        weights: of the K classes, whose mean over the images is 1; None for none.

    Raises:
        RunError: label smoothing, mixed images or class weights for a network that brings its own loss.
    """
    own: Loss | None = getattr(model, "loss", None)
    if own is None:
        smoothing = _SMOOTHING if label_smoothing is None else label_smoothing
        if weights is None:
            return functools.partial(F.cross_entropy, label_smoothing=smoothing)
        # Not PyTorch's weighted mean: it divides by the weights of the batch, so an image's share in the whole gradient
        # would hang on which others its batch has, and on how many processes share it.
        each = functools.partial(F.cross_entropy, label_smoothing=smoothing, reduction="none")
        return lambda output, labels: each(output, labels, weight=weights.to(output)).mean()
    if weights is not None:
        raise RunError("class_weights", "got some", "needed none: the model brings a loss of its own")
    if mixed:
        raise RunError(
            "mixup, cutmix", "got images to mix", "needed none: the model's own loss takes one class an image"
        )
    if label_smoothing:
        raise RunError("label_smoothing", f"got {label_smoothing}", "needed none: the model brings a loss of its own")
    return own


@dataclass(frozen=True)
class Assessment:
    """The evaluation, and what the network says of each image."""

    evaluation: Evaluation
    scores: Scores

    @property
    def predicted(self) -> Tensor:
        """The class that each image is taken for, int64 (N,)."""
        return self.scores.predicted

    @property
    def probability(self) -> Tensor:
        """That class's probability, float32 (N,)."""
        return self.scores.confidence


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
    losses, shares = [], []
    training = model.training
    model.eval()
    with torch.inference_mode():
        for images, labels in batches.epoch(0):
            if len(labels):
                output = model(images)
                losses.append(loss(output, labels) * len(labels))
                shares.append(output.float().softmax(1))
            each_batch()
        model.train(training)
        known = batches.images
        total = team.total(torch.tensor([sum(torch.stack(losses).tolist())], dtype=torch.float64)).item()
        probabilities = team.total(_placed(torch.cat(shares), batches)).cpu()
    loss_mean = total / len(known)
    names = tuple(each.name for each in known.identities())
    if not math.isfinite(loss_mean):  # training stops at it, and says so
        probabilities = torch.full_like(probabilities, 1 / probabilities.shape[1])
    scores = Scores(known.labels, probabilities, names, known.classes)
    return Assessment(Evaluation.of(known.labels, scores.predicted, known.classes, loss_mean), scores)


def _placed(values: Tensor, batches: data.Batches) -> Tensor:
    """Values of the images in this process's parts, at their places among all images, with zeros elsewhere."""
    number, count = batches.part
    places = [
        batch.tensor_split(count)[number] for batch in torch.arange(len(batches.images)).split(batches.batch_size)
    ]
    return values.new_zeros(len(batches.images), *values.shape[1:]).index_copy_(
        0, torch.cat(places).to(values.device), values
    )


class _Mirrored(torch.nn.Module):
    """The logarithm of a network's mean probability of images and their mirror images."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        both: Tensor = self.model(torch.cat([images, images.flip(3)])).float().softmax(1)
        return both.view(2, -1, both.shape[1]).mean(0).clamp_min(torch.finfo(both.dtype).tiny).log()


def viewed(model: torch.nn.Module, views: int) -> torch.nn.Module:
    """A network that looks at each image so many times, in ways that leave its class what it is.

    Args:
        model: from images (N, C, H, W) to logits (N, K).
        views: 1 for the network as it is, 2 for the image and its mirror image.

    Raises:
        RunError: another number.
    """
    if views not in (1, 2):
        raise RunError("views", f"got {views}", "needed 1, or 2 for the image and its mirror image")
    return model if views == 1 else _Mirrored(model).eval()


@dataclass(frozen=True)
class Tested:
    """A finished run's network tested on images.

    Args:
        images: that it was tested on, with the run's classes.
        assessment: what came out.
        notes: what a person should know of which images these are.
        changes: how the run's data differ from what they were; None for other data.
    """

    images: LabelledImages
    assessment: Assessment
    notes: tuple[str, ...] = ()
    changes: Changes | None = None

    @property
    def evaluation(self) -> Evaluation:
        return self.assessment.evaluation

    @property
    def scores(self) -> Scores:
        return self.assessment.scores


def images_to_test(
    run: Run, source: str | None = None, *, skip_broken: bool = False, max_pixels: int | None = None
) -> tuple[LabelledImages, tuple[str, ...], Changes | None]:
    """What a run's network is tested on: the images that its record holds out, or those of other data.

    Args:
        run: the run.
        source: other data, of the run's classes or some of them: all of its images, or where it has a test set those.
        skip_broken: leave out image files of other data that can't be read; the notes name them.
        max_pixels: that an image file may have; None for the run's.

    Returns:
        The images, with the run's classes; what a person should know of them; how the run's own data have changed.

    Raises:
        DataError: data that can't be read, an unknown class, no held-out image that is still there.
    """
    settings, record = run.settings, run.record()
    recipe = run.recipe if max_pixels is None else dataclasses.replace(run.recipe, max_pixels=max_pixels)
    how, channels = settings.preprocessing.how, settings.channels
    if source is not None:
        collection = collect(recipe, source, how, channels, skip_broken=skip_broken)
        images, notes = collection.tested()
        notes += tuple(left_out(collection.skipped))
        images = relabelled(images, settings.classes)
        if record is None:
            return (
                images,
                (*notes, "the run has no record of its images, so it can't be told which it has learnt"),
                None,
            )
        seen = sum(each.digest in record.learnt for each in images.identities())
        if seen:
            whole = f"{seen:,} of the {len(images):,} images"
            notes += (f"{whole} are ones that the run has learnt from or was chosen by; they will look easier",)
        return images, notes, None
    try:
        collection = collect(recipe, settings.source, how, channels, skip_broken=record is not None)
    except DataError as error:
        kind = settings.source.partition(":")[0]
        remedy = f"if they were moved: striate train --resume --out {run.path} --data {kind}:PLACE"
        raise DataError(error.where, error.got, error.needed, error.remedy or remedy) from error
    if record is None:
        note = "the run has no record of its images, so the held-out ones are drawn anew; right if none were added"
        return divided(recipe, collection).test, (note,), None
    found, changes = record.find(collection)
    if "test" not in found:
        raise DataError(
            settings.source,
            "has none of the images that the run held out",
            "needed them, wherever they lie",
            "or test on others: --data",
        )
    notes = (*changes.told(), *overlapping(record))
    return relabelled(found["test"], settings.classes), notes, changes


def assess_run(
    run: Run,
    source: str | None = None,
    *,
    device: str = "auto",
    views: int = 1,
    skip_broken: bool = False,
    max_pixels: int | None = None,
) -> Tested:
    """Tests a run's network, and keeps what it says of each image.

    Args:
        run: the run.
        source: as :func:`images_to_test` takes it.
        device: where to compute.
        views: 2 for the mean probability of each image and its mirror image, 1 for the image alone.
        skip_broken, max_pixels: as for :func:`images_to_test`.

    Raises:
        RunError, DataError: as :func:`evaluate`.
    """
    where = find_device(device)
    images, notes, changes = images_to_test(run, source, skip_broken=skip_broken, max_pixels=max_pixels)
    batches = data.Batches(images, run.recipe.batch_size, run.settings.normalization, device=where)
    model = run.model().to(where)
    if where.type == "cpu":
        model = accelerate(model, quiet=True)
    with enough_memory(run.recipe, run.settings):
        return Tested(images, assess(viewed(model, views), batches), notes, changes)


def evaluate(run: Run, source: str | None = None, *, device: str = "auto") -> Evaluation:
    """Tests a run's network on the images that it held out, or on other data.

    The held-out images are those that the run recorded, found by their content: what was added to the data since then
    isn't tested, for it may be what the network learnt.

    Args:
        run: the run.
        source: other data than the run's, of its classes or some of them; all images are tested, or where the data have
            a test set of their own those.
        device: where to compute.

    Raises:
        RunError: no such device.
        DataError: data that can't be read, classes that the run hasn't.
    """
    return assess_run(run, source, device=device).evaluation
