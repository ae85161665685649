"""Explanations as pictures: each image beside the map of its evidence, or beneath it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter, ScalarFormatter
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from striate.explain.result import Explanation
from striate.explain.sanity import Check
from striate.report.tables import plain_table
from striate.report.text import file_names, middle, printable, short

#: Colours saturate at this quantile of a map's numbers; otherwise a few extreme gradients would hide all other pixels.
_SHOWN: Final = 0.995
#: What the colours cover of the photo, which lies in grey beneath them, so that no colour is the photo's.
_OPAQUE: Final = 0.55
#: Columns of letters that a name has on a picture, and in a table.
_WIDE: Final = 28
_NAME: Final = 40
#: Up to so many images stand beneath each other, each with its map beside it.
_ONE_COLUMN: Final = 3
_TAKEN, _GIVEN = "#c8321e", "#1f5fbf"


def maps(found: Explanation) -> Figure:
    """For each image the picture under what the network says, and its map under the target; in one or two columns.

    Maps of regions lie on the picture in grey; maps of single pixels stand alone.
    Colours go from 0 (signed: from minus the limit) to the largest number; maps of pixels to their 99.5th percentile.
    """
    count, height, width = found.map.shape
    columns = 1 if count <= _ONE_COLUMN else 2
    rows = -(-count // columns)
    side = (3.6 if columns == 1 else 2.6) / max(height, width)
    wide, high = 2 * max(side * width, 2.2) + 1.6, max(side * height, 1.8) + (0.75 if count == 1 else 0.95)
    figure = Figure(figsize=(columns * wide, rows * high + 0.3), layout="constrained")
    figure.suptitle(found.method + (f" at {found.layer}" if found.layer else ""), fontsize=11, parse_math=False)
    cells = figure.subplots(rows, 2 * columns, squeeze=False)
    for axes in cells.flat:
        axes.set_axis_off()
    names = _titles(found)
    files = file_names(found.images, _WIDE) if found.images else tuple(map(found.image_of, range(count)))
    for image, (left, right) in enumerate(cells.reshape(rows * columns, 2)[:count]):
        picture = found.picture[image].permute(1, 2, 0).numpy().clip(0, 1)
        numbers = found.map[image].double().numpy()
        strength = np.abs(numbers)
        limit = float(np.quantile(strength, _SHOWN)) if found.detail == "pixels" else float(strength.max())
        limit = limit or float(strength.max()) or 1.0
        scale = Normalize(-limit if found.signed else 0.0, limit)
        # Moreland's diverging map and inferno: equal steps of the numbers look like equal steps.
        colours = "coolwarm" if found.signed else "inferno"
        _draw(left, picture)
        said = _said(found, image, names)
        title = f"{files[image]}\n{said}" if count > 1 or found.images else said
        left.set_title(title, fontsize=9, parse_math=False)
        if found.detail == "regions":
            _draw(right, picture.mean(2, keepdims=True))
            right.imshow(numbers, cmap=colours, norm=scale, alpha=_OPAQUE, interpolation="nearest")
        else:
            right.imshow(numbers, cmap=colours, norm=scale, interpolation="nearest")
        right.set_title(f"for {names[found.target_of(image)]}", fontsize=9, parse_math=False)
        extend = "neither"
        if strength.max() > limit:
            extend = "both" if found.signed else "max"
        bar = figure.colorbar(
            ScalarMappable(scale, colours), ax=right, label=found.quantity, shrink=0.85, extend=extend
        )
        bar.formatter = ScalarFormatter()
        bar.formatter.set_powerlimits((-2, 3))
        bar.ax.yaxis.label.set_fontsize(8 if columns == 1 else 7)
        bar.ax.tick_params(labelsize=8 if columns == 1 else 7)
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
    depth.set_xticks(
        places, [middle(layer, _WIDE) for layer in stages.layers], parse_math=False, rotation=20, ha="right", fontsize=8
    )
    depth.set(title="Likeness to maps of random weights", xlabel="random from the output down to", ylim=(-1.05, 1.05))
    for axes in (curves, depth):
        axes.grid(alpha=0.25)
        axes.legend(frameon=False, fontsize=8)
    return figure


def checked(found: Check) -> Table:
    """The measures of a map, beside those of a random map."""
    table = plain_table("check", "measured", "chance", "good is")
    for name, good in (("deletion", "low"), ("insertion", "high")):
        mine, other = (float(np.mean(getattr(each, f"{name}_auc"))) for each in (found.curves, found.chance))
        table.add_row(f"{name} AUC", f"{mine:.3f}", f"{other:.3f}", good)
    table.add_row("faithfulness (correlation with falls of the score)", f"{found.faithfulness:.3f}", "0", "1")
    for layer, each in zip(found.randomisation.layers, found.randomisation.likeness, strict=True):
        values = f"{each.rank_correlation:.3f}, {each.ssim:.3f}"
        table.add_row(Text(f"likeness, random down to {layer} (rank correlation, SSIM)"), values, "", "low")
    table.columns[0].justify = table.columns[-1].justify = "left"
    return table


@dataclass(frozen=True)
class Row:
    """The results for one image, without its map.

    Args:
        image: its file; None if it has no name.
        found: ``(probability, class)``, likeliest first.
        target, score: what was explained.
        places: of the layer's maps, ``"14x14"``.
        method, layer, measures, notes: as the explanation has them.
    """

    image: str | None
    found: tuple[tuple[float, str], ...]
    target: str
    score: float
    places: str
    method: str
    layer: str | None
    measures: dict[str, float]
    notes: tuple[str, ...]


def row(found: Explanation, image: int = 0) -> Row:
    """The results for an image."""
    guesses = found.predictions[image] if found.predictions else ()
    return Row(
        found.images[image] if found.images else None,
        tuple((guess.probability, found.name_of(guess.category)) for guess in guesses),
        found.target_of(image),
        found.scores[image],
        _by(found.values.shape[1:]),
        found.method,
        found.layer,
        {name: values[image] for name, values in found.measures.items()},
        found.notes,
    )


def told(found: Explanation, picture: Path) -> Group:
    """What was explained, and where the picture lies."""
    return listed([row(found, image) for image in range(len(found))], [picture])


def listed(rows: Sequence[Row], pictures: Sequence[Path]) -> Group:
    """What was explained: predicted classes, target, layer, figures and notes, and where the pictures lie."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    first = rows[0]
    shown: list[RenderableType] = []
    if len(rows) == 1:
        if first.image is not None:
            table.add_row("image", Text(printable(first.image)))
        for place, (probability, name) in enumerate(first.found):
            table.add_row("" if place else "predicted", Text(f"{probability:7.2%}  {printable(name)}"))
        table.add_row("target", Text(f"{printable(first.target)}, score {first.score:.4g}"))
        for name, value in first.measures.items():
            table.add_row(name, f"{value:.4g}")
    else:
        shown += [_each(rows), Text("")]
    table.add_row("method", first.method)
    if first.layer is not None:
        table.add_row("layer", Text(f"{first.layer}, {first.places} places"))
    common = set.intersection(*(set(each.notes) for each in rows))
    files = _files(rows)
    notes = [
        note if note in common else f"{file}: {note}"
        for file, each in zip(files, rows, strict=True)
        for note in each.notes
    ]
    for note in dict.fromkeys(notes):
        table.add_row("note", Text(note))
    for place, picture in enumerate(pictures):
        table.add_row("" if place else "picture" if len(pictures) == 1 else "pictures", Text(printable(str(picture))))
    return Group(*shown, table)


