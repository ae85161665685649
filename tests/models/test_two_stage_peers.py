"""Detectors of two stages and their parts against torchvision's: the same weights, the same results and gradients."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any

import peer
import pytest
import torch

from striate import models, nn
from striate.models import faster_rcnn, mask_rcnn

BUILDERS: dict[str, Callable[..., torch.nn.Module]] = {
    "fasterrcnn_resnet50_fpn": faster_rcnn.resnet50,
    "fasterrcnn_resnet50_fpn_v2": partial(faster_rcnn.resnet50, deep=True),
    "fasterrcnn_mobilenet_v3_large_fpn": faster_rcnn.mobilenet,
    "fasterrcnn_mobilenet_v3_large_320_fpn": faster_rcnn.mobilenet_320,
    "maskrcnn_resnet50_fpn": mask_rcnn.resnet50,
    "maskrcnn_resnet50_fpn_v2": partial(mask_rcnn.resnet50, deep=True),
}
FEW: dict[str, Any] = {
    "min_size": 96,
    "max_size": 160,
    "rpn_pre_nms_top_n_train": 100,
    "rpn_pre_nms_top_n_test": 100,
    "rpn_post_nms_top_n_train": 50,
    "rpn_post_nms_top_n_test": 30,
    "rpn_score_thresh": 0.0,
}
SIZES = ((60, 80), (97, 64))
CLASSES = 4


@pytest.mark.parametrize("name", BUILDERS)
def test_names_and_shapes_are_torchvisions_in_their_order(name: str) -> None:
    with torch.device("meta"):
        ours, theirs = (model.state_dict() for model in (models.create(name), peer.detection(name)))
    # a network of theirs without weights counts batches, since nothing in it is frozen
    expected = {key: tensor.shape for key, tensor in theirs.items() if key in ours or "num_batches" not in key}
    assert [*expected.items()] == [(key, tensor.shape) for key, tensor in ours.items()]


@pytest.mark.parametrize("size", [(64, 96), (800, 1344), (100, 75)])
def test_anchors(size: tuple[int, int]) -> None:
    utils = peer.torchvision().models.detection
    for sizes in (faster_rcnn.ANCHOR_SIZES, faster_rcnn.MOBILE_ANCHOR_SIZES):
        # every level is half as large, rounded up, as after padded convolutions
        maps = [torch.zeros(2, 1, *(-(-side // 2 ** (level + 2)) for side in size)) for level in range(len(sizes))]
        theirs = utils.anchor_utils.AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes))
        images = utils.image_list.ImageList(torch.zeros(2, 1, *size), [size, size])
        assert torch.equal(torch.cat(nn.AnchorGenerator(sizes)(size, maps)), theirs(images, maps)[1])


def test_codes_and_matches() -> None:
    utils = peer.torchvision().models.detection._utils
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(2, 60, 2, generator=generator) * 50
    truth, anchors = torch.cat([corner, corner + torch.rand(2, 60, 2, generator=generator) * 60 + 1], 2)
    for weights in ((1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)):
        ours, theirs = nn.BoxCoder(weights), utils.BoxCoder(weights)
        torch.testing.assert_close(ours.encode(truth, anchors), theirs.encode_single(truth, anchors))
        codes = torch.randn(60, 4, generator=generator) * 4
        torch.testing.assert_close(ours.decode(codes, anchors), theirs.decode_single(codes, anchors))
    # rounded, so that some are equal
    overlaps = (torch.rand(7, 200, generator=generator) * 20).round() / 20 + 1e-3
    for low_quality in (False, True):
        expected = utils.Matcher(0.7, 0.3, low_quality)(overlaps)
        assert torch.equal(nn.Matcher(0.7, 0.3, low_quality)(overlaps), expected)


def test_samples_are_the_same_by_seed() -> None:
    utils = peer.torchvision().models.detection._utils
    labels = torch.randint(-1, 3, (400,), generator=torch.Generator().manual_seed(0))
    for fraction in (0.25, 0.5):
        torch.manual_seed(1)
        ours = nn.BalancedSampler(128, fraction)(labels)
        torch.manual_seed(1)
        theirs = utils.BalancedPositiveNegativeSampler(128, fraction)([labels])
        assert all(torch.equal(here, there[0].nonzero()[:, 0]) for here, there in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("extra", ["pool", "p6p7"])
@pytest.mark.parametrize("norm", [None, torch.nn.BatchNorm2d])
def test_pyramids(extra: str, norm: type[torch.nn.BatchNorm2d] | None) -> None:
    there = peer.torchvision().ops.feature_pyramid_network
    torch.manual_seed(0)
    beyond = nn.LastLevelMaxPool() if extra == "pool" else nn.LastLevelP6P7(6, 8)
    ours = nn.FeaturePyramidNetwork((4, 6), 8, beyond, norm)
    torch.manual_seed(0)
    beyond = there.LastLevelMaxPool() if extra == "pool" else there.LastLevelP6P7(6, 8)
    theirs = there.FeaturePyramidNetwork([4, 6], 8, beyond, norm)
    assert all(torch.equal(tensor, theirs.state_dict()[key]) for key, tensor in ours.state_dict().items())
    maps = OrderedDict((("0", torch.randn(2, 4, 15, 10)), ("1", torch.randn(2, 6, 8, 5))))
    expected = theirs(maps)
    assert list(ours(maps)) == list(expected)
    for name, level in ours(maps).items():
        torch.testing.assert_close(level, expected[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(30, 40), (97, 64)])
def test_pasted_masks(shape: tuple[int, int]) -> None:
    there = peer.torchvision().models.detection.roi_heads
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(20, 2, generator=generator) * 60 - 10
    boxes = torch.cat([corner, corner + torch.rand(20, 2, generator=generator) * 50], 1)
    inside = torch.cat([boxes, boxes], 1)[:, :4].clamp(min=0).minimum(torch.tensor([shape[1], shape[0]] * 2))
    masks = torch.rand(20, 1, 28, 28, generator=generator)
    expected = there.paste_masks_in_image(masks, inside, shape)
    torch.testing.assert_close(nn.paste_masks(masks, inside, shape), expected)


def tiny_pair(masks: bool) -> tuple[torch.nn.Module, torch.nn.Module]:
    """Ours and theirs on three convolutions, with eight channels all the way to the heads."""
    theirs = peer.torchvision().models.detection
    torch.manual_seed(0)
    layers = torch.nn.Sequential(*(nn.ConvNormActivation(channels, 8, 3, 2) for channels in (3, 8, 8)))
    sizes = ((16,), (32,), (64,))
    backbone = theirs.backbone_utils.BackboneWithFPN(layers, {"1": "0", "2": "1"}, [8, 8], 8)
    there = theirs.mask_rcnn
    own = {"mask_head": there.MaskRCNNHeads(8, [8] * 4, 1), "mask_predictor": there.MaskRCNNPredictor(8, 8, CLASSES)}
    made = (theirs.MaskRCNN if masks else theirs.FasterRCNN)(
        backbone,
        rpn_anchor_generator=theirs.anchor_utils.AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * 3),
        box_predictor=theirs.faster_rcnn.FastRCNNPredictor(1024, CLASSES),
        **(FEW | (own if masks else {})),
    )
    body = nn.FeatureMaps(
        torch.nn.Sequential(*(nn.ConvNormActivation(channels, 8, 3, 2) for channels in (3, 8, 8))), {"1": "0", "2": "1"}
    )
    kind = mask_rcnn.MaskRCNN if masks else faster_rcnn.FasterRCNN
    ours = kind(faster_rcnn.PyramidBackbone(body, (8, 8), (4, 8), out_channels=8), CLASSES, anchor_sizes=sizes, **FEW)
    return shared(ours, made)


def shared(ours: torch.nn.Module, theirs: torch.nn.Module) -> tuple[torch.nn.Module, torch.nn.Module]:
    """Both in float64 with the same numbers, which find something and are sure of it."""
    peer.spread(theirs)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if any(part in name for part in ("cls_score", "mask_fcn_logits", "rpn.head.conv")):
                parameter.mul_(3)
    ours.load_state_dict(theirs.state_dict())
    for layer in theirs.modules():  # where ours is frozen
        if isinstance(layer, torch.nn.BatchNorm2d) and not any(isinstance(own, type(layer)) for own in ours.modules()):
            layer.weight.requires_grad_(False)
            layer.bias.requires_grad_(False)
    return ours.double(), theirs.double()


def same_results(ours: torch.nn.Module, theirs: torch.nn.Module) -> None:
    pictures = [picture.double() for picture in peer.images(*SIZES)]
    with torch.no_grad():
        here, there = ours.eval()(pictures), theirs.eval()(pictures)
    for mine, expected in zip(here, there, strict=True):
        assert len(expected["labels"]) > 3
        assert mine.keys() == expected.keys()
        for name, tensor in expected.items():
            # torchvision brings boxes back by factors in float32
            torch.testing.assert_close(
                mine[name], tensor, rtol=1e-5, atol=1e-5, msg=lambda text, name=name: name + text
            )


def same_losses(ours: torch.nn.Module, theirs: torch.nn.Module, masks: bool) -> None:
    pictures = [picture.double() for picture in peer.images(*SIZES)]
    targets = []
    for (height, width), boxes in zip(SIZES, [[[3.0, 5, 60, 40], [20, 10, 45, 59]], []], strict=True):
        corners = torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4)
        outlines = torch.zeros(len(boxes), height, width, dtype=torch.uint8)
        for mask, (x0, y0, x1, y1) in zip(outlines, corners.long().tolist(), strict=True):
            mask[y0 : y1 - 3, x0 + 2 : x1] = 1
        known = {"boxes": corners, "labels": torch.arange(len(boxes)) + 1}
        targets.append(known | ({"masks": outlines} if masks else {}))
    found = []
    for model in (ours, theirs):
        model.train()
        frozen = not any(isinstance(layer, torch.nn.BatchNorm2d) for layer in ours.modules())
        for layer in model.modules():
            if isinstance(layer, torch.nn.BatchNorm2d) and frozen:
                layer.eval()
        torch.manual_seed(3)
        losses = model(pictures, targets)
        sum(losses.values()).backward()
        found.append((losses, {name: p.grad for name, p in model.named_parameters() if p.requires_grad}))
    (here, gradients), (there, expected) = found
    assert list(here) == list(there)
    for name, loss in there.items():
        assert here[name].item() == pytest.approx(loss.item(), rel=1e-5), name
    assert gradients.keys() == expected.keys()
    for name, gradient in expected.items():
        difference = (gradients[name] - gradient).abs().max()
        assert difference <= 1e-4 * gradient.abs().max() + 1e-9, name


@pytest.mark.parametrize("masks", [False, True])
def test_whole_networks_give_the_same(masks: bool) -> None:
    pair = tiny_pair(masks)
    same_results(*pair)
    same_losses(*pair, masks)


@pytest.mark.slow
@pytest.mark.parametrize("name", BUILDERS)
def test_named_networks_give_the_same(name: str) -> None:
    theirs = peer.detection(name, num_classes=CLASSES, **FEW)
    pair = shared(BUILDERS[name](CLASSES, **FEW), theirs)
    if "mobilenet" in name:  # whose layers add another small number where they are frozen
        for layer in theirs.modules():
            layer.eps = 1e-5
    same_results(*pair)
    same_losses(*pair, "mask" in name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in BUILDERS if name.startswith("faster")])
def test_initial_weights_are_torchvisions(name: str) -> None:
    torch.manual_seed(3)
    theirs = peer.detection(name, num_classes=CLASSES).state_dict()
    torch.manual_seed(3)
    ours = BUILDERS[name](CLASSES).state_dict()
    assert all(torch.equal(tensor, theirs[key]) for key, tensor in ours.items())
