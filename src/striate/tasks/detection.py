"""Boxes with classes: the network's own losses, COCO's average precision, detections as lines of JSON.

A network of this task has the interface of torchvision's detectors. It takes a list of pictures. In training it also
takes targets and returns a dict of losses; in evaluation it returns a dict of boxes, labels and scores for each
picture. Its label 0 is the background; everywhere else in striate, labels count from 0 without the background.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

import torch
from torch import Tensor

from striate import nn
from striate.data import (
    AnnotatedSet,
    Annotation,
    Detections,
    Identity,
    Normalization,
    Preprocessing,
)
from striate.data.fitting import Fit
from striate.errors import RunError
from striate.tasks.annotated import BLANK, WORST, AnnotatedTask
from striate.tasks.explained import Explained, object_number, object_scores, one_object
from striate.tasks.exportable import Exportable, objects_of
from striate.tasks.framing import Framed
from striate.tasks.heads import Parts
from striate.tasks.objects import ObjectMeasures, ObjectRecorder
from striate.tasks.task import Batches, Criterion, Goal, Outcome
from striate.tasks.writing import ObjectWriter

#: The file in a run's folder with the network's detections on each held-out picture.
DETECTIONS: Final = "detections.jsonl"


@dataclass(frozen=True)
class ObjectAssessment:
    """A network's detections on a set of pictures, and their measures.

    Args:
        evaluation: the measures.
        recorder: has the detections of each picture, with masks as run lengths, because masks of a large set as pixels
            would fill the memory.
        known: the pictures' names.
    """

    evaluation: ObjectMeasures
    recorder: ObjectRecorder
    known: tuple[Identity, ...]

    @property
    def measures(self) -> dict[str, float]:
        """The measures that are recorded for an epoch; 0 for a set without objects."""
        main = self.evaluation.main
        return {"AP": main.ap or 0.0, "AP50": main.ap50 or 0.0}


@dataclass(frozen=True)
class Detection(AnnotatedTask):
    """Boxes with classes; the settings are those of :class:`striate.training.Recipe`."""

    name: ClassVar[str] = "detection"
    holds: ClassVar[str] = "boxes"
    goal: ClassVar[Goal] = Goal("AP", rising=True)
    #: Gradients of a larger 2-norm are scaled down, because one step on a batch of rare objects could undo many others.
    clip_norm: ClassVar[float | None] = 10.0

    def outputs(self, classes: int) -> int:
        return classes + 1

    def normalization(self, images: AnnotatedSet, workers: int) -> Normalization:
        """Values from 0 to 1: these networks normalise pixels themselves."""
        return Normalization((0.0,) * images.channels, (1.0,) * images.channels)

    def check(self, model: torch.nn.Module, classes: int, shape: tuple[int, int, int]) -> None:
        with torch.inference_mode():
            model.eval()([torch.zeros(shape)])

    def fit(self, network: torch.nn.Module) -> str:
        scales = any(isinstance(layer, nn.DetectionInput) for layer in network.modules())
        return "own" if scales else "frame"

    def parts(self, model: torch.nn.Module, classes: int) -> Parts:
        backbone = getattr(model, "backbone", None)
        if not isinstance(backbone, torch.nn.Module):
            raise RunError("freeze, backbone_lr_factor", f"{type(model).__name__} has no backbone", "needed one")
        own = {id(layer) for layer in backbone.modules()}
        layers = [layer for layer in model.modules() if next(layer.parameters(recurse=False), None) is not None]
        inside = tuple(layer for layer in layers if id(layer) in own)
        return Parts(inside, tuple(layer for layer in layers if id(layer) not in own))

    def exported(self, model: torch.nn.Module, suppression: str | None = None) -> Exportable:
        """Rows of all pictures, one after the other, see :class:`striate.tasks.exportable.ExportableObjects`."""
        return objects_of(model, self.name, suppression)

    def explained(self, model: torch.nn.Module) -> torch.nn.Module:
        return object_scores(model)

    def object_number(self, target: str, classes: Sequence[str]) -> int | None:
        return object_number(target, classes)

    def explained_object(self, model: torch.nn.Module, picture: Tensor, number: int) -> Explained:
        return one_object(model, picture, number)

    # ------------------------------------------------------------------ pictures and losses

    def seen(self, preprocessing: Preprocessing) -> tuple[Fit | None, Normalization | None]:
        return (None if preprocessing.mode == "own" else preprocessing.how), None

    def criterion(self, model: torch.nn.Module, images: AnnotatedSet) -> Criterion:
        def criterion(network: torch.nn.Module, inputs: Any, targets: list[Annotation]) -> dict[str, Tensor]:
            pictures: list[Tensor] = list(inputs)
            losses: dict[str, Tensor] = network(pictures, [self.target(each, pictures[0].device) for each in targets])
            total = torch.stack([loss.float() for loss in losses.values()]).sum()
            each = {f"loss_{name.removeprefix('loss_')}": loss.detach().float() for name, loss in losses.items()}
            return {"loss": total, **each}

        return criterion

    def target(self, truth: Annotation, device: torch.device) -> dict[str, Tensor]:
        """An annotation as a network's target, without crowds."""
        assert truth.crowd is not None
        single = truth.select(~truth.crowd)
        return {"boxes": single.boxes.to(device), "labels": (single.labels + 1).to(device)}

    def nothing(
        self, inputs: Any, targets: Any, channels: int, device: torch.device
    ) -> tuple[list[Tensor], list[Annotation]]:
        size = (BLANK, BLANK)
        return [torch.zeros(channels, *size, device=device)], [
            Annotation(size, masks=torch.zeros(0, *size, dtype=torch.bool))
        ]

    def assess(
        self,
        model: torch.nn.Module,
        batches: Batches,
        each_batch: Callable[[], None] = lambda: None,
        total: Callable[[Tensor], Tensor] = lambda tensor: tensor,
    ) -> ObjectAssessment:
        recorder = ObjectRecorder(batches.images.classes)
        known = batches.images.identities()
        training = model.training
        model.eval()
        with torch.inference_mode():
            for inputs, framed in batches.epoch(0):
                for each, found in zip(framed, self.detect(model, inputs, framed), strict=True):
                    recorder.add(each.truth, found, known[len(recorder)].name)
                each_batch()
        model.train(training)
        return ObjectAssessment(recorder.measures(), recorder, known)

    def detect(self, model: torch.nn.Module, inputs: Iterable[Tensor], framed: Sequence[Framed]) -> list[Detections]:
        """The detections of a network in evaluation mode, at the pictures' own sizes."""
        pictures = list(inputs)
        results: list[dict[str, Tensor]] = model(pictures)
        return [
            found if each.placement is None else each.placement.back(found)
            for each, found in (
                (each, self.detections(result, (picture.shape[-2], picture.shape[-1])))
                for each, picture, result in zip(framed, pictures, results, strict=True)
            )
        ]

    def detections(self, result: Mapping[str, Tensor], size: tuple[int, int]) -> Detections:
        """A network's result for one picture of (H, W)."""
        return Detections(
            size,
            result["boxes"].detach().float().cpu(),
            result["labels"].cpu() - 1,
            result["scores"].detach().float().cpu(),
        )

    # ------------------------------------------------------------------ files of a run

    def outcome(
        self, images: AnnotatedSet, tested: ObjectAssessment, validated: ObjectAssessment | None = None
    ) -> Outcome:
        return self.worth_a_look(images, tested, tested.evaluation.worst(WORST), tested.recorder.found)

    def write(
        self,
        folder: Path,
        images: AnnotatedSet,
        tested: ObjectAssessment,
        validated: ObjectAssessment | None = None,
    ) -> None:
        with ObjectWriter(folder / DETECTIONS, images.classes) as writer:
            for place, each in enumerate(tested.known):
                writer.write(each.name, tested.recorder.found(place))

    def evaluation(self, fields: Mapping[str, Any]) -> ObjectMeasures:
        return ObjectMeasures.from_dict(fields)
