"""Evaluations in full, as pictures and tables: calibration, curves, each class with its interval, the worst errors."""

from __future__ import annotations

import math
import statistics
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, NullFormatter, PercentFormatter, StrMethodFormatter
from numpy.typing import NDArray

from striate.report.tables import counted
from striate.report.text import middle, short
from striate.tasks.calibration import Calibration
from striate.tasks.evaluation import Example
from striate.tasks.intervals import wilson
from striate.tasks.rankings import Ranking
from striate.tasks.scores import Measures, Scores
from striate.training.finder import RateSearch

_PLAIN, _MAIN, _WRONG, _DARK = "#8a94a6", "#1f5fbf", "#c8321e", "#2b2f36"
#: Colours of lines on white, as many as there are in one picture.
CURVES: Final = (
    _MAIN, _WRONG, "#2f8f5b", "#8a5fbf", "#c98a1b", "#17a2b8", "#b0468f", "#7a5230", "#9acd32", "#5b6472",
)  # fmt: skip
_COLUMNS: Final = 6
#: Up to this many classes each has its curve, of more the FEW with the least average precision.
_ALL: Final = 10
_FEW: Final = 8
#: Up to this many classes are listed with their recall, of more the weakest.
_LISTED: Final = 30
_GRID: Final = np.linspace(0, 1, 201)
_Numbers: TypeAlias = NDArray[np.float64]


def reliability(before: Calibration, after: Calibration | None = None, temperature: float | None = None) -> Figure:
    """The reliability diagram over a histogram of confidences; beside it, if given, the same at a temperature.

    Whiskers are the 95 % intervals of each bin's accuracy: a bin of few images says little.
    """
    sides = [(before, "As the network says")]
    if after is not None:
        sides.append((after, "At the temperature" + ("" if temperature is None else f" {temperature:.3g}")))
    figure = Figure(figsize=(5.2 * len(sides), 6.4), layout="constrained")
    rows: Any = figure.subplots(2, len(sides), squeeze=False, sharex=True, sharey="row", height_ratios=(3, 1))
    for upper, lower, (found, title) in zip(*rows, sides, strict=True):
        _draw_reliability(upper, lower, found, title)
    rows[0][0].set_ylabel("images that are right")
    rows[1][0].set_ylabel("images")
    shown: list[Any] = [Patch(color=colour, label=label) for label, colour in _BARS.items()]
    shown.append(Line2D([], [], color=_DARK, linewidth=1, label="95 % interval"))
    figure.legend(handles=shown, frameon=False, fontsize=9, loc="outside lower center", ncols=4 if after else 2)
    return figure


_RIGHT, _TOO_SURE, _TOO_MODEST = "right", "surer than right", "right more often than sure"
_BARS: Final = {_RIGHT: "#5787cf", _TOO_SURE: "#eec0ba", _TOO_MODEST: "#e3b765"}


def _draw_reliability(upper: Axes, lower: Axes, found: Calibration, title: str) -> None:
    curve = found.reliability
    width = 1 / len(curve.count)
    edges = np.arange(len(curve.count)) * width

    def bar(edge: float, kind: str, start: float, end: float) -> None:
        upper.bar(edge, end - start, width, start, align="edge", color=_BARS[kind], edgecolor="white", linewidth=0.5)

    for edge, count, sure, right in zip(edges, curve.count, curve.confidence, curve.accuracy, strict=True):
        if sure is not None and right is not None:
            low, high = sorted((sure, right))
            bar(edge, _RIGHT, 0, low)
            bar(edge, _TOO_SURE if sure > right else _TOO_MODEST, low, high)
            upper.plot([edge + width / 2] * 2, wilson(round(right * count), count), color=_DARK, linewidth=1)
    upper.plot([0, 1], [0, 1], color=_DARK, linestyle="--", linewidth=0.8, alpha=0.6)
    errors = f"expected calibration error {curve.expected_error:.1%}, largest {curve.maximum_error:.1%}"
    upper.set_title(f"{title}\n{errors}\nloss {found.loss:.4g}, Brier score {found.brier:.3g}", fontsize=10)
    upper.set(xlim=(0, 1), ylim=(0, 1.005))
    lower.bar(edges, curve.count, width, align="edge", color=_PLAIN, edgecolor="white", linewidth=0.5)
    lower.set(xlabel="confidence: the predicted class's probability", yscale="log", ylim=(0.7, None))
    lower.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    lower.yaxis.set_minor_formatter(NullFormatter())
    for axes in (upper, lower):
        axes.grid(alpha=0.25)
    for axis in (upper.yaxis, lower.xaxis):
        axis.set_major_formatter(PercentFormatter(1.0))


