"""One class an image: cross entropy or the network's own loss, and measures of probabilities such as accuracy."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from striate import data
from striate.data import STYLES, LabelledImages, Normalization, Preprocessing
from striate.data.streamed import relabelled
from striate.errors import DataError, RunError
from striate.models.auxiliary import WithAuxiliary
from striate.tasks import samples
from striate.tasks.balance import balanced_order, class_weights
from striate.tasks.evaluation import Evaluation, Example
from striate.tasks.predictions import PREDICTIONS, VALIDATION, write_predictions
from striate.tasks.probe import can_probe, fit_head, linear_head
from striate.tasks.scores import Measures, Scores
from striate.tasks.task import Batches, Criterion, Goal, Loading, Outcome, Task

#: From outputs (N, K) and labels (N,) to a scalar, a mean over the images.
Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]

_SMOOTHING: Final = 0.1
#: Pictures stored for random crops have sides of this many times the network's input.
_SPARE: Final = 2
#: Held-out images that a run keeps: some over the whole set, and the worst mistakes.
_EVEN: Final = 16
_MISTAKES: Final = 8


def loss_of(
    model: torch.nn.Module, label_smoothing: float | None, *, mixed: bool = False, weights: Tensor | None = None
) -> Loss:
    """The network's own loss, ``model.loss``, or cross entropy if it has none.

    Args:
        model: the network.
        label_smoothing: of the cross entropy; None for 0.1 if it is that alone, without auxiliary heads.
        mixed: whether labels are probabilities, because images are mixed.
        weights: of the K classes, whose mean over the images is 1; None for none.

    Raises:
        RunError: label smoothing, mixed images or class weights for a network that brings another loss of its own.
    """
    own: Loss | None = getattr(model, "loss", None)
    if own is None:
        return _cross_entropy(_SMOOTHING if label_smoothing is None else label_smoothing, weights)
    if isinstance(model, WithAuxiliary):  # a sum of cross entropies, which supports all these options
        return functools.partial(model.loss, each=_cross_entropy(label_smoothing or 0.0, weights))
    if weights is not None:
        raise RunError("class_weights", "got some", "needed none: the model brings a loss of its own")
    if mixed:
        raise RunError(
            "mixup, cutmix", "got images to mix", "needed none: the model's own loss takes one class an image"
        )
    if label_smoothing:
        raise RunError("label_smoothing", f"got {label_smoothing}", "needed none: the model brings a loss of its own")
    return own


def _cross_entropy(smoothing: float, weights: Tensor | None) -> Loss:
    if weights is None:
        return functools.partial(F.cross_entropy, label_smoothing=smoothing)
    # Not PyTorch's weighted mean, which divides by the sum of the batch's weights: an image's share in the gradient
    # would depend on the other images of its batch, and on the number of processes.
    each = functools.partial(F.cross_entropy, label_smoothing=smoothing, reduction="none")
    return lambda output, labels: each(output, labels, weight=weights.to(output)).mean()


@dataclass(frozen=True)
class ClassificationAssessment:
    """The evaluation, and the network's probabilities for each image."""

    evaluation: Evaluation
    scores: Scores

    @property
    def measures(self) -> dict[str, float]:
        """The measures that are recorded for an epoch."""
        return {"loss": self.evaluation.loss, "accuracy": self.evaluation.accuracy}

    @property
    def predicted(self) -> Tensor:
        """The predicted class of each image, int64 (N,)."""
        return self.scores.predicted

    @property
    def probability(self) -> Tensor:
        """That class's probability, float32 (N,)."""
        return self.scores.confidence


