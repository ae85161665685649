"""Measures of detections and class maps as figures and tables, for every kind of measures that there are."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from rich.console import Console, RenderableType

from cases import quick_but
from striate.data import Annotation, Detections
from striate.errors import DataError
from striate.report import maps, object_figures, object_tables
from striate.report.figures import png
from striate.tasks.maps import MapMeasures, measure_maps
from striate.tasks.objects import ObjectMeasures, measure_objects

SIZE = (40, 60)
NAMES = ("$a$\n", "a very long name of a class that goes on and on", "[red]c")


def sample(count: int, *, masks: bool, classes: int = 3) -> tuple[torch.Tensor, Annotation, Detections]:
    corners = torch.rand(count, 2) * 20
    boxes = torch.cat([corners, corners + 4 + torch.rand(count, 2) * 15], 1)
    labels = torch.randint(0, classes, (count,))
    outlines = torch.zeros(count, *SIZE, dtype=torch.bool) if masks else None
    if outlines is not None:
        for mask, (x0, y0, x1, y1) in zip(outlines, boxes.int().tolist(), strict=True):
            mask[y0:y1, x0:x1] = True
    truth = Annotation(SIZE, boxes, labels, torch.rand(count) < 0.1, outlines)
    wrong = torch.where(torch.rand(count) < 0.7, labels, (labels + 1) % classes)
    picture = torch.randint(0, 256, (3, *SIZE), dtype=torch.uint8)
    return picture, truth, Detections(SIZE, boxes + torch.rand(count, 4) * 3, wrong, torch.rand(count), outlines)


def measured(
    pictures: int, count: int, classes: Sequence[str], *, masks: bool = False
) -> tuple[ObjectMeasures, list[tuple[torch.Tensor, Annotation, Detections]]]:
    samples = [sample(count, masks=masks, classes=len(classes)) for _ in range(pictures)]
    truths, found = [each[1] for each in samples], [each[2] for each in samples]
    return measure_objects(truths, found, classes, [f"folder/{number}.png" for number in range(pictures)]), samples


KINDS = {
    "masks": lambda: measured(4, 5, NAMES, masks=True),
    "nothing": lambda: measured(2, 0, NAMES),
    "no pictures": lambda: measured(0, 0, ()),
    "many classes": lambda: measured(3, 40, [f"class number {n}" for n in range(32)]),
}


@pytest.mark.parametrize("kind", quick_but(KINDS, ["many classes"]))
def test_every_figure_and_table_of_objects(kind: str) -> None:
    measures, samples = KINDS[kind]()
    worst = measures.worst(2)
    figures = [
        object_figures.precision_recall(measures),
        object_figures.detection_confusion(measures),
        object_figures.average_precisions(measures),
        object_figures.worst_pictures(measures, worst, [samples[number] for number in worst]),
    ]
    for figure in figures:
        png(figure)
    for make in (object_tables.object_measures, object_tables.object_classes):
        for width in (20, 45, 100):
            told(make(measures), width)
    told(object_tables.worst_objects(measures, worst), 60)


def told(what: RenderableType, width: int) -> str:
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(what)
    return console.export_text()


def test_the_worst_pictures_say_what_is_wrong() -> None:
    boxes = torch.tensor([[2.0, 2, 12, 12], [20, 20, 30, 30], [40, 5, 50, 15]])
    truth = Annotation(SIZE, boxes, torch.tensor([0, 1, 0]))
    shown = Detections(SIZE, boxes[:2].flip(0), torch.tensor([2, 0]), torch.tensor([0.9, 0.8]))
    more = torch.cat([shown.boxes, torch.tensor([[0.0, 30, 9, 39], [50, 30, 59, 39]])])
    found = Detections(SIZE, more, torch.tensor([2, 0, 1, 1]), torch.tensor([0.9, 0.8, 0.7, 0.1]))
    measures = measure_objects([truth], [found], ("cat", "dog", "bird"), ["a.png"], threshold=0.5)
    picture = torch.zeros(3, *SIZE, dtype=torch.uint8)
    figure = object_figures.worst_pictures(measures, [0], [(picture, truth, found)])
    left, right = ([text.get_text() for text in axes.texts] for axes in figure.axes)
    assert left == ["cat", "taken for another: dog", "missed: cat"]
    assert right == ["wrong: bird 0.90", "cat 0.80", "false: dog 0.70"]
    said = [text.get_text() for text in figure.texts]
    assert "1 missed, 1 taken for another, 1 false" in said
    row = told(object_tables.worst_objects(measures, [0]), 80).splitlines()[1].split()
    assert row == ["a.png", "1", "1", "1", "1"]


def test_tables_have_the_numbers() -> None:
    measures, _ = measured(4, 6, NAMES, masks=True)
    assert measures.masks is not None
    text = told(object_tables.object_measures(measures), 100)
    assert re.search(rf"AP50 +{measures.masks.ap50:.3f} +{measures.boxes.ap50:.3f}", text)
    assert "AP large" not in text
    assert "4 pictures," in text
    text = told(object_tables.object_classes(measures), 100)
    assert f"score of {measures.threshold:.2f} or more, which gives the greatest F1 here" in text
    assert "[red]c" in text
    assert r"$a$\n" in text


def made_maps(classes: int, ignored: bool) -> tuple[MapMeasures, list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]]:
    samples = []
    for _ in range(3):
        truth = torch.randint(0, classes, SIZE, dtype=torch.uint8)
        found = torch.where(torch.rand(SIZE) < 0.7, truth, torch.randint(0, classes, SIZE, dtype=torch.uint8))
        if ignored:
            truth[:10] = 255
        samples.append((torch.randint(0, 256, (3, *SIZE), dtype=torch.uint8), truth, found))
    names = ("background", *(f"class {n}" for n in range(1, classes)), "nowhere")
    return measure_maps([each[1] for each in samples], [each[2] for each in samples], names), samples


@pytest.mark.parametrize(
    ("classes", "ignored"), [(1, True), (3, False), pytest.param(32, True, marks=pytest.mark.slow)]
)
def test_every_figure_and_table_of_maps(classes: int, ignored: bool) -> None:
    measures, samples = made_maps(classes, ignored)
    worst = measures.worst(2)
    figures = [
        maps.map_confusion(measures),
        maps.class_ious(measures),
        maps.worst_maps(measures, worst, [samples[number] for number in worst]),
        maps.draw_map_comparison(*samples[0], measures.classes, "x.png"),
    ]
    for figure in figures:
        png(figure)
    for make in (object_tables.map_measures, object_tables.map_classes):
        for width in (20, 45, 100):
            told(make(measures), width)
    told(object_tables.worst_map_pictures(measures, worst), 60)


def test_a_class_map_has_its_colours_and_a_legend() -> None:
    class_map = torch.zeros(SIZE, dtype=torch.uint8)
    class_map[10:20, 10:20], class_map[30:, 30:] = 2, 255
    figure = maps.draw_class_map(torch.zeros(1, *SIZE, dtype=torch.uint8), class_map, ("background", "cat", "dog"))
    assert [text.get_text() for text in figure.texts] == ["background", "dog", "not known"]
    shown = pixels_of(figure)
    assert (shown == [0x36, 0x48, 0x87]).all(2).sum() > 5000  # 60 % of the dog's colour over black
    with pytest.raises(DataError, match="got class 3; needed 0 to 2, or 255"):
        maps.draw_class_map(torch.zeros(1, *SIZE, dtype=torch.uint8), class_map + 3, ("background", "cat", "dog"))
    with pytest.raises(DataError, match="the picture's size"):
        maps.draw_class_map(torch.zeros(1, 9, 9, dtype=torch.uint8), class_map, ("background", "cat", "dog"))


def pixels_of(figure: Figure) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(png(figure))).convert("RGB")).astype(int)
