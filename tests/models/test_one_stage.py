"""What holds for every one-stage detector, alone and beside torchvision's."""

from __future__ import annotations

import math
from typing import Any

import one_stage
import peer
import pytest
import torch
from one_stage import CASES, CLASSES, Builder, levelled, targets

from cases import slow_but
from small_detectors import OneStage
from striate import models
from striate.errors import ModelError
from striate.models.one_stage import best_pairs, per_box

PARAMETERS = {
    "retinanet_resnet50_fpn": 34_014_999,
    "retinanet_resnet50_fpn_v2": 38_198_935,
    "fcos_resnet50_fpn": 32_269_600,
    "ssd300_vgg16": 35_641_826,
    "ssdlite320_mobilenet_v3_large": 3_440_060,
}
every = pytest.mark.parametrize(("name", "builder", "options"), CASES, ids=[name for name, *_ in CASES])


@every
def test_names_and_parameters_are_torchvisions(name: str, builder: Builder, options: dict[str, Any]) -> None:
    peer.torchvision()  # which reads files, and so can't be imported on the meta device
    with torch.device("meta"):
        ours, theirs = models.create(name), peer.detection(name)
    expected = {key: tensor.shape for key, tensor in theirs.state_dict().items()}
    found = {key: tensor.shape for key, tensor in ours.state_dict().items()}
    # frozen batch normalisation counts no batches
    assert found == {key: shape for key, shape in expected.items() if key in found or "num_batches" not in key}
    assert list(found) == [key for key in expected if key in found]
    assert sum(parameter.numel() for parameter in ours.parameters()) == PARAMETERS[name]
    assert models.task_of(name) == "detection"
    assert models.input_shape(name)[1:] == ours.input_size
    assert all(ours.get_submodule(stage) is not None for stage in ours.stages)


@every
def test_losses_and_results_are_torchvisions(name: str, builder: Builder, options: dict[str, Any]) -> None:
    ours, theirs = one_stage.pair(name, builder, options, whole=False)
    one_stage.assert_results_agree(ours, theirs)
    one_stage.assert_losses_agree(ours, theirs)


@pytest.mark.slow
@every
def test_whole_networks_are_torchvisions(name: str, builder: Builder, options: dict[str, Any]) -> None:
    ours, theirs = one_stage.pair(name, builder, options, whole=True)
    one_stage.assert_results_agree(ours, theirs)
    one_stage.assert_losses_agree(ours, theirs)


@pytest.fixture(scope="module")
def detectors() -> dict[str, Any]:
    """Each network with a simple backbone, in float64."""
    torch.manual_seed(2)
    return {name: one_stage.enlivened(levelled(builder, **options)) for name, builder, options in CASES}


#: What losses have to bear, each on a picture 90 high and 130 wide.
HARD = (
    [],
    [[3, 3, 3 + 1e-6, 3 + 1e-6], [64, 64, 64.001, 64.001]],
    [[0, 50, 130, 50 + 1e-6]],
    [[130 - 1e-6, 90 - 1e-6, 130, 90]],
    [[0, 0, 130, 90]],
    [[20, 20, 60, 60]] * 40,
)


@pytest.mark.parametrize(
    "name",
    slow_but([name for name, *_ in CASES], ["ssd300_vgg16", "ssdlite320_mobilenet_v3_large", "retinanet_resnet50_fpn"]),
)
def test_losses_and_gradients_are_finite(name: str, detectors: dict[str, Any]) -> None:
    model = detectors[name].train()
    image = one_stage.pictures()[0]
    for boxes in (HARD, HARD[:1]):  # in the second batch nothing is known at all
        model.zero_grad()
        losses = model([image] * len(boxes), targets(*((each, [1] * len(each)) for each in boxes)))
        assert all(loss.dim() == 0 and loss >= 0 and loss.isfinite() for loss in losses.values())
        torch.stack(list(losses.values())).sum().backward()
        found = [parameter.grad for parameter in model.parameters()]
        assert all(gradient is not None and gradient.isfinite().all() for gradient in found)


