"""What the views found, told on the terminal."""

from __future__ import annotations

from pathlib import Path

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from striate.drawing import Pictured
from striate.explain.activations import ActivationMaps, Hierarchy, Patches
from striate.explain.adversarial import Perturbation
from striate.explain.filters import Filters
from striate.explain.inversion import Inversion
from striate.explain.synthesis import Dream, Synthesis
from striate.report import filters, synthesis
from striate.report.tables import described, plain_table
from striate.report.text import file_names, printable


def told(found: Pictured, picture: Path) -> Group:
    """What was found, and where the picture lies."""
    return Group(_numbers(found), described({"picture": printable(str(picture))}))


def _numbers(found: Pictured) -> RenderableType:
    if isinstance(found, Filters):
        return filters.table(found)
    if isinstance(found, Inversion):
        return synthesis.depths(found)
    if isinstance(found, Patches):
        return _patches(found)
    if isinstance(found, Hierarchy):
        return _stages(found)
    return described(_figures(found))


def _figures(found: Pictured) -> dict[str, str]:
    if isinstance(found, ActivationMaps):
        channels, height, width = found.maps.shape
        strongest = ", ".join(map(str, found.strongest[:8]))
        return {"layer": found.layer, "maps": f"{channels} of {height}x{width}", "strongest channels": strongest}
    if isinstance(found, Synthesis):
        compared = {} if found.largest is None else {"largest in the data": f"{found.largest:.4g}"}
        started, reached = (", ".join(f"{each:.4g}" for each in values) for values in (found.started, found.reached))
        return {"maximised": found.what, "started at": started, "reached": reached, **compared}
    if isinstance(found, Dream):
        before, after = found.energies
        sizes = ", ".join(f"{height}x{width}" for height, width in found.sizes)
        return {"excited": found.what, "half the mean square": f"{before:.4g} to {after:.4g}", "octaves": sizes}
    assert isinstance(found, Perturbation)
    sides = {}
    for name, each in (("before", found.before), ("after", found.after)):
        best = each.predictions[0][0]
        sides[name] = f"{best.probability:7.2%}  {printable(each.name_of(best.category))}"
    size = f"l2 {found.l2:.4g}, l_inf {found.largest:.4g} ({found.largest * 255:.2f}/255), of pixels in 0..1"
    return {**sides, "change": size, "found by": f"{found.method}, small in {found.norm}"}


def _patches(found: Patches) -> Table:
    title = escape(f"channel {found.channel} of {found.layer}, {found.images} images")
    files = file_names(found.names, 40) if found.names else tuple(map(str, range(found.images)))
    table = plain_table("image", "activation", "position", "top", "left", "size", title=title)
    for patch in found.patches:
        table.add_row(
            Text(files[patch.image]),
            f"{patch.activation:.4g}",
            "{}, {}".format(*patch.position),
            str(patch.top),
            str(patch.left),
            "x".join(map(str, patch.inside.shape)),
        )
    return table


def _stages(found: Hierarchy) -> Table:
    table = plain_table("stage", "layer", "field", "strongest channels")
    for stage in found.stages:
        channels = ", ".join(map(str, stage.channels))
        table.add_row(stage.name, Text(stage.layer), "x".join(map(str, stage.field)), channels)
    return table
