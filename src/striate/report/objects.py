"""Objects on their pictures: boxes, outlines, and labels that can be read; truth beside what was found."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from contourpy import contour_generator
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from torch import Tensor

from striate.data import Annotation, Detections
from striate.report.labels import Placed, place_labels
from striate.report.sheets import Panel, pixels, points, scale_of, sheet, text_widths
from striate.report.text import printable, short
from striate.tasks.colours import colour_of

_EDGE: Final = "#111418"
#: What a mask's colour covers of the picture.
_OPAQUE: Final = 0.45
#: Columns of letters that a class's name has on a picture.
_NAME: Final = 22
#: More objects than this have no labels, since nobody could read them; a legend tells what their colours mean.
_LABELLED: Final = 150
#: Of one picture beside another, pixels.
_BESIDE: Final = 560


@dataclass(frozen=True, eq=False)
class Outlined:
    """One object as it is drawn.

    Args:
        box: x0, y0, x1, y1, pixels of the picture.
        name: of its class.
        colour: of its class.
        text: its label.
        dashed: whether it is drawn with broken lines, as crowds are.
        mask: bool (H, W), or None.
    """

    box: tuple[float, float, float, float]
    name: str
    colour: str
    text: str
    dashed: bool = False
    mask: NDArray[np.bool_] | None = None


def draw_annotation(picture: Tensor, annotation: Annotation, classes: Sequence[str]) -> Figure:
    """A picture with its objects: boxes and, where they are known, outlines; crowds are dashed.

    Args:
        picture: uint8 (C, H, W).
        annotation: of the same height and width.
        classes: names of the labels.

    Raises:
        DataError: no picture; a label without a name.
    """
    return sheet([[annotated(picture, annotation, classes)]])


def draw_detections(picture: Tensor, found: Detections, classes: Sequence[str], *, threshold: float = 0.0) -> Figure:
    """A picture with what a network found on it, of a score of at least ``threshold``.

    Args:
        picture: uint8 (C, H, W).
        found: the detections.
        classes: names of the labels.
        threshold: the least score that is drawn.

    Raises:
        DataError: as :func:`draw_annotation`.
    """
    return sheet([[detected(picture, found.above(threshold), classes)]])


def draw_comparison(
    picture: Tensor, truth: Annotation, found: Detections, classes: Sequence[str], *, threshold: float = 0.0
) -> Figure:
    """The truth at the left, what was found with a score of at least ``threshold`` at the right."""
    seen = found.above(threshold)
    left = annotated(picture, truth, classes, title=f"truth: {_count(len(truth))}", width=_BESIDE)
    right = detected(picture, seen, classes, title=f"found: {_count(len(seen))}", width=_BESIDE)
    return sheet([[left, right]], width=_BESIDE)


def framed(picture: Tensor, box: tuple[float, float, float, float]) -> Tensor:
    """Pictures, uint8 (N, C, H, W), with a light frame with a dark edge around a box (x0, y0, x1, y1), pixels."""
    height, width = picture.shape[2:]
    thick = max(1, round(min(height, width) / 150))
    left, top = (max(0, math.floor(side)) for side in box[:2])
    right, bottom = min(width, math.ceil(box[2])), min(height, math.ceil(box[3]))
    drawn = picture.clone()
    for out, value in ((2 * thick, 20), (thick, 255)):
        inner = drawn[..., top:bottom, left:right].clone()
        drawn[..., max(0, top - out) : bottom + out, max(0, left - out) : right + out] = value
        drawn[..., top:bottom, left:right] = inner
    return drawn


def _count(count: int) -> str:
    return f"{count:,} object{'s' * (count != 1)}"


def annotated(
    picture: Tensor,
    annotation: Annotation,
    classes: Sequence[str],
    *,
    title: str = "",
    width: int | None = None,
    marks: Sequence[str] = (),
) -> Panel:
    """The truth as a panel of a sheet; ``marks``, if given, stand before the labels, one an object."""
    assert annotation.crowd is not None
    names = short(classes, _NAME)
    objects = []
    for number, (box, label, crowd) in enumerate(
        zip(annotation.boxes.tolist(), annotation.labels.tolist(), annotation.crowd.tolist(), strict=True)
    ):
        name = _name(names, label)
        text = (marks[number] if marks else "") + name + (" (crowd)" if crowd else "")
        mask = None if annotation.masks is None else annotation.masks[number].cpu().numpy()
        objects.append(Outlined((box[0], box[1], box[2], box[3]), name, colour_of(label), text, crowd, mask))
    return panel(picture, objects, title=title, width=width)


def detected(
    picture: Tensor,
    found: Detections,
    classes: Sequence[str],
    *,
    title: str = "",
    width: int | None = None,
    marks: Sequence[str] = (),
) -> Panel:
    """What was found as a panel of a sheet; labels have the score."""
    names = short(classes, _NAME)
    objects = []
    for number, (box, label, score) in enumerate(
        zip(found.boxes.tolist(), found.labels.tolist(), found.scores.tolist(), strict=True)
    ):
        name = _name(names, label)
        text = f"{marks[number] if marks else ''}{name} {score:.2f}"
        mask = None if found.masks is None else found.masks[number].cpu().numpy()
        objects.append(Outlined((box[0], box[1], box[2], box[3]), name, colour_of(label), text, False, mask))
    return panel(picture, objects, title=title, width=width)


def _name(names: Sequence[str], label: int) -> str:
    return names[label] if 0 <= label < len(names) else f"class {label}"


def panel(picture: Tensor, objects: Sequence[Outlined], *, title: str = "", width: int | None = None) -> Panel:
    """A picture with objects, as a panel of a sheet.

    Labels that have no room are left out; then a legend tells what the colours mean.

    Args:
        picture: uint8 (C, H, W).
        objects: the most important first, which are drawn on top and get the best places for their labels.
        title: of the panel.
        width: of the panel on its sheet, as :func:`.sheets.sheet` takes it.
    """
    shown = pixels(picture)
    height, wide = shown.shape[:2]
    scale = scale_of(height, wide) if width is None else width / wide
    letter = _letter(height * scale, wide * scale)
    places: list[Placed | None] = [None] * len(objects)
    if len(objects) <= _LABELLED:
        texts = [printable(each.text) for each in objects]
        widths = text_widths(texts, letter)
        sizes = [((widths[text] + 0.6 * letter) / scale, 1.35 * letter / scale) for text in texts]
        places = place_labels((height, wide), [each.box for each in objects], sizes)
    without = sum(place is None for place in places)
    if without:
        said = "labels had no room" if without > 1 else "label had no room"
        title = f"{title}, {without} {said}" if title else f"{without} {said}"

    def draw(axes: Axes, scale: float) -> None:
        _draw_masks(axes, objects, (height, wide), scale)
        _draw_boxes(axes, objects, (height, wide), scale)
        for each, place in zip(objects, places, strict=True):
            if place is not None:
                _draw_label(axes, each, place, letter, scale)

    legend = {each.name: each.colour for each in sorted(objects, key=lambda each: each.name)} if without else {}
    return Panel(shown, title, draw, legend)


def _letter(height: float, width: float) -> float:
    """The size of labels on a picture of so many pixels of the sheet."""
    return min(max(0.022 * math.sqrt(height * width), 12.0), 32.0)


def line_width(height: float, width: float) -> float:
    """The width of a box's line on a picture of so many pixels of the sheet, pixels."""
    return max(2.0, 0.0042 * math.sqrt(height * width))


