"""Annotated pictures written in the formats that are read, and what is wrong in each of many ways."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from striate.data.scenes import Look, scenes

CLASSES = tuple("0123456789")
SIZE = (40, 56)
COUNT = 4


def truths(count: int = COUNT) -> list[tuple[torch.Tensor, Any]]:
    """Scenes, of which the second has no objects."""
    drawn = scenes(Look(SIZE, objects=(1, 4)), "train", count)
    empty = scenes(Look(SIZE, objects=(0, 0)), "train", count)
    return [(empty if index == 1 else drawn).sample(index) for index in range(count)]


def save(path: Path, picture: torch.Tensor, orientation: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(picture.permute(1, 2, 0).numpy())
    exif = image.getexif()
    exif[0x0112] = orientation
    image.save(path, exif=exif)


def coco(root: Path, change: Callable[[dict[str, Any]], None] = lambda data: None) -> str:
    """Runs compressed and not in turn; categories with ids 3, 6, ...; images from 11."""
    from striate.data.outlines import packed, runs_of

    data: dict[str, Any] = {"images": [], "annotations": [], "categories": []}
    data["categories"] = [{"id": 3 * (label + 1), "name": name} for label, name in enumerate(CLASSES)]
    for index, (picture, truth) in enumerate(truths()):
        save(root / f"images/{index}.png", picture)
        data["images"].append({"id": index + 11, "file_name": f"{index}.png", "height": SIZE[0], "width": SIZE[1]})
        for box, label, mask in zip(truth.boxes.tolist(), truth.labels.tolist(), truth.masks, strict=True):
            number = len(data["annotations"]) + 1
            runs = runs_of(mask.numpy())
            counts = packed(runs) if number % 2 else runs.counts.tolist()
            data["annotations"].append(
                {
                    "id": number,
                    "image_id": index + 11,
                    "category_id": 3 * (label + 1),
                    "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
                    "segmentation": {"counts": counts, "size": list(SIZE)},
                    "iscrowd": 0,
                }
            )
    change(data)
    (root / "instances.json").write_text(json.dumps(data))
    return f"coco:{root / 'instances.json'}"


def voc(root: Path, change: Callable[[str], str] = lambda text: text) -> str:
    for index, (picture, truth) in enumerate(truths()):
        save(root / f"JPEGImages/{index}.png", picture)
        objects = "".join(
            f"<object><name>{CLASSES[label]}</name><bndbox><xmin>{x0 + 1:g}</xmin><ymin>{y0 + 1:g}</ymin>"
            f"<xmax>{x1:g}</xmax><ymax>{y1:g}</ymax></bndbox></object>"
            for (x0, y0, x1, y1), label in zip(truth.boxes.tolist(), truth.labels.tolist(), strict=True)
        )
        text = (
            f"<annotation><filename>{index}.png</filename><size><width>{SIZE[1]}</width><height>{SIZE[0]}</height>"
            f"<depth>3</depth></size>{objects}</annotation>"
        )
        (root / "Annotations").mkdir(exist_ok=True)
        (root / f"Annotations/{index}.xml").write_text(change(text) if index == 0 else text)
        for name, values in (("Class", truth.class_map), ("Object", _numbers(truth))):
            place = root / f"Segmentation{name}"
            place.mkdir(exist_ok=True)
            Image.fromarray(values.numpy()).save(place / f"{index}.png")
    for name in ("Main", "Segmentation"):
        lists = root / "ImageSets" / name
        lists.mkdir(parents=True, exist_ok=True)
        (lists / "train.txt").write_text("0\n1\n2\n")
        (lists / "val.txt").write_text("3  1\n")
    (root / "classes.txt").write_text("\n".join(CLASSES))
    return f"voc:{root}"


def _numbers(truth: Any) -> torch.Tensor:
    order = torch.arange(1, len(truth) + 1, dtype=torch.uint8).view(-1, 1, 1)
    return (truth.masks * order).amax(0) if len(truth) else torch.zeros(SIZE, dtype=torch.uint8)


def yolo(root: Path, change: Callable[[str], str] = lambda text: text) -> str:
    scale = np.array([SIZE[1], SIZE[0], SIZE[1], SIZE[0]])
    for index, (picture, truth) in enumerate(truths()):
        part = "val" if index == 3 else "train"
        save(root / f"images/{part}/{index}.png", picture)
        lines = []
        for box, label in zip(truth.boxes.numpy() / scale, truth.labels.tolist(), strict=True):
            middle, sides = (box[:2] + box[2:]) / 2, box[2:] - box[:2]
            lines.append(" ".join([str(label), *(f"{value:.9f}" for value in (*middle, *sides))]))
        if lines:  # a picture without a file has no objects
            place = root / f"labels/{part}/{index}.txt"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(change("\n".join(lines)) if index == 0 else "\n".join(lines))
    (root / "data.yaml").write_text(
        "path: /home/somebody/elsewhere\ntrain: ../images/train\nval: images/val\nnames:\n"
        + "".join(f"  {number}: '{name}'\n" for number, name in enumerate(CLASSES))
    )
    return f"yolo:{root}"


def masks(root: Path, change: Callable[[np.ndarray], Image.Image] = Image.fromarray) -> str:
    for index, (picture, truth) in enumerate(truths()):
        save(root / f"images/{index}.png", picture)
        (root / "masks").mkdir(exist_ok=True)
        values = truth.class_map.numpy()
        (change(values) if index == 0 else Image.fromarray(values)).save(root / f"masks/{index}.png")
    (root / "classes.txt").write_text("background\n" + "\n".join(CLASSES))
    return f"masks:{root}"


def labelme(root: Path, change: Callable[[dict[str, Any]], None] = lambda data: None) -> str:
    for index, (picture, truth) in enumerate(truths()):
        save(root / f"{index}.png", picture)
        shapes = [
            {
                "label": CLASSES[label],
                "shape_type": "rectangle",
                "points": [[x1, y1], [x0, y0]] if label % 2 else [[x0, y0], [x1, y1]],
                "group_id": None,
            }
            for (x0, y0, x1, y1), label in zip(truth.boxes.tolist(), truth.labels.tolist(), strict=True)
        ]
        data = {"shapes": shapes, "imagePath": f"{index}.png", "imageHeight": SIZE[0], "imageWidth": SIZE[1]}
        if index == 0:
            change(data)
        (root / f"{index}.json").write_text(json.dumps(data))
    (root / "labels.txt").write_text("__ignore__\n_background_\n" + "\n".join(CLASSES))
    return f"labelme:{root}"
