"""Results as pictures: matplotlib figures, made without pyplot, so that no state is shared and no window opens."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, PercentFormatter, StrMethodFormatter

from striate.training.files import write_whole
from striate.training.results import Epoch, Evaluation, Example

_TRAIN, _TEST, _WRONG = "#8a94a6", "#1f5fbf", "#c8321e"
_COLUMNS: Final = 6
#: Up to this many classes, each cell of a confusion matrix shows its count.
_COUNTED: Final = 25


def curves(history: Sequence[Epoch]) -> Figure:
    """Loss and accuracy over the epochs, in training and on the held-out images."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    epochs = [row.epoch for row in history]
    loss, accuracy = figure.subplots(1, 2)
    for axes, kind in ((loss, "loss"), (accuracy, "accuracy")):
        for part, colour in (("train", _TRAIN), ("test", _TEST)):
            values = [getattr(row, f"{part}_{kind}") for row in history]
            last = f"{values[-1]:.2%}" if kind == "accuracy" else f"{values[-1]:.3g}"
            label = f"{'training' if part == 'train' else 'held out'}, at the end {last}"
            axes.plot(epochs, values, color=colour, label=label, marker="o", markersize=3, linewidth=1.5)
        axes.set(title=kind.capitalize(), xlabel="epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.25)
        axes.legend(frameon=False)
    loss.set(ylabel="mean loss of an image", yscale="log")
    loss.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    loss.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    loss.yaxis.set_minor_formatter(NullFormatter())
    accuracy.set(ylabel="images predicted right")
    accuracy.yaxis.set_major_formatter(PercentFormatter(1.0))
    return figure


def confusion(evaluation: Evaluation) -> Figure:
    """The confusion matrix: counts, coloured by their share of the true class."""
    counts = np.array(evaluation.confusion)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    size = len(evaluation.classes)
    side = min(max(4.5, 0.55 * size), 14)
    figure = Figure(figsize=(side + 1.5, side), layout="constrained")
    axes = figure.subplots()
    # The root lifts a single mistake among hundreds out of the white.
    image = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, 0, 1), interpolation="nearest")
    names = [name if len(name) <= 16 else name[:15] + "…" for name in evaluation.classes]
    every = math.ceil(size / 100)
    font = min(10.0, max(4.0, 72 * side / size * 0.55))
    upright = size * max(map(len, names)) <= 50  # letters that fit side by side
    axes.set_xticks(range(0, size, every), names[::every], rotation=0 if upright else 90, fontsize=font)
    axes.set_yticks(range(0, size, every), names[::every], fontsize=font)
    if size <= _COUNTED:
        for row, column in zip(*counts.nonzero(), strict=True):
            colour = "white" if shares[row, column] > 0.4 else "black"
            axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=colour, fontsize=9)
    axes.set(
        title=f"Held-out images: {evaluation.accuracy:.2%} of {evaluation.n:,} right",
        xlabel="predicted class",
        ylabel="true class",
    )
    bar = figure.colorbar(
        image, ax=axes, label="share of the true class", shrink=0.8, ticks=[0, 0.01, 0.1, 0.25, 0.5, 1]
    )
    bar.ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    return figure


def predictions(shown: Sequence[Example]) -> Figure:
    """A grid of held-out images under the predicted class and its probability; wrong ones in red, with the truth."""
    rows = math.ceil(len(shown) / _COLUMNS)
    figure = Figure(figsize=(1.6 * _COLUMNS, 1.9 * rows + 0.5), layout="constrained")
    figure.suptitle("Held-out images: predicted class and its probability; mistakes in red")
    grid = figure.subplots(rows, _COLUMNS, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, example in zip(grid.flat, shown, strict=False):
        pixels = example.image.permute(1, 2, 0).squeeze(2).numpy()
        axes.imshow(pixels, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        title = f"{_short(example.predicted)} ({example.probability:.1%})"
        if not example.right:
            title += f"\nbut is {_short(example.actual)}"
            axes.set_axis_on()
            axes.set(xticks=[], yticks=[])
            for spine in axes.spines.values():
                spine.set(color=_WRONG, linewidth=3)
        axes.set_title(title, fontsize=9, color="black" if example.right else _WRONG)
    return figure


def save_all(folder: Path, history: Sequence[Epoch], evaluation: Evaluation, examples: Sequence[Example]) -> None:
    """Writes ``curves.png``, ``confusion.png`` and ``predictions.png``, each whole or not at all.

    Raises:
        OSError: no room, no permission.
    """
    for name, figure in (
        ("curves", curves(history)),
        ("confusion", confusion(evaluation)),
        ("predictions", predictions(examples)),
    ):
        write_whole(folder / f"{name}.png", png(figure))


def png(figure: Figure) -> bytes:
    """A figure as the content of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def _short(name: str) -> str:
    return name if len(name) <= 14 else name[:13] + "…"