@dataclass(frozen=True)
class _Kind:
    """A kind of curve of one class against the rest: ``points`` gives x and y, ``read`` y at the places of _GRID."""

    title: str
    xlabel: str
    ylabel: str
    unit: str
    drawstyle: str
    area: Callable[[Ranking], float | None]
    points: Callable[[Ranking], tuple[_Numbers, _Numbers]]
    read: Callable[[_Numbers, _Numbers], _Numbers]


def _precision_points(ranking: Ranking) -> tuple[_Numbers, _Numbers]:
    recall, precision = ranking.recall.numpy(), ranking.precision.numpy()
    return np.concatenate([[0], recall]), np.concatenate([precision[:1], precision])


def _roc_points(ranking: Ranking) -> tuple[_Numbers, _Numbers]:
    rates = (ranking.false_positive_rate.numpy(), ranking.recall.numpy())
    return np.concatenate([[0], rates[0]]), np.concatenate([[0], rates[1]])


def _read_steps(x: _Numbers, y: _Numbers) -> _Numbers:
    """As average precision sums it: the y of the first x that reaches a place."""
    return y[np.minimum(np.searchsorted(x, _GRID), len(x) - 1)]


_PRECISION: Final = _Kind(
    "Precision and recall",
    "recall",
    "precision",
    "AP",
    "steps-pre",
    lambda ranking: ranking.average_precision,
    _precision_points,
    _read_steps,
)
_ROC: Final = _Kind(
    "ROC",
    "false positive rate",
    "true positive rate (recall)",
    "area",
    "default",
    lambda ranking: ranking.roc_area,
    _roc_points,
    lambda x, y: np.interp(_GRID, x, y),
)


def rankings(scores: Scores) -> Figure:
    """Precision over recall, and ROC, one class against the rest; classes without images have none.

    Up to ten classes have a curve each; of more the eight with the least average precision. The mean is over all.
    """
    kinds = (_PRECISION, _ROC)
    areas: dict[str, dict[int, float]] = {kind.unit: {} for kind in kinds}
    totals = {kind.unit: np.zeros_like(_GRID) for kind in kinds}
    for index in range(len(scores.classes)):  # of many classes not all curves fit into memory
        ranking = scores.ranking(index)
        for kind in kinds:
            if (area := kind.area(ranking)) is not None:
                areas[kind.unit][index] = area
                totals[kind.unit] += kind.read(*kind.points(ranking))
    precisions = areas[_PRECISION.unit]
    known = len(precisions)
    shown = sorted(precisions) if known <= _ALL else sorted(precisions, key=precisions.__getitem__)[:_FEW]
    names = dict(zip(shown, short([scores.classes[index] for index in shown], 48), strict=True))
    figure = Figure(figsize=(11, 5.4 + 0.2 * len(shown)), layout="constrained")
    title = f"{counted(len(scores))}, each class against the rest"
    if len(shown) < known:
        title = f"{counted(len(scores))}: the {len(shown)} of {known} classes with the least average precision"
    figure.suptitle(title, fontsize=11)
    for kind, axes in zip(kinds, figure.subplots(1, 2), strict=True):
        drawn: list[tuple[Any, str]] = []
        for index, colour in zip(shown, CURVES, strict=False):
            if index in areas[kind.unit]:
                x, y = kind.points(scores.ranking(index))
                (line,) = axes.plot(x, y, drawstyle=kind.drawstyle, color=colour, linewidth=1.3)
                drawn.append((line, f"{names[index]}, {kind.unit} {areas[kind.unit][index]:.3f}"))
        if (count := len(areas[kind.unit])) > 2:
            mean = statistics.fmean(areas[kind.unit].values())
            (line,) = axes.plot(_GRID, totals[kind.unit] / count, color="black", linestyle=":", linewidth=2)
            drawn.append((line, f"mean of all, {kind.unit} {mean:.3f}"))
        axes.set(title=kind.title, xlabel=kind.xlabel, ylabel=kind.ylabel, xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
        axes.grid(alpha=0.25)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(PercentFormatter(1.0))
        if kind is _ROC:
            axes.plot([0, 1], [0, 1], color=_PLAIN, linestyle="--", linewidth=1)
        if drawn:
            legend_below(axes, drawn)
        else:
            axes.text(0.65, 0.25, "all images are of one class", ha="center", va="center", color=_DARK)
    return figure


def legend_below(axes: Axes, drawn: Sequence[tuple[Any, str]]) -> None:
    """Below the axes, whatever the labels are: matplotlib leaves out what begins with _, and takes $ for a formula."""
    place: Any = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.12)}
    legend = axes.legend([line for line, _ in drawn], ["x"] * len(drawn), frameon=False, fontsize=8, **place)
    for text, (_, label) in zip(legend.get_texts(), drawn, strict=True):
        text.set_parse_math(False)
        text.set_text(label)


