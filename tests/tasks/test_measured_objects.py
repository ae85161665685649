"""Measures of detections: the same as pycocotools and hotcoco give, right by hand, and defined where nothing is."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_objects import made

from striate.data import Annotation, Detections
from striate.errors import DataError, RunError
from striate.tasks.objects import ObjectMeasures, ObjectRecorder, measure_objects

CLASSES = ("cat", "dog", "bird")
NOTHING = Detections((20, 20), torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0))
BOX = torch.tensor([[2.0, 2, 12, 12]])


def coco_files(
    truths: list[Annotation], guesses: list[Detections], classes: int, *, masks: bool
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What COCO's files would hold, written by pycocotools' own encoder."""
    from pycocotools import mask as encoder

    def encoded(mask: torch.Tensor) -> dict[str, Any]:
        found = encoder.encode(np.asfortranarray(mask.byte().numpy()))
        return {"size": found["size"], "counts": found["counts"].decode()}

    def flat(box: torch.Tensor) -> list[float]:
        x0, y0, x1, y1 = box.double().tolist()
        return [x0, y0, x1 - x0, y1 - y0]

    images, annotations, results = [], [], []
    for number, (truth, found) in enumerate(zip(truths, guesses, strict=True), start=1):
        images.append({"id": number, "height": truth.size[0], "width": truth.size[1], "file_name": f"{number}.png"})
        assert truth.crowd is not None
        for index in range(len(truth)):
            box = flat(truth.boxes[index])
            each = {"id": len(annotations) + 1, "image_id": number, "category_id": int(truth.labels[index]) + 1}
            each |= {"bbox": box, "area": box[2] * box[3], "iscrowd": int(truth.crowd[index])}
            if masks:
                assert truth.masks is not None
                each |= {"segmentation": encoded(truth.masks[index]), "area": float(truth.masks[index].sum())}
            annotations.append(each)
        for index in range(len(found)):
            each = {"image_id": number, "category_id": int(found.labels[index]) + 1}
            each |= {"score": float(found.scores[index].double())}
            if masks:
                assert found.masks is not None
                each["segmentation"] = encoded(found.masks[index])
            else:
                each["bbox"] = flat(found.boxes[index])
            results.append(each)
    names = [{"id": label + 1, "name": str(label)} for label in range(classes)]
    return {"images": images, "annotations": annotations, "categories": names, "info": {}}, results


def peer_numbers(library: str, files: dict[str, Any], results: Any, kind: str, folder: Path) -> list[float | None]:
    """COCO's twelve numbers by another library."""
    (folder / "truth.json").write_text(json.dumps(files))
    (folder / "found.json").write_text(json.dumps(results))
    with contextlib.redirect_stdout(io.StringIO()):
        if library == "pycocotools":
            from pycocotools.coco import COCO
            from pycocotools.cocoeval import COCOeval
        else:
            from hotcoco import COCO, COCOeval
        truth = COCO(str(folder / "truth.json"))
        run = COCOeval(truth, truth.loadRes(str(folder / "found.json")), kind)
        run.evaluate()
        run.accumulate()
        run.summarize()
    return [None if value < 0 else float(value) for value in run.stats]


def close(numbers: list[float | None]) -> Any:
    return [None if value is None else pytest.approx(value, abs=1e-9) for value in numbers]


@pytest.mark.parametrize("library", ["pycocotools", "hotcoco"])
@pytest.mark.parametrize("masks", [False, True], ids=["boxes", "masks"])
def test_peers_agree(library: str, masks: bool, tmp_path: Path) -> None:
    pytest.importorskip(library)

    @settings(max_examples=12, deadline=None)
    @given(seed=st.integers(0, 10**6), pictures=st.integers(1, 5), classes=st.integers(1, 4))
    def agree(seed: int, pictures: int, classes: int) -> None:
        truths, guesses = made(seed, pictures, classes, masks=masks)
        files, results = coco_files(truths, guesses, classes, masks=masks)
        if not results:  # which they refuse
            return
        kind = "segm" if masks else "bbox"
        peer = peer_numbers(library, files, results, kind, tmp_path)
        measures = measure_objects(truths, guesses, tuple(map(str, range(classes))))
        assert list(measures.main.numbers.values()) == close(peer)

    agree()


