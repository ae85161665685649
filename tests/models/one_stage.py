"""One-stage detectors beside torchvision's, with the same random weights, in float64."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import peer
import torch
import torch.nn.functional as F
from torch import Tensor

from striate.models.fcos import FCOS
from striate.models.one_stage import OneStageDetector
from striate.models.retinanet import RetinaNet
from striate.models.ssd import SSD, SSD300
from striate.models.ssdlite import SSDLite320

Builder = Callable[..., OneStageDetector]
Known = list[dict[str, Tensor]]

#: With the background.
CLASSES = 6
SMALL = {"min_size": 48, "max_size": 64}
#: What SSD's images are stretched to where its backbone is a simple one.
REDUCED = (75, 75)


def second_version(*arguments: Any, **named: Any) -> RetinaNet:
    return RetinaNet(*arguments, second=True, **named)


#: The network's name, what builds it, settings by which it is quick and some candidates are left.
CASES: tuple[tuple[str, Builder, dict[str, Any]], ...] = (
    ("retinanet_resnet50_fpn", RetinaNet, SMALL | {"score_thresh": 0.7}),
    ("retinanet_resnet50_fpn_v2", second_version, SMALL | {"score_thresh": 0.7}),
    ("fcos_resnet50_fpn", FCOS, SMALL | {"score_thresh": 0.6}),
    ("ssd300_vgg16", SSD300, {"score_thresh": 0.5}),
    ("ssdlite320_mobilenet_v3_large", SSDLite320, {"score_thresh": 0.5}),
)


def targets(*objects: tuple[Sequence[Sequence[float]], Sequence[int]]) -> Known:
    """For each image its boxes and labels, in float64."""
    return [
        {"boxes": torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4), "labels": torch.tensor(labels).long()}
        for boxes, labels in objects
    ]


def pictures() -> list[Tensor]:
    """Two pictures, in float64, with noise, so that hardly two places look alike.

    Of sizes whose scale every version of torchvision rounds to the same: older ones had it in float32.
    """
    torch.manual_seed(5)
    return [image.double() + 0.3 * torch.rand_like(image).double() for image in peer.images((90, 130), (120, 84))]


#: What the first of these pictures shows; nothing is on the second.
KNOWN = targets(([[10, 20, 60, 80], [50, 5, 70, 33], [1, 2, 128, 89], [100, 40, 108, 47]], [3, 5, 1, 2]), ([], []))


class Levels(torch.nn.Module):
    """Takes the place of a backbone: at each level the means of squares of pixels, mixed to as many as are wanted."""

    def __init__(self, strides: Sequence[int], channels: Sequence[int]) -> None:
        super().__init__()
        self.strides = strides
        self.mixtures = torch.nn.ModuleList([torch.nn.Conv2d(3, each, 1) for each in channels])

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        pairs = zip(self.strides, self.mixtures, strict=True)
        return {str(s): mixed(F.avg_pool2d(images, s, ceil_mode=True)) for s, mixed in pairs}


def levelled(builder: Builder, **options: Any) -> OneStageDetector:
    """A detector whose backbone is :class:`Levels`. Its head is made, but has no numbers."""
    with torch.device("meta"):
        model = builder(CLASSES, **options)
    channels = model.backbone.channels if isinstance(model, SSD) else [256] * len(model.strides)
    model.backbone = Levels(model.strides, channels)
    model.head.to_empty(device="cpu")
    if isinstance(model, SSD):
        model.transform.fixed_size = REDUCED
    return model


@torch.no_grad()
def enlivened(model: Any) -> Any:
    """``model`` in float64, with numbers by which values neither die out nor grow on their way, and scores differ."""
    for layer in model.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight)
            if layer.bias is not None:
                torch.nn.init.uniform_(layer.bias, -0.1, 0.1)
        elif isinstance(layer, torch.nn.BatchNorm2d):
            layer.reset_running_stats()
    peer.spread(model).double()
    logits: list[Tensor] = []
    handle = model.head.register_forward_hook(lambda _, __, output: logits.append(output["cls_logits"]))
    model.eval()(pictures())
    handle.remove()
    for layer in model.head.classification_head.modules():
        if isinstance(layer, torch.nn.Conv2d) and layer.out_channels % CLASSES == 0:
            layer.weight.mul_(1.5 / logits[0].std())
    return model


def pair(name: str, builder: Builder, options: dict[str, Any], *, whole: bool) -> tuple[Any, Any]:
    """Our network and torchvision's with the same weights; unless ``whole`` both with the same simple backbone."""
    torch.manual_seed(1)
    peer.torchvision()  # which reads files, and so can't be imported on the meta device
    with torch.device("cpu" if whole else "meta"):
        theirs = peer.detection(name, num_classes=CLASSES, **(options | {"score_thresh": 2.0}))
    ours = builder(CLASSES, **options) if whole else levelled(builder, **options)
    if not whole:
        theirs.backbone = copy.deepcopy(ours.backbone)
        theirs.head.to_empty(device="cpu")
        theirs.transform.fixed_size = ours.transform.fixed_size
    enlivened(theirs).score_thresh = ours.score_thresh
    ours.double().load_state_dict(
        {key: value for key, value in theirs.state_dict().items() if key in ours.state_dict()}
    )
    return ours, theirs


def assert_losses_agree(ours: Any, theirs: Any, known: Known = KNOWN) -> None:
    """Losses and their gradients are torchvision's. Statistics of a batch are nobody's."""
    for model in (ours, theirs):
        model.train()
        for layer in model.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.eval()
    here, there = ours(pictures(), known), theirs(pictures(), known)
    assert here.keys() == there.keys()
    for name, loss in here.items():
        assert loss > 0
        # torchvision scales boxes in float32
        torch.testing.assert_close(loss, there[name], rtol=1e-6, atol=1e-9)
    for losses in (here, there):
        torch.stack(list(losses.values())).sum().backward()
    gradients = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-4, atol=1e-7)


@torch.no_grad()
def assert_results_agree(ours: Any, theirs: Any) -> None:
    """Boxes, labels and scores are torchvision's, in the same order, and there are several in each picture."""
    here, there = ours.eval()(pictures()), theirs.eval()(pictures())
    assert len(here) == len(there) == 2
    for found, expected in zip(here, there, strict=True):
        assert len(expected["boxes"]) >= 5
        assert len(expected["labels"].unique()) > 1
        torch.testing.assert_close(found["scores"], expected["scores"], rtol=1e-9, atol=1e-9)
        assert torch.equal(found["labels"], expected["labels"])
        torch.testing.assert_close(found["boxes"], expected["boxes"], rtol=1e-6, atol=1e-4)
