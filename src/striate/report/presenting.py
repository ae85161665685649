"""The figures of a run or an evaluation of each task."""

from __future__ import annotations

from collections.abc import Callable

from matplotlib.figure import Figure

from striate.report import evaluation, figures, maps, object_figures, objects
from striate.report.sheets import sheet
from striate.tasks.maps import MapMeasures
from striate.tasks.objects import ObjectMeasures
from striate.tasks.task import Outcome

#: Figures by the names of their files, each drawn when it is asked for.
Makers = dict[str, Callable[[], Figure]]


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