def test_more_than_a_hundred_detections(tmp_path: Path) -> None:
    pytest.importorskip("pycocotools")
    truths, guesses = made(5, 3, 1, masks=False, many=True)
    guesses = [
        Detections(g.size, g.boxes.repeat(3, 1), g.labels.repeat(3), (g.scores.repeat(3) * 0.9), None) for g in guesses
    ]
    assert max(map(len, guesses)) > 150
    files, results = coco_files(truths, guesses, 1, masks=False)
    peer = peer_numbers("pycocotools", files, results, "bbox", tmp_path)
    assert list(measure_objects(truths, guesses, ("a",)).boxes.numbers.values()) == close(peer)


def test_by_hand() -> None:
    truth = Annotation((20, 20), torch.tensor([[0.0, 0, 10, 10], [10, 10, 20, 20]]), torch.tensor([0, 1]))
    # The first is found, then again, the second is taken for a bird, and there is a dog in an empty corner.
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [10, 10, 20, 19], [12, 0, 20, 8]])
    found = Detections((20, 20), boxes, torch.tensor([0, 0, 2, 1]), torch.tensor([0.9, 0.8, 0.7, 0.6]))
    measures = measure_objects([truth], [found], CLASSES, ["a.png"], threshold=0.5)
    assert measures.boxes.ap == pytest.approx(0.5)  # 1 of the cat, 0 of the dog; there is no bird
    assert measures.boxes.ar100 == pytest.approx(0.5)
    assert measures.boxes.ap_small == pytest.approx(0.5)
    assert measures.boxes.ap_medium is None
    assert measures.masks is None
    assert measures.confusion == ((1, 0, 0, 0), (0, 0, 1, 0), (0, 0, 0, 0), (1, 1, 0, 0))
    (picture,) = measures.pictures
    assert (picture.hits, picture.confused, picture.missed, picture.false_alarms) == (((0, 0),), ((1, 2),), (), (1, 3))
    assert picture.mistakes == 3
    cat, dog, bird = measures.boxes.classes
    assert (cat.precision, cat.recall, cat.f1) == (0.5, 1.0, pytest.approx(2 / 3))
    assert (dog.precision, dog.recall, dog.f1) == (0.0, 0.0, 0.0)
    assert (bird.objects, bird.ap, bird.precision, bird.recall, bird.curves) == (0, None, 0.0, None, None)
    chosen = measure_objects([truth], [found], CLASSES)
    assert chosen.threshold == pytest.approx(0.9)  # F1 there is 2/3, and less below
    assert chosen.chosen
    assert not measures.chosen


def test_nothing_found_and_nothing_there() -> None:
    there = Annotation((20, 20), BOX, torch.tensor([1]))
    found = Detections((20, 20), BOX, torch.tensor([1]), torch.tensor([0.5]))
    nothing_found = measure_objects([there], [NOTHING], CLASSES)
    assert nothing_found.boxes.ap == 0
    assert [each.ap for each in nothing_found.boxes.classes] == [None, 0.0, None]
    assert nothing_found.confusion[1] == (0, 0, 0, 1)
    nothing_there = measure_objects([Annotation((20, 20))], [found], CLASSES)
    assert set(nothing_there.boxes.numbers.values()) == {None}
    nothing_at_all = measure_objects([Annotation((20, 20))], [NOTHING], CLASSES)
    no_picture = measure_objects([], [], CLASSES)
    no_class = measure_objects([Annotation((20, 20))], [NOTHING], ())
    for each in (nothing_found, nothing_there, nothing_at_all, no_picture, no_class):
        assert ObjectMeasures.from_dict(json.loads(json.dumps(each.to_dict(), allow_nan=False))) == each


def test_a_crowd_forgives_detections_of_its_class() -> None:
    truth = Annotation((20, 20), torch.tensor([[0.0, 0, 20, 20]]), torch.tensor([0]), torch.tensor([True]))
    found = Detections((20, 20), BOX.repeat(2, 1), torch.tensor([0, 1]), torch.tensor([0.9, 0.8]))
    measures = measure_objects([truth], [found], CLASSES, threshold=0.1)
    assert measures.objects == 0
    assert measures.pictures[0].false_alarms == (1,)
    assert measures.boxes.ap is None


