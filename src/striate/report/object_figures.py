"""Measures of detections as figures: curves, average precision of each class, confusion, the worst pictures."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter
from torch import Tensor

from striate.data import Annotation, Detections
from striate.report.counts import counts_figure
from striate.report.evaluation import CURVES, legend_below
from striate.report.objects import annotated, detected
from striate.report.sheets import Panel, sheet
from striate.report.text import middle, short
from striate.tasks.matching import PictureMatches
from striate.tasks.objects import ObjectMeasures

_PLAIN, _MAIN, _WRONG, _DARK = "#8a94a6", "#1f5fbf", "#c8321e", "#2b2f36"
#: Up to this many classes each has its curve, of more the FEW with the least average precision.
_ALL: Final = 10
_FEW: Final = 8
#: Up to this many classes have a bar, of more the weakest.
_LISTED: Final = 30
#: Of one picture beside another on the sheet of the worst, pixels.
_BESIDE: Final = 480


def precision_recall(measures: ObjectMeasures) -> Figure:
    """Precision over recall at an overlap of 0.5 and of 0.75; classes without objects have none.

    Precision is the best at that recall or more, as average precision sums it.
    """
    region = "boxes" if measures.masks is None else "masks"
    known = [each for each in measures.main.classes if each.curves is not None]
    shown = known if len(known) <= _ALL else sorted(known, key=lambda each: each.ap or 0.0)[:_FEW]
    names = dict(zip([each.name for each in shown], short([each.name for each in shown], 40), strict=True))
    figure = Figure(figsize=(11, 5.4 + 0.2 * len(shown)), layout="constrained")
    title = f"{measures.objects:,} objects, {measures.detections:,} detections, compared by their {region}"
    if len(shown) < len(known):
        title += f": the {len(shown)} of {len(known)} classes with the least average precision"
    figure.suptitle(title, fontsize=11)
    recalls = np.linspace(0, 1, 101)
    for overlap, axes in zip((0.5, 0.75), figure.subplots(1, 2), strict=True):
        drawn: list[tuple[Any, str]] = []
        for each, colour in zip(shown, CURVES, strict=False):
            assert each.curves is not None
            curve = each.curves[overlap]
            (line,) = axes.plot(recalls, curve, drawstyle="steps-pre", color=colour, linewidth=1.4)
            drawn.append((line, f"{names[each.name]}, AP {statistics.fmean(curve):.3f}"))
        if len(known) > 2:
            mean = np.mean([each.curves[overlap] for each in known if each.curves is not None], axis=0)
            (line,) = axes.plot(recalls, mean, color="black", linestyle=":", linewidth=2)
            drawn.append((line, f"mean of {len(known)} classes, AP {mean.mean():.3f}"))
        axes.set(title=f"Overlap of {overlap:g} or more", xlabel="recall", ylabel="precision")
        axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
        axes.grid(alpha=0.25)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(PercentFormatter(1.0))
        if drawn:
            legend_below(axes, drawn)
        else:
            axes.text(0.5, 0.5, "there are no objects", ha="center", va="center", color=_DARK)
    return figure


def detection_confusion(measures: ObjectMeasures) -> Figure:
    """Which objects are found as which, which aren't found, and what is found where nothing is."""
    hits = sum(len(each.hits) for each in measures.pictures)
    title = f"{hits:,} of {measures.objects:,} objects found with a score of {measures.threshold:.2f} or more"
    rows, columns = (*measures.classes, "(nothing)"), (*measures.classes, "(missed)")
    return counts_figure(measures.confusion, rows, columns, title, axes=("true class", "found class"))


def average_precisions(measures: ObjectMeasures) -> Figure:
    """The average precision of each class that has objects, the weakest first, of at most thirty."""
    known = [(each.ap, each) for each in measures.main.classes if each.ap is not None]
    shown = sorted(known, key=lambda pair: pair[0])[:_LISTED]
    rows = [(each.name, each.objects, value, (each.ap50, each.ap75)) for value, each in shown]
    kind = "boxes" if measures.masks is None else "masks"
    title = f"Average precision of {kind} (objects of each class)"
    if len(shown) < len(known):
        title = f"The {len(shown)} of {len(known)} classes with the least average precision (objects of each)"
    return bars(rows, title, "average precision", ("AP, overlaps 0.5 to 0.95", "AP50", "AP75"), measures.main.ap)


