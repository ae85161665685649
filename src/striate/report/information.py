"""The information plane as a table and as a picture."""

from __future__ import annotations

import textwrap
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure, SubFigure

from striate.analysis.information.plane import InformationPlane
from striate.report.tables import plain_table
from striate.report.text import PlainTable

_MARKERS = "osD^vP*Xhd"


def plane_table(plane: InformationPlane) -> PlainTable:
    """A row for each layer at each epoch, and what was measured; saturated ones are marked."""
    headings = ("epoch", "units", "H of a unit", "H", "I(input; layer)", "I(layer; label)", "")
    table = plain_table("layer", *headings, title=f"{plane.measured}; {plane.unit}")
    for row in plane.rows:
        numbers = (row.unit_entropy, row.entropy, row.input, row.label)
        table.add_row(
            row.layer,
            str(row.epoch),
            str(row.units),
            *(f"{number:.3f}" for number in numbers),
            "at its ceiling" if row.saturated else "",
        )
    return table


def plane_figure(plane: InformationPlane, title: str = "Information plane") -> Figure:
    """The plane, one curve a layer, coloured by epoch."""
    figure = Figure(figsize=(8.2, 6), layout="constrained")
    draw_plane(plane, title, figure)
    return figure


def draw_plane(plane: InformationPlane, title: str, part: Figure | SubFigure) -> None:
    """The plane into a figure or a part of one."""
    axes: Axes = part.subplots()
    epochs = [row.epoch for row in plane.rows]
    colours = ScalarMappable(Normalize(min(epochs), max(max(epochs), min(epochs) + 1)), "viridis")
    for index, layer in enumerate(plane.layers):
        rows = plane.of(layer)
        x, y = np.array([row.input for row in rows]), np.array([row.label for row in rows])
        axes.plot(x, y, color="#8a94a6", linewidth=0.8, alpha=0.7, zorder=1)
        points: Any = colours.to_rgba(np.array([row.epoch for row in rows], dtype=float))
        marker = _MARKERS[index % len(_MARKERS)]
        axes.scatter(x, y, c=points, marker=marker, s=36, zorder=2, edgecolor="white", linewidth=0.4)
        axes.scatter([], [], color="#5b6472", marker=marker, label=layer)
    axes.axvline(plane.ceiling, color="#c8321e", linestyle=":", linewidth=1, label=f"ln {plane.images} images")
    axes.axhline(plane.label_entropy, color="#c8321e", linestyle="--", linewidth=1, label="H(label)")
    axes.set(title=title, ylabel=f"I(layer; label), {plane.unit}")
    axes.set_xlabel(f"I(input; layer), {plane.unit}\n" + textwrap.fill(plane.measured, 70), fontsize=9)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=8)
    part.colorbar(colours, ax=axes, label="epoch")
