"""Studies on scenes: what they train with, what they count, and that each gives a finding."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from torch import Tensor

from striate.analysis import receptive_field
from striate.data import Annotation
from striate.studies import dilated_trunk, object_augmentation, pyramid_levels
from striate.studies.dilated_trunk import Segmenter
from striate.studies.pyramid_levels import detector
from striate.studies.scenes import detected, detection_loss, field_of, fit, map_loss, mean_iou, scenes


class Oracle(torch.nn.Module):
    """Finds what it is told to: the truth of the test scenes, in their order, some of it left out or misnamed."""

    def __init__(self, truths: list[Annotation], *, shift: int = 0, keep: slice = slice(None)) -> None:
        super().__init__()
        self.truths, self.shift, self.keep, self.at = truths, shift, keep, 0

    def forward(self, pictures: list[Tensor]) -> list[dict[str, Tensor]]:
        truth = self.truths[self.at]
        self.at += 1
        labels = (truth.labels + self.shift) % 10 + 1
        found = {"boxes": truth.boxes.float(), "labels": labels, "scores": torch.full((len(labels),), 0.9)}
        return [{name: value[self.keep] for name, value in found.items()}]


class Mapped(torch.nn.Module):
    """Gives the class maps of the test scenes, or another digit in the place of each."""

    def __init__(self, truths: list[Annotation], *, shift: int = 0) -> None:
        super().__init__()
        self.truths, self.shift, self.at = truths, shift, 0

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        truth = self.truths[self.at].class_map
        assert truth is not None
        self.at += 1
        moved = torch.where(truth > 0, (truth.long() - 1 + self.shift) % 10 + 1, truth.long())
        return {"out": torch.nn.functional.one_hot(moved, 11).permute(2, 0, 1)[None].float()}


@pytest.fixture(scope="module")
def test_scenes() -> object:
    return scenes(0, 4, 12).test


def truths(images: object) -> list[Annotation]:
    return [images.sample(index)[1] for index in range(len(images))]  # type: ignore[attr-defined, arg-type]


def test_all_found_and_none(test_scenes: object) -> None:
    known = truths(test_scenes)
    whole = detected(Oracle(known), test_scenes)  # type: ignore[arg-type]
    assert (whole.ap50, whole.small, whole.large) == (pytest.approx(100), 100, 100)
    for wrong in (Oracle(known, shift=1), Oracle(known, keep=slice(0))):
        nothing = detected(wrong, test_scenes)  # type: ignore[arg-type]
        assert (nothing.small, nothing.large) == (0, 0)
        assert nothing.ap50 < 20


def test_maps_of_other_digits_are_still_digits(test_scenes: object) -> None:
    known = truths(test_scenes)
    assert mean_iou(Mapped(known), test_scenes) == (pytest.approx(100), pytest.approx(100))  # type: ignore[arg-type]
    classes, kinds = mean_iou(Mapped(known, shift=1), test_scenes)  # type: ignore[arg-type]
    assert kinds == pytest.approx(100)
    assert classes < 30


@pytest.mark.slow
def test_a_detector_and_a_segmenter_learn_and_the_same_seed_repeats() -> None:
    data = scenes(0, 8, 4)
    weights = []
    for _ in range(2):
        torch.manual_seed(0)
        network = Segmenter(11, dilated=False)
        before = map_loss(network.train(), *batch(data.train)).item()
        fit(network, data.train, map_loss, seed=0, epochs=4)
        assert map_loss(network.train(), *batch(data.train)).item() < before
        weights.append(network.classifier.weight)
    assert torch.equal(*weights)
    torch.manual_seed(0)
    found = detector("stride 4")
    start = detection_loss(found.train(), *batch(data.train)).item()
    fit(found, data.train, detection_loss, seed=0, epochs=4)
    assert not found.training
    assert detection_loss(found.train(), *batch(data.train)).item() < start


def batch(images: object) -> tuple[list[Tensor], list[Annotation]]:
    samples = [images.sample(index) for index in range(len(images))]  # type: ignore[attr-defined, arg-type]
    return [picture.float() / 255 for picture, _ in samples], [truth for _, truth in samples]


@pytest.mark.formula("S7")
def test_dilation_keeps_weights_and_field_and_makes_the_map_finer() -> None:
    strided, dilated = (Segmenter(11, dilated=each).eval() for each in (False, True))
    assert {name: each.shape for name, each in strided.state_dict().items()} == {
        name: each.shape for name, each in dilated.state_dict().items()
    }
    assert field_of(strided.trunk) == field_of(dilated.trunk) == 91
    picture = torch.zeros(1, 3, 64, 64)
    assert strided.trunk(picture).shape[2:] == (4, 4)
    assert dilated.trunk(picture).shape[2:] == (16, 16)
    assert receptive_field(dilated.trunk, (3, 64, 64)).rows[-1].stride == (4, 4)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        pytest.param(dilated_trunk, "dilated_trunk", marks=pytest.mark.slow),
        pytest.param(pyramid_levels, "pyramid_levels", marks=pytest.mark.slow),
        (object_augmentation, "object_augmentation"),
    ],
)
def test_each_gives_a_finding(module: ModuleType, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for constant, value in (("_TRAIN", 8), ("_TEST", 3), ("_EPOCHS", 1)):
        monkeypatch.setattr(module, constant, value)
    lines: list[str] = []
    finding = getattr(module, name)((0,), lines.append)
    assert lines
    assert finding.verdict in ("holds", "holds in part", "does not hold")
    assert all(row.n == 1 for row in finding.rows)
    assert finding.panels
