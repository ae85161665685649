"""Detectors of two stages: figures, what they take and give, what breaks them, new classes."""

from __future__ import annotations

import copy
import pickle
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from cases import slow_but
from striate import models, nn
from striate.errors import ModelError, WeightsWarning
from striate.models import faster_rcnn, mask_rcnn

#: Parameters with 91 classes: torchvision's own figures.
PARAMETERS = {
    "fasterrcnn_resnet50_fpn": 41_755_286,
    "fasterrcnn_resnet50_fpn_v2": 43_712_278,
    "fasterrcnn_mobilenet_v3_large_fpn": 19_386_354,
    "fasterrcnn_mobilenet_v3_large_320_fpn": 19_386_354,
    "maskrcnn_resnet50_fpn": 44_401_393,
    "maskrcnn_resnet50_fpn_v2": 46_359_409,
}
FEW = {"min_size": 64, "max_size": 96, "rpn_post_nms_top_n_train": 20, "rpn_post_nms_top_n_test": 10}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_are_the_literatures_and_the_descriptions(name: str) -> None:
    with torch.device("meta"):
        model = models.create(name)
    told = re.search(r"([\d,]+) parameters, (\d+)x(\d+) images\.", models.describe(name))
    assert told is not None
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[name]
    assert int(told[1].replace(",", "")) == PARAMETERS[name]
    assert models.input_shape(name)[1:] == (int(told[2]), int(told[3]))
    assert models.task_of(name) == ("instance" if name.startswith("mask") else "detection")


@pytest.mark.parametrize("name", slow_but(PARAMETERS, ["fasterrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn"]))
def test_what_later_work_reads_is_there(name: str) -> None:
    with torch.device("meta"):
        model = models.create(name, num_classes=7, in_channels=1)
        levels = model.backbone(torch.zeros(1, 1, 256, 384))
    assert model.num_classes == 7
    assert [256 // level.shape[2] for level in levels.values()] == list(model.strides)
    for stage in model.stages:
        model.get_submodule(stage)
    heads = {name for name in model.state_dict() if name.startswith(model.head_keys)}
    assert heads == {
        name for name, tensor in model.state_dict().items() if len(tensor.shape) and len(tensor) in (7, 28)
    }


def tiny(masks: bool = False, **settings: object) -> torch.nn.Module:
    """A network of eight channels with a mask head or without."""
    torch.manual_seed(0)
    layers = [nn.ConvNormActivation(channels, 8, 3, 2, norm=nn.FrozenBatchNorm2d) for channels in (3, 8, 8)]
    body = nn.FeatureMaps(torch.nn.Sequential(*layers), {"1": "0", "2": "1"})
    backbone = faster_rcnn.PyramidBackbone(body, (8, 8), (4, 8), out_channels=8)
    kind = mask_rcnn.MaskRCNN if masks else faster_rcnn.FasterRCNN
    return kind(backbone, 4, anchor_sizes=((16,), (32,), (64,)), **(FEW | settings))


def picture(height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed))


def target(height: int, width: int, *boxes: tuple[float, ...]) -> nn.Target:
    corners = torch.tensor(boxes).reshape(-1, 4)
    masks = torch.zeros(len(boxes), height, width, dtype=torch.uint8)
    for mask, (x0, y0, x1, y1) in zip(masks, corners.long().tolist(), strict=True):
        mask[y0 : y1 + 1, x0 : x1 + 1] = 1
    return {"boxes": corners, "labels": torch.arange(len(boxes)) % 3 + 1, "masks": masks}


@pytest.mark.parametrize("masks", slow_but([False, True], [True]))
def test_results_are_dicts_in_the_images_own_pixels(masks: bool) -> None:
    model = tiny(masks, box_score_thresh=0.0, box_detections_per_img=6).eval()
    with torch.no_grad():
        results = model([picture(50, 70), picture(90, 40)])
    for result, (height, width) in zip(results, [(50, 70), (90, 40)], strict=True):
        assert set(result) == {"boxes", "labels", "scores"} | ({"masks"} if masks else set())
        count = len(result["labels"])
        assert 0 < count <= 6
        assert result["boxes"].shape == (count, 4)
        assert (result["boxes"] >= 0).all()
        assert (result["boxes"] <= torch.tensor([width, height] * 2) + 1e-3).all()
        assert result["labels"].dtype == torch.int64
        assert 1 <= result["labels"].min() <= result["labels"].max() <= 3
        assert result["scores"].tolist() == sorted(result["scores"].tolist(), reverse=True)
        if masks:
            assert result["masks"].shape == (count, 1, height, width)
            assert 0 <= result["masks"].min() <= result["masks"].max() <= 1


