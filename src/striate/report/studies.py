"""Studies as tables and figures: the verdict, the numbers with their spread, what they don't show."""

from __future__ import annotations

from functools import singledispatch
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import EngFormatter, FuncFormatter
from rich.text import Text

from striate.report.information import draw_plane
from striate.report.tables import plain_table, told
from striate.report.text import PlainTable
from striate.studies import Bars, Curves, Measured, Outcome, Panel, Pictures
from striate.studies.panels import Plane

_COLOURS: Final = ("#1f5fbf", "#c8321e", "#2f8f5b", "#8a5fbf", "#c98a1b", "#5b6472", "#17a2b8", "#b0468f")
_GREY: Final = "#8a94a6"
_STYLES: Final = {"holds": "bold green", "holds in part": "bold yellow", "does not hold": "bold red"}


def verdict(outcome: Outcome) -> PlainTable:
    """The claim, the verdict, and each criterion with what came of it."""
    word = outcome.finding.verdict
    checks = [("yes" if check.held else "no", check.criterion) for check in outcome.finding.checks]
    return told([("claim", outcome.claim), ("verdict", Text(word, style=_STYLES[word])), *checks])


def numbers(outcome: Outcome) -> PlainTable:
    """What was measured: value, spread over the seeds, unit."""
    table = plain_table("measured", "value", "spread", "n", "unit")
    table.columns[-1].justify = "left"
    for row in outcome.finding.rows:
        spread = "" if row.spread is None else _number(row.spread)
        table.add_row(row.name, _value(row), spread, str(row.n) if row.n > 1 else "", row.unit)
    return table


def circumstances(outcome: Outcome) -> PlainTable:
    """What the numbers don't show, and what they were measured with."""
    known = ", ".join(f"{name} {version}" for name, version in outcome.versions.items())
    threads = f"{outcome.threads} thread{'s' * (outcome.threads > 1)}"
    return told(
        [
            *(("but", caveat) for caveat in outcome.finding.caveats),
            ("spread", "standard deviation over seeds " + ", ".join(map(str, outcome.seeds))),
            ("took", f"{outcome.seconds:.1f} s on the CPU, {threads}; {known}"),
        ]
    )


def figure(outcome: Outcome) -> Figure:
    """The panels of a study side by side under its verdict."""
    panels = outcome.finding.panels
    widths = [_width(panel) for panel in panels]
    drawn = Figure(figsize=(max(sum(widths), 6.0), 5.2), layout="constrained")
    drawn.suptitle(f"{outcome.study}: {outcome.finding.verdict}", fontsize=13, fontweight="bold")
    parts = np.atleast_1d(np.asarray(drawn.subfigures(1, len(panels), width_ratios=widths), dtype=object))
    for part, panel in zip(parts, panels, strict=True):
        _draw(panel, part)
    return drawn


@singledispatch
def _draw(panel: Panel, part: SubFigure) -> None:
    raise TypeError(f"no drawing for {type(panel).__name__}")


_thousands: Final = EngFormatter()
#: 0.01, 5, 20 k: prefixes are for large numbers, and a ratio has none.
_plain: Final = FuncFormatter(lambda x, _: f"{x:g}" if abs(x) < 10_000 else _thousands(x))


@_draw.register
def _(panel: Curves, part: SubFigure) -> None:
    axes: Axes = part.subplots()
    for index, curve in enumerate(panel.curves):
        colour = _COLOURS[index % len(_COLOURS)]
        x, y = np.asarray(curve.x), np.asarray(curve.y)
        axes.plot(x, y, color=colour, label=curve.label, marker="o", markersize=3, linewidth=1.5)
        if curve.spread is not None:
            spread = np.asarray(curve.spread)
            axes.fill_between(x, y - spread, y + spread, color=colour, alpha=0.15, linewidth=0)
    axes.set(title=panel.title, xlabel=panel.x, ylabel=panel.y)
    if panel.log_x:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(_plain)
    if panel.log_y:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(_plain)
    axes.grid(alpha=0.25)
    if len(panel.curves) > 3:  # too many to find a place among the lines
        part.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    elif len(panel.curves) > 1:
        axes.legend(frameon=False, fontsize=9)


@_draw.register
def _(panel: Bars, part: SubFigure) -> None:
    axes: Axes = part.subplots()
    places = np.arange(len(panel.labels))
    spreads: Any = [spread or 0.0 for spread in panel.spreads]
    if panel.span is None:
        axes.barh(places, panel.values, 0.65, color=_COLOURS[0], xerr=spreads if any(spreads) else None, capsize=3)
    else:
        axes.errorbar(panel.values, places, xerr=spreads, color=_COLOURS[0], fmt="o", capsize=3)
        axes.set_xlim(*panel.span)
    axes.set_yticks(places, panel.labels)
    axes.set_ylim(len(places) - 0.5, -0.5)
    axes.set(title=panel.title, xlabel=panel.x)
    if panel.log:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(_plain)
    if panel.reference is not None:
        place, text = panel.reference
        axes.axvline(place, color=_GREY, linestyle="--", label=text)
        axes.legend(frameon=False, fontsize=9)
    axes.grid(alpha=0.25, axis="x")


@_draw.register
def _(panel: Pictures, part: SubFigure) -> None:
    rows = -(-len(panel.images) // panel.columns)
    part.suptitle(panel.title, fontsize=11)
    frames = part.subplots(rows, panel.columns, squeeze=False)
    for axes in frames.flat:
        axes.set_axis_off()
    for axes, image, caption in zip(frames.flat, panel.images, panel.captions, strict=False):
        limit = float(np.abs(image).max()) or 1.0
        colours = {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit} if panel.signed else {"cmap": "gray"}
        axes.imshow(image, interpolation="nearest", **colours)
        axes.set_title(caption, fontsize=7, pad=2)


@_draw.register
def _(panel: Plane, part: SubFigure) -> None:
    draw_plane(panel.plane, panel.title, part)


def _width(panel: Panel) -> float:
    return 0.75 * panel.columns + 0.5 if isinstance(panel, Pictures) else 6.0


def _value(row: Measured) -> str:
    return f"{row.value:,.0f}" if row.spread is None and float(row.value).is_integer() else _number(row.value)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"