def test_the_area_of_a_mask_decides_its_size() -> None:
    box = torch.tensor([[0.0, 0, 60, 60]])
    mask = torch.zeros(1, 80, 80, dtype=torch.bool)
    mask[0, :20, :20] = True
    mask[0, 59, 59] = True  # a large box, a small object
    truth = Annotation((80, 80), box, torch.tensor([0]), masks=mask)
    found = Detections((80, 80), box, torch.tensor([0]), torch.tensor([0.9]), mask)
    measures = measure_objects([truth], [found], CLASSES)
    for each in (measures.boxes, measures.masks):
        assert each is not None
        assert (each.ap_small, each.ap_medium) == (1.0, None)
    without = measure_objects(
        [Annotation((80, 80), box, torch.tensor([0]))],
        [Detections((80, 80), box, torch.tensor([0]), torch.tensor([0.9]))],
        CLASSES,
    )
    assert (without.boxes.ap_small, without.boxes.ap_medium) == (None, 1.0)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.booleans())
def test_records_agree_with_themselves(seed: int, masks: bool) -> None:
    truths, guesses = made(seed, 4, 3, masks=masks)
    measures = measure_objects(truths, guesses, CLASSES)
    counts = np.array(measures.confusion)
    assert counts[:-1].sum() == measures.objects
    for label, each in enumerate(measures.main.classes):
        assert counts[label].sum() == each.objects
    f1 = 2 * np.trace(counts) / max(counts[:-1].sum() + counts[:, :-1].sum(), 1)
    for other in np.linspace(0, 1, 9):  # the threshold is the best one
        confusion = np.array(measure_objects(truths, guesses, CLASSES, threshold=float(other)).confusion)
        assert 2 * np.trace(confusion) / max(confusion[:-1].sum() + confusion[:, :-1].sum(), 1) <= f1 + 1e-12
    for picture, truth, found in zip(measures.pictures, truths, guesses, strict=True):
        assert truth.crowd is not None
        seen = [*(a for a, _ in (*picture.hits, *picture.confused)), *picture.missed]
        assert sorted(seen) == torch.arange(len(truth))[~truth.crowd].tolist()
        used = [*(b for _, b in (*picture.hits, *picture.confused)), *picture.false_alarms]
        assert len(set(used)) == len(used) <= len(found)
    assert ObjectMeasures.from_dict(json.loads(json.dumps(measures.to_dict(), allow_nan=False))) == measures
    order = measures.worst(10)
    mistakes = [each.mistakes for each in measures.pictures]
    assert [mistakes[number] for number in order] == sorted((n for n in mistakes if n), reverse=True)


def test_pictures_of_two_processes_are_those_of_one() -> None:
    truths, guesses = made(3, 6, 3, masks=True)
    parts = [ObjectRecorder(CLASSES), ObjectRecorder(CLASSES)]
    for number, (truth, found) in enumerate(zip(truths, guesses, strict=True)):
        parts[number >= 3].add(truth, found, f"{number}.png")
    parts[0].extend(parts[1])
    assert parts[0].measures() == measure_objects(truths, guesses, CLASSES, [f"{n}.png" for n in range(6)])


@pytest.mark.parametrize(
    ("truth", "found", "message"),
    [
        (Annotation((20, 30)), NOTHING, "a.png: got detections on (20, 20); needed (20, 30), the picture's size"),
        (
            Annotation((20, 20), BOX, torch.tensor([3])),
            NOTHING,
            "a.png: got label 3 of an object; needed 0 to 2",
        ),
        (
            Annotation((20, 20)),
            Detections((20, 20), BOX, torch.tensor([-1]), torch.tensor([0.5])),
            "a.png: got label -1 of an detection; needed 0 to 2",
        ),
        (
            Annotation((20, 20)),
            Detections((20, 20), BOX, torch.tensor([1]), torch.tensor([float("nan")])),
            "a.png: got a score that isn't finite; needed numbers",
        ),
    ],
)
def test_what_is_refused(truth: Annotation, found: Detections, message: str) -> None:
    with pytest.raises(DataError) as refused:
        measure_objects([truth], [found], CLASSES, ["a.png"])
    assert str(refused.value) == message.replace("an detection", "a detection")


def test_other_counts_and_other_files_are_refused() -> None:
    with pytest.raises(DataError, match="got detections on 0 pictures; needed 1"):
        measure_objects([Annotation((20, 20))], [], CLASSES)
    with pytest.raises(RunError, match="can't be read"):
        ObjectMeasures.from_dict({"classes": []})