@pytest.mark.parametrize("masks", [False, True])
def test_nothing_found_is_legal(masks: bool) -> None:
    for settings in ({"box_score_thresh": 1.0}, {"rpn_score_thresh": 1.1}):
        (result,) = tiny(masks, **settings).eval()([picture(50, 70)])
        assert result["boxes"].shape == (0, 4)
        assert result["labels"].shape == result["scores"].shape == (0,)
        if masks:
            assert result["masks"].shape == (0, 1, 50, 70)


#: What is known of two pictures of 50x70 and 64x64.
KNOWN = {
    "objects": [[(3.0, 4, 40, 30), (10, 10, 60, 45)], [(0.0, 0, 64, 64)]],
    "some": [[(3.0, 4, 40, 30)], []],
    "none": [[], []],
    "tiny": [[(3.0, 4, 3.0001, 4.0001), (0, 0, 1e-30, 1e-30)], [(63.99, 63.99, 64, 64), (1000 / 64, 1, 15.625002, 2)]],
}


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("what", KNOWN)
@pytest.mark.parametrize("proposals", [0.0, 1.1])
def test_losses_and_gradients_are_finite_and_reach_all_parameters(what: str, masks: bool, proposals: float) -> None:
    model = tiny(masks, rpn_score_thresh=proposals)
    images = [picture(50, 70), picture(64, 64, seed=1)]
    targets = [target(*image.shape[1:], *boxes) for image, boxes in zip(images, KNOWN[what], strict=True)]
    losses = model(images, targets)
    names = [
        "loss_classifier",
        "loss_box_reg",
        *(["loss_mask"] if masks else []),
        "loss_objectness",
        "loss_rpn_box_reg",
    ]
    assert list(losses) == names
    assert all(loss.isfinite() for loss in losses.values())
    sum(losses.values(), torch.zeros(())).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_targets_stay_as_they_were_and_faults_are_told() -> None:
    model, image = tiny(), picture(50, 70)
    known = target(50, 70, (3.0, 4, 40, 30))
    before = copy.deepcopy(known)
    model([image], [known])
    assert all(torch.equal(tensor, before[name]) for name, tensor in known.items())
    with pytest.raises(ModelError, match="got none; needed 1 in training"):
        model([image])
    with pytest.raises(ModelError, match="image 0, object 0: got label 4; needed 1 to 3"):
        model([image], [known | {"labels": torch.tensor([4])}])
    with pytest.raises(ModelError, match="has no tensor 'masks'"):
        tiny(masks=True)([image], [{name: known[name] for name in ("boxes", "labels")}])


def test_proposals_can_be_looked_at_alone() -> None:
    model = tiny().eval()
    with torch.no_grad():
        batch, _ = model.transform([picture(50, 70)])
        proposals, losses = model.rpn(batch, model.backbone(batch.tensors))
    assert losses == {}
    assert proposals[0].shape == (10, 4)


def test_float64_and_copies() -> None:
    model = tiny(masks=True, box_score_thresh=0.0).double().eval()
    image = picture(50, 70).double()
    with torch.no_grad():
        (result,) = model([image])
        for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            (again,) = copied([image])
            assert all(torch.equal(tensor, result[name]) for name, tensor in again.items())
    assert {result[name].dtype for name in ("boxes", "scores", "masks")} == {torch.float64}


def test_new_classes_get_a_new_head_and_keep_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    name = "fasterrcnn_mobilenet_v3_large_320_fpn"
    whole = models.create(name, num_classes=6)
    save_file(whole.state_dict(), path)
    told = "roi_heads.box_predictor is for 6 classes, this network's for 3, and stays random"
    with pytest.warns(WeightsWarning, match=told):
        model = models.create(name, num_classes=3, weights=path)
    assert model.roi_heads.box_predictor.bbox_pred.weight.shape == (12, 1024)
    for key, tensor in model.state_dict().items():
        assert key.startswith("roi_heads.box_predictor") or torch.equal(tensor, whole.state_dict()[key])
    with pytest.raises(ModelError, match="weights of another model"):
        models.load_weights(models.create(name, num_classes=3), path)
    # four rows for each of six classes, but seven classes: no head of any number of classes
    odd = whole.state_dict() | {"roi_heads.box_predictor.cls_score.weight": torch.zeros(7, 1024)}
    save_file(odd, path)
    with pytest.raises(ModelError, match="weights of another model"):
        models.create(name, num_classes=3, weights=path)


@pytest.mark.slow
def test_new_classes_get_a_new_mask_head_too(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file(models.create("maskrcnn_resnet50_fpn", num_classes=6).state_dict(), path)
    told = "roi_heads.box_predictor and roi_heads.mask_predictor.mask_fcn_logits is for 6 classes, this network's for 3"
    with pytest.warns(WeightsWarning, match=told):
        models.create("maskrcnn_resnet50_fpn", num_classes=3, weights=path)
