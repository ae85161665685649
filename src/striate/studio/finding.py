"""A detector's boxes on a picture, the boxes that non-maximum suppression removes, and a segmentation's classes."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from striate import ops
from striate.errors import StudioError
from striate.studio.explaining import ShownResult
from striate.studio.jobs import Report
from striate.studio.pictures import pixels_code
from striate.studio.predictions import Predictions, Proposals, heats, predictions
from striate.studio.subject import Subject
from striate.studio.workspace import Picture, Workspace

#: The most boxes that are shown, those with the highest scores; and the most masks, which have the picture's size.
MOST_BOXES: Final = 300
_MOST_MASKS: Final = 24


@dataclass(frozen=True, eq=False)
class Candidates:
    """The boxes of one picture before suppression, by falling score.

    Args:
        boxes: (N, 4) left, top, right, bottom, in pixels.
        scores, labels: (N,).
        kept: bool (N,): whether suppression keeps the box.
        by: int64 (N,): for each removed box, the kept box with the highest score that it overlaps; -1 for kept boxes,
        and
            for boxes that are dropped because the network returns a limited number.
        overlap: (N,): intersection over union with that box.
        masks: (M, H, W) of the first kept boxes, or None.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    kept: Tensor
    by: Tensor
    overlap: Tensor
    masks: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Found(ShownResult):
    """The boxes found, and the detector's predictions at every position; None if they aren't known."""

    predicted: Predictions | None = None


def suppressed(
    boxes: Tensor, scores: Tensor, labels: Tensor, overlap: float, limit: int = MOST_BOXES
) -> tuple[Tensor, Tensor, Tensor]:
    """Suppresses candidates that are sorted by falling score; returns ``kept``, ``by`` and ``overlap``.

    A box is removed by the kept box of its class with the highest score that it overlaps by more than the threshold. Of
    the remaining boxes, at most ``limit`` are kept.

    >>> boxes = torch.tensor([[0.0, 0, 10, 10], [1, 0, 11, 10], [20, 20, 30, 30]])
    >>> suppressed(boxes, torch.tensor([0.9, 0.8, 0.7]), torch.tensor([1, 1, 1]), 0.5)[:2]
    (tensor([ True, False,  True]), tensor([-1,  0, -1]))
    """
    kept = torch.zeros(len(boxes), dtype=torch.bool)
    kept[ops.batched_nms(boxes, scores, labels, overlap)] = True
    places = kept.nonzero()[:, 0]
    by, share = torch.full((len(boxes),), -1), torch.zeros(len(boxes))
    if len(places) and len(boxes):
        ious = ops.box_iou(boxes, boxes[places]).float()
        guilty = (ious > overlap) & (labels[:, None] == labels[places]) & (places < torch.arange(len(boxes))[:, None])
        guilty &= ~kept[:, None]
        some = guilty.any(1)
        first = guilty.to(torch.uint8).argmax(1)  # the one with the highest score, because they are sorted
        by[some] = places[first[some]]
        share[some] = ious[some, first[some]]
    kept[places[limit:]] = False
    return kept, by, share


def candidates(model: nn.Module, pixels: Tensor, score: float | None, overlap: float | None) -> Candidates:
    """Runs a detector on a picture, with suppression switched off, and suppresses the boxes.

    Args:
        model: called with pictures (C, H, W) from 0 to 1; a copy, whose thresholds are changed.
        pixels: uint8 (C, H, W).
        score, overlap: thresholds; None for the network's own. Networks without suppression keep all boxes.

    Raises:
        StudioError: the network's results have another form.
    """
    heads = _deciding(model)
    own, limit = getattr(heads, "nms_thresh", None), getattr(heads, "detections_per_img", MOST_BOXES)
    if own is not None:
        overlap = float(own) if overlap is None else overlap
        heads.nms_thresh = 2.0  # no IoU exceeds 1, so nothing is removed
        heads.detections_per_img = MOST_BOXES
    if score is not None:
        setattr(heads, _threshold(heads), score)
    with torch.no_grad():
        found: Any = model([_image(model, pixels)])
    if not (isinstance(found, list) and found and {"boxes", "scores", "labels"} <= set(found[0])):
        raise StudioError(type(model).__name__, f"gives {type(found).__name__}", "needed boxes, scores and labels")
    result = {name: each.detach().cpu() for name, each in found[0].items()}
    order = result["scores"].argsort(descending=True, stable=True)
    if score is not None:
        order = order[result["scores"][order] > score]
    order = order[:MOST_BOXES]
    boxes, scores, labels = (result[name][order] for name in ("boxes", "scores", "labels"))
    if own is None or overlap is None:
        every = torch.ones(len(boxes), dtype=torch.bool)
        kept, by, share = every, torch.full((len(boxes),), -1), torch.zeros(len(boxes))
    else:
        kept, by, share = suppressed(boxes, scores, labels, overlap, limit)
    masks = result.get("masks")
    if masks is not None:
        masks = masks[order][kept][:_MOST_MASKS].reshape(-1, *masks.shape[-2:]).float()
    return Candidates(boxes, scores, labels, kept, by, share, masks)


