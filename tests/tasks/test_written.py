"""Files of objects and of class maps come back as they were written, and other programs read them."""

from __future__ import annotations

import contextlib
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_objects import made
from PIL import Image

from striate.data import Detections
from striate.errors import DataError, RunError
from striate.tasks.writing import CocoIds, ObjectWriter, read_class_map, read_objects, write_class_map

CLASSES = ("cat", "naïve 猫", 'a "b"\n')
NAMES = ("a.png", "folder/b.jpg", "odd \udce9 name.png", "\u2028.png")


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), masks=st.booleans())
def test_json_lines_come_back(tmp_path_factory: pytest.TempPathFactory, seed: int, masks: bool) -> None:
    _, guesses = made(seed, len(NAMES), 3, masks=masks)
    path = tmp_path_factory.mktemp("found") / "found.jsonl"
    with ObjectWriter(path, CLASSES) as writer:
        for name, found in zip(NAMES, guesses, strict=True):
            writer.write(name, found)
    rows = read_objects(path, CLASSES)
    assert [row.image for row in rows] == ["a.png", "folder/b.jpg", "odd \\udce9 name.png", "\u2028.png"]
    for row, found in zip(rows, guesses, strict=True):
        assert row.found.size == found.size
        assert torch.equal(row.found.labels, found.labels)
        torch.testing.assert_close(row.found.boxes, found.boxes, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(row.found.scores, found.scores, rtol=1e-5, atol=1e-6)
        if masks and len(found):
            assert row.found.masks is not None
            assert found.masks is not None
            assert torch.equal(row.found.masks, found.masks)
        else:
            assert row.found.masks is None
    assert [len(json.loads(line)["objects"]) for line in path.read_bytes().splitlines()] == list(map(len, guesses))


@pytest.mark.parametrize("masks", [False, True])
def test_pycocotools_reads_results(tmp_path: Path, masks: bool) -> None:
    pytest.importorskip("pycocotools")
    with contextlib.redirect_stdout(io.StringIO()):
        from pycocotools.coco import COCO
    truths, guesses = made(7, 3, 3, masks=masks)
    names = ["x.jpg", "y.jpg", "z.jpg"]
    ids = CocoIds({name: 40 + 3 * n for n, name in enumerate(names)}, dict(zip(CLASSES, (1, 17, 90), strict=True)))
    with ObjectWriter(tmp_path / "results.json", CLASSES, ids) as writer:
        for name, found in zip(names, guesses, strict=True):
            writer.write(name, found)
    images = [
        {"id": ids.images[name], "height": truth.size[0], "width": truth.size[1]}
        for name, truth in zip(names, truths, strict=True)
    ]
    truth_file = {"images": images, "annotations": [], "categories": [{"id": n, "name": str(n)} for n in (1, 17, 90)]}
    (tmp_path / "truth.json").write_text(json.dumps(truth_file))
    with contextlib.redirect_stdout(io.StringIO()):
        results = COCO(str(tmp_path / "truth.json")).loadRes(str(tmp_path / "results.json"))
    for name, found in zip(names, guesses, strict=True):
        loaded = results.loadAnns(results.getAnnIds(imgIds=[ids.images[name]]))
        assert len(loaded) == len(found)
        for number, each in enumerate(loaded):
            assert each["category_id"] == (1, 17, 90)[int(found.labels[number])]
            assert each["score"] == pytest.approx(float(found.scores[number]), rel=1e-5)
            x, y, width, height = json.loads(json.dumps(each["bbox"]))
            if not masks:  # else pycocotools makes the box anew
                assert [x, y, x + width, y + height] == pytest.approx(found.boxes[number].tolist(), abs=1e-3)
            else:
                assert found.masks is not None
                assert np.array_equal(results.annToMask(each).astype(bool), found.masks[number].numpy())


def test_no_pictures_and_no_objects(tmp_path: Path) -> None:
    nothing = Detections((8, 9), torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0))
    with ObjectWriter(tmp_path / "none.json", CLASSES, CocoIds({"a": 1}, dict.fromkeys(CLASSES, 1))) as writer:
        writer.write("a", nothing)
    assert json.loads((tmp_path / "none.json").read_text()) == []
    with ObjectWriter(tmp_path / "none.jsonl", CLASSES):
        pass
    assert read_objects(tmp_path / "none.jsonl", CLASSES) == []
    with ObjectWriter(tmp_path / "one.jsonl", CLASSES) as writer:
        writer.write("a", nothing)
    (row,) = read_objects(tmp_path / "one.jsonl", CLASSES)
    assert len(row.found) == 0
    assert row.found.size == (8, 9)


