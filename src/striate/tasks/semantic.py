"""A class for each pixel: cross entropy with Dice loss, intersection over union, class maps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from striate.data import IGNORED, AnnotatedSet, Annotation, Normalization, Preprocessing
from striate.data.fitting import Fit
from striate.ops import dice_loss
from striate.tasks.annotated import BLANK, EVEN, WORST, AnnotatedTask
from striate.tasks.explained import map_scores, pixel_scores
from striate.tasks.exportable import Exportable, without_suppression
from striate.tasks.framing import Framed, normalization_of
from striate.tasks.maps import MapMeasures, MapRecorder
from striate.tasks.pictures import evenly
from striate.tasks.task import Batches, Criterion, Goal, Outcome
from striate.tasks.writing import write_class_map

#: What an auxiliary head's loss counts (Zhao et al., "Pyramid scene parsing network", 2017, section 3.3, has 0.4;
#: torchvision's segmentation networks are trained with 0.5).
_AUXILIARY: Final = 0.5
#: The weight of the Dice loss beside the cross entropy.
_DICE: Final = 3.0
#: In a run's folder: class maps of some held-out pictures, by their place in the set.
MAPS: Final = "maps"
#: Sides of pictures in exported files are multiples of this, and not less than that, pixels.
_UNIT: Final = 32
_LEAST: Final = 64


@dataclass(frozen=True)
class MapAssessment:
    """The predicted class maps of a set of pictures, and their measures.

    Args:
        evaluation: the measures.
        maps: of the pictures that are worth a look, by their place in the set, uint8 (H, W).
    """

    evaluation: MapMeasures
    maps: Mapping[int, Tensor]

    @property
    def measures(self) -> dict[str, float]:
        """The measures that are recorded for an epoch; 0 for a set without known pixels."""
        return {"mIoU": self.evaluation.mean_iou or 0.0, "accuracy": self.evaluation.accuracy or 0.0}


@dataclass(frozen=True)
class Semantic(AnnotatedTask):
    """A class for each pixel; the settings are those of :class:`striate.training.Recipe`."""

    name: ClassVar[str] = "semantic"
    holds: ClassVar[str] = "map"
    goal: ClassVar[Goal] = Goal("mIoU", rising=True)

    def normalization(self, images: AnnotatedSet, workers: int) -> Normalization:
        return normalization_of(images)

    def names(self, images: AnnotatedSet) -> tuple[str, ...]:
        return images.map_classes

    def outputs(self, classes: int) -> int:
        return classes

    def check(self, model: torch.nn.Module, classes: int, shape: tuple[int, int, int]) -> None:
        with torch.inference_mode():
            model.eval()(torch.zeros(1, *shape))

    def exported(self, model: torch.nn.Module, suppression: str | None = None) -> Exportable:
        """Scores (N, K, H, W)."""
        without_suppression(f"a network for {self.name} segmentation finds no boxes", suppression)
        return Exportable(map_scores(model), unit=_UNIT, least=_LEAST)

    def explained(self, model: torch.nn.Module) -> torch.nn.Module:
        return pixel_scores(model)

    # ------------------------------------------------------------------ pictures and loss

    def seen(self, preprocessing: Preprocessing) -> tuple[Fit | None, Normalization | None]:
        return preprocessing.how, preprocessing.normalization

    def criterion(self, model: torch.nn.Module, images: AnnotatedSet) -> Criterion:
        def criterion(network: torch.nn.Module, inputs: Tensor, targets: list[Annotation]) -> dict[str, Tensor]:
            truth = _maps(targets).to(inputs.device)
            outputs: Mapping[str, Tensor] = network(inputs)
            with torch.autocast(inputs.device.type, enabled=False):
                loss = map_loss(outputs["out"].float(), truth)
                if "aux" in outputs:
                    loss = loss + _AUXILIARY * map_loss(outputs["aux"].float(), truth)
            right = (outputs["out"].detach().argmax(1) == truth).flatten(1).sum(1)
            share = right / (truth != IGNORED).flatten(1).sum(1).clamp(min=1)
            return {"loss": loss, "accuracy": share.float().mean()}

        return criterion

    def nothing(
        self, inputs: Any, targets: Any, channels: int, device: torch.device
    ) -> tuple[Tensor, list[Annotation]]:
        empty = torch.full((BLANK, BLANK), IGNORED, dtype=torch.uint8)
        return torch.zeros(1, channels, BLANK, BLANK, device=device), [Annotation((BLANK, BLANK), class_map=empty)]

    def assess(
        self,
        model: torch.nn.Module,
        batches: Batches,
        each_batch: Callable[[], None] = lambda: None,
        total: Callable[[Tensor], Tensor] = lambda tensor: tensor,
    ) -> MapAssessment:
        recorder = MapRecorder(batches.images.map_classes)
        names = [each.name for each in batches.images.identities()]
        kept: dict[int, Tensor] = {}
        even = set(evenly(len(names), EVEN))
        training = model.training
        model.eval()
        with torch.inference_mode():
            for inputs, framed in batches.epoch(0):
                for each, found in zip(framed, self.maps(model, inputs, framed), strict=True):
                    assert each.truth.class_map is not None
                    place = len(recorder)
                    recorder.add(each.truth.class_map, found, names[place])
                    kept[place] = found
                    _forget(kept, even, recorder)
                each_batch()
        model.train(training)
        return MapAssessment(recorder.measures(), kept)

    def maps(self, model: torch.nn.Module, inputs: Tensor, framed: Sequence[Framed]) -> list[Tensor]:
        """The class of each pixel, uint8 (H, W) at the pictures' own sizes, by a network in evaluation mode."""
        scores: Tensor = model(inputs)["out"].float().softmax(1).cpu()
        return [
            (part if each.placement is None else each.placement.back_maps(part)).argmax(0).to(torch.uint8)
            for part, each in zip(scores, framed, strict=True)
        ]

    # ------------------------------------------------------------------ files of a run

    def outcome(self, images: AnnotatedSet, tested: MapAssessment, validated: MapAssessment | None = None) -> Outcome:
        worst = [index for index in tested.evaluation.worst(WORST) if index in tested.maps]
        return self.worth_a_look(images, tested, worst, tested.maps.__getitem__)

    def write(
        self, folder: Path, images: AnnotatedSet, tested: MapAssessment, validated: MapAssessment | None = None
    ) -> None:
        """Class maps of the chosen pictures; all class maps would be as large as the data."""
        (folder / MAPS).mkdir(exist_ok=True)
        for index in sorted(tested.maps):
            write_class_map(folder / MAPS / f"{index:05}.png", tested.maps[index], images.map_classes)

    def evaluation(self, fields: Mapping[str, Any]) -> MapMeasures:
        return MapMeasures.from_dict(fields)


