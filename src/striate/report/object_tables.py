"""Measures of detections and of class maps as tables for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rich.console import Group, RenderableType
from rich.text import Text

from striate.report.fitting import Column, Fitted, Labelled
from striate.report.tables import percent
from striate.report.text import file_names, printable
from striate.tasks.maps import MapMeasures
from striate.tasks.objects import ObjectMeasures

#: Up to this many classes are all listed; of more, the WEAKEST.
_ALL: Final = 30
_WEAKEST: Final = 15
#: Columns that a picture's name may take.
_NAME: Final = 40
#: COCO's measures: what they are called there, and what they are.
_SAID: Final = {
    "ap": ("AP", "mean over the overlaps 0.5 to 0.95 and the classes"),
    "ap50": ("AP50", "at an overlap of 0.5"),
    "ap75": ("AP75", "at an overlap of 0.75"),
    "ap_small": ("AP small", "objects of less than 32x32 pixels"),
    "ap_medium": ("AP medium", "objects between"),
    "ap_large": ("AP large", "objects of more than 96x96 pixels"),
    "ar1": ("AR1", "recall with 1 detection an image of each class"),
    "ar10": ("AR10", "with 10"),
    "ar100": ("AR100", "with 100"),
    "ar_small": ("AR small", "of small objects"),
    "ar_medium": ("AR medium", "of objects between"),
    "ar_large": ("AR large", "of large objects"),
}


def object_measures(measures: ObjectMeasures) -> RenderableType:
    """COCO's measures of boxes and, if there are, of masks; measures of sizes that no object has are left out."""
    masked = measures.masks is not None
    kinds = [Column("masks"), Column("boxes")] if masked else [Column("boxes")]
    table = Fitted([Column("", right=False), *kinds, Column("", spare=1, folds=True, right=False)])
    for name, (short_name, said) in _SAID.items():
        values = [measures.boxes.numbers[name]]
        if measures.masks is not None:
            values.insert(0, measures.masks.numbers[name])
        if any(value is not None for value in values) or name == "ap":
            table.add(short_name, *map(_number, values), said)
    return Group(Text(_heading(measures)), table)


def _heading(measures: ObjectMeasures) -> str:
    pictures = len(measures.pictures)
    return (
        f"{pictures:,} picture{'s' * (pictures != 1)}, {measures.objects:,} object{'s' * (measures.objects != 1)}, "
        f"{measures.detections:,} detection{'s' * (measures.detections != 1)}"
    )


def object_classes(measures: ObjectMeasures) -> RenderableType:
    """A row for each class: average precision, and precision, recall and F1 at the threshold, which a line explains."""
    rows = list(measures.main.classes)
    title = None
    if len(rows) > _ALL:
        rows = sorted(rows, key=lambda each: 2.0 if each.ap is None else each.ap)[:_WEAKEST]
        title = f"the {_WEAKEST} weakest of {len(measures.classes)} classes"
    table = Fitted(
        [
            Column("class", folds=True, right=False),
            Column("objects", spare=3),
            Column("AP"),
            Column("AP50", spare=2),
            Column("AP75", spare=5),
            Column("precision", spare=4),
            Column("recall", spare=4),
            Column("F1", spare=1),
        ]
    )
    for each in rows:
        table.add(
            printable(each.name),
            f"{each.objects:,}",
            *map(_number, (each.ap, each.ap50, each.ap75)),
            *map(_share, (each.precision, each.recall, each.f1)),
        )
    why = "which gives the greatest F1 here" if measures.chosen else "as asked"
    note = f"precision, recall and F1 at a score of {measures.threshold:.2f} or more, {why}"
    return Group(*([Text(title)] if title else []), table, Text(note, style="dim"))


def worst_objects(measures: ObjectMeasures, numbers: Sequence[int]) -> RenderableType:
    """The pictures with the most mistakes, as :meth:`.ObjectMeasures.worst` gives them."""
    if not numbers:
        return Text("no mistakes: every object is found, and nothing else")
    shown = [measures.pictures[number] for number in numbers]
    table = Fitted(
        [
            Column("picture", folds=True, right=False),
            Column("missed"),
            Column("false"),
            Column("taken for another", spare=1),
            Column("found", spare=2),
        ]
    )
    for each, name in zip(shown, file_names([each.name for each in shown], _NAME), strict=True):
        counts = map(len, (each.missed, each.false_alarms, each.confused, each.hits))
        table.add(name, *(f"{count:,}" for count in counts))
    return table


def map_measures(measures: MapMeasures) -> RenderableType:
    """Measures of class maps in a few lines."""
    pictures = len(measures.pictures)
    counted = f"{pictures:,} picture{'s' * (pictures != 1)}, {measures.pixels:,} pixels"
    if measures.ignored:
        counted += f"; {measures.ignored:,} whose class isn't known don't count"
    absent = [name for name, value in zip(measures.classes, measures.iou, strict=True) if value is None]
    left_out = f"; {len(absent)} in no picture" if absent else ""
    return Labelled(
        [
            ("mean IoU", f"{percent(measures.mean_iou)}  of {len(measures.classes) - len(absent)} classes{left_out}"),
            ("pixel accuracy", f"{percent(measures.accuracy)}  {counted}"),
            ("mean accuracy", f"{percent(measures.mean_accuracy)}  mean recall of the classes that have pixels"),
            ("mean Dice", percent(measures.mean_dice)),
        ]
    )


def map_classes(measures: MapMeasures) -> RenderableType:
    """A row for each class."""
    order = list(range(len(measures.classes)))
    title = None
    if len(order) > _ALL:
        order = sorted(order, key=lambda label: _last(measures.iou[label]))[:_WEAKEST]
        title = f"the {_WEAKEST} weakest of {len(measures.classes)} classes"
    table = Fitted(
        [
            Column("class", folds=True, right=False),
            Column("IoU"),
            Column("Dice", spare=3),
            Column("precision", spare=2),
            Column("recall", spare=1),
            Column("pixels", spare=4),
        ]
    )
    for label in order:
        shares = (each[label] for each in (measures.iou, measures.dice, measures.precision, measures.recall))
        table.add(printable(measures.classes[label]), *map(_share, shares), f"{measures.support[label]:,}")
    return Group(*([Text(title)] if title else []), table)


def worst_map_pictures(measures: MapMeasures, numbers: Sequence[int]) -> RenderableType:
    """The pictures of the least IoU, as :meth:`.MapMeasures.worst` gives them."""
    if not numbers:
        return Text("no mistakes: every pixel is right")
    shown = [measures.pictures[number] for number in numbers]
    table = Fitted([Column("picture", folds=True, right=False), Column("IoU"), Column("pixel accuracy", spare=1)])
    for each, name in zip(shown, file_names([each.name for each in shown], _NAME), strict=True):
        table.add(name, _share(each.iou), _share(each.accuracy))
    return table


def _last(value: float | None) -> float:
    return 2.0 if value is None else value


def _number(value: float | None) -> str:
    """An average precision, as the field writes it; a dash where there is none."""
    return "-" if value is None else f"{value:.3f}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"