def test_nothing_is_written_after_an_error(tmp_path: Path) -> None:
    one = Detections((8, 8), torch.tensor([[1.0, 1, math.nan, 4]]), torch.tensor([0]), torch.tensor([0.5]))
    with pytest.raises(DataError, match=r"a\.png: got a box or a score that isn't finite"), _writer(tmp_path) as writer:
        writer.write("a.png", one)
    assert list(tmp_path.iterdir()) == []


def _writer(folder: Path) -> ObjectWriter:
    return ObjectWriter(folder / "found.jsonl", CLASSES)


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"needed \.jsonl, or \.json for COCO's results"):
        ObjectWriter(tmp_path / "found.csv", CLASSES)
    with pytest.raises(RunError, match=r"needed those of COCO's file, for its results"):
        ObjectWriter(tmp_path / "found.json", CLASSES)
    with pytest.raises(RunError, match="got no id of the class 'cat'"):
        ObjectWriter(tmp_path / "found.json", CLASSES, CocoIds({}, {}))
    one = Detections((8, 8), torch.ones(1, 4), torch.tensor([3]), torch.tensor([0.5]))
    with pytest.raises(DataError, match=r"a\.png: got labels up to 3; needed 0 to 2"), _writer(tmp_path) as writer:
        writer.write("a.png", one)
    ids = CocoIds({"photo.jpg": 1}, dict.fromkeys(CLASSES, 1))
    with (
        pytest.raises(RunError, match=r"did you mean photo\.jpg"),
        ObjectWriter(tmp_path / "found.json", CLASSES, ids) as writer,
    ):
        writer.write("phot.jpg", Detections((8, 8), torch.ones(1, 4), torch.tensor([0]), torch.tensor([0.5])))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}\n", "line 1 has no picture's objects (KeyError: 'height')"),
        ('{"height": 2, "width": 2, "image": "a", "objects": [{"class": "cow"}]}\n', "unknown class 'cow'"),
        ("no json\n", "line 1 has no picture's objects (JSONDecodeError"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "found.jsonl"
    path.write_text(text)
    with pytest.raises(RunError) as refused:
        read_objects(path, CLASSES)
    assert message in str(refused.value)
    with pytest.raises(RunError, match="can't be read"):
        read_objects(tmp_path / "no.jsonl", CLASSES)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), classes=st.integers(1, 255), height=st.integers(1, 40), width=st.integers(1, 40))
def test_class_maps_come_back(
    tmp_path_factory: pytest.TempPathFactory, seed: int, classes: int, height: int, width: int
) -> None:
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (height, width), generator=draw)
    labels[torch.rand(height, width, generator=draw) < 0.1] = 255
    path = tmp_path_factory.mktemp("maps") / "map.png"
    write_class_map(path, labels, ("background", *map(str, range(1, classes))))
    assert torch.equal(read_class_map(path), labels.byte())
    with Image.open(path) as image:
        assert image.mode == "P"
        colours = np.array(image.convert("RGB"))
    known = (labels == 0).numpy()
    assert (colours[known] == (0x30, 0x34, 0x3B)).all()


def test_other_class_maps_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"got class 2; needed \(H, W\) of 0 to 1, or 255"):
        write_class_map(tmp_path / "a.png", torch.tensor([[2]]), "ab")
    with pytest.raises(DataError, match="got 256 classes; needed at most 255"):
        write_class_map(tmp_path / "a.png", torch.tensor([[2]]), tuple(map(str, range(256))))
    Image.new("RGB", (3, 3)).save(tmp_path / "rgb.png")
    with pytest.raises(DataError, match="got pixels of mode RGB"):
        read_class_map(tmp_path / "rgb.png")
    with pytest.raises(DataError, match="can't be read"):
        read_class_map(tmp_path / "no.png")
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(DataError, match="can't be read"):
        read_class_map(tmp_path / "text.png")
