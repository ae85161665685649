"""Detectors of a few layers, whose files are made in seconds: bright squares of 8 pixels are objects."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from striate import nn
from striate.models.centernet import CenterNet
from striate.models.condinst import _COUNT, _SHARED, CondInst
from striate.models.faster_rcnn import BoxPredictor, TwoMLPHead
from striate.models.mask_rcnn import MaskHead, MaskPredictor, MaskRoIHeads
from striate.models.one_stage import Candidates, OneStageDetector, Outputs, best_of_levels, per_box
from striate.models.two_stage import RoIHeads, TwoStageDetector

#: With the background.
CLASSES = 4


class Bright(torch.nn.Module):
    """Logits of three classes from one 8x8 window a place: how bright its channels are, beyond two fifths."""

    def __init__(self, stride: int, outputs: int) -> None:
        super().__init__()
        self.look = torch.nn.Conv2d(3, outputs, 8, stride, (8 - stride) // 2)
        with torch.no_grad():
            self.look.weight.normal_(0, 0.02)
            self.look.bias.normal_(0, 0.1)  # type: ignore[union-attr]

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.look(images)
        return found

    @torch.no_grad()
    def see(self, rows: slice, sureness: float) -> Bright:
        """Has these outputs say in turn how bright red, green and blue are."""
        indices = range(*rows.indices(self.look.out_channels))
        for place, row in enumerate(indices):
            self.look.weight[row].normal_(0, 0.003)
            self.look.weight[row, place % 3] += sureness / 64
            self.look.bias[row] = -0.4 * sureness  # type: ignore[index]
        return self


class Places(torch.nn.Module):
    """The maps of a centre detector."""

    def __init__(self, masks: bool) -> None:
        super().__init__()
        self.look = Bright(4, CLASSES - 1 + 4 + masks * _COUNT).see(slice(0, CLASSES - 1), 20.0)
        self.masks = masks
        self.fine = torch.nn.Conv2d(3, _SHARED, 2, 2)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        heat, box, filters = self.look(images).split([CLASSES - 1, 4, self.masks * _COUNT], 1)
        maps = {"heat": heat, "box": box + torch.tensor([0.0, 0, 0.7, 0.7])[:, None, None]}
        return {**maps, "filters": filters * 3, "fine": self.fine(images)} if self.masks else maps


def centers(masks: bool) -> CenterNet:
    model = (CondInst if masks else CenterNet)(CLASSES, mean=0.0, deviation=1.0, score_threshold=0.5, detections=40)
    model.maps = Places(masks)
    model.map_layer = None  # type: ignore[assignment]
    return model.eval()


class Levels(torch.nn.Module):
    """Pixels, with a stride of 4 and 8, as maps by name."""

    strides = (4, 8)

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.levels = torch.nn.ModuleList(
            torch.nn.Sequential(Bright(stride, channels).see(slice(0, 3), 4.0), torch.nn.ReLU())
            for stride in self.strides
        )

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {str(index): level(images) for index, level in enumerate(self.levels)}


class OneStage(OneStageDetector):
    """RetinaNet's end on two levels."""

    strides = Levels.strides
    export_sizes = (16, 32)

    def __init__(self) -> None:
        anchors = nn.AnchorGenerator(((8,), (16,)), (0.5, 1.0))
        plain = nn.DetectionInput(64, 64, (0.0,) * 3, (1.0,) * 3, size_divisible=16)
        super().__init__(plain, Levels(6), anchors, Head(), CLASSES, 0.4, 0.1, 20, 60)
        self.box_coder = nn.BoxCoder()

    def decoded(self, outputs: Outputs, levels: list[Tensor]) -> Tensor:
        return self.box_coder.decode(outputs["bbox_regression"], torch.cat(levels))

    def candidates(self, outputs: Outputs, levels: list[Tensor]) -> Candidates:
        scores = outputs["cls_logits"].sigmoid()
        return best_of_levels(scores, outputs["bbox_regression"], levels, self.box_coder.decode, self.topk_candidates)


