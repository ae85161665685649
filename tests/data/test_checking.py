from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.data import annotated_files as files

from striate.data.checking import check, count, faults, sample_of
from striate.data.scenes import Look, scenes
from striate.errors import DataError


def test_a_set_in_numbers() -> None:
    images = scenes(Look((64, 64), crowds=0.5, ignored=0.5), "train", 8)
    counts = count(images)
    truths = [images.sample(index)[1] for index in range(8)]
    assert counts.pictures == 8
    assert counts.sizes == (((64, 64), 8),)
    assert sum(counts.classes.values()) == sum(map(len, truths))
    assert counts.each[0] == min(map(len, truths))
    assert counts.crowds == sum(int(truth.crowd.sum()) for truth in truths)
    boxes = torch.cat([truth.boxes for truth in truths])
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    assert counts.smallest is not None
    assert counts.largest is not None
    assert counts.smallest.width * counts.smallest.height == areas.min()
    assert counts.largest.width * counts.largest.height == areas.max()
    assert counts.unknown == pytest.approx(sum(float((each.class_map == 255).float().mean()) for each in truths) / 8)
    assert "sides" not in counts.to_dict()


def test_pictures_without_objects_are_named(tmp_path: Path) -> None:
    checked, _ = check(files.coco(tmp_path))
    assert checked.parts[""].unlabelled == ("1.png",)
    assert checked.faults == ()
    assert checked.holds == ("boxes", "map", "masks")


def test_class_maps_are_counted_by_pixels(tmp_path: Path) -> None:
    checked, _ = check(files.masks(tmp_path))
    counts = checked.parts[""]
    assert counts.counted == "pixels"
    assert sum(counts.classes.values()) == files.COUNT * files.SIZE[0] * files.SIZE[1]
    assert list(counts.classes)[:2] == ["background", "0"]


def test_all_faults_are_found_and_what_is_right_is_counted(tmp_path: Path) -> None:
    def change(data: dict[str, Any]) -> None:
        data["annotations"][0]["bbox"] = [100, 100, 5, 5]
        data["annotations"][1]["category_id"] = 77
        data["images"].append({"id": 90, "file_name": "gone.png"})

    checked, collection = check(files.coco(tmp_path, change))
    assert [(fault.file, fault.thing) for fault in checked.faults] == [
        ("0.png", "annotation 2"),
        ("0.png", "annotation 1"),
        ("gone.png", ""),
    ]
    assert collection is not None
    assert faults(collection.parts[""]) == list(checked.faults)
    assert checked.parts[""].pictures == files.COUNT
    assert checked.to_dict()["faults"][2]["file"] == "gone.png"


def test_labelled_images_are_checked_too(tmp_path: Path) -> None:
    picture, _ = files.truths()[0]
    for name in ("cat/1.png", "cat/2.png", "dog/1.png"):
        files.save(tmp_path / name, picture)
    checked, _ = check(f"folder:{tmp_path}")
    assert checked.parts[""].classes == {"cat": 2, "dog": 1}
    assert checked.parts[""].counted == "images"
    (tmp_path / "cat/2.png").write_bytes(b"broken")
    checked, _ = check(f"folder:{tmp_path}")
    assert [fault.file for fault in checked.faults] == ["cat/2.png"]
    assert checked.parts[""].classes == {"cat": 1, "dog": 1}
    with pytest.raises(DataError, match="no such source"):
        check("nothing")


def test_a_sample_is_spread_over_the_pictures(tmp_path: Path) -> None:
    _, collection = check(files.yolo(tmp_path))
    assert collection is not None
    assert [name for name, _, _ in sample_of(collection, 2)] == ["images/train/0.png", "images/val/3.png"]
    assert len(list(sample_of(collection, 99))) == files.COUNT