def map_loss(scores: Tensor, truth: Tensor) -> Tensor:
    """Cross entropy of class maps and three times their Dice loss, the mean over the pictures.

    Cross entropy is the mean over a picture's known pixels, most of which are usually background, so alone it learns
    small objects late. The Dice loss is the mean over the classes in a picture, however many pixels each has (Isensee
    et al., "nnU-Net", 2021, add both). Both are computed for each picture separately: as means over the pixels of a
    batch, a picture's weight would depend on the known pixels of other pictures, and on their distribution over
    processes.

    Args:
        scores: float (N, K, H, W), logits.
        truth: int64 (N, H, W), 255 where nothing is known; a picture of which nothing is known counts 0.
    """
    known = (truth != IGNORED).flatten(1)
    entropy = F.cross_entropy(scores, truth, ignore_index=IGNORED, reduction="none").flatten(1).sum(1)
    classes = torch.arange(scores.shape[1], device=truth.device)
    present = (truth.flatten(1)[:, None] == classes[:, None]).any(2)
    dice = (dice_loss(scores, truth, ignore_index=IGNORED, reduction="none") * present).sum(1)
    return (entropy / known.sum(1).clamp(min=1) + _DICE * dice / present.sum(1).clamp(min=1)).mean()


def _maps(targets: Sequence[Annotation]) -> Tensor:
    maps = []
    for each in targets:
        assert each.class_map is not None
        maps.append(each.class_map)
    return torch.stack(maps).long()


def _forget(kept: dict[int, Tensor], even: set[int], recorder: MapRecorder) -> None:
    """Drops the best of the maps that aren't kept anyway, so that memory doesn't grow with the set."""
    rest = [place for place in kept if place not in even]
    if len(rest) > WORST:
        best = max(rest, key=lambda place: recorder.pictures[place].iou or 0.0)
        del kept[best]
