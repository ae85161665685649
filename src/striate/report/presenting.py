"""How the results of each task are shown: the figures of a run or an evaluation, and the tables on a terminal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from matplotlib.figure import Figure
from rich.console import RenderableType
from rich.text import Text

from striate.report import evaluation, figures, maps, object_figures, object_tables, objects, tables
from striate.report.sheets import sheet
from striate.tasks.evaluation import Evaluation
from striate.tasks.maps import MapMeasures
from striate.tasks.objects import ObjectMeasures
from striate.tasks.task import Outcome

#: Figures by the names of their files, each drawn when it is asked for.
Makers = dict[str, Callable[[], Figure]]

#: Pictures that are listed as those with the most mistakes.
_WORST: Final = 5


def pictures(outcome: Outcome, classes: tuple[str, ...], called: str = "Held-out images") -> Makers:
    """The figures of what a network says of a set of images.

    Args:
        outcome: of any task.
        classes: their names.
        called: what the images are.
    """
    measures = outcome.measures
    if isinstance(measures, ObjectMeasures):
        return _objects(outcome, measures)
    if isinstance(measures, MapMeasures):
        return _maps(outcome, measures)
    makers: Makers = {
        "confusion": lambda: figures.confusion(outcome.tested.evaluation, called),
        "reliability": lambda: evaluation.reliability(measures.calibration, measures.scaled, measures.temperature),
        "recall": lambda: evaluation.recalls(measures),
        "rankings": lambda: evaluation.rankings(outcome.tested.scores),
    }
    if outcome.examples:
        makers["predictions"] = lambda: figures.predictions(outcome.examples, classes)
    if outcome.errors:
        makers["errors"] = lambda: evaluation.errors(outcome.errors, [error.name for error in outcome.errors])
    return makers


def _objects(outcome: Outcome, measures: ObjectMeasures) -> Makers:
    makers: Makers = {
        "confusion": lambda: object_figures.detection_confusion(measures),
        "curves-precision": lambda: object_figures.precision_recall(measures),
        "classes": lambda: object_figures.average_precisions(measures),
    }
    if outcome.examples:
        rows = [
            [
                objects.annotated(each.image, each.truth, each.classes, title=each.name),
                objects.detected(each.image, each.found.above(measures.threshold), each.classes),
            ]
            for each in outcome.examples
        ]
        makers["predictions"] = lambda: sheet(rows)
    if outcome.errors:
        places = [each.place for each in outcome.errors]
        shown = [(each.image, each.truth, each.found) for each in outcome.errors]
        makers["errors"] = lambda: object_figures.worst_pictures(measures, places, shown)
    return makers


def _maps(outcome: Outcome, measures: MapMeasures) -> Makers:
    makers: Makers = {
        "confusion": lambda: maps.map_confusion(measures),
        "classes": lambda: maps.class_ious(measures),
    }
    for name, chosen in (("predictions", outcome.examples), ("errors", outcome.errors)):
        if chosen:
            places = [each.place for each in chosen]
            shown = [(each.image, each.truth.class_map, each.found) for each in chosen]
            makers[name] = lambda places=places, shown=shown: maps.worst_maps(measures, places, shown)  # type: ignore[misc]
    return makers


def told(record: Any, called: str = "held-out images") -> list[RenderableType]:
    """An evaluation, of any task, as tables and lines of text."""
    if isinstance(record, ObjectMeasures):
        worst = record.worst(_WORST)
        more = [object_tables.worst_objects(record, worst)] if worst else []
        return [object_tables.object_measures(record), object_tables.object_classes(record), *more]
    if isinstance(record, MapMeasures):
        worst = record.worst(_WORST)
        more = [object_tables.worst_map_pictures(record, worst)] if worst else []
        return [object_tables.map_measures(record), object_tables.map_classes(record), *more]
    assert isinstance(record, Evaluation)
    line = f"accuracy {record.accuracy:.2%} on {record.n:,} {called}, loss {record.loss:.4f}"
    return [Text(line), tables.classes(record)]