def _draw_masks(axes: Axes, objects: Sequence[Outlined], size: tuple[int, int], scale: float) -> None:
    masked = [each for each in objects if each.mask is not None]
    if not masked:
        return
    colours = np.zeros((*size, 4), dtype=np.float32)
    lines, edges = [], []
    for each in reversed(masked):  # the first on top
        assert each.mask is not None
        colours[each.mask] = (*to_rgb(each.colour), _OPAQUE)
        found = outlines(each.mask)
        lines += found
        edges += [each.colour] * len(found)
    axes.imshow(colours, extent=(0, size[1], size[0], 0), interpolation="nearest", aspect="auto")
    width = line_width(size[0] * scale, size[1] * scale) * 0.8
    _draw_lines(axes, lines, edges, width)


def outlines(mask: NDArray[np.bool_]) -> list[NDArray[np.float64]]:
    """The closed lines around a mask (H, W) and its holes, each (M, 2) of x, y in pixels of the picture."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return []
    top, left = rows[0], columns[0]
    inner = mask[top : rows[-1] + 1, left : columns[-1] + 1]
    framed = np.pad(inner, 1).astype(float)
    # The pixel in column c has its centre at c + 1/2, and the frame begins one pixel before.
    x = np.arange(framed.shape[1]) + left - 0.5
    y = np.arange(framed.shape[0]) + top - 0.5
    found: Any = contour_generator(x, y, framed).lines(0.5)  # of the default line type a list
    return list(found)


def _draw_boxes(axes: Axes, objects: Sequence[Outlined], size: tuple[int, int], scale: float) -> None:
    full = line_width(size[0] * scale, size[1] * scale)
    for dashed in (False, True):
        chosen = [each for each in reversed(objects) if each.dashed == dashed]
        # Where an outline is drawn too its box is only a help.
        width = full * (0.5 if any(each.mask is not None for each in chosen) else 1)
        inset = 0.5 * width / scale  # so that boxes at the picture's edge are seen whole
        lines = []
        for each in chosen:
            x0, y0, x1, y1 = each.box
            x0, y0 = max(x0, inset), max(y0, inset)
            x1, y1 = min(x1, size[1] - inset), min(y1, size[0] - inset)
            lines.append(np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0)]))
        _draw_lines(axes, lines, [each.colour for each in chosen], width, "--" if dashed else "-")


def _draw_lines(
    axes: Axes, lines: Sequence[NDArray[np.float64]], colours: Sequence[str], width: float, style: str = "-"
) -> None:
    """Bright lines with a dark edge, which are seen on dark and on bright."""
    edge: Any = {"colors": _EDGE, "linewidths": points(width + 1.6), "alpha": 0.75, "capstyle": "projecting"}
    axes.add_collection(LineCollection(list(lines), **edge))
    bright: Any = {"colors": list(colours), "linewidths": points(width), "linestyles": style}
    axes.add_collection(LineCollection(list(lines), **bright))


def _draw_label(axes: Axes, each: Outlined, place: Placed, letter: float, scale: float) -> None:
    if place.apart:
        x0, y0, x1, y1 = each.box
        x, y = min(max(place.left, x0), x1), min(max(place.top, y0), y1)
        join = [np.array([(x, y), (min(max(x, place.left), place.right), min(max(y, place.top), place.bottom))])]
        _draw_lines(axes, join, [each.colour], 1.2)
    axes.add_patch(
        Rectangle(
            (place.left, place.top), place.right - place.left, place.bottom - place.top, facecolor=each.colour,
            edgecolor=_EDGE, linewidth=0.5, zorder=5,
        )
    )  # fmt: skip
    axes.text(
        (place.left + place.right) / 2, (place.top + place.bottom) / 2, each.text, fontsize=points(letter),
        color="black", ha="center", va="center_baseline", zorder=6, parse_math=False, clip_on=False,
    )  # fmt: skip