@dataclass(frozen=True)
class Classification(Task):
    """One class an image; the settings are those of :class:`striate.training.Recipe`."""

    label_smoothing: float | None = None
    class_weights: str = "none"
    balanced_sampling: bool = False
    augment: str | None = None
    erase: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    head: str | None = None

    name: ClassVar[str] = "classification"
    holds: ClassVar[str] = "labels"
    goal: ClassVar[Goal] = Goal("loss", rising=False)

    def admit(self, images: Any) -> LabelledImages:
        if not isinstance(images, data.ImageSet | data.StreamedSet):
            raise DataError("data", "have annotations of parts of pictures", "needed one label an image")
        return images

    def relabelled(self, images: LabelledImages, classes: tuple[str, ...]) -> LabelledImages:
        return relabelled(images, classes)

    def normalization(self, images: LabelledImages, workers: int) -> Normalization:
        return Normalization.of(images, workers)

    def outputs(self, classes: int) -> int:
        return classes

    def check(self, model: torch.nn.Module, classes: int, shape: tuple[int, int, int]) -> None:
        weights = None if self.class_weights == "none" else torch.ones(classes)
        self._loss(model, weights)
        with torch.inference_mode():
            model(torch.zeros(1, *shape))

    def _loss(self, model: torch.nn.Module, weights: Tensor | None) -> Loss:
        return loss_of(model, self.label_smoothing, mixed=self.mixup > 0 or self.cutmix > 0, weights=weights)

    def begin_head(self, model: torch.nn.Module, images: LabelledImages, loading: Loading) -> str | None:
        """Replaces the weights' own head by random numbers, or by the best linear head on their features."""
        classes = len(images.classes)
        head = linear_head(model, classes)
        if head is not None:
            head.reset_parameters()
        if self.head != "random" and can_probe(model, classes):
            fit_head(model, self.batches(images, loading), classes)
            return "the new last layer begins fitted to the weights' features"
        if self.head == "probe":
            raise RunError("head", f"{type(model).__name__} has none to be fitted", "needed random, or to leave it out")
        return None

    def viewed(self, model: torch.nn.Module, views: int) -> torch.nn.Module:
        return viewed(model, views)

    def check_style(self, style: str) -> None:
        if style not in STYLES:
            raise RunError("augment", f"got {style!r}", f"needed one of {', '.join(STYLES)} for {self.name}")

    def style(self, preprocessing: Preprocessing, *, trained: bool) -> str:
        if self.augment is None and trained and preprocessing.mode == "crop":
            return "resized-crop"
        return super().style(preprocessing, trained=trained)

    # ------------------------------------------------------------------ images and loss

    def batches(self, images: LabelledImages, loading: Loading, *, style: str | None = None) -> data.Batches:
        changed = None if style is None else self._augmentation(style, loading.seed)
        order = None
        if style is not None and self.balanced_sampling:
            order = functools.partial(balanced_order, images.labels, len(images.classes), loading.seed)
        return data.Batches(
            _whole(images, changed),
            loading.batch_size,
            loading.preprocessing.normalization,
            shuffle_seed=None if style is None else loading.seed,
            device=loading.device,
            augmentation=changed,
            order=order,
            part=loading.part,
            workers=loading.workers,
        )

    def _augmentation(self, style: str, seed: int) -> data.Augmentation | None:
        if style == "none" and not self.erase and not self.mixup and not self.cutmix:
            return None
        return data.Augmentation(style, self.erase, self.mixup, self.cutmix, seed)

    def criterion(self, model: torch.nn.Module, images: LabelledImages) -> Criterion:
        weights = None
        if self.class_weights != "none":
            weights = class_weights(images.labels, len(images.classes), self.class_weights)
        loss = self._loss(model, weights)

        def criterion(network: torch.nn.Module, inputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
            output = network(inputs)
            labels = targets if targets.ndim == 1 else targets.argmax(1)
            with torch.autocast(output.device.type, enabled=False):
                value = loss(output.float(), targets)
            return {"loss": value, "accuracy": (output.detach().argmax(1) == labels).sum()}

        return criterion

    def show_augmented(self, path: Path, batches: data.Batches) -> None:
        if batches.augmentation is not None:
            samples.write_augmented(path, batches)

    def nothing(self, inputs: Tensor, targets: Tensor, channels: int, device: torch.device) -> tuple[Tensor, Tensor]:
        return inputs.new_zeros(1, *inputs.shape[1:]), targets.new_zeros(1, *targets.shape[1:])

    def assess(
        self,
        model: torch.nn.Module,
        batches: Batches,
        each_batch: Callable[[], None] = lambda: None,
        total: Callable[[Tensor], Tensor] = lambda tensor: tensor,
    ) -> ClassificationAssessment:
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
            whole = total(torch.tensor([sum(torch.stack(losses).tolist())], dtype=torch.float64)).item()
            probabilities = total(_placed(torch.cat(shares), batches)).cpu()
        loss_mean = whole / len(known)
        names = tuple(each.name for each in known.identities())
        if not math.isfinite(loss_mean):  # training stops with an error
            probabilities = torch.full_like(probabilities, 1 / probabilities.shape[1])
        scores = Scores(known.labels, probabilities, names, known.classes)
        return ClassificationAssessment(Evaluation.of(known.labels, scores.predicted, known.classes, loss_mean), scores)

    # ------------------------------------------------------------------ files of a run

    def outcome(
        self,
        images: LabelledImages,
        tested: ClassificationAssessment,
        validated: ClassificationAssessment | None = None,
    ) -> Outcome:
        measures = Measures.of(tested.scores, None if validated is None else validated.scores)
        return Outcome(
            tested,
            measures,
            tested.evaluation.to_dict() | {"measures": measures.to_dict()},
            tuple(samples.choose(images, tested.predicted, tested.probability, even=_EVEN, mistakes=_MISTAKES)),
            tuple(samples.worst(images, tested.scores)),
        )

    def write(
        self,
        folder: Path,
        images: LabelledImages,
        tested: ClassificationAssessment,
        validated: ClassificationAssessment | None = None,
    ) -> None:
        write_predictions(folder / PREDICTIONS, tested.scores)
        if validated is not None:
            write_predictions(folder / VALIDATION, validated.scores)

    def keep(self, folder: Path, examples: Sequence[Example], *, copies: bool) -> None:
        samples.write(folder, list(examples), copies=copies)

    def evaluation(self, fields: Mapping[str, Any]) -> Evaluation:
        return Evaluation.from_dict(fields)

    def examples(self, folder: Path, preprocessing: Preprocessing, source: str) -> tuple[Example, ...]:
        return tuple(samples.read(folder, preprocessing, source))


def _whole(images: LabelledImages, changed: data.Augmentation | None) -> LabelledImages:
    """Training images in their own proportions, from which random crops are taken."""
    if changed is None or not changed.crops:
        return images
    pictures = images.origin if isinstance(images, data.ImageSet) else images
    return images if pictures is None else pictures.in_memory(_SPARE * max(images.image_size))


def _placed(values: Tensor, batches: Batches) -> Tensor:
    """The values for this process's images, placed among all images, with zeros elsewhere."""
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
    """A network that averages its probabilities over several views of each image, such as its mirror image.

    Args:
        model: from images (N, C, H, W) to logits (N, K).
        views: 1 for the network as it is, 2 for the image and its mirror image.

    Raises:
        RunError: another number.
    """
    if views not in (1, 2):
        raise RunError("views", f"got {views}", "needed 1, or 2 for the image and its mirror image")
    return model if views == 1 else _Mirrored(model).eval()
