"""Activations of layers as pictures: grids of maps, the patches that excite a channel, the hierarchy of features."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Final

from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from striate.explain.activations import ActivationMaps, Hierarchy, Patch, Patches
from striate.report.synthesis import show
from striate.report.text import middle

#: If a smaller share of a field lies in the image, the field counts as larger than the image.
_MOSTLY: Final = 0.3
#: Columns of letters that an image's name has.
_NAME: Final = 16


def grid(found: ActivationMaps, *, alike: bool = True, most: int = 63) -> Figure:
    """The image and the strongest maps, in the order of the channels, scaled alike or each by itself."""
    shown = sorted(found.strongest[:most])
    columns = min(max(4, math.ceil(math.sqrt(len(shown) + 1))), 8)
    rows = math.ceil((len(shown) + 1) / columns)
    height, width = found.maps.shape[1:]
    side = 1.35
    figure = Figure(
        figsize=(side * columns + 1.3, (side * min(height / width, 2) + 0.25) * rows + 0.6), layout="constrained"
    )
    count = f"{len(shown)} channels" if len(shown) == len(found.maps) else f"the {len(shown)} strongest channels"
    scaled = "one scale for all" if alike else "each channel with a scale of its own"
    figure.suptitle(
        f"{found.layer}: {count} of {len(found.maps)}, {height}x{width}; {scaled}", fontsize=11, parse_math=False
    )
    cells = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in cells:
        axes.set_axis_off()
    show(cells[0], found.picture)
    cells[0].set_title("image", fontsize=7, pad=2)
    signed = float(found.maps.min()) < 0
    colours = "coolwarm" if signed else "inferno"
    overall = _limit(found.maps[shown])
    for axes, channel in zip(cells[1:], shown, strict=False):
        limit = overall if alike else _limit(found.maps[channel])
        axes.imshow(
            found.maps[channel].numpy(),
            cmap=colours,
            vmin=-limit if signed else 0,
            vmax=limit,
            interpolation="nearest",
        )
        axes.set_title(f"{channel}" if alike else f"{channel}, to {limit:.2g}", fontsize=7, pad=2)
    scale = Normalize(-1 if signed else 0, 1) if not alike else Normalize(-overall if signed else 0, overall)
    figure.colorbar(
        ScalarMappable(scale, colours),
        ax=list(cells),
        shrink=0.6,
        label="activation" if alike else "share of the channel's largest activation",
    )
    return figure


def patches(found: Patches) -> Figure:
    """The patches, strongest first, all on one scale of brightness."""
    count = len(found.patches)
    columns = min(count, 9 if count > 12 else 6)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(max(1.7 * columns, 5.5), 2.15 * rows + 0.6), layout="constrained")
    height, width = found.patches[0].inside.shape
    figure.suptitle(
        f"Channel {found.channel} of {found.layer}: the strongest of {found.images:,} images, field {height}x{width}",
        fontsize=11,
        parse_math=False,
    )
    cells = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in cells:
        axes.set_axis_off()
    low = min(float(patch.pixels.min()) for patch in found.patches)
    high = max(float(patch.pixels.max()) for patch in found.patches)
    for axes, patch in zip(cells, found.patches, strict=False):
        _patch(axes, patch, low, high)
        y, x = patch.position
        title = f"{patch.activation:.3g}\n{middle(Path(found.name_of(patch.image)).name, _NAME)} ({y}, {x})"
        axes.set_title(title, fontsize=8, parse_math=False)
    return figure


def hierarchy(found: Hierarchy) -> Figure:
    """A column a stage: the strongest channels' maps above the patches that excite them; on the left the pixels."""
    stages = found.stages
    most = max(len(stage.channels) for stage in stages)
    figure = Figure(figsize=(3.4 + 3.1 * len(stages), 1.55 * most + 1.0), layout="constrained")
    parts = figure.subfigures(1, 1 + len(stages), squeeze=False, width_ratios=(3.4, *([3.1] * len(stages)))).ravel()
    parts[0].suptitle("pixels", fontsize=11)
    axes = parts[0].subplots()
    axes.set_axis_off()
    show(axes, found.picture)
    for part, stage in zip(parts[1:], stages, strict=True):
        height, width = stage.field
        part.suptitle(f"{stage.name}: {stage.layer}, field {height}x{width}", fontsize=9, parse_math=False)
        signed = float(stage.maps.min()) < 0
        low = min(float(patch.pixels.min()) for patch in stage.patches)
        high = max(float(patch.pixels.max()) for patch in stage.patches)
        for row, (left, right) in enumerate(part.subplots(most, 2, squeeze=False)):
            left.set_axis_off()
            right.set_axis_off()
            if row >= len(stage.channels):
                continue
            limit = _limit(stage.maps[row])
            left.imshow(
                stage.maps[row].numpy(),
                cmap="coolwarm" if signed else "inferno",
                vmin=-limit if signed else 0,
                vmax=limit,
                interpolation="nearest",
            )
            left.set_title(f"channel {stage.channels[row]}, to {limit:.2g}", fontsize=7, pad=2)
            _patch(right, stage.patches[row], low, high)
            right.set_title("strongest at ({}, {})".format(*stage.patches[row].position), fontsize=7, pad=2)
    return figure


def _limit(maps: Tensor) -> float:
    return float(maps.abs().max()) or 1.0


def _patch(axes: Axes, patch: Patch, low: float, high: float) -> None:
    """A patch, hatched where there is no image; of one that is mostly that, the image and the field's middle."""
    rows, columns = (patch.inside.any(dim).nonzero()[:, 0] for dim in (1, 0))
    top, bottom, left, right = int(rows[0]), int(rows[-1]), int(columns[0]), int(columns[-1])
    pixels = (patch.pixels[:, top : bottom + 1, left : right + 1] - low) / max(high - low, 1e-12)
    height, width = patch.inside.shape
    behind = Rectangle((-0.5, -0.5), width, height, facecolor="#8a94a6", hatch="////", linewidth=0, zorder=-1)
    axes.add_patch(behind)
    show(axes, pixels, (left - 0.5, right + 0.5, bottom + 0.5, top - 0.5))
    if patch.inside.float().mean() < _MOSTLY:
        axes.plot((width - 1) / 2, (height - 1) / 2, "+", color="white", markersize=9, markeredgewidth=2)
        axes.plot((width - 1) / 2, (height - 1) / 2, "+", color="black", markersize=7, markeredgewidth=1)
        axes.set(xlim=(left - 0.5, right + 0.5), ylim=(bottom + 0.5, top - 0.5))
    else:
        axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
