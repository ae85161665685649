"""Class maps on their pictures, and their measures as figures."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from striate.data import IGNORED
from striate.errors import DataError
from striate.report.counts import counts_figure
from striate.report.object_figures import bars
from striate.report.sheets import Panel, pixels, sheet
from striate.report.text import short
from striate.tasks.colours import BACKGROUND_NAME, map_colours
from striate.tasks.maps import MapMeasures, PictureMap, measure_maps

#: What a class's colour covers of the picture; of the background's less, so that objects stand out.
_OPAQUE: Final = 0.6
_BACKGROUND: Final = 0.35
#: Pixels of unknown class are grey, under stripes; those that are wrong are red.
_UNKNOWN: Final = ("#9a9a9a", "#e8e8e8")
_WRONG: Final = "#e02a12"
_NAME: Final = 30
_LISTED: Final = 30
#: Of one picture beside others, pixels.
_BESIDE: Final = 420


def draw_class_map(picture: Tensor, class_map: Tensor, map_classes: Sequence[str]) -> Figure:
    """A picture under the colours of its pixels' classes, over a legend of those that are there.

    Args:
        picture: uint8 (C, H, W).
        class_map: integers (H, W), 255 where the class isn't known.
        map_classes: names of the classes.

    Raises:
        DataError: a map of another size, a class without a name.
    """
    return sheet([[mapped(picture, class_map, map_classes)]])


def draw_map_comparison(
    picture: Tensor, truth: Tensor, found: Tensor, map_classes: Sequence[str], name: str = ""
) -> Figure:
    """The truth, what was found, and which pixels are wrong, side by side."""
    one = measure_maps([truth], [found], map_classes).pictures[0]
    return sheet(_in_order([_compared(picture, truth, found, map_classes, one)], map_classes), name, _BESIDE)


def worst_maps(
    measures: MapMeasures, numbers: Sequence[int], samples: Sequence[tuple[Tensor, Tensor, Tensor]]
) -> Figure:
    """Pictures of the least IoU: the truth, what was found, and which pixels are wrong.

    Args:
        measures: of all pictures.
        numbers: which ones are shown, as :meth:`.MapMeasures.worst` gives them.
        samples: of each, the picture uint8 (C, H, W), the true map and the one that was found.
    """
    if not numbers:
        figure = Figure(figsize=(5, 0.8))
        figure.text(0.5, 0.5, "No mistakes: every pixel is right", ha="center", va="center")
        return figure
    rows = [
        _compared(*sample, measures.classes, measures.pictures[number], named=True)
        for number, sample in zip(numbers, samples, strict=True)
    ]
    heading = "The pictures with the least intersection over union"
    return sheet(_in_order(rows, measures.classes), heading, _BESIDE)


def _in_order(rows: list[list[Panel]], map_classes: Sequence[str]) -> list[list[Panel]]:
    """The same panels, of which the first has the legend of all, in the order of the classes."""
    together = {name: colour for row in rows for panel in row for name, colour in panel.legend.items()}
    places = {name: place for place, name in enumerate(short(map_classes, _NAME))}
    ordered = dict(sorted(together.items(), key=lambda item: places.get(item[0], len(places))))
    rest = [[dataclasses.replace(panel, legend={}) for panel in row] for row in rows]
    rest[0][0] = dataclasses.replace(rest[0][0], legend=ordered)
    return rest


def _compared(
    picture: Tensor, truth: Tensor, found: Tensor, classes: Sequence[str], one: PictureMap, *, named: bool = False
) -> list[Panel]:
    above = f"{one.name}\n" if named else ""
    below = "\n" if named else ""
    iou = "no pixel counts" if one.iou is None else f"IoU {one.iou:.1%}"
    wrong = "" if one.accuracy is None else f": {1 - one.accuracy:.1%}"
    return [
        mapped(picture, truth, classes, title=f"{above}truth"),
        mapped(picture, found, classes, title=f"{below}found: {iou}"),
        _errors(picture, truth, found, f"{below}wrong pixels{wrong}"),
    ]


def mapped(picture: Tensor, class_map: Tensor, map_classes: Sequence[str], *, title: str = "") -> Panel:
    """A class map as a panel of a sheet."""
    shown = pixels(picture)
    labels = class_map.cpu().numpy().astype(np.int64)
    if labels.shape != shown.shape[:2]:
        raise DataError("class map", f"got {labels.shape}", f"needed {shown.shape[:2]}, the picture's size")
    present = np.unique(labels)
    strange = [label for label in present.tolist() if label != IGNORED and not 0 <= label < len(map_classes)]
    if strange:
        raise DataError("class map", f"got class {strange[0]}", f"needed 0 to {len(map_classes) - 1}, or {IGNORED}")
    colours, names = map_colours(tuple(map_classes)), short(map_classes, _NAME)
    table = np.zeros((256, 3))
    opacity = np.full(256, _OPAQUE)
    for label, colour in enumerate(colours):
        table[label] = to_rgb(colour)
    if tuple(map_classes[:1]) == (BACKGROUND_NAME,):
        opacity[0] = _BACKGROUND
    over = table[labels]
    unknown = labels == IGNORED
    over[unknown] = _stripes(labels.shape)[unknown]
    share = opacity[labels][..., None]
    blended = (shown / 255 * (1 - share) + over * share) * 255
    lines = _borders(labels)
    blended[lines] *= 0.35  # where classes meet, as a dark line

    legend = {names[label]: colours[label] for label in present.tolist() if label != IGNORED}
    if unknown.any():
        legend["not known"] = _UNKNOWN[0]
    return Panel(blended.round().astype(np.uint8), title, legend=legend)


def _stripes(shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Diagonal stripes (H, W, 3), as broad as the picture needs."""
    broad = max(2, round(math.hypot(*shape) / 60))
    rows, columns = np.indices(shape)
    striped = ((rows + columns) // broad % 2).astype(bool)
    return np.where(striped[..., None], to_rgb(_UNKNOWN[0]), to_rgb(_UNKNOWN[1]))


def _borders(labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Pixels whose right or lower neighbour is of another class, on pictures that are large enough for such lines."""
    lines = np.zeros(labels.shape, dtype=bool)
    if min(labels.shape) >= 200:
        lines[:, :-1] |= labels[:, :-1] != labels[:, 1:]
        lines[:-1] |= labels[:-1] != labels[1:]
    return lines


def _errors(picture: Tensor, truth: Tensor, found: Tensor, title: str) -> Panel:
    grey = pixels(picture).mean(2, keepdims=True).repeat(3, 2) * 0.6 + 80
    labels = truth.cpu()
    wrong = ((labels != found.cpu()) & (labels != IGNORED)).numpy()
    grey[wrong] = np.array(to_rgb(_WRONG)) * 255
    unknown = (labels == IGNORED).numpy()
    grey[unknown] = _stripes(tuple(labels.shape))[unknown] * 255
    return Panel(grey.clip(0, 255).round().astype(np.uint8), title)


def map_confusion(measures: MapMeasures) -> Figure:
    """Which class's pixels are taken for which, as shares of the true class."""
    accuracy = (
        "no pixels"
        if measures.accuracy is None
        else f"{measures.accuracy:.2%} of {measures.pixels:,} pixels right; cells in percent"
    )
    return counts_figure(
        measures.confusion, measures.classes, measures.classes, accuracy, said=lambda count, share: _percent(share)
    )


def _percent(share: float) -> str:
    """A share in a cell, in percent without the sign.

    >>> _percent(0.123), _percent(0.0004), _percent(1.0)
    ('12', '<.1', '100')
    """
    if share < 0.001:
        return "<.1"
    return f"{100 * share:.1f}".lstrip("0") if share < 0.01 else f"{100 * share:.0f}"


def class_ious(measures: MapMeasures) -> Figure:
    """The IoU of each class that has one, the weakest first, of at most thirty."""
    known = [(value, number) for number, value in enumerate(measures.iou) if value is not None]
    shown = sorted(known)[:_LISTED]
    rows = [
        (measures.classes[n], measures.support[n], value, (measures.precision[n], measures.recall[n]))
        for value, n in shown
    ]
    title = "Intersection over union (pixels of each class)"
    if len(shown) < len(known):
        title = f"The {len(shown)} of {len(known)} classes with the least intersection over union (pixels of each)"
    return bars(rows, title, "share of pixels", ("IoU", "precision", "recall"), measures.mean_iou)
