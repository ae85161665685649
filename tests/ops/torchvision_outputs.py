"""What torchvision computes of small inputs, for tests that have no torchvision.

    python3 tests/ops/torchvision_outputs.py          with torchvision 0.14.1 (Debian's python3-torchvision)

writes ``torchvision.npz`` beside this file: ``cases`` is a list in JSON of (function, arguments, keywords), in which
"@3" stands for array 3; the result of case 5 is ``result5``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

PATH = Path(__file__).parent / "torchvision.npz"


def boxes(random: Any, count: int, size: float = 40.0) -> Any:
    centre, extent = random.uniform(-4, size + 4, (count, 2)), random.exponential(size / 5, (count, 2))
    return np.concatenate([centre - extent / 2, centre + extent / 2], 1).astype(np.float32)


def cases(random: Any) -> list[tuple[str, list[Any], dict[str, Any]]]:
    made: list[tuple[str, list[Any], dict[str, Any]]] = []
    for count in (1, 40, 300):
        some = boxes(random, count)
        some[: count // 4] = some[count // 4 : count // 4 * 2]  # equal boxes
        scores = np.round(random.uniform(0, 1, count), 1 if count == 40 else 6).astype(np.float32)  # equal scores
        for threshold in (0.1, 0.5, 0.7):
            made.append(("nms", [some, scores, threshold], {}))
            made.append(("batched_nms", [np.abs(some), scores, random.randint(0, 4, count), threshold], {}))
    # Overlaps of exactly a half, a third and a fifth, which are no numbers above them.
    steps = np.array([[0, 0, 3, 1], [1, 0, 4, 1], [0, 2, 2, 3], [1, 2, 3, 3], [0, 4, 3, 5], [2, 4, 5, 5]], np.float32)
    thresholds = (0.5, 1 / 3, 0.2, 0.3333333432674408, 0.20000000298023224)
    made += [("nms", [steps, np.linspace(1, 0.5, 6).astype(np.float32), threshold], {}) for threshold in thresholds]
    image = random.standard_normal((2, 3, 12, 14)).astype(np.float32)
    regions = np.concatenate([random.randint(0, 2, (9, 1)), boxes(random, 9)], 1).astype(np.float32)
    regions[0, 1:], regions[1, 1:], regions[2, 1:] = [(5, 5, 5, 5), (-30, -30, 90, 90), (9, 9, 2, 2)]
    ways = [{"sampling_ratio": samples, "aligned": aligned} for aligned in (False, True) for samples in (-1, 2, 3)]
    made += [("roi_align", [image, regions, [3, 5], 0.3], way) for way in ways]
    made.append(("roi_align", [image[0][None], [boxes(random, 3, 12.0)], 4], {}))
    made.append(("roi_pool", [image, regions, [3, 5], 0.3], {}))
    made.append(("roi_pool", [image, regions, 4, 1.0], {}))
    one, other = boxes(random, 7), boxes(random, 5)
    overlaps = ("box_iou", "generalized_box_iou", "distance_box_iou", "complete_box_iou")
    made += [(name, [one, other], {}) for name in overlaps]
    for name in ("generalized_box_iou_loss", "distance_box_iou_loss", "complete_box_iou_loss"):
        made += [(name, [one[:5], other], {"reduction": how}) for how in ("none", "mean", "sum")]
    formats = ("xyxy", "xywh", "cxcywh")
    made += [("box_convert", [one, before, after], {}) for before in formats for after in formats]
    made.append(("clip_boxes_to_image", [one, [20, 30]], {}))
    made.append(("remove_small_boxes", [one, 6.0], {}))
    made.append(("box_area", [one], {}))
    made.append(("masks_to_boxes", [random.uniform(0, 1, (4, 9, 11)) > 0.9], {}))
    logits, truth = random.standard_normal((6, 3)).astype(np.float32) * 4, random.randint(0, 2, (6, 3))
    for how in ({}, {"alpha": -1.0, "gamma": 1.0}, {"reduction": "mean"}, {"reduction": "sum"}):
        made.append(("sigmoid_focal_loss", [logits, truth.astype(np.float32)], dict(how)))
    return made


def main() -> None:
    import torch
    import torchvision

    arrays: dict[str, Any] = {}
    described = []

    def known(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            same = [key for key, array in arrays.items() if array is value]
            key = same[0] if same else str(len(arrays))
            arrays[key] = value
            return f"@{key}"
        return [known(each) for each in value] if isinstance(value, list) else value

    def tensors(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return torch.from_numpy(value)
        return [tensors(each) for each in value] if isinstance(value, list) else value

    results = {}
    for number, (name, arguments, keywords) in enumerate(cases(np.random.RandomState(0))):
        found = getattr(torchvision.ops, name)(*tensors(arguments), **keywords)
        described.append((name, known(arguments), keywords))
        results[f"result{number}"] = found.numpy()
    np.savez_compressed(PATH, cases=json.dumps(described), **arrays, **results)
    print(f"{len(described)} cases of torchvision {torchvision.__version__}: {PATH.stat().st_size} bytes")


if __name__ == "__main__":
    main()