class Head(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.classes = torch.nn.Conv2d(6, 2 * CLASSES, 1)
        self.boxes = torch.nn.Conv2d(6, 2 * 4, 1)
        with torch.no_grad():
            for layer in (self.classes, self.boxes):
                layer.weight.normal_(0, 0.03)
            self.classes.bias.fill_(-2.0)  # type: ignore[union-attr]
            for anchor in range(2):
                for label in range(1, CLASSES):
                    self.classes.weight[anchor * CLASSES + label, label - 1] += 2.0 + anchor

    def forward(self, levels: list[Tensor]) -> Outputs:
        return {
            "cls_logits": torch.cat([per_box(self.classes(each), CLASSES) for each in levels], 1),
            "bbox_regression": torch.cat([per_box(self.boxes(each), 4) for each in levels], 1),
        }


def two_stage(masks: bool) -> TwoStageDetector:
    anchors = nn.AnchorGenerator(((8,), (16,)), (0.5, 1.0))
    limits = {"pre_nms_top_n_test": 40, "post_nms_top_n_test": 12, "nms_thresh": 0.5, "score_thresh": 0.5}
    rpn: Any = nn.RegionProposalNetwork(anchors, nn.ProposalHead(6, 2), **limits)
    pool = nn.MultiScaleRoIAlign({"0": 4, "1": 8}, 3)
    parts: tuple[torch.nn.Module, ...] = (pool, TwoMLPHead(6 * 9, 16), BoxPredictor(16, CLASSES))
    if masks:
        parts += (nn.MultiScaleRoIAlign({"0": 4, "1": 8}, 4), MaskHead(6), MaskPredictor(6, CLASSES))
    heads = (MaskRoIHeads if masks else RoIHeads)(*parts, score_thresh=0.3, nms_thresh=0.1, detections_per_img=10)
    plain = nn.DetectionInput(64, 64, (0.0,) * 3, (1.0,) * 3, size_divisible=16)
    model = (Outlined if masks else Sized)(Levels(6), rpn, heads, plain, CLASSES, Levels.strides)
    with torch.no_grad():
        # What is bright is proposed, and is of the class whose colour is brightest in it.
        for layer in (rpn.head.conv[0][0], rpn.head.cls_logits, rpn.head.bbox_pred):
            layer.weight.normal_(0, 0.03)
        for channel in range(3):
            rpn.head.conv[0][0].weight[channel, channel, 1, 1] += 1
        rpn.head.cls_logits.weight[:, :3] += 2
        rpn.head.cls_logits.bias.fill_(-2)
        for channel in range(3):
            heads.box_head.fc6.weight[channel, channel * 9 : channel * 9 + 9] += 1 / 9
            heads.box_head.fc7.weight[channel, channel] += 1
            heads.box_predictor.cls_score.weight[channel + 1, channel] += 8
        heads.box_predictor.cls_score.bias.copy_(torch.tensor([1.5, 0, 0, 0]))
    return model.eval()


class Sized(TwoStageDetector):
    export_sizes = (16, 32)


class Outlined(Sized):
    has_masks = True  # type: ignore[assignment]


def pictures(size: tuple[int, int], *objects: int) -> Tensor:
    """Dark pictures with so many bright squares each, (N, 3, H, W)."""
    generator = torch.Generator().manual_seed(7)
    made = 0.1 * torch.rand(len(objects), 3, *size, generator=generator)
    places = [(y, x) for y in range(2, size[0] - 8, 16) for x in range(2, size[1] - 8, 16)]
    for picture, count in zip(made, objects, strict=True):
        for place in torch.randperm(len(places), generator=generator)[:count].tolist():
            y, x = places[place]
            picture[place % 3, y : y + 8, x : x + 8] += 0.9
    return made.clamp(0, 1)


__all__ = ["CLASSES", "OneStage", "centers", "pictures", "two_stage"]
