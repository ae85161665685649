"""What is read back is what was written, for all kinds of annotated files; and every fault has its line."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.data import annotated_files as files

from striate.data import AnnotatedSet, load
from striate.data.annotated import object_map
from striate.data.sources import gather
from striate.data.streamed import Wanted
from striate.errors import DataError

WRITERS = {"coco": files.coco, "voc": files.voc, "yolo": files.yolo, "labelme": files.labelme}


def all_samples(source: str) -> list[tuple[torch.Tensor, Any]]:
    parts = gather(source, Wanted()).parts
    return [each.sample(index) for each in parts.values() for index in range(len(each))]


@pytest.mark.parametrize("kind", WRITERS)
def test_boxes_and_labels_are_those_that_were_written(tmp_path: Path, kind: str) -> None:
    collection = gather(WRITERS[kind](tmp_path), Wanted())
    assert collection.classes == files.CLASSES
    assert set(collection.parts) == ({"train", "val"} if kind in ("voc", "yolo") else {""})
    read = all_samples(collection.source)
    for (picture, truth), (expected, known) in zip(read, files.truths(), strict=True):
        assert torch.equal(picture, expected)
        torch.testing.assert_close(truth.boxes, known.boxes, rtol=1e-5, atol=1e-4)
        assert torch.equal(truth.labels, known.labels)
        assert not truth.crowd.any()


@pytest.mark.parametrize("kind", ["coco", "voc"])
def test_masks_and_maps_are_those_that_were_written(tmp_path: Path, kind: str) -> None:
    source = WRITERS[kind](tmp_path) + (",Segmentation" if kind == "voc" else "")
    parts = gather(source, Wanted()).parts
    for each in parts.values():
        assert each.holds == {"boxes", "masks", "map"}
        assert each.map_classes == ("background", *files.CLASSES)
    for (_, truth), (_, known) in zip(all_samples(source), files.truths(), strict=True):
        assert torch.equal(truth.masks, known.masks)
        assert torch.equal(truth.class_map, known.class_map)
        assert torch.equal(truth.boxes, known.boxes)


@pytest.mark.parametrize("palette", [False, True])
def test_class_maps_are_those_that_were_written(tmp_path: Path, palette: bool) -> None:
    def written(values: np.ndarray) -> Image.Image:
        image = Image.fromarray(values, "L")
        if palette:
            image = Image.fromarray(values, "P")
            image.putpalette([value for number in range(256) for value in (number, 255 - number, 7)])
        return image

    collection = gather(files.masks(tmp_path, written), Wanted())
    assert collection.parts[""].holds == {"map"}
    assert collection.parts[""].map_classes == ("background", *files.CLASSES)
    for (picture, truth), (expected, known) in zip(all_samples(collection.source), files.truths(), strict=True):
        assert torch.equal(picture, expected)
        assert torch.equal(truth.class_map, known.class_map)
        assert len(truth) == 0


def test_polygons_crowds_and_what_is_learnt_of_them(tmp_path: Path) -> None:
    def change(data: dict[str, Any]) -> None:
        first = data["annotations"][0]
        first["segmentation"] = [[2, 3, 12, 3, 12, 13, 2, 13], [20, 20, 24, 20, 24, 24, 20, 24]]
        first["bbox"] = [2, 3, 22, 21]
        data["annotations"][1]["iscrowd"] = 1

    _, truth = all_samples(files.coco(tmp_path, change))[0]
    assert truth.crowd.tolist()[:2] == [False, True]
    expected = torch.zeros(files.SIZE, dtype=torch.bool)
    expected[3:13, 2:12] = True
    expected[20:24, 20:24] = True
    assert torch.equal(truth.masks[0], expected)
    assert torch.equal(truth.class_map, object_map(truth))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("told", [True, False])
def test_exif_turns_annotations_with_their_pictures(tmp_path: Path, orientation: int, told: bool) -> None:
    def change(data: dict[str, Any]) -> None:
        picture, _ = files.truths()[0]
        files.save(tmp_path / "images/0.png", picture, orientation)
        for key in () if told else ("height", "width"):
            del data["images"][0][key]

    (picture, truth), *_ = all_samples(files.coco(tmp_path, change))
    _, known = files.truths()[0]
    assert tuple(picture.shape[1:]) == truth.size
    for box, label, mask in zip(truth.boxes, truth.labels, truth.masks, strict=True):
        x0, y0, x1, y1 = box.long().tolist()
        assert mask[y0:y1, x0:x1].sum() == mask.sum()
        assert int(mask.sum()) in [int(each.sum()) for each in known.masks[known.labels == label]]
    colours = {tuple(picture[:, mask].float().std(1).round().tolist()) for mask in truth.masks}
    assert len(colours) >= 1
    stored, expected = files.truths()[0]
    spread = [float(stored[:, mask].float().mean()) for mask in expected.masks]
    assert sorted(float(picture[:, mask].float().mean()) for mask in truth.masks) == pytest.approx(sorted(spread))


def test_a_changed_label_is_another_identity(tmp_path: Path) -> None:
    before = gather(files.coco(tmp_path), Wanted()).parts[""].identities()

    def change(data: dict[str, Any]) -> None:
        data["annotations"][0]["category_id"] = 3 if data["annotations"][0]["category_id"] != 3 else 6

    after = gather(files.coco(tmp_path, change), Wanted()).parts[""].identities()
    assert [one == other for one, other in zip(before, after, strict=True)] == [False, True, True, True]
    assert [each.name for each in before] == ["0.png", "1.png", "2.png", "3.png"]


def test_sets_are_divided_by_seed_or_list_and_can_be_sent_to_other_processes(tmp_path: Path) -> None:
    source = files.coco(tmp_path)
    loaded = load(source, test_fraction=0.25, seed=1)
    assert (len(loaded.train), len(loaded.test)) == (3, 1)
    assert not {each.digest for each in loaded.train.known} & {each.digest for each in loaded.test.known}
    again = pickle.loads(pickle.dumps(loaded.train))
    assert torch.equal(again.sample(2)[1].masks, loaded.train.sample(2)[1].masks)
    root = tmp_path / "listed"
    files.labelme(root)
    (root / "train.txt").write_text("0\n1.json\n")
    (root / "test.txt").write_text("3\n")
    listed = load(f"labelme:{root}")
    assert [each.name for each in (*listed.train.known, *listed.test.known)] == ["0.png", "1.png", "3.png"]
    assert isinstance(listed.train, AnnotatedSet)


def test_boxes_without_outlines_hold_no_masks(tmp_path: Path) -> None:
    def change(data: dict[str, Any]) -> None:
        data["annotations"][0]["segmentation"] = []

    found = gather(files.coco(tmp_path, change), Wanted()).parts[""]
    assert found.holds == {"boxes"}
    assert found.sample(0)[1].masks is None


def set_first(**values: Any):
    return lambda data: data["annotations"][0].update(values)


COCO_FAULTS = {
    "outside": (set_first(bbox=[50, 3, 20, 8]), ["0.png: annotation 1 has a box 50,3 to 70,11 outside of the picture"]),
    "no area": (set_first(bbox=[5, 3, 0, 8]), ["0.png: annotation 1 has a box 5,3 to 5,11 without area"]),
    "not finite": (set_first(bbox=[5, 3, float("nan"), 8]), ["0.png: annotation 1 has a box", "that isn't finite"]),
    "swapped": (set_first(bbox=[15, 3, -5, 8]), ["0.png: annotation 1 has a box of -5x8, with swapped corners"]),
    "huge": (set_first(bbox=[10**400, 3, 5, 8]), ["0.png: annotation 1 has the bbox"]),
    "category": (
        set_first(category_id=4),
        ["0.png: annotation 1 has the category 4, which isn't among the categories"],
    ),
    "image": (set_first(image_id=99), ["instances.json: annotation 1 is of the image 99"]),
    "image list": (set_first(image_id=[1]), ["instances.json: annotation 1 is of the image [1]"]),
    "mask size": (
        set_first(segmentation={"counts": [3, 4], "size": [1, 7]}),
        ["0.png: annotation 1 has a mask of 7x1; needed 56x40, as the picture"],
    ),
    "mask short": (
        set_first(segmentation={"counts": [3], "size": [40, 56]}),
        ["0.png: annotation 1 has a mask of 3 pixels"],
    ),
    "mask empty": (
        set_first(segmentation={"counts": [2240], "size": [40, 56]}),
        ["annotation 1 has a mask without a pixel"],
    ),
    "polygon outside": (
        set_first(segmentation=[[1, 1, 90, 1, 90, 9]]),
        ["0.png: annotation 1 has a polygon outside of the picture, at 90,1 of 56x40"],
    ),
    "polygon short": (set_first(segmentation=[[1, 1, 9, 1]]), ["annotation 1 has a polygon of 2 points"]),
    "polygon odd": (set_first(segmentation=[[1, 1, 9]]), ["annotation 1 has a polygon that isn't numbers"]),
    "id 0": (set_first(id=0), ["0.png: annotation 0 has the id 0, where ids are from 1"]),
    "id twice": (set_first(id=2), ["annotation 2 has the id 2 of another annotation"]),
    "image twice": (
        lambda data: data["images"].append(dict(data["images"][0])),
        ["instances.json: image 0.png has the id 11 of another image"],
    ),
    "category 0": (
        lambda data: data["categories"].append({"id": 0, "name": "thing"}),
        ["instances.json: category 'thing' has the id 0"],
    ),
    "size": (
        lambda data: data["images"][0].update(width=57),
        ["0.png: is said to be 57x40 (width x height), and is 56x40"],
    ),
    "missing": (
        lambda data: data["images"].append({"id": 99, "file_name": "gone.png", "height": 4, "width": 4}),
        ["gone.png: No such file or directory"],
    ),
    "escape": (
        lambda data: data["images"].append({"id": 99, "file_name": "../../../etc/passwd", "height": 4, "width": 4}),
        ["instances.json: image ../../../etc/passwd lies outside of the data set's folder"],
    ),
    "text": (
        lambda data: data["annotations"].append("x"),
        ["instances.json: annotations[", "has no id that is a whole number"],
    ),
}


@pytest.mark.parametrize("name", COCO_FAULTS)
def test_faults_of_coco_name_file_and_object(tmp_path: Path, name: str) -> None:
    change, told = COCO_FAULTS[name]
    source = files.coco(tmp_path, change)
    with pytest.raises(DataError) as error:
        load(source)
    for part in told:
        assert part in str(error.value)
    assert "\n" not in str(error.value)
    loaded = load(source, skip_broken=True)
    assert len(loaded.train) + len(loaded.test) == files.COUNT
    assert loaded.skipped


def swapped(text: str) -> str:
    for old, new in (("xmin>", "#>"), ("xmax>", "xmin>"), ("#>", "xmax>")):
        text = text.replace(old, new)
    return text


FAULTS = {
    "voc class": ("voc", lambda text: text.replace("<name>", "<name>x"), ["Annotations/0.xml: object 1 (x"]),
    "voc swapped": ("voc", swapped, ["JPEGImages/0.png: object 1", "swapped corners"]),
    "voc text": ("voc", lambda text: text.replace("<xmax>", "<xmax>a"), ["JPEGImages/0.png: object 1", "isn't finite"]),
    "voc no box": ("voc", lambda text: text.replace("bndbox", "box"), ["Annotations/0.xml: object 1", "has no bndbox"]),
    "voc entities": (
        "voc",
        lambda text: '<!DOCTYPE a [<!ENTITY b "cc">]>' + text,
        ["Annotations/0.xml: has a document type definition"],
    ),
    "voc broken": ("voc", lambda text: text[:-5], ["Annotations/0.xml: is no XML"]),
    "voc size": (
        "voc",
        lambda text: text.replace("<width>56", "<width>560"),
        ["JPEGImages/0.png: is said to be 560x40"],
    ),
    "yolo class": (
        "yolo",
        lambda text: "11" + text[1:],
        ["labels/train/0.txt: line 1 has the class 11; needed 0 to 9"],
    ),
    "yolo words": ("yolo", lambda text: "1 a b c d", ["labels/train/0.txt: line 1 has a word that is no number"]),
    "yolo outside": (
        "yolo",
        lambda text: "1 0.5 0.5 0.2 0.2\n1 1.5 0.5 0.2 0.2",
        ["images/train/0.png: line 2 has a box", "outside"],
    ),
    "yolo short": ("yolo", lambda text: "1 0.5 0.5", ["labels/train/0.txt: line 1 has 2 numbers after the class"]),
    "yolo negative": (
        "yolo",
        lambda text: "1 0.5 0.5 -0.2 0.2",
        ["line 1 has a box of -0.2x0.2, with swapped corners"],
    ),
    "yolo not finite": ("yolo", lambda text: "1 0.5 nan 0.2 0.2", ["line 1 has a box", "isn't finite"]),
    "labelme label": (
        "labelme",
        lambda data: data["shapes"][0].update(label="x"),
        ["0.json: shape 1 (x) is of no class of 0, 1"],
    ),
    "labelme points": (
        "labelme",
        lambda data: data["shapes"][0].update(points=[["a", 1]]),
        ["0.json: shape 1", "aren't numbers"],
    ),
    "labelme kind": (
        "labelme",
        lambda data: data["shapes"][0].update(shape_type="star"),
        ["0.json: shape 1", "is a star of 2 points"],
    ),
    "labelme no area": (
        "labelme",
        lambda data: data["shapes"][0].update(points=[[3, 3], [3, 9]]),
        ["0.png: shape 1", "without area"],
    ),
    "labelme size": ("labelme", lambda data: data.update(imageWidth=7), ["0.png: is said to be 7x40"]),
    "masks size": (
        "masks",
        lambda values: Image.fromarray(values[:-1]),
        ["images/0.png: has a mask of 56x39, 0.png; needed 56x40"],
    ),
    "masks class": (
        "masks",
        lambda values: Image.fromarray(values + np.uint8(12)),
        ["images/0.png: has the class 1", "needed 0 to 10, or 255"],
    ),
    "masks colour": (
        "masks",
        lambda values: Image.fromarray(values).convert("RGB"),
        ["images/0.png: is in colour (RGB)"],
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_of_other_files_name_file_and_object(tmp_path: Path, name: str) -> None:
    kind, change, told = FAULTS[name]
    source = {**WRITERS, "masks": files.masks}[kind](tmp_path, change)  # type: ignore[operator]
    with pytest.raises(DataError) as error:
        load(source)
    for part in told:
        assert part in str(error.value)
    assert "\n" not in str(error.value)
    assert load(source, skip_broken=True).skipped


def test_an_unreadable_picture_is_told_with_its_name(tmp_path: Path) -> None:
    source = files.coco(tmp_path)
    (tmp_path / "images/2.png").write_bytes(b"not a picture")
    with pytest.raises(DataError, match=r"2\.png: holds no image that can be read"):
        load(source)
    assert len(gather(source, Wanted(skip_broken=True)).parts[""]) == 3


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "is no JSON"),
        ("[]", "holds list; needed lists of images, annotations, categories"),
        ('{"images": []}', "holds images; needed lists"),
        ('{"images": [], "annotations": [], "categories": []}', "has no categories"),
        ("[" * 100_000, "is no JSON that can be read"),
    ],
)
def test_files_that_are_no_coco(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(DataError) as error:
        load(f"coco:{path}")
    assert told in str(error.value)
    assert "a.json" in str(error.value)


@pytest.mark.parametrize("kind", ["coco", "voc", "yolo", "labelme", "masks"])
def test_places_that_hold_nothing(tmp_path: Path, kind: str) -> None:
    for place in (tmp_path, tmp_path / "missing"):
        with pytest.raises(DataError) as error:
            load(f"{kind}:{place}")
        assert str(place) in str(error.value)


def test_labelme_shapes(tmp_path: Path) -> None:
    import base64
    import io

    stored = io.BytesIO()
    Image.fromarray(np.array([[0, 255], [255, 255]], dtype=np.uint8)).save(stored, "PNG")
    picture = io.BytesIO()
    Image.fromarray(np.zeros((20, 30, 3), dtype=np.uint8)).save(picture, "PNG")
    small = base64.b64encode(stored.getvalue()).decode()
    shapes = [
        {"label": "a", "shape_type": "polygon", "points": [[1, 1], [5, 1], [5, 5], [1, 5]], "group_id": 1},
        {"label": "a", "shape_type": "polygon", "points": [[8, 1], [9, 1], [9, 5], [8, 5]], "group_id": 1},
        {"label": "b", "shape_type": "circle", "points": [[15, 10], [15, 14]]},
        {
            "label": "b",
            "shape_type": "mask",
            "points": [[3, 8], [4, 9]],
            "mask": small,
        },
        {"label": "c", "shape_type": "point", "points": [[3, 8]]},
    ]
    data = {"shapes": shapes, "imagePath": "..\\elsewhere\\x.png", "imageHeight": 20, "imageWidth": 30}
    data["imageData"] = base64.b64encode(picture.getvalue()).decode()
    (tmp_path / "x.json").write_text(json.dumps(data))
    collection = gather(f"labelme:{tmp_path}", Wanted())
    assert collection.skipped == (("x.json", "shape 5 (c) is a point, which has no area"),)
    found = collection.parts[""]
    for _ in range(2):
        image, truth = found.sample(0)
        assert image.shape == (3, 20, 30)
        assert found.classes == ("a", "b")
        assert truth.labels.tolist() == [0, 1, 1]
        assert truth.masks.flatten(1).sum(1).tolist() == [20, 52, 3]
        assert truth.boxes[0].tolist() == [1, 1, 9, 5]
        assert truth.boxes[2].tolist() == [3, 8, 5, 10]
    assert pickle.loads(pickle.dumps(found)).sample(0)[0].shape == (3, 20, 30)


def test_voc_pixels_are_counted_from_0_where_a_box_begins_there(tmp_path: Path) -> None:
    files.voc(tmp_path)
    path = tmp_path / "Annotations/0.xml"
    path.write_text(
        path.read_text().replace("<xmin>", "<xmin>0</xmin><old>", 1).replace("</xmin><ymin>", "</old><ymin>", 1)
    )
    collection = gather(f"voc:{tmp_path}", Wanted())
    assert "counted from 0" in collection.notes[0]


def test_a_folder_of_coco_has_parts(tmp_path: Path) -> None:
    # As COCO is published: annotations/instances_*.json beside train2017/ and val2017/.
    root = tmp_path / "published"
    for part in ("train", "val"):
        files.coco(root / part)
        (root / "annotations").mkdir(exist_ok=True)
        (root / part / "instances.json").rename(root / f"annotations/instances_{part}2017.json")
        (root / part / "images").rename(root / f"{part}2017")
        (root / part).rmdir()
    (root / "annotations/captions_train2017.json").write_text("{}")
    loaded = load(f"coco:{root}")
    assert (len(loaded.train), len(loaded.test)) == (4, 4)
    assert (loaded.train.known[0].name, loaded.test.known[0].name) == ("train/0.png", "val/0.png")