def _each(rows: Sequence[Row]) -> Table:
    """A row an image: the likeliest class, and the target where that is another one."""
    others = any(not each.found or each.found[0][1] != each.target for each in rows)
    table = plain_table("image", "predicted", "", *(["target"] if others else []), "score", *rows[0].measures)
    table.columns[0].overflow = table.columns[1].overflow = "fold"
    table.columns[1].justify = "left"
    if others:
        table.columns[3].justify, table.columns[3].overflow = "left", "fold"
    for file, each in zip(_files(rows), rows, strict=True):
        probability, name = each.found[0] if each.found else (None, "")
        table.add_row(
            Text(file),
            Text(printable(name)),
            "" if probability is None else f"{probability:.2%}",
            *([Text(printable(each.target))] if others else []),
            f"{each.score:.4g}",
            *(f"{value:.4g}" for value in each.measures.values()),
        )
    return table


def _files(rows: Sequence[Row]) -> tuple[str, ...]:
    """How images are called beside each other."""
    if any(each.image is None for each in rows):
        return tuple(f"image {place}" for place in range(len(rows)))
    return file_names([str(each.image) for each in rows], _NAME)


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


def _titles(found: Explanation) -> dict[str, str]:
    """The classes that titles name, cut so that they stay different."""
    said = [found.name_of(row[0].category) for row in found.predictions]
    names = list(dict.fromkeys(said + [found.target_of(image) for image in range(len(found))]))
    return dict(zip(names, short(names, _WIDE), strict=True))


def _said(found: Explanation, image: int, names: Mapping[str, str]) -> str:
    if not found.predictions:
        return "input"
    best = found.predictions[image][0]
    return f"predicted {names[found.name_of(best.category)]} ({best.probability:.1%})"
