"""Results as pictures: matplotlib figures, made without pyplot, so that no state is shared and no window opens."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, PercentFormatter, StrMethodFormatter
from rich.cells import cell_len

from striate.files import write_whole
from striate.report.counts import counts_figure
from striate.report.fonts import literal
from striate.report.text import short
from striate.tasks.evaluation import Evaluation, Example
from striate.training.results import Epoch

_TRAIN, _TEST, _WRONG = "#8a94a6", "#1f5fbf", "#c8321e"
_COLUMNS: Final = 6
#: Columns that a class's name may take.
_NAME: Final = 22
#: A loss whose largest value is so many times its smallest is drawn over powers of ten.
_DECADES: Final = 5


class FigureWarning(UserWarning):
    """A figure that couldn't be drawn and is missing."""


#: What the images are that an epoch is measured on.
_PARTS: Final = {"val": "validation", "test": "held out"}


def curves(history: Sequence[Epoch], *, smoothing: float = 0.0, changed: bool = False) -> Figure:
    """Loss and accuracy over the epochs, in training and on the held-out images.

    Args:
        history: the epochs.
        smoothing: of the labels in the training loss; the held-out images' loss has none, and so they aren't the same.
        changed: whether training images were augmented or mixed, which held-out ones aren't.
    """
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    epochs = [row.epoch for row in history]
    for axes, kind in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        everything: list[float] = []
        for part, colour in (("train", _TRAIN), ("held out", _TEST)):
            if part == "train":
                values = [row.train[kind] for row in history]
            else:
                values = [row.held_out[kind] for row in history]
            everything += values
            said = ["training" if part == "train" else _PARTS[history[-1].part]]
            said += ["images changed"] if part == "train" and changed else []
            said += [f"labels smoothed by {smoothing:g}"] if part == "train" and kind == "loss" and smoothing else []
            last = f"{values[-1]:.2%}" if kind == "accuracy" else f"{values[-1]:.3g}"
            label = ", ".join(said) + (f": {last} at the end" if len(history) > 1 else f": {last}")
            size = 3 if len(history) > 1 else 8
            axes.plot(epochs, values, color=colour, label=label, marker="o", markersize=size, linewidth=1.5)
        axes.set(title=kind.capitalize(), xlabel="epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if len(history) == 1:
            axes.set(xlim=(epochs[0] - 1, epochs[0] + 1), xticks=epochs)
        axes.grid(alpha=0.25)
        axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.14))  # no line is behind it there
        if kind == "accuracy":
            axes.set(ylabel="images predicted right")
            axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        else:
            axes.set(ylabel="mean loss of an image")
            if min(everything) > 0 and max(everything) > _DECADES * min(everything):
                axes.set(yscale="log")
                axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
                axes.yaxis.set_minor_formatter(NullFormatter())
    return figure


def confusion(evaluation: Evaluation, images: str = "Held-out images") -> Figure:
    """The confusion matrix: counts, coloured by their share of the true class."""
    title = f"{images}: {evaluation.accuracy:.2%} of {evaluation.n:,} right"
    return counts_figure(evaluation.confusion, evaluation.classes, evaluation.classes, title)


def predictions(shown: Sequence[Example], classes: Sequence[str] = ()) -> Figure:
    """A grid of held-out images under the predicted class and its probability; wrong ones in red, with the truth.

    Args:
        shown: the images.
        classes: all names that there are, so that a class is called the same here and in other pictures.
    """
    columns = min(_COLUMNS, max(len(shown), 1))
    rows = max(math.ceil(len(shown) / columns), 1)
    everything = tuple(dict.fromkeys([*classes, *(name for each in shown for name in (each.actual, each.predicted))]))
    names = dict(zip(everything, short(everything, _NAME), strict=True))
    titles = [_said(example, names) for example in shown]
    lines = max((title.count("\n") for title in titles), default=0)
    wide = columns > _COLUMNS // 2
    figure = Figure(figsize=(1.75 * columns if wide else 5.25, (1.7 + 0.16 * lines) * rows + 0.6), layout="constrained")
    figure.suptitle(
        "Held-out images: predicted class and its probability;" + (" " if wide else "\n") + "mistakes in red"
    )
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, example, title in zip(grid.flat, shown, titles, strict=False):
        pixels = example.image.permute(1, 2, 0).squeeze(2).numpy()
        axes.imshow(pixels, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        if not example.right:
            axes.set_axis_on()
            axes.set(xticks=[], yticks=[])
            for spine in axes.spines.values():
                spine.set(color=_WRONG, linewidth=3)
        axes.set_title(title, fontsize=9, color="black" if example.right else _WRONG)
    return figure


def _said(example: Example, names: Mapping[str, str]) -> str:
    """The predicted class, its probability and, where it is another, the true class, on lines as wide as an image."""
    name, share = names[example.predicted], f"({example.probability:.1%})"
    title = f"{name} {share}" if cell_len(f"{name} {share}") <= _NAME else f"{name}\n{share}"
    if example.right:
        return title
    truth = names[example.actual]
    return f"{title}\nbut is {truth}" if cell_len(f"but is {truth}") <= _NAME else f"{title} but is\n{truth}"


def save_each(folder: Path, makers: Mapping[str, Callable[[], Figure]]) -> None:
    """Writes pictures into a folder, each whole or not at all.

    A picture that can't be drawn is left out with a FigureWarning, so that a trained run isn't lost because of it.

    Args:
        folder: where they go.
        makers: what draws each, by the name of its file without ``.png``.

    Raises:
        OSError: no room, no permission.
    """
    for name, make in makers.items():
        try:
            content = png(make())
        except Exception as error:  # from matplotlib, NumPy or a font's file, caused by any name or number
            reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
            warnings.warn(f"{name}.png can't be drawn ({reason})", FigureWarning, stacklevel=2)
        else:
            write_whole(folder / f"{name}.png", content)


def png(figure: Figure) -> bytes:
    """A figure as the content of a PNG file; what its texts say is what it shows, see :func:`.fonts.literal`."""
    buffer = io.BytesIO()
    with literal(figure):
        figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