@every
def test_targets_that_cannot_be_are_refused(
    name: str, builder: Builder, options: dict[str, Any], detectors: dict[str, Any]
) -> None:
    model, images = detectors[name].train(), one_stage.pictures()
    fine = ([[10.0, 10.0, 20.0, 20.0]], [1])
    for wrong in (
        ([[20.0, 10.0, 10.0, 20.0]], [1]),
        ([[10.0, 10.0, 10.0, 20.0]], [1]),
        ([[math.nan, 10.0, 20.0, 20.0]], [1]),
        ([[10.0, 10.0, 20.0, 20.0]], [0]),
        ([[10.0, 10.0, 20.0, 20.0]], [CLASSES]),
    ):
        with pytest.raises(ModelError, match=r"^image 1, object 0: ") as caught:
            model(images, targets(fine, wrong))
        assert "\n" not in str(caught.value)
    with pytest.raises(ModelError, match="targets"):
        model(images)
    with pytest.raises(ModelError, match="image 0"):
        model([images[0][0], images[1]], targets(fine, fine))


@every
def test_scores_have_gradients(name: str, builder: Builder, options: dict[str, Any], detectors: dict[str, Any]) -> None:
    image = one_stage.pictures()[0].requires_grad_()
    found = detectors[name].eval()([image])[0]
    (gradient,) = torch.autograd.grad(found["scores"][0], image)
    assert gradient.isfinite().all()
    assert gradient.abs().max() > 0


@every
def test_nothing_is_found_where_no_score_suffices(
    name: str, builder: Builder, options: dict[str, Any], detectors: dict[str, Any]
) -> None:
    model = detectors[name].eval()
    threshold, model.score_thresh = model.score_thresh, 1.0
    try:
        found = model(one_stage.pictures())
    finally:
        model.score_thresh = threshold
    for each in found:
        shapes = {key: tuple(tensor.shape) for key, tensor in each.items()}
        assert shapes == {"boxes": (0, 4), "scores": (0,), "labels": (0,)}
        assert each["labels"].dtype == torch.int64


@every
def test_images_of_one_channel(name: str, builder: Builder, options: dict[str, Any]) -> None:
    with torch.device("meta"):
        model = models.create(name, num_classes=3, in_channels=1)
    assert len(model.transform.image_mean) == len(model.transform.image_std) == 1
    assert next(iter(model.backbone.parameters())).shape[1:2] != (3,)


def test_other_classes_leave_the_head_random(tmp_path: Any) -> None:
    name = "ssdlite320_mobilenet_v3_large"
    given = models.create(name, num_classes=3)
    torch.save(given.state_dict(), tmp_path / "w.pth")
    with pytest.warns(UserWarning, match="3 classes.* 5"):
        model = models.create(name, num_classes=5, weights=tmp_path / "w.pth")
    kept = [key for key in given.state_dict() if "classification_head" not in key or ".0." in key.partition("list.")[2]]
    for key in kept:
        assert torch.equal(model.state_dict()[key], given.state_dict()[key])


@pytest.mark.parametrize(("rows", "columns", "boxes", "numbers"), [(1, 1, 1, 1), (3, 2, 4, 5)])
def test_predictions_of_a_box_stand_side_by_side(rows: int, columns: int, boxes: int, numbers: int) -> None:
    maps = torch.arange(2.0 * boxes * numbers * rows * columns).reshape(2, boxes * numbers, rows, columns)
    found = per_box(maps, numbers)
    at = 0
    for row in range(rows):
        for column in range(columns):
            for box in range(boxes):
                assert torch.equal(found[:, at], maps[:, box * numbers : (box + 1) * numbers, row, column])
                at += 1


def test_the_best_pairs_of_a_level() -> None:
    scores = torch.tensor([[0.9, 0.1], [0.3, 0.8], [0.5, 0.5]])

    def pairs(most: int) -> set[tuple[int, int]]:
        best, boxes, labels = (each[1] for each in best_pairs(torch.stack([1 - scores, scores]), most))
        assert torch.equal(best, scores[boxes, labels])
        assert torch.equal(best, best.sort(descending=True).values)
        return set(zip(boxes.tolist(), labels.tolist(), strict=True))

    assert pairs(2) == {(0, 0), (1, 1)}
    assert pairs(1) == {(0, 0)}
    assert len(pairs(10)) == 6


def test_only_what_scores_more_than_the_threshold_is_found() -> None:
    detector = OneStage()
    detector.score_thresh = 0.5
    boxes = torch.tensor([[0.0, 0, 4, 4], [10, 10, 14, 14], [20, 20, 24, 24]])
    found = detector._best(boxes, torch.tensor([0.5, 0.51, 0.4]), torch.tensor([1, 1, 2]), (64, 64))
    assert found["boxes"].tolist() == [[10, 10, 14, 14]]
