"""Explanations as pictures: each image beside the map of its evidence, or beneath it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

from striate.explain.result import Explanation
from striate.report import figures
from striate.training.files import write_whole

#: Beyond this share of a map's numbers colours saturate: a few pixels with extreme gradients would hide all others.
_SHOWN: Final = 0.995
#: Even the strongest evidence lets the photo through.
_OPAQUE: Final = 0.7


def save(figure: Figure, path: Path) -> Path:
    """Writes a figure as PNG, whole or not at all.

    Raises:
        OSError: no room, no permission, no such folder.
    """
    write_whole(path, figures.png(figure))
    return path


def maps(found: Explanation) -> Figure:
    """A row an image: the picture under what the network says, its map under the target.

    Maps of regions lie on the picture, transparent where there is no evidence; maps of single pixels stand alone.
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
            _draw(right, picture)
            alpha = _OPAQUE * np.minimum(strength / limit, 1.0)
            right.imshow(numbers, cmap=colours, norm=scale, alpha=alpha, interpolation="nearest")
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


def _draw(axes: Axes, picture: np.ndarray[Any, Any]) -> None:
    axes.imshow(picture.squeeze(), cmap="gray" if picture.shape[2] == 1 else None, vmin=0, vmax=1)


def _said(found: Explanation, image: int) -> str:
    if not found.predictions:
        return "input"
    best = found.predictions[image][0]
    return f"predicted {_short(found.name_of(best.category))} ({best.probability:.1%})"


def _short(name: str) -> str:
    return name if len(name) <= 28 else name[:27] + "…"
