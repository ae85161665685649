"""SSD: boxes and classes from feature maps of several sizes, in one pass over a picture of fixed size.

Source: Liu, Anguelov, Erhan, Szegedy, Reed, Fu & Berg, "SSD: Single shot multibox detector" (2016), figure 2 and
sections 2.2 and 3.1. Names of parameters, initial weights, losses and results are torchvision's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from striate import nn, ops
from striate.models import vgg
from striate.models.initialisation import kaiming_fan_out, xavier_convolutions
from striate.models.one_stage import Candidates, OneStageDetector, Outputs, for_channels, per_box
from striate.models.registry import register

VGG16: Final = next(variant for variant in vgg.VARIANTS if variant.name == "vgg16")

#: Deviations by which offsets of a box's centre and sides are divided; the authors' code has these "variances".
BOX_WEIGHTS: Final = (10.0, 10.0, 5.0, 5.0)

#: Pixels' mean, and what undoes their scaling to 1: the weights were trained on values up to 255.
MEAN: Final = (0.48235, 0.45882, 0.40784)
STD: Final = (1 / 255, 1 / 255, 1 / 255)

#: The layers beyond VGG's: channels of the 1x1 and of the 3x3 convolution, stride and padding of the latter.
EXTRA: Final = ((256, 512, 2, 1), (128, 256, 2, 1), (128, 256, 1, 0), (128, 256, 1, 0))


class VGGFeatures(torch.nn.Module):
    """VGG-16 and smaller maps after it, (N, C, 300, 300) to maps of 38, 19, 10, 5, 3 and 1 positions a side.

    The fully connected layers fc6 and fc7 are convolutions here, fc6 of 3x3 with dilation 6. Each position of the first
    map has its channels scaled to length 1, and then each channel by a number that is learnt and begins at 20.

    Source: Liu et al. (2016), section 3 "Base network" and section 3.1; Liu, Rabinovich & Berg, "ParseNet" (2015),
    section 3.3 for the scaling.
    """

    channels: Final = (512, 1024, 512, 256, 256, 256)

    def __init__(self, in_channels: int = 3) -> None:
        super().__init__()
        layers = vgg.features(VGG16, in_channels=in_channels)
        kaiming_fan_out(layers)
        pools = [index for index, layer in enumerate(layers) if isinstance(layer, torch.nn.MaxPool2d)]
        layers[pools[2]] = nn.MaxPool2d(2, ceil_mode=True)  # 75 positions become 38, as in the paper
        self.scale_weight = torch.nn.Parameter(torch.full((512,), 20.0))
        self.features = layers[: pools[3]]
        perceptron = torch.nn.Sequential(
            nn.MaxPool2d(3, 1, 1),
            nn.Conv2d(512, 1024, 3, padding=6, dilation=6),
            torch.nn.ReLU(),
            nn.Conv2d(1024, 1024, 1),
            torch.nn.ReLU(),
        )
        smaller = []
        channels = 1024
        for narrow, wide, stride, padding in EXTRA:
            smaller.append(
                torch.nn.Sequential(
                    nn.Conv2d(channels, narrow, 1),
                    torch.nn.ReLU(),
                    nn.Conv2d(narrow, wide, 3, stride, padding),
                    torch.nn.ReLU(),
                )
            )
            channels = wide
        self.extra = torch.nn.ModuleList(smaller)
        xavier_convolutions(self.extra)
        xavier_convolutions(perceptron)
        self.extra.insert(0, torch.nn.Sequential(*list(layers)[pools[3] : pools[4]], perceptron))

    def forward(self, input: Tensor) -> dict[str, Tensor]:
        maps = self.features(input)
        levels = [self.scale_weight[:, None, None] * F.normalize(maps)]
        for block in self.extra:
            maps = block(maps)
            levels.append(maps)
        return {str(index): level for index, level in enumerate(levels)}


class Predictions(torch.nn.Module):
    """The same numbers for each default box of all levels, from maps (N, C_l, H_l, W_l) to (N, A, numbers).

    Args:
        layers: what predicts the numbers of one level, C_l to boxes * numbers channels.
        numbers: of each box.
    """

    def __init__(self, layers: Sequence[torch.nn.Module], numbers: int) -> None:
        super().__init__()
        self.module_list = torch.nn.ModuleList(layers)
        self.numbers = numbers

    def forward(self, levels: list[Tensor]) -> Tensor:
        rows = [per_box(layer(maps), self.numbers) for layer, maps in zip(self.module_list, levels, strict=True)]
        return torch.cat(rows, dim=1)


class SSDHead(torch.nn.Module):
    """Scores of classes, the background's first, and offsets of boxes.

    Args:
        channels: of each level's map.
        boxes: default boxes at a position of each level.
        num_classes: K, with the background.
        predictor: from numbers of channels to what predicts that many numbers at each position.
    """

    def __init__(
        self,
        channels: Sequence[int],
        boxes: Sequence[int],
        num_classes: int,
        predictor: Callable[[int, int], torch.nn.Module],
    ) -> None:
        super().__init__()
        self.classification_head, self.regression_head = (
            Predictions(
                [predictor(*sizes) for sizes in zip(channels, (n * numbers for n in boxes), strict=True)], numbers
            )
            for numbers in (num_classes, 4)
        )

    def forward(self, levels: list[Tensor]) -> Outputs:
        return {"cls_logits": self.classification_head(levels), "bbox_regression": self.regression_head(levels)}


def hard_negatives(losses: Tensor, positive: Tensor, ratio: float) -> Tensor:
    """Hard negatives: the background boxes of each image with the largest losses, ``ratio`` for each object's box.

    Args:
        losses: (N, A) of classification.
        positive: (N, A), boxes that are an object's.

    Returns:
        (N, A), which boxes these are.

    Source: Liu et al. (2016), section 2.2 "Hard negative mining".

    >>> hard_negatives(torch.tensor([[5.0, 1.0, 3.0, 2.0]]), torch.tensor([[True, False, False, False]]), 2)
    tensor([[False, False,  True,  True]])
    """
    order = losses.detach().masked_fill(positive, -torch.inf).argsort(dim=1, descending=True)
    return (order.argsort(dim=1) < ratio * positive.sum(dim=1, keepdim=True)) & ~positive


class SSD(OneStageDetector):
    """Default boxes on maps of several sizes, each with a score for every class and the background, and four offsets.

    Args:
        size: (H, W) to which images are stretched.
        mean, std: of the pixels.
        backbone, default_boxes, head, num_classes, score_thresh, nms_thresh, detections_per_img, topk_candidates: as
            in :class:`OneStageDetector`; candidates are counted for each class.
        iou_thresh: the overlap from which on a default box stands for an object.
        positive_fraction: the share of boxes that stand for an object among those that scores are learnt from.
    """

    stages = ("backbone", "head")
    head_keys: tuple[str, ...] = ("head.classification_head",)
    export_sizes = (1, 32)  # which are stretched to the one size

    def __init__(
        self,
        size: tuple[int, int],
        mean: Sequence[float],
        std: Sequence[float],
        backbone: torch.nn.Module,
        default_boxes: nn.DefaultBoxes,
        head: torch.nn.Module,
        num_classes: int,
        score_thresh: float,
        nms_thresh: float,
        detections_per_img: int,
        topk_candidates: int,
        iou_thresh: float = 0.5,
        positive_fraction: float = 0.25,
    ) -> None:
        transform = nn.DetectionInput(min(size), max(size), mean, std, size_divisible=1, fixed_size=size)
        limits = (score_thresh, nms_thresh, detections_per_img, topk_candidates)
        super().__init__(transform, backbone, default_boxes, head, num_classes, *limits)
        self.box_coder = nn.BoxCoder(BOX_WEIGHTS)
        self.proposal_matcher = nn.Matcher(iou_thresh, iou_thresh)
        self.neg_to_pos_ratio = (1 - positive_fraction) / positive_fraction

    def losses(self, outputs: Outputs, levels: list[Tensor], targets: Sequence[nn.Target]) -> dict[str, Tensor]:
        boxes, offsets, logits = torch.cat(levels), outputs["bbox_regression"], outputs["cls_logits"]
        matches = [self.match(target["boxes"], boxes) for target in targets]
        classes = torch.stack([nn.matched(t["labels"], m) for t, m in zip(targets, matches, strict=True)])
        wanted = torch.stack([nn.matched(t["boxes"], m) for t, m in zip(targets, matches, strict=True)])
        positive = classes > 0
        count = positive.sum().clamp(min=1)
        codes = self.box_coder.encode(wanted[positive], boxes.expand_as(wanted)[positive])
        each = F.cross_entropy(logits.flatten(0, 1), classes.flatten(), reduction="none").view_as(classes)
        learnt = positive | hard_negatives(each, positive, self.neg_to_pos_ratio)
        return {
            "bbox_regression": F.smooth_l1_loss(offsets[positive], codes, reduction="sum") / count,
            "classification": each[learnt].sum() / count,
        }

    def match(self, objects: Tensor, boxes: Tensor) -> Tensor:
        """For each default box (A, 4) the index of the object (M, 4) that it stands for, or ``BACKGROUND``; (A,).

        An object is matched with every default box that overlaps it enough, and always with the one that overlaps it
        most (Liu et al. (2016), section 2.2 "Matching strategy").
        """
        overlaps = ops.box_iou(objects, boxes)
        matches = self.proposal_matcher(overlaps)
        if len(objects):
            matches[overlaps.max(dim=1).indices] = torch.arange(len(objects), device=matches.device)
        return matches

    def decoded(self, outputs: Outputs, levels: list[Tensor]) -> Tensor:
        return self.box_coder.decode(outputs["bbox_regression"], torch.cat(levels))

    def candidates(self, outputs: Outputs, levels: list[Tensor]) -> Candidates:
        boxes = self.decoded(outputs, levels)
        scores = outputs["cls_logits"].softmax(dim=2)[..., 1:].mT
        best, where = scores.topk(min(self.topk_candidates, scores.shape[2]), dim=2)
        labels = torch.arange(1, self.num_classes, device=boxes.device)[:, None].expand_as(where)
        chosen = boxes.gather(1, where.flatten(1)[..., None].expand(-1, -1, 4))
        return chosen, best.flatten(1), labels.flatten(1)


class SSD300(SSD):
    """SSD over VGG-16, for pictures of 300x300.

    Args:
        num_classes: K, with the background.
        in_channels: of the pictures.
        score_thresh, nms_thresh, detections_per_img, topk_candidates: as in :class:`SSD`.
    """

    strides = (8, 16, 32, 64, 100, 300)

    def __init__(
        self,
        num_classes: int = 91,
        in_channels: int = 3,
        *,
        score_thresh: float = 0.01,
        nms_thresh: float = 0.45,
        detections_per_img: int = 200,
        topk_candidates: int = 400,
    ) -> None:
        default_boxes = nn.DefaultBoxes(
            ((2,), (2, 3), (2, 3), (2, 3), (2,), (2,)),
            (0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05),
            self.strides,
        )
        backbone = VGGFeatures(in_channels)
        predictor = partial(nn.Conv2d, kernel_size=3, padding=1)
        head = SSDHead(backbone.channels, default_boxes.per_position, num_classes, predictor)
        xavier_convolutions(head)
        mean, std = (for_channels(each, in_channels) for each in (MEAN, STD))
        limits = (score_thresh, nms_thresh, detections_per_img, topk_candidates)
        super().__init__((300, 300), mean, std, backbone, default_boxes, head, num_classes, *limits)


register(
    SSD300,
    "ssd300_vgg16",
    "SSD on VGG-16; 35,641,826 parameters, 300x300 images.",
    task="detection",
)