def errors(examples: Sequence[Example], names: Sequence[str]) -> Figure:
    """Images that are wrong, with the predicted class, its probability, the true class and the image's name.

    Args:
        examples: the images, as of :meth:`~striate.tasks.scores.Scores.worst_errors`.
        names: of the images, as many.
    """
    count = len(examples)
    columns = min(max(count, 1), _COLUMNS)
    rows = max(1, math.ceil(count / _COLUMNS))
    tallest = max((example.image.shape[1] / example.image.shape[2] for example in examples), default=0.2)
    size = (max(1.9 * columns, 3.8), (1.9 * min(tallest, 2.0) + 0.7) * rows + 0.4)
    figure = Figure(figsize=size, layout="constrained")
    title = "Errors that the network is surest of: predicted class, its probability, true class, image"
    lines = textwrap.wrap(title, max(24, 16 * columns)) if count else ["No errors: every image is right"]
    figure.suptitle("\n".join(lines), fontsize=11)
    for axes in (grid := figure.subplots(rows, columns, squeeze=False)).flat:
        axes.set_axis_off()
    for axes, example, name in zip(grid.flat, examples, names, strict=False):
        axes.set_axis_on()
        pixels = example.image.permute(1, 2, 0).squeeze(2).numpy()
        axes.imshow(pixels, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axes.set(xticks=[], yticks=[])
        predicted, actual = short([example.predicted, example.actual], 20)
        said = f"{predicted} ({example.probability:.1%})\nbut is {actual}"
        axes.set_title(said, fontsize=8, color=_WRONG, parse_math=False)
        axes.set_xlabel(middle(name, 26), fontsize=7, color=_DARK, parse_math=False)
    return figure


def recalls(measures: Measures) -> Figure:
    """Each class's recall with its 95 % interval, the weakest first; of more than thirty classes the weakest thirty."""
    known = [(each.recall.value, each) for each in measures.classes if each.recall.value is not None]
    # Of equal recalls, first those that more images speak for.
    shown = sorted(known, key=lambda pair: (pair[0], pair[1].recall.interval))[:_LISTED]
    figure = Figure(figsize=(8, 1.6 + 0.24 * len(shown)), layout="constrained")
    axes = figure.subplots()
    for place, (value, each) in enumerate(shown):
        low, high = each.recall.interval or (value, value)
        axes.plot([low, high], [place, place], color=_PLAIN, linewidth=2, solid_capstyle="butt")
        axes.plot([value], [place], color=_MAIN, marker="o", markersize=5)
    mean = measures.balanced_accuracy
    axes.axvline(mean, color=_WRONG, linestyle=":", linewidth=1.2, label=f"mean of all classes {mean:.1%}")
    names = short([each.name for _, each in shown], 36)
    labels = [f"{name} ({each.images:,})" for name, (_, each) in zip(names, shown, strict=True)]
    axes.set_yticks(range(len(shown)), labels, fontsize=8, parse_math=False)
    axes.set(xlim=(-0.02, 1.02), ylim=(len(shown) - 0.4, -0.6), xlabel="recall, with its 95 % interval")
    title = "Recall of each class (images of it)"
    if len(shown) < len(known):
        title = f"The {len(shown)} of {len(known)} classes with the least recall (images of each)"
    axes.set_title(title, fontsize=11)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.grid(alpha=0.25)
    figure.legend(loc="outside lower right", frameon=False, fontsize=9)
    return figure


def learning_rates(found: RateSearch) -> Figure:
    """The loss of each step over its learning rate, smoothed, with the rate that is suggested."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.plot(found.rates, found.losses, color=_PLAIN, linewidth=0.8, label="of a batch")
    axes.plot(found.rates, found.smoothed, color=_MAIN, linewidth=2, label="smoothed")
    axes.axvline(found.suggestion, color=_WRONG, linestyle="--", label=f"suggested: {found.suggestion:.2g}")
    highest = 1.2 * max(found.smoothed[0], min(found.smoothed))
    axes.set(xscale="log", xlabel="learning rate", ylabel="training loss", title="Loss over the learning rate")
    axes.set_ylim(0.9 * min(found.smoothed), highest)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    return figure
