"""Filters as a table and a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.markup import escape
from rich.table import Table

from striate.explain.filters import Filters
from striate.report.tables import plain_table


def table(found: Filters) -> Table:
    """A row a filter, in the order of similarity."""
    shown = escape(table_title(found))
    rows = plain_table(
        "filter", "norm", "one pattern", "cycles/pixel", "degrees", "octaves", "Gabor R2", "adjusted", title=shown
    )
    for place in found.order:
        each = found.filters[place]
        rows.add_row(
            str(each.index),
            f"{each.norm:.3g}",
            f"{each.share:.0%}",
            f"{each.frequency:.2f}",
            "" if each.orientation is None else f"{math.degrees(each.orientation):.0f}",
            "" if each.bandwidth is None else f"{each.bandwidth:.1f}",
            "" if each.fit is None else f"{each.fit.r2:.2f}",
            "" if each.fit is None or each.fit.adjusted_r2 is None else f"{each.fit.adjusted_r2:.2f}",
        )
    return rows


def table_title(found: Filters) -> str:
    """``conv1 (Conv2d): 32 of 64 filters of 3x5x5``: which filters these are."""
    count = f"{found.total}" if len(found) == found.total else f"the {len(found)} strongest of {found.total}"
    channels, *size = found.kernels.shape[1:]
    size = size[1:] if size[0] == 1 else size
    return f"{found.layer} ({found.kind}): {count} filters of {'x'.join(map(str, (channels, *size)))}"


def figure(found: Filters) -> Figure:
    """Kernels, the magnitude of their responses and the nearest Gabor functions, in the same order of similarity."""
    fits = [found.filters[place].fit for place in found.order]
    fitted = any(fit is not None for fit in fits)
    flat = found.kernels.shape[2] == 1
    columns = 1 if flat else math.ceil(math.sqrt(len(found)))
    picture = Figure(figsize=(15 if fitted else 10.5, 6.6), layout="constrained")
    picture.suptitle(f"{table_title(found)}, like beside like", parse_math=False)
    kernels, responses, *rest = picture.subplots(1, 3 if fitted else 2)

    size = tuple(found.kernels.shape[2:])
    coloured = found.kernels.shape[1] == 3
    tiles = [_scaled(found, place, coloured) for place in found.order]
    _mosaic(kernels, tiles, columns, "coolwarm", -1, 1)
    what = "in colour" if coloured else "as they are" if found.kernels.shape[1] == 1 else "their main patterns"
    kernels.set_title(f"kernels, {what}; grey is 0, each scaled by itself", fontsize=10)

    peaks = [response / response.max().clamp_min(1e-300) for response in found.responses[list(found.order)]]
    _mosaic(responses, [peak.numpy() for peak in peaks], columns, "inferno", 0, 1)
    middle = "0 in the middle, ±0.5 cycles/pixel at the edges"
    responses.set_title(f"response to waves: {middle}", fontsize=10)
    picture.colorbar(ScalarMappable(Normalize(0, 1), "inferno"), ax=responses, label="share of its peak", **_BELOW)
    if not coloured:
        picture.colorbar(
            ScalarMappable(Normalize(-1, 1), "coolwarm"),
            ax=kernels,
            label="share of its largest weight",
            **_BELOW,
        )
    for axes in rest:
        empty = np.zeros(size)
        shown = [empty if fit is None else fit.gabor.sample(size).numpy() for fit in fits]
        step = _mosaic(axes, [each / max(np.abs(each).max(), 1e-300) for each in shown], columns, "coolwarm", -1, 1)
        told = len(found) <= 64 and not flat
        for number, fit in enumerate(fits if told else []):
            if fit is not None:
                row, column = divmod(number, columns)
                place = (column + 0.46) * step[1], (row + 0.9) * step[0]
                axes.text(*place, f"{fit.r2:.2f}", ha="center", va="bottom", fontsize=6.5, bbox=_PLATE)
        few = "; too few pixels to tell" if all(fit is None or fit.adjusted_r2 is None for fit in fits) else ""
        axes.set_title(f"nearest Gabor function{', R² beneath' if told else ''}{few}", fontsize=10)
        picture.colorbar(ScalarMappable(Normalize(-1, 1), "coolwarm"), ax=axes, label="share of its peak", **_BELOW)
    return picture


_BELOW: Final[dict[str, Any]] = {"shrink": 0.7, "location": "bottom", "ticks": (-1, -0.5, 0, 0.5, 1)}
_PLATE: Final[dict[str, Any]] = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.6}


def _scaled(found: Filters, place: int, coloured: bool) -> NDArray[Any]:
    kernel = found.kernels[place] if coloured else found.patterns[place]
    share = (kernel / kernel.abs().max().clamp_min(1e-300)).numpy()
    return (share.transpose(1, 2, 0) + 1) / 2 if coloured else share


def _mosaic(
    axes: Axes, tiles: Sequence[NDArray[Any]], columns: int, colours: str, low: float, high: float
) -> tuple[int, int]:
    """Tiles with a gap between them (none between single rows); gives back a tile's step."""
    if tiles[0].shape[0] > 1:  # pixels of their own size, so that the gap can be narrower than they are
        each = math.ceil(40 / max(tiles[0].shape[:2]))
        tiles = [tile.repeat(each, 0).repeat(each, 1) for tile in tiles]
    height, width = tiles[0].shape[:2]
    gap = 0 if height == 1 else height // 12
    rows = math.ceil(len(tiles) / columns)
    step = height + gap, width + gap
    canvas = np.full((rows * step[0] - gap, columns * step[1] - gap, *tiles[0].shape[2:]), np.nan)
    for number, tile in enumerate(tiles):
        top, left = (each * length for each, length in zip(divmod(number, columns), step, strict=True))
        canvas[top : top + height, left : left + width] = tile
    canvas = np.where(np.isnan(canvas), 1.0, canvas) if canvas.ndim == 3 else canvas
    axes.imshow(
        canvas, cmap=colours, vmin=low, vmax=high, interpolation="nearest", aspect="auto" if height == 1 else "equal"
    )
    axes.set_axis_off()
    axes.set_anchor("N")
    return step
