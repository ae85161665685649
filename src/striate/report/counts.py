"""Confusion matrices and other tables of counts as pictures."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from rich.cells import cell_len

from striate.report.text import short

#: Up to this many classes, each cell shows its count.
_COUNTED: Final = 25
#: Columns that a class's name may take.
_NAME: Final = 22
#: Of a letter: its width to its height, about, in fonts without serifs.
_ASPECT: Final = 0.6


def counts_figure(
    counts: Sequence[Sequence[int]],
    rows: Sequence[str],
    columns: Sequence[str],
    title: str,
    *,
    axes: tuple[str, str] = ("true class", "predicted class"),
    said: Callable[[int, float], str] = lambda count, share: str(count),
) -> Figure:
    """A square table of counts, coloured by their share of the row.

    Args:
        counts: K x K.
        rows, columns: K names each.
        title: of the figure.
        axes: what rows and columns are.
        said: what a cell shows, of its count and its share.
    """
    table = np.array(counts)
    shares = table / np.maximum(table.sum(1, keepdims=True), 1)
    size = len(rows)
    side = min(max(4.5, 0.55 * size), 14)
    every = math.ceil(size / 100)
    told = f", one name in {every}" if every > 1 else ""
    font = min(10.0, max(4.0, 72 * side / size * every * 0.55))
    left, below = short(rows, _NAME), short(columns, _NAME)
    longest = max(map(cell_len, (*left, *below)))
    room = longest * font * _ASPECT / 72  # inches that the names take
    upright = size * longest <= 10 * side  # letters that fit side by side
    figure = Figure(figsize=(side + room + 2.3, side + 1.1 + (0 if upright else room)), layout="constrained")
    drawn: Any = figure.subplots()
    # The square root makes a single mistake among hundreds visible.
    image = drawn.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, 0, 1), interpolation="nearest")
    drawn.set_xticks(range(0, size, every), below[::every], rotation=0 if upright else 90, fontsize=font)
    drawn.set_yticks(range(0, size, every), left[::every], fontsize=font)
    if size <= _COUNTED:
        for row, column in zip(*table.nonzero(), strict=True):
            colour = "white" if shares[row, column] > 0.4 else "black"
            text = said(int(table[row, column]), float(shares[row, column]))
            drawn.text(column, row, text, ha="center", va="center", color=colour, fontsize=9)
    drawn.set(title=title, xlabel=axes[1] + told, ylabel=axes[0] + told)
    bar = figure.colorbar(
        image, ax=drawn, label=f"share of the {axes[0]}", shrink=0.8, ticks=[0, 0.01, 0.1, 0.25, 0.5, 1]
    )
    bar.ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    return figure
