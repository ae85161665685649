"""Pictures of objects: every case can be drawn, labels are there, lines scale with the picture."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from striate.data import Annotation, Detections
from striate.errors import DataError
from striate.report.figures import png
from striate.report.objects import draw_annotation, draw_comparison, draw_detections, outlines

CLASSES = ("cat", "$dog$", "_\n")


def annotation(size: tuple[int, int] = (60, 80), *, masks: bool = False) -> Annotation:
    boxes = torch.tensor([[5.0, 20, 30, 50], [40, 10, 80, 60], [0, 0, 80, 60]])
    drawn = None
    if masks:
        drawn = torch.zeros(3, *size, dtype=torch.bool)
        drawn[0, 20:50, 5:30] = True
        drawn[1, 10:60, 40:80] = True
    return Annotation(size, boxes, torch.tensor([0, 1, 2]), torch.tensor([False, False, True]), drawn)


def picture(channels: int = 3, size: tuple[int, int] = (60, 80)) -> torch.Tensor:
    return torch.randint(0, 256, (channels, *size), dtype=torch.uint8)


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def size_of(figure: Figure) -> tuple[int, int]:
    return Image.open(io.BytesIO(png(figure))).size


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("masks", [False, True])
def test_boxes_and_labels_are_drawn(channels: int, masks: bool) -> None:
    figure = draw_annotation(picture(channels), annotation(masks=masks), CLASSES)
    assert size_of(figure) == (640, 480)  # enlarged by a whole number
    assert texts(figure) == ["cat", "$dog$", r"_\n (crowd)"]


def test_the_class_has_its_colour() -> None:
    drawn = png(draw_annotation(picture() // 8, annotation(), CLASSES))
    shown = np.array(Image.open(io.BytesIO(drawn)).convert("RGB")).reshape(-1, 3)
    for colour in ((255, 165, 0), (0x5A, 0x78, 0xE1), (0x69, 0xE1, 0xFF)):
        assert (shown == colour).all(1).sum() > 100


def test_detections_have_scores_from_a_threshold_on() -> None:
    found = Detections((60, 80), annotation().boxes, torch.tensor([0, 0, 1]), torch.tensor([0.9, 0.5, 0.2]))
    assert texts(draw_detections(picture(), found, CLASSES)) == ["cat 0.90", "cat 0.50", "$dog$ 0.20"]
    assert texts(draw_detections(picture(), found, CLASSES, threshold=0.5)) == ["cat 0.90", "cat 0.50"]
    figure = draw_comparison(picture(), annotation(), found, CLASSES, threshold=0.6)
    assert [text.get_text() for text in figure.texts] == ["truth: 3 objects", "found: 1 object"]
    png(figure)


def test_nothing_can_be_drawn() -> None:
    nothing = Detections((60, 80), torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0))
    png(draw_annotation(picture(), Annotation((60, 80)), CLASSES))
    png(draw_annotation(picture(), Annotation((60, 80), masks=torch.zeros(0, 60, 80, dtype=torch.bool)), ()))
    png(draw_comparison(picture(), Annotation((60, 80)), nothing, CLASSES))


def test_a_crowded_picture_has_a_legend_instead() -> None:
    boxes = torch.rand(400, 4) * 20
    boxes[:, 2:] += boxes[:, :2] + 1
    many = Annotation((60, 80), boxes, torch.arange(400) % 3)
    figure = draw_annotation(picture(), many, CLASSES)
    assert [text.get_text() for text in figure.texts] == ["400 labels had no room", "$dog$", r"_\n", "cat"]
    png(figure)


def test_a_long_name_and_a_label_without_name() -> None:
    one = Annotation((60, 80), torch.tensor([[5.0, 20, 30, 50]]), torch.tensor([7]))
    assert texts(draw_annotation(picture(), one, CLASSES)) == ["class 7"]
    one = Annotation((60, 80), torch.tensor([[5.0, 20, 30, 50]]), torch.tensor([0]))
    (said,) = texts(draw_annotation(picture(size=(60, 80)), one, ("x" * 90,)))
    assert len(said) <= 22


@pytest.mark.slow
def test_lines_and_letters_scale_with_the_picture() -> None:
    small = draw_annotation(picture(), annotation(), CLASSES)
    large = draw_annotation(picture(size=(1500, 2400)), annotation((1500, 2400)), CLASSES)
    assert size_of(large) == (2000, 1250)
    for figures in (lambda figure: figure.axes[0].texts[0].get_fontsize(), lambda figure: _width(figure)):
        assert figures(large) > 1.8 * figures(small)


def _width(figure: Figure) -> float:
    return float(figure.axes[0].collections[1].get_linewidths()[0])


@pytest.mark.parametrize("wrong", [torch.zeros(3, 4, 5), torch.zeros(4, 5, dtype=torch.uint8)])
def test_no_picture(wrong: torch.Tensor) -> None:
    with pytest.raises(DataError, match=re.escape("needed uint8 (channels, height, width)")):
        draw_annotation(wrong, Annotation((4, 5)), CLASSES)


def test_an_outline_runs_along_the_edge_of_the_pixels() -> None:
    mask = np.zeros((20, 30), dtype=bool)
    mask[4:10, 6:20] = True
    (line,) = outlines(mask)
    assert line[:, 0].min() == 6
    assert line[:, 0].max() == 20
    assert line[:, 1].min() == 4
    assert line[:, 1].max() == 10
    mask[6:8, 8:12] = False
    assert len(outlines(mask)) == 2  # a hole has an outline too
    assert outlines(np.zeros((3, 3), dtype=bool)) == []
