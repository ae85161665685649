"""COCO's measures by faster-coco-eval: the only file that uses this library.

The library computes the same as pycocotools (Lin et al. 2014, "Microsoft COCO", and its evaluation server), in C++, and
needs only NumPy. This file works around the pitfalls of such libraries. Ids begin at 1, since 0 means "unmatched".
Detections are passed as a data set, since an empty list of results is refused. Areas are passed, since they decide the
size class of an object. Numbers of classes without objects, which the library gives as -1, become None.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Region: TypeAlias = Literal["boxes", "masks"]
#: A mask in COCO's format: ``size`` (H, W) and ``counts``, compressed run lengths down the columns.
Rle: TypeAlias = dict[str, Any]

#: From 0.5 to 0.95 by 0.05: the overlaps over which AP is a mean.
THRESHOLDS: Final = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
#: The recalls at which precision is read: 0 to 1 by 0.01.
RECALLS: Final = 101
#: Largest numbers of detections of an image and a class, for three kinds of average recall.
MOST: Final = (1, 10, 100)
#: Objects by their area in pixels: small ones have less than 32 x 32, large ones more than 96 x 96.
SIZES: Final = ("all", "small", "medium", "large")
_TYPES: Final = {"boxes": "bbox", "masks": "segm"}


@dataclass(frozen=True, eq=False)
class Regions:
    """The objects or the detections of one picture, in the form in which they are compared.

    Args:
        labels: int (N,), from 0.
        boxes: float64 (N, 4), x y width height.
        areas: float64 (N,), pixels, which decide the size class. An object has the area of its mask, as in COCO's
            files, or of its box if no mask is known. A detection has the area of its box when boxes are compared, that
            of its mask when masks are.
        masks: N of them, or None.
        scores: float64 (N,) of detections.
        crowd: bool (N,) of objects.
    """

    labels: NDArray[np.int64]
    boxes: NDArray[np.float64]
    areas: Mapping[Region, NDArray[np.float64]]
    masks: tuple[Rle, ...] | None
    scores: NDArray[np.float64]
    crowd: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.labels)


def regions(
    boxes: Tensor, labels: Tensor, masks: Tensor | None, *, scores: Tensor | None = None, crowd: Tensor | None = None
) -> Regions:
    """Boxes (N, 4) as x0 y0 x1 y1, labels (N,) and masks bool (N, H, W) in the form that is compared."""
    count = len(labels)
    corners = boxes.detach().cpu().double().numpy().reshape(-1, 4)
    sides = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
    encoded = None if masks is None else tuple(encode(masks.detach().cpu()))
    of_boxes = of_masks = sides[:, 2] * sides[:, 3]
    if masks is not None:
        of_masks = masks.detach().flatten(1).sum(1).cpu().double().numpy()
    if scores is None:
        of_boxes = of_masks
    return Regions(
        labels.detach().cpu().numpy().astype(np.int64),
        sides,
        {"boxes": of_boxes, "masks": of_masks},
        encoded,
        np.zeros(count) if scores is None else scores.detach().cpu().double().numpy(),
        np.zeros(count, dtype=np.bool_) if crowd is None else crowd.detach().cpu().numpy(),
    )


def encode(masks: Tensor) -> list[Rle]:
    """Masks bool (N, H, W) as run lengths; ``counts`` are bytes."""
    from faster_coco_eval.core import mask

    if not len(masks):
        return []
    columns = np.asfortranarray(masks.permute(1, 2, 0).to(torch.uint8).numpy())
    encoded: list[Rle] = mask.encode(columns)
    return encoded


def decode(encoded: Sequence[Rle], size: tuple[int, int]) -> Tensor:
    """Run lengths as masks bool (N, H, W).

    Raises:
        ValueError: run lengths of another size, or none.
    """
    from faster_coco_eval.core import mask

    found = torch.zeros(len(encoded), *size, dtype=torch.bool)
    for number, each in enumerate(encoded):
        if tuple(each["size"]) != size:
            raise ValueError(f"a mask of {tuple(each['size'])} on a picture of {size}")
        found[number] = torch.from_numpy(np.ascontiguousarray(mask.decode(each))).bool()
    return found


def overlaps(found: Regions, objects: Regions, region: Region) -> NDArray[np.float64]:
    """Intersection over union (M, N) of M detections and N objects; with a crowd, over the detection's area."""
    from faster_coco_eval.core import mask

    if not len(found) or not len(objects):
        return np.zeros((len(found), len(objects)))
    crowd = objects.crowd.astype(int).tolist()
    if region == "boxes":
        shared: NDArray[np.float64] = np.asarray(mask.iou(found.boxes, objects.boxes, crowd))
        return shared.reshape(len(found), len(objects))
    assert found.masks is not None
    assert objects.masks is not None
    return np.asarray(mask.iou(list(found.masks), list(objects.masks), crowd)).reshape(len(found), len(objects))


@dataclass(frozen=True, eq=False)
class Totals:
    """The results of COCO's evaluation; NaN where there is nothing to count.

    Args:
        precision: (10 overlaps, 101 recalls, K classes, 4 sizes), the best at that recall or more, of 100 detections.
        scores: the same, of the detection that reaches the recall.
        recall: (10 overlaps, K classes, 4 sizes, 3 numbers of detections).
    """

    precision: NDArray[np.float64]
    scores: NDArray[np.float64]
    recall: NDArray[np.float64]


def totals(
    objects: Sequence[Regions], found: Sequence[Regions], sizes: Sequence[tuple[int, int]], classes: int, region: Region
) -> Totals:
    """COCO's evaluation of the detections on several pictures of ``sizes`` (H, W) against the true objects."""
    shape = (len(THRESHOLDS), RECALLS, classes, len(SIZES))
    if not objects or not classes:
        nothing = np.full(shape, np.nan)
        return Totals(nothing, nothing, np.full((shape[0], classes, len(SIZES), len(MOST)), np.nan))
    from faster_coco_eval import COCO, COCOeval_faster

    images = [{"id": number, "height": height, "width": width} for number, (height, width) in enumerate(sizes, start=1)]
    names = [{"id": label + 1, "name": str(label)} for label in range(classes)]

    def data_set(parts: Sequence[Regions]) -> Any:
        return COCO(
            {"images": images, "categories": names, "annotations": _annotations(parts, region)}, print_function=_quiet
        )

    run: Any = COCOeval_faster(
        data_set(objects), data_set(found), _TYPES[region], print_function=_quiet, separate_eval=True
    )
    run.params.maxDets = list(MOST)
    run.evaluate()
    run.accumulate()
    precision, scores, recall = (np.array(run.eval[name], dtype=float) for name in ("precision", "scores", "recall"))
    known = precision[..., -1] >= 0
    return Totals(
        np.where(known, precision[..., -1], np.nan),
        np.where(known, scores[..., -1], np.nan),
        np.where(recall >= 0, recall, np.nan),
    )


def _annotations(parts: Sequence[Regions], region: Region) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for image, part in enumerate(parts, start=1):
        for number in range(len(part)):
            each = {
                "id": len(found) + 1,
                "image_id": image,
                "category_id": int(part.labels[number]) + 1,
                "bbox": part.boxes[number].tolist(),
                "area": float(part.areas[region][number]),
                "iscrowd": int(part.crowd[number]),
                "score": float(part.scores[number]),
            }
            if region == "masks":
                assert part.masks is not None
                each["segmentation"] = part.masks[number]
            found.append(each)
    return found


def _quiet(*_: object) -> None:
    """Replaces the library's print."""
