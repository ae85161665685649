"""Draws results; the type of a result decides the picture."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from striate.data import Detections
from striate.explain.activations import ActivationMaps, Hierarchy, Patches
from striate.explain.adversarial import Perturbation
from striate.explain.filters import Filters
from striate.explain.inversion import Inversion
from striate.explain.result import Explanation
from striate.explain.sanity import Check
from striate.explain.synthesis import Dream, Synthesis
from striate.files import write_whole
from striate.report import activations, explanations, figures, filters, maps, objects, synthesis
from striate.tasks.pictures import Shown


@functools.singledispatch
def draw(result: object, **options: Any) -> Figure:
    """A result as a matplotlib figure, as suits its type.

    Args:
        result: the result of a function of :mod:`striate.explain`, or an annotated picture with a network's detections.
        options: of the picture; few types have any.

    Raises:
        TypeError: a type without a picture.
    """
    raise TypeError(f"nobody draws results of type {type(result).__name__}")


draw.register(ActivationMaps, activations.grid)
draw.register(Check, explanations.check_curves)
draw.register(Dream, synthesis.dream)
draw.register(Explanation, explanations.maps)
draw.register(Filters, filters.figure)
draw.register(Hierarchy, activations.hierarchy)
draw.register(Inversion, synthesis.inversion)
draw.register(Patches, activations.patches)
draw.register(Perturbation, synthesis.perturbation)
draw.register(Synthesis, synthesis.maximal)


@draw.register
def _shown(result: Shown, *, threshold: float = 0.0) -> Figure:
    if isinstance(result.found, Detections):
        return objects.draw_comparison(result.image, result.truth, result.found, result.classes, threshold=threshold)
    if result.truth.class_map is None:
        return maps.draw_class_map(result.image, result.found, result.classes)
    return maps.draw_map_comparison(result.image, result.truth.class_map, result.found, result.classes, result.name)


def save(result: object, path: str | Path) -> Path:
    """Writes a result, or a figure, as PNG, whole or not at all, and gives back where it lies.

    Raises:
        OSError: no room, no permission, no such folder.
        TypeError: a type that nobody draws.
    """
    figure = result if isinstance(result, Figure) else draw(result)
    write_whole(Path(path), figures.png(figure))
    return Path(path)