def _deciding(model: nn.Module) -> Any:
    """The part of a detector that has the thresholds of score and overlap as attributes."""
    return getattr(model, "roi_heads", model)


def _threshold(heads: Any) -> str:
    return "score_thresh" if hasattr(heads, "score_thresh") else "score_threshold"


def _image(model: nn.Module, pixels: Tensor) -> Tensor:
    like = next(model.parameters(), torch.zeros(()))
    return (pixels.float() / 255).to(like.device, like.dtype)


def objects(
    workspace: Workspace, picture: Picture, score: float | None, overlap: float | None, report: Report | None = None
) -> Found:
    """Runs a copy of the studio's network on a picture to find objects or classes of pixels.

    Raises:
        StudioError: the network has another task.
    """
    subject = workspace.subject
    if subject.task not in ("detection", "instance", "semantic") or picture.pixels is None:
        raise StudioError(subject.name, "finds no objects and no classes of pixels", "needed a network that does")
    with workspace.lock:
        model = copy.deepcopy(subject.whole).eval()
    if subject.task == "semantic":
        return _classes(model, picture, subject)
    heads = _deciding(model)
    usual, least = getattr(heads, "nms_thresh", None), getattr(heads, _threshold(heads), None)
    found = candidates(model, picture.pixels, score, overlap)
    if report is not None:
        report("looking at every position", 1, 2)
    predicted = predictions(model, _image(model, picture.pixels))
    header = {
        "kind": "boxes",
        "picture": picture.id,
        "boxes": _listed(found, [name_of(subject, label) for label in found.labels.tolist()]),
        "suppresses": usual is not None,
        "overlap": usual if overlap is None else overlap,
        "score": least if score is None else score,
        "masks": 0 if found.masks is None else len(found.masks),
        "references": None if predicted is None else predicted.kind,
        "levels": [] if predicted is None else [level.to_dict() for level in predicted.levels],
        "proposals": None,
        "call": _code(subject, picture, score, overlap),
    }
    parts = {} if found.masks is None else {"masks": found.masks}
    if predicted is not None:
        parts |= heats(predicted.levels)
        if predicted.proposals is not None:
            header["proposals"] = _proposed(predicted.proposals)
    return Found(header, parts, predicted=predicted)


def _listed(found: Candidates, names: list[str]) -> list[dict[str, Any]]:
    rows = (each.tolist() for each in (found.boxes, found.scores, found.kept, found.by, found.overlap))
    keys = ("box", "score", "kept", "by", "overlap")
    return [dict(zip(keys, row, strict=True)) | {"name": name} for *row, name in zip(*rows, names, strict=True)]


def _proposed(given: Proposals) -> dict[str, Any]:
    """The most likely proposals, and the result of suppression within each level."""
    boxes, scores, levels = (each[:MOST_BOXES].float() for each in (given.boxes, given.scores, given.levels))
    kept, by, share = suppressed(boxes, scores, levels, given.overlap, given.most)
    names = [f"level {int(level)}" for level in levels]
    listed = _listed(Candidates(boxes, scores, levels, kept, by, share), names)
    return {"boxes": listed, "overlap": given.overlap, "count": len(given.boxes), "most": given.most}


def _code(subject: Subject, picture: Picture, score: float | None, overlap: float | None) -> str:
    """Python code that computes the remaining boxes at these thresholds."""
    heads = _deciding(subject.whole)
    owner = "model" if heads is subject.whole else "model.roi_heads"
    set_ = f"{owner}.{_threshold(heads)} = {score}\n" if score is not None else ""
    set_ += f"{owner}.nms_thresh = {overlap}\n" if overlap is not None and hasattr(heads, "nms_thresh") else ""
    return (
        f"{subject.code.partition('from striate.models.dense')[0].rstrip()}\n\n{pixels_code(picture)}\n\n{set_}"
        "import torch\n\nfrom striate.studio.predictions import predictions\n\n"
        "with torch.no_grad():\n    found = model([pixels / 255])[0]  # boxes, scores and labels that are left\n"
        "said = predictions(model, pixels / 255)  # reference boxes, scores and boxes at every position\n"
    )


def _classes(model: nn.Module, picture: Picture, subject: Subject) -> Found:
    """The class of each pixel."""
    with torch.no_grad():
        output: Any = model(picture.inputs)
    logits = output["out"] if isinstance(output, dict) else output
    chosen = logits[0].argmax(0)
    shares = torch.bincount(chosen.flatten(), minlength=logits.shape[1]).double() / chosen.numel()
    listed = [
        {"class": number, "name": name_of(subject, number, background=0), "share": share}
        for number, share in enumerate(shares.tolist())
        if share
    ]
    header = {
        "kind": "classes",
        "picture": picture.id,
        "classes": sorted(listed, key=lambda each: -float(str(each["share"]))),
        "call": f"{subject.code}\n\n{picture.code}\n\nmodel(inputs)['out'][0].argmax(0)\n",
    }
    return Found(header, {"map": chosen[None].float()})


def name_of(subject: Subject, label: int, *, background: int = 1) -> str:
    """The name of a label; detectors count from 1, because 0 is the background."""
    number = label - background
    return subject.classes[number] if 0 <= number < len(subject.classes) else f"class {number}"
