"""Pictures side by side on a sheet, each drawn over in its own pixels, under titles and over a legend of colours."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from torch import Tensor

from striate.errors import DataError
from striate.report.fonts import literal
from striate.report.text import middle

#: Dots an inch of the files that :func:`striate.report.figures.png` makes, so that sizes here are pixels there.
_DPI: Final = 110
_DARK: Final = "#2b2f36"
#: Letters of titles and legends, pixels.
_LETTER: Final = 15
_GAP: Final = 12
#: The longer side of a picture that stands alone, pixels: smaller ones are enlarged, larger ones reduced.
_SMALLEST: Final = 640
_LARGEST: Final = 2000


@dataclass(frozen=True, eq=False)
class Panel:
    """One picture of a sheet.

    Args:
        picture: uint8 (H, W, 3), from :func:`pixels`.
        title: above it; "\\n" begins a new line.
        draw: draws over it, given axes whose unit is the picture's pixel, and how many pixels of the sheet one takes.
        legend: colours by what they stand for.
    """

    picture: NDArray[np.uint8]
    title: str = ""
    draw: Callable[[Axes, float], None] = lambda axes, scale: None
    legend: Mapping[str, str] = field(default_factory=dict)


def pixels(picture: Tensor) -> NDArray[np.uint8]:
    """A picture uint8 (C, H, W) as (H, W, 3): three channels are red, green and blue, of others the mean is grey.

    Raises:
        DataError: another dtype or rank, or no pixels.
    """
    if picture.dtype != torch.uint8 or picture.dim() != 3 or not picture.numel():
        got = f"got {str(picture.dtype).removeprefix('torch.')} {tuple(picture.shape)}"
        raise DataError("picture", got, "needed uint8 (channels, height, width)")
    picture = picture.cpu()
    coloured = picture if len(picture) == 3 else picture.float().mean(0, keepdim=True).byte().expand(3, -1, -1)
    return coloured.permute(1, 2, 0).numpy()


def scale_of(height: int, width: int) -> float:
    """How many pixels of a sheet one of a picture takes that stands alone; whole where it is enlarged."""
    longer = max(height, width)
    return math.ceil(_SMALLEST / longer) if longer < _SMALLEST else min(1.0, _LARGEST / longer)


def sheet(rows: Sequence[Sequence[Panel]], heading: str = "", width: int | None = None) -> Figure:
    """Panels in rows.

    Args:
        rows: of panels; a row may be shorter than others.
        heading: over all.
        width: of each panel, pixels; None for the size of a picture that stands alone.
    """
    scales = [
        [scale_of(*panel.picture.shape[:2]) if width is None else width / panel.picture.shape[1] for panel in row]
        for row in rows
    ]
    wide = max(
        (sum(scale * panel.picture.shape[1] for scale, panel in zip(*pair, strict=True)) + _GAP * (len(pair[0]) - 1))
        for pair in zip(scales, rows, strict=True)
    )
    room = max(round(wide), 240)
    legend = _lines({name: colour for row in rows for panel in row for name, colour in panel.legend.items()}, room)
    line = 1.45 * _LETTER
    heads = [max(panel.title.count("\n") + 1 if panel.title else 0 for panel in row) * line for row in rows]
    highs = [
        max(scale * panel.picture.shape[0] for scale, panel in zip(*pair, strict=True))
        for pair in zip(scales, rows, strict=True)
    ]
    above = 1.8 * _LETTER if heading else 0
    total = above + sum(heads) + sum(highs) + _GAP * (len(rows) - 1) + (line * len(legend) + _GAP if legend else 0)
    bordered = bool(heading or legend or len(rows) > 1 or len(rows[0]) > 1 or rows[0][0].title)
    border = _GAP if bordered else 0
    outer = (room + 2 * border if bordered else wide, total + 2 * border)
    figure = Figure(figsize=(outer[0] / _DPI, outer[1] / _DPI), dpi=_DPI, facecolor="white")
    top = border + above
    if heading:
        _write(figure, outer, border, border, middle(heading, int(room / (_LETTER * 0.55))), _LETTER * 1.15)
    for row, row_scales, head, high in zip(rows, scales, heads, highs, strict=True):
        left: float = border
        for panel, scale in zip(row, row_scales, strict=True):
            size = (panel.picture.shape[1] * scale, panel.picture.shape[0] * scale)
            letters = int(size[0] / (_LETTER * 0.55))
            for number, text in enumerate(panel.title.split("\n") if panel.title else ()):
                _write(figure, outer, left, top + number * line, middle(text, letters), _LETTER)
            _place(figure, outer, (left, top + head), size, panel, scale)
            left += size[0] + _GAP
        top += head + high + _GAP
    for number, entries in enumerate(legend):
        for offset, name, colour in entries:
            y = top + number * line
            swatch = (border + offset) / outer[0], 1 - (y + _LETTER) / outer[1]
            figure.add_artist(
                Rectangle(
                    swatch, _LETTER / outer[0], _LETTER / outer[1], transform=figure.transFigure,
                    facecolor=colour, edgecolor=_DARK, linewidth=0.6,
                )
            )  # fmt: skip
            _write(figure, outer, border + offset + 1.4 * _LETTER, y, name, _LETTER)
    return figure


def _place(
    figure: Figure,
    outer: tuple[float, float],
    corner: tuple[float, float],
    size: tuple[float, float],
    panel: Panel,
    scale: float,
) -> None:
    rectangle = (corner[0] / outer[0], 1 - (corner[1] + size[1]) / outer[1], size[0] / outer[0], size[1] / outer[1])
    axes = figure.add_axes(rectangle)
    height, width = panel.picture.shape[:2]
    how = "nearest" if scale >= 2 else "antialiased"
    axes.imshow(panel.picture, extent=(0, width, height, 0), interpolation=how, aspect="auto")
    axes.set_axis_off()
    panel.draw(axes, scale)
    axes.set(xlim=(0, width), ylim=(height, 0))


def points(size: float) -> float:
    """Pixels of a sheet in points, of which letters and lines are so many."""
    return size * 72 / _DPI


def _write(figure: Figure, outer: tuple[float, float], x: float, y: float, text: str, size: float) -> None:
    figure.text(
        x / outer[0], 1 - (y + size * 0.15) / outer[1], text, fontsize=points(size * 0.86), color=_DARK, va="top",
        parse_math=False,
    )  # fmt: skip


def _lines(legend: Mapping[str, str], room: float) -> list[list[tuple[float, str, str]]]:
    """The legend's entries, by lines: how far from the left, what, which colour."""
    lines: list[list[tuple[float, str, str]]] = []
    at = math.inf
    names = {name: middle(name, 40) for name in legend}
    widths = text_widths(list(names.values()), _LETTER * 0.86)
    for name, colour in legend.items():
        needed = widths[names[name]] + 2.6 * _LETTER
        if at + needed > room + 1.2 * _LETTER:
            lines.append([])
            at = 0
        lines[-1].append((at, names[name], colour))
        at += needed
    return lines


def text_widths(texts: Sequence[str], size: float) -> dict[str, float]:
    """How many pixels of a sheet each text takes, in letters of so many pixels."""
    once = list(dict.fromkeys(texts))
    figure = Figure(dpi=_DPI)
    renderer: Any = FigureCanvasAgg(figure).get_renderer()
    written = [figure.text(0, 0, text, fontsize=points(size), parse_math=False) for text in once]
    with literal(figure):
        return {text: float(each.get_window_extent(renderer).width) for text, each in zip(once, written, strict=True)}
