"""An evaluation of any task on a terminal: tables and lines of text, without importing what draws figures."""

from __future__ import annotations

from typing import Any, Final

from rich.console import RenderableType
from rich.text import Text

from striate.report import object_tables, tables
from striate.tasks.evaluation import Evaluation
from striate.tasks.maps import MapMeasures
from striate.tasks.objects import ObjectMeasures

#: Pictures that are listed as those with the most mistakes.
_WORST: Final = 5


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