def bars(
    rows: Sequence[tuple[str, int, float, tuple[float | None, ...]]],
    title: str,
    what: str,
    labels: Sequence[str],
    mean: float | None,
) -> Figure:
    """Shares as bars, with other shares as marks on them.

    Args:
        rows: a name, a count, a share, and other shares.
        title: of the figure.
        what: the shares are.
        labels: of the bar, and of the marks.
        mean: of all, drawn as a line.
    """
    figure = Figure(figsize=(8, 1.9 + 0.26 * len(rows)), layout="constrained")
    axes = figure.subplots()
    marks = (("|", _DARK), ("x", _WRONG), ("o", _MAIN))
    for place, (_, _, value, others) in enumerate(rows):
        axes.barh(place, value, height=0.66, color="#8fb0de")
        for other, (marker, colour) in zip(others, marks, strict=False):
            if other is not None:
                axes.plot([other], [place], marker=marker, color=colour, markersize=7, linestyle="none")
    handles: list[Any] = [Line2D([], [], color="#8fb0de", linewidth=7)]
    handles += [
        Line2D([], [], color=colour, marker=marker, linestyle="none", markersize=7)
        for (marker, colour), _ in zip(marks, labels[1:], strict=False)
    ]
    said = list(labels)
    if mean is not None:
        axes.axvline(mean, color=_WRONG, linestyle=":", linewidth=1.2)
        handles.append(Line2D([], [], color=_WRONG, linestyle=":"))
        said.append(f"mean of all classes {mean:.1%}")
    names = short([name for name, *_ in rows], 36)
    ticks = [f"{name} ({count:,})" for name, (_, count, *_) in zip(names, rows, strict=True)]
    axes.set_yticks(range(len(rows)), ticks, fontsize=8, parse_math=False)
    axes.set(xlim=(0, 1.02), ylim=(max(len(rows), 1) - 0.4, -0.6), xlabel=what)
    axes.set_title(title, fontsize=11)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.grid(alpha=0.25, axis="x")
    figure.legend(handles, said, loc="outside lower center", frameon=False, fontsize=9, ncols=2)
    return figure


def worst_pictures(
    measures: ObjectMeasures, numbers: Sequence[int], samples: Sequence[tuple[Tensor, Annotation, Detections]]
) -> Figure:
    """Pictures with the most mistakes, the truth at the left, what was found at the right; labels say what is wrong.

    Args:
        measures: of all pictures.
        numbers: which ones are shown, as :meth:`.ObjectMeasures.worst` gives them.
        samples: of each, the picture uint8 (C, H, W), its objects and all its detections.
    """
    rows = []
    for number, (picture, truth, found) in zip(numbers, samples, strict=True):
        rows.append(_compared(measures, measures.pictures[number], picture, truth, found))
    heading = f"The pictures with the most mistakes, at a score of {measures.threshold:.2f} or more"
    if not rows:
        figure = Figure(figsize=(5, 0.8))
        figure.text(0.5, 0.5, "No mistakes: every object is found, and nothing else", ha="center", va="center")
        return figure
    return sheet(rows, heading, _BESIDE)


def _compared(
    measures: ObjectMeasures, matches: PictureMatches, picture: Tensor, truth: Annotation, found: Detections
) -> list[Panel]:
    taken = {one for one, _ in matches.confused}
    lost = dict.fromkeys(matches.missed, "missed: ") | dict.fromkeys(taken, "taken for another: ")
    wrong = dict.fromkeys(matches.false_alarms, "false: ") | {other: "wrong: " for _, other in matches.confused}
    shown = (found.scores >= measures.threshold).nonzero().flatten().tolist()
    counts = ((len(matches.missed), "missed"), (len(taken), "taken for another"), (len(matches.false_alarms), "false"))
    said = ", ".join(f"{count} {what}" for count, what in counts if count)
    left = annotated(
        picture,
        truth,
        measures.classes,
        title=f"{middle(matches.name, 44)}\ntruth: {len(truth):,}",
        width=_BESIDE,
        marks=[lost.get(index, "") for index in range(len(truth))],
    )
    right = detected(
        picture,
        found.above(measures.threshold),
        measures.classes,
        title=f"{said or 'no mistake'}\nfound: {len(shown):,}",
        width=_BESIDE,
        marks=[wrong.get(index, "") for index in shown],
    )
    return [left, right]
