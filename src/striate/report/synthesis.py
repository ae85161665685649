"""Made images: synthesised, dreamt, inverted, perturbed; as pictures, and the errors by depth as a table."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.table import Table
from rich.text import Text
from torch import Tensor

from striate.explain.adversarial import Perturbation
from striate.explain.inversion import Inversion
from striate.explain.result import Explanation
from striate.explain.synthesis import Dream, Synthesis
from striate.report.tables import plain_table
from striate.report.text import middle

_COLUMNS: Final = 5
#: Columns of letters that a class has.
_NAME: Final = 32
_SIDE: Final = 2.6
#: Evidence of regions lets the picture through.
_OPAQUE: Final = 0.7


def maximal(found: Synthesis) -> Figure:
    """The pictures, each with what it reached and the seed that it began from; and the way there."""
    count = len(found.pictures)
    columns = min(count, _COLUMNS)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(_SIDE * columns + 4.2, max((_SIDE + 0.5) * rows, 3.0) + 0.4), layout="constrained")
    compared = "" if found.largest is None else f"; largest in the data {found.largest:.3g}"
    figure.suptitle(f"What excites {found.what} the most{compared}", fontsize=11, parse_math=False)
    left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=(_SIDE * columns, 4.2)).ravel()
    grid = left.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid:
        axes.set_axis_off()
    for axes, picture, reached, seed in zip(grid, found.pictures, found.reached, found.seeds, strict=False):
        show(axes, picture)
        axes.set_title(f"{reached:.3g} (seed {seed})", fontsize=9)
    curve = right.subplots()
    curve.plot(found.history.numpy(), linewidth=1)
    if found.largest is not None:
        curve.axhline(found.largest, color="black", linestyle="--", linewidth=1, label="largest in the data")
        curve.legend(frameon=False, fontsize=8)
    curve.set(xlabel="step", ylabel="activation", title="on the way")
    curve.title.set_fontsize(10)
    curve.grid(alpha=0.25)
    return figure


def dream(found: Dream) -> Figure:
    """Before and after."""
    height, width = found.before.shape[1:]
    figure = Figure(figsize=(2 * 4.5 * min(width / height, 2), 5.1), layout="constrained")
    figure.suptitle(f"A dream of {found.what}, over {len(found.sizes)} octaves", fontsize=11, parse_math=False)
    titles = ("picture", "dream")
    for axes, picture, title, energy in zip(
        figure.subplots(1, 2), (found.before, found.after), titles, found.energies, strict=True
    ):
        axes.set_axis_off()
        show(axes, picture)
        axes.set_title(f"{title}: half the mean square of the activations {energy:.3g}", fontsize=9)
    return figure


def inversion(found: Inversion) -> Figure:
    """The original and what each layer gives back of it, all on the original's scale of brightness."""
    shown = [found.image, *(row.image for row in found.rows)]
    low, high = float(found.image.min()), float(found.image.max())
    columns = min(len(shown), _COLUMNS)
    rows = math.ceil(len(shown) / columns)
    figure = Figure(figsize=(_SIDE * columns, (_SIDE + 0.55) * rows + 0.4), layout="constrained")
    figure.suptitle("Made again from a layer's output alone", fontsize=11)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    titles = ["original"]
    titles += [
        f"{middle(row.layer, _NAME)}\nimage error {row.image_error:.1%}, output {row.feature_error:.1%}"
        for row in found.rows
    ]
    for axes in grid:
        axes.set_axis_off()
    for axes, image, title in zip(grid, shown, titles, strict=False):
        show(axes, (image - low) / (high - low))
        axes.set_title(title, fontsize=8, parse_math=False)
    return figure


def depths(found: Inversion) -> Table:
    """How well each layer's output gives the image back."""
    table = plain_table("layer", "numbers", "image error", "output error", title="squared, relative")
    for row in found.rows:
        table.add_row(Text(row.layer), f"{row.numbers:,}", f"{row.image_error:.2%}", f"{row.feature_error:.2%}")
    return table


def perturbation(found: Perturbation) -> Figure:
    """Above the picture, the change magnified, and the changed picture; beneath the evidence in either."""
    figure = Figure(figsize=(11.5, 7.4), layout="constrained")
    figure.suptitle(
        f"{found.method}: l2 {found.l2:.3g}, largest change {found.largest:.3g} ({found.largest * 255:.1f}/255), "
        f"made small in {'l2' if found.norm == 'l2' else 'l_inf'}",
        fontsize=11,
    )
    above, beneath = figure.subplots(2, 3)
    for axes in (*above, *beneath):
        axes.set_axis_off()
    change = found.changed - found.picture
    factor = 0.5 / max(float(change.abs().max()), 1e-12)
    show(above[0], found.picture)
    above[0].set_title(_said(found.before), fontsize=9, parse_math=False)
    show(above[1], 0.5 + factor * change)
    above[1].set_title(f"the change, {factor:.3g} times as large, on grey", fontsize=9)
    show(above[2], found.changed)
    above[2].set_title(_said(found.after), fontsize=9, parse_math=False)
    largest = max(float(each.map.abs().max()) for each in (found.before, found.after)) or 1.0
    signed = found.before.signed
    scale = Normalize(-largest if signed else 0, largest)
    colours = "coolwarm" if signed else "inferno"
    for axes, each in ((beneath[0], found.before), (beneath[2], found.after)):
        strength = np.minimum(np.abs(each.map[0].numpy()) / largest, 1)
        regions = each.detail == "regions"
        if regions:
            show(axes, found.picture)
        alpha = _OPAQUE * strength if regions else None
        axes.imshow(each.map[0].numpy(), cmap=colours, norm=scale, interpolation="nearest", alpha=alpha)
        axes.set_title(f"{each.method} for {middle(each.target_of(0), _NAME)}", fontsize=9, parse_math=False)
    bar = figure.colorbar(ScalarMappable(scale, colours), ax=beneath[1], location="top", shrink=0.9)
    bar.set_label(found.before.quantity, fontsize=8)
    bar.ax.tick_params(labelsize=8)
    return figure


def show(axes: Axes, picture: Tensor, extent: tuple[float, float, float, float] | None = None) -> None:
    """A picture (C, H, W) in 0..1, in grey if it hasn't three channels; of other numbers of channels the mean."""
    pixels = picture if picture.shape[0] == 3 else picture.mean(0, keepdim=True)
    shown: NDArray[Any] = np.clip(pixels.permute(1, 2, 0).float().numpy(), 0, 1)
    shown = shown[:, :, 0] if shown.shape[2] == 1 else shown
    colours = "gray" if shown.ndim == 2 else None
    axes.imshow(shown, cmap=colours, vmin=0, vmax=1, interpolation="nearest", extent=extent)


def _said(found: Explanation) -> str:
    best = found.predictions[0][0]
    return f"{middle(found.name_of(best.category), _NAME)} ({best.probability:.1%})"
