"""Tables and pictures of networks' behaviour when images move or change: layers under shifts, curves, checkerboards."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from torch import Tensor

from striate.analysis import (
    AdversarialCurve,
    Checkerboards,
    Equivariance,
    EquivarianceRow,
    Robustness,
    ShiftConsistency,
    disturbed,
)
from striate.report.tables import plain_table

_RIGHT, _SAME, _FGSM = "#1f5fbf", "#c98a1b", "#8a94a6"
#: Errors below it are rounding, and shown as such.
_ROUNDING: Final = 1e-5
#: Errors up to it have the darkest colour.
_FAINT: Final = 1e-3
_SHOWN: Final = 9
#: In a word, and in words, where a layer is compared.
_REGIONS: Final = {
    "interior": ("inside", "only positions that see nothing beyond the borders are compared"),
    "whole": ("invariance", "the output has no places, and should stay as it is"),
}


def equivariance(found: Equivariance) -> Group:
    """One row a layer: the error for each shift, then the worst up to whole shifts, and of the layer by itself."""
    shifts = [f"{dy:g}" if dy == dx else f"{dy:g},{dx:g}" for dy, dx in found.shifts]
    title = f"relative error of each layer's map after a shift of so many pixels, {_borders(found.borders)}"
    table = plain_table("layer", "kind", "stride", *shifts, "whole, worst", "alone, worst", "note")
    table.columns[1].justify = table.columns[-1].justify = "left"
    table.columns[0].overflow = table.columns[1].overflow = table.columns[-1].overflow = "fold"
    table.collapse_padding = True
    noted = set()
    for row in found:
        note = row.note or _REGIONS.get(row.region, ("", ""))[0]
        noted.add(note)
        table.add_row(
            Text(row.name),
            row.kind,
            _stride(row),
            *map(_error, row.error),
            _error(_worst([each for each, shift in zip(row.aligned, found.shifts, strict=True) if _whole(shift)])),
            _error(_worst(row.alone)),
            Text(note),
        )
    legend = [Text(f"{word}: {meaning}", "dim") for word, meaning in _REGIONS.values() if word in noted]
    return Group(Text(title), table, *legend)


def heat_map(found: Equivariance) -> Figure:
    """Layers by shifts, a colour for each error: as measured, up to whole shifts of the map, and layer by layer."""
    rows = [row for row in found if row.region and row.level == "layer"] or list(found.rows)
    shifts = [f"{dy:g}" if dy == dx else f"{dy:g}, {dx:g}" for dy, dx in found.shifts]
    wide, high = 4.2 + 3 * (0.5 + 0.62 * len(shifts)), 1.9 + 0.27 * len(rows)
    figure = Figure(figsize=(wide, high), layout="constrained")
    size = "x".join(map(str, found.input_shape))
    figure.suptitle(f"{found.model}, {size}, {_borders(found.borders)}: how layers follow a shift of the image")
    panels: Sequence[Axes] = figure.subplots(1, 3, sharey=True)
    columns = (
        ("map moved by shift / stride", "error"),
        ("map moved by the best whole shift", "aligned"),
        ("each layer by itself", "alone"),
    )
    shown: Any = None
    for axes, (title, field) in zip(panels, columns, strict=True):
        errors = np.array([[math.nan if e is None else e for e in getattr(row, field)] for row in rows])
        axes.set_facecolor("#e4e6ea")
        shown = axes.imshow(
            np.clip(errors, _FAINT, 1), cmap="viridis", norm=LogNorm(_FAINT, 1), aspect="auto", interpolation="nearest"
        )
        for (y, x), error in np.ndenumerate(errors):
            if not math.isnan(error):
                colour = "black" if error > 0.15 else "white"
                axes.text(x, y, _error(error), ha="center", va="center", color=colour, fontsize=7)
        axes.set_xticks(range(len(shifts)), shifts, fontsize=8, rotation=45 if max(map(len, shifts)) > 4 else 0)
        axes.set(xlabel="shift, positions of its input" if field == "alone" else "shift, pixels")
        axes.set_title(title, fontsize=10)
    panels[0].set_yticks(range(len(rows)), [f"{row.name}  {row.kind}  /{_stride(row)}" for row in rows], fontsize=8)
    figure.colorbar(shown, ax=list(panels), label="relative error", shrink=min(1.0, 3 / high + 0.3))
    return figure


def consistency(found: ShiftConsistency) -> str:
    """One line: the probability, its standard error, and of what."""
    error = f" ± {found.standard_error:.2%} (standard error, {found.pairs} pairs drawn)" if found.pairs else ""
    return (
        f"consistency: {found.value:.2%}{error} that two of {found.shifts} shifts of an image get the same class, "
        f"{found.images} images, {_borders(found.borders)}"
    )


def robustness(found: Robustness) -> Group:
    """For every disturbance its levels, and below each the images that are right, and those that are as undisturbed."""
    title = f"{found.images} images, {found.accuracy:.1%} right undisturbed, ± {_deviation(found.accuracy, found):.1%}"
    parts: list[RenderableType] = [Text(title)]
    for curve in found.curves:
        table = plain_table("level", *(f"{level:g}" for level in curve.levels))
        table.columns[0].min_width = len("as before")
        table.add_row("right", *(f"{share:.0%}" for share in curve.accuracy))
        table.add_row("as before", *(f"{share:.0%}" for share in curve.agreement))
        parts += [Text.assemble(curve.name, (f": {curve.unit}", "dim")), table]
    return Group(*parts)


def curves(found: Robustness, images: Tensor) -> Figure:
    """Accuracy and agreement over each disturbance, and below it what the first image looks like at its levels."""
    columns = min(4, len(found.curves))
    lines = -(-len(found.curves) // columns)
    figure = Figure(figsize=(4.3 * columns, 3.9 * lines + 0.5), layout="constrained")
    figure.suptitle(f"{found.model}: {found.accuracy:.1%} of {found.images} images right undisturbed")
    parts = np.asarray(figure.subfigures(lines, columns, squeeze=False), dtype=object).flat
    for curve, part in zip(found.curves, parts, strict=False):
        axes, strip = part.subplots(2, 1, height_ratios=(4, 1))
        axes.plot(curve.levels, curve.agreement, color=_SAME, label="as undisturbed", linestyle="--", linewidth=1)
        axes.plot(curve.levels, curve.accuracy, color=_RIGHT, label="right", marker="o", markersize=3, linewidth=1.5)
        spread = np.array([_deviation(share, found) for share in curve.accuracy])
        right = np.array(curve.accuracy)
        axes.fill_between(curve.levels, right - spread, right + spread, color=_RIGHT, alpha=0.15, linewidth=0)
        axes.set(title=curve.name, xlabel=curve.unit, ylim=(-0.03, 1.03))
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.grid(alpha=0.25)
        axes.legend(frameon=False, fontsize=8)
        kept = sorted({round(at) for at in np.linspace(0, len(curve.levels) - 1, min(_SHOWN, len(curve.levels)))})
        pictures = [_picture(disturbed(images[:1], curve.name, curve.levels[at], found.seed)) for at in kept]
        _strip(strip, pictures, [f"{curve.levels[at]:g}" for at in kept])
    return figure


def adversarial(found: AdversarialCurve) -> Group:
    """Accuracy under each attack at every epsilon."""
    title = f"largest change of a pixel, pixels 0 to 1; {found.images} images; PGD of {found.steps} steps"
    table = plain_table("epsilon", "of 255", "right, FGSM", "right, PGD")
    for epsilon, once, often in zip(found.epsilons, found.fgsm, found.pgd, strict=True):
        table.add_row(f"{epsilon:g}", f"{255 * epsilon:.1f}", f"{once:.1%}", f"{often:.1%}")
    return Group(Text(title), table)


def attacks(found: AdversarialCurve) -> Figure:
    """Accuracy over epsilon, one line an attack."""
    figure = Figure(figsize=(6.5, 4.2), layout="constrained")
    axes = figure.subplots()
    many = f"PGD, {found.steps} steps" + (f", {found.restarts} starts" if found.restarts > 1 else "")
    for shares, colour, label in ((found.fgsm, _FGSM, "FGSM, one step"), (found.pgd, _RIGHT, many)):
        axes.plot(found.epsilons, shares, color=colour, label=label, marker="o", markersize=3, linewidth=1.5)
        values = np.array(shares)
        spread = np.sqrt(values * (1 - values) / found.images)
        axes.fill_between(found.epsilons, values - spread, values + spread, color=colour, alpha=0.15, linewidth=0)
    axes.set(
        title=f"{found.model} under attack, {found.images} images",
        xlabel="largest change of a pixel (epsilon), pixels 0 to 1",
        ylabel="images predicted right",
        ylim=(-0.03, 1.03),
    )
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    return figure


def checkerboards(found: Checkerboards) -> Table:
    """One row a strided operation: how evenly its windows cover positions."""
    table = plain_table("layer", "kind", "covers", "kernel", "stride", "windows", "missed", "uneven", "with weights")
    table.columns[1].justify = table.columns[2].justify = "left"
    table.columns[0].overflow = table.columns[1].overflow = table.columns[2].overflow = "fold"
    for row in found:
        table.add_row(
            Text(row.name),
            row.kind,
            row.where,
            _axes(row.kernel) + (f" d{_axes(row.dilation)}" if max(row.dilation) > 1 else ""),
            _axes(row.stride),
            " x ".join("-".join(map(str, axis)) for axis in dict.fromkeys(row.coverage)),
            f"{row.missed:.0%}" if row.missed else "",
            f"{row.unevenness:.3f}",
            "" if row.measured is None else f"{row.measured:.3f}",
        )
    return table


def coverages(found: Checkerboards) -> Figure:
    """By how many windows each position is covered, for every strided operation of two axes, far from its borders."""
    rows = [row for row in found if len(row.coverage) == 2]
    columns = max(1, min(5, len(rows)))
    lines = max(1, -(-len(rows) // columns))
    figure = Figure(figsize=(max(2.6 * columns, 5.0), 3.0 * lines + 0.5), layout="constrained")
    figure.suptitle(f"{found.model}: windows that cover each position")
    frames = figure.subplots(lines, columns, squeeze=False)
    for axes in frames.flat:
        axes.set_axis_off()
    most = max((max(row.coverage[0]) * max(row.coverage[1]) for row in rows), default=1)
    for axes, row in zip(frames.flat, rows, strict=False):
        grid = np.outer(*(np.resize(axis, 12) for axis in row.coverage))
        shown = axes.imshow(grid, cmap="viridis", vmin=0, vmax=most, interpolation="nearest")
        title = f"{row.name}, {row.where}\nkernel {_axes(row.kernel)}, stride {_axes(row.stride)}"
        axes.set_title(f"{title}: {row.unevenness:.2f}", fontsize=8)
    if rows:
        bar = figure.colorbar(shown, ax=frames, label="windows", shrink=0.8)
        bar.ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def _borders(kind: str) -> str:
    return "circular borders" if kind == "circular" else "borders of zeros"


def _error(error: float | None) -> str:
    if error is None:
        return "-"
    return "0" if error < _ROUNDING else f"{error:.1e}" if error < 0.001 else f"{error:.3f}"


def _worst(errors: Sequence[float | None]) -> float | None:
    return max((each for each in errors if each is not None), default=None)


def _whole(shift: tuple[float, float]) -> bool:
    return all(by == int(by) for by in shift)


def _stride(row: EquivarianceRow) -> str:
    return _axes(row.stride) if any(row.stride) else "-"


def _axes(values: Sequence[object]) -> str:
    words = list(map(str, values))
    return words[0] if len(set(words)) == 1 else "x".join(words)


def _deviation(share: float, found: Robustness) -> float:
    return math.sqrt(share * (1 - share) / found.images)


def _picture(image: Tensor) -> NDArray[Any]:
    """(H, W, 3), from the first of (N, C, H, W)."""
    pixels: NDArray[Any] = image[0].permute(1, 2, 0).cpu().numpy()
    return np.repeat(pixels[..., :1], 3, 2) if pixels.shape[2] != 3 else pixels


def _strip(axes: Axes, pictures: Sequence[NDArray[Any]], captions: Sequence[str]) -> None:
    height, width = pictures[0].shape[:2]
    gap = max(1, width // 8)
    white = np.ones((height, gap, 3))
    axes.imshow(np.concatenate([part for each in pictures for part in (each, white)][:-1], 1), interpolation="nearest")
    places = [at * (width + gap) + (width - 1) / 2 for at in range(len(pictures))]
    axes.set_xticks(places, captions, fontsize=7)
    axes.tick_params(length=0)
    axes.set_yticks([])
    for side in axes.spines.values():
        side.set_visible(False)
