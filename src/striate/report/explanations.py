"""Explanations as pictures: each image beside the map of its evidence, or beneath it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter, ScalarFormatter
from rich.table import Table
from rich.text import Text

from striate.explain.result import Explanation
from striate.explain.sanity import Check
from striate.report import figures
from striate.report.tables import plain_table
from striate.training.files import write_whole

#: Beyond this share of a map's numbers colours saturate: a few pixels with extreme gradients would hide all others.
_SHOWN: Final = 0.995
#: What the colours cover of the photo, which lies in grey beneath them, so that no colour is the photo's.
_OPAQUE: Final = 0.55
_TAKEN, _GIVEN = "#c8321e", "#1f5fbf"


def save(figure: Figure, path: Path) -> Path:
    """Writes a figure as PNG, whole or not at all.

    Raises:
        OSError: no room, no permission, no such folder.
    """
    write_whole(path, figures.png(figure))
    return path


def maps(found: Explanation) -> Figure:
    """A row an image: the picture under what the network says, its map under the target.

    Maps of regions lie on the picture in grey; maps of single pixels stand alone.
    Colours go from 0 (signed: from minus the limit) to the largest number; maps of pixels to their 99.5th percentile.
    """
    count, height, width = found.map.shape
    side = 3.6 / max(height, width)
    size = (2 * max(side * width, 2.2) + 1.6, count * (max(side * height, 1.8) + 0.75) + 0.3)
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(found.method + (f" at {found.layer}" if found.layer else ""), fontsize=11)
    for image, (left, right) in enumerate(figure.subplots(count, 2, squeeze=False)):
        picture = found.picture[image].permute(1, 2, 0).numpy().clip(0, 1)
        numbers = found.map[image].double().numpy()
        strength = np.abs(numbers)
        limit = float(np.quantile(strength, _SHOWN)) if found.detail == "pixels" else float(strength.max())
        limit = limit or float(strength.max()) or 1.0
        scale = Normalize(-limit if found.signed else 0.0, limit)
        # Moreland's diverging map and inferno: equal steps of the numbers look like equal steps.
        colours = "coolwarm" if found.signed else "inferno"
        for axes in (left, right):
            axes.set_axis_off()
        _draw(left, picture)
        left.set_title(_said(found, image), fontsize=9)
        if found.detail == "regions":
            _draw(right, picture.mean(2, keepdims=True))
            right.imshow(numbers, cmap=colours, norm=scale, alpha=_OPAQUE, interpolation="nearest")
        else:
            right.imshow(numbers, cmap=colours, norm=scale, interpolation="nearest")
        right.set_title(f"for {_short(found.target_of(image))}", fontsize=9)
        extend = "neither"
        if strength.max() > limit:
            extend = "both" if found.signed else "max"
        bar = figure.colorbar(
            ScalarMappable(scale, colours), ax=right, label=found.quantity, shrink=0.85, extend=extend
        )
        bar.formatter = ScalarFormatter()
        bar.formatter.set_powerlimits((-2, 3))
        bar.ax.yaxis.label.set_fontsize(8)
        bar.ax.tick_params(labelsize=8)
    return figure


def check_curves(found: Check) -> Figure:
    """Deletion and insertion against a random order, and the likeness to maps of ever more random networks."""
    figure = Figure(figsize=(11, 3.9), layout="constrained")
    figure.suptitle(f"{found.explanation.method}: faithfulness {found.faithfulness:.2f}", fontsize=11)
    curves, depth = figure.subplots(1, 2)
    shares = np.array(found.curves.shares)
    for name, colour in (("deletion", _TAKEN), ("insertion", _GIVEN)):
        for source, style in ((found.curves, "-"), (found.chance, ":")):
            mean = np.mean(getattr(source, name), axis=0)
            order = "the map's" if source is found.curves else "a random"
            label = f"{name}, {order} order: area {np.mean(getattr(source, f'{name}_auc')):.3f}"
            curves.plot(shares, mean, style, color=colour, label=label)
    curves.set(title="What is marked, taken away or put in first", xlabel="share of the pixels", ylabel="score")
    curves.xaxis.set_major_formatter(PercentFormatter(1.0))
    stages = found.randomisation
    places = range(len(stages.layers))
    ranks = [each.rank_correlation for each in stages.likeness]
    depth.plot(places, ranks, "o-", color=_GIVEN, label="rank correlation")
    depth.plot(places, [each.ssim for each in stages.likeness], "s-", color=_TAKEN, label="SSIM")
    depth.axhline(0, color="black", linewidth=0.8)
    depth.set_xticks(places, [_short(layer) for layer in stages.layers], rotation=20, ha="right", fontsize=8)
    depth.set(title="Likeness to maps of random weights", xlabel="random from the output down to", ylim=(-1.05, 1.05))
    for axes in (curves, depth):
        axes.grid(alpha=0.25)
        axes.legend(frameon=False, fontsize=8)
    return figure


def checked(found: Check) -> Table:
    """What was measured of a map, beside what chance gives."""
    table = plain_table("check", "measured", "chance", "good is")
    for name, good in (("deletion", "low"), ("insertion", "high")):
        mine, other = (float(np.mean(getattr(each, f"{name}_auc"))) for each in (found.curves, found.chance))
        table.add_row(f"{name} AUC", f"{mine:.3f}", f"{other:.3f}", good)
    table.add_row("faithfulness (correlation with falls of the score)", f"{found.faithfulness:.3f}", "0", "1")
    for layer, each in zip(found.randomisation.layers, found.randomisation.likeness, strict=True):
        values = f"{each.rank_correlation:.3f}, {each.ssim:.3f}"
        table.add_row(f"likeness, random down to {layer} (rank correlation, SSIM)", values, "", "low")
    table.columns[0].justify = table.columns[-1].justify = "left"
    return table


def told(found: Explanation, picture: Path) -> Table:
    """What was explained: predicted classes, target, layer, figures and notes, and where the picture lies."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for image in range(len(found)):
        for place, guess in enumerate(found.predictions[image] if found.predictions else ()):
            table.add_row(
                "" if place else "predicted", Text(f"{guess.probability:7.2%}  {found.name_of(guess.category)}")
            )
        table.add_row("target", Text(f"{found.target_of(image)}, score {found.scores[image]:.4g}"))
        for name, values in found.measures.items():
            table.add_row(name, f"{values[image]:.4g}")
    table.add_row("method", found.method)
    if found.layer is not None:
        table.add_row("layer", Text(f"{found.layer}, {_by(found.values.shape[1:])} places"))
    for note in found.notes:
        table.add_row("note", Text(note))
    table.add_row("picture", Text(str(picture)))
    return table


def methods(described: Mapping[str, str]) -> Table:
    """The methods, a line each."""
    table = plain_table("method", "what its map is")
    table.columns[0].justify = table.columns[1].justify = "left"
    table.columns[1].overflow = "fold"
    for name, text in described.items():
        table.add_row(name, Text(text))
    return table


def _by(lengths: Sequence[int]) -> str:
    return "x".join(map(str, lengths))


def _draw(axes: Axes, picture: np.ndarray[Any, Any]) -> None:
    axes.imshow(picture.squeeze(), cmap="gray" if picture.shape[2] == 1 else None, vmin=0, vmax=1)


def _said(found: Explanation, image: int) -> str:
    if not found.predictions:
        return "input"
    best = found.predictions[image][0]
    return f"predicted {_short(found.name_of(best.category))} ({best.probability:.1%})"


def _short(name: str) -> str:
    return name if len(name) <= 28 else name[:27] + "…"
