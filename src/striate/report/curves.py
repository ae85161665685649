"""The measures of epochs as curves, for any task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from striate.training.results import Epoch

_PARTS: Final = {"val": "validation", "test": "held out"}
_COLOURS: Final = ("#1f5fbf", "#c8321e", "#2a8c5a", "#8a5fb0", "#b8860b", "#4a4a4a")


def measure_curves(history: Sequence[Epoch]) -> Figure:
    """Losses in one panel, and shares (average precision, intersection over union, accuracy) in the other.

    Args:
        history: the epochs, one or more. Training images are drawn with broken lines, held-out ones with whole ones.
    """
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    losses, shares = figure.subplots(1, 2)
    last = history[-1]
    for axes, wanted in ((losses, True), (shares, False)):
        of_training = [name for name in last.train if name.startswith("loss") == wanted]
        of_others = [name for name in last.held_out if name.startswith("loss") == wanted]
        names = list(dict.fromkeys([*of_others, *of_training]))
        for name in of_training:
            values = [epoch.train[name] for epoch in history]
            _line(axes, history, values, f"training {_word(name)}", names.index(name), dashed=not wanted)
        for name in of_others:
            values = [epoch.held_out[name] for epoch in history]
            _line(axes, history, values, f"{_PARTS[last.part]} {_word(name)}", names.index(name), dashed=False)
        axes.set(title="Losses" if wanted else "Measures", xlabel="epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.25)
        axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)
        if wanted:
            axes.set_ylim(bottom=0)
        else:
            axes.yaxis.set_major_formatter(PercentFormatter(1.0))
            axes.set_ylim(0, 1)
    return figure


def _word(name: str) -> str:
    return name.replace("_", " ").replace("loss ", "loss, ")


def _line(axes: Axes, history: Sequence[Epoch], values: list[float], text: str, place: int, *, dashed: bool) -> None:
    epochs = [epoch.epoch for epoch in history]
    axes.plot(
        epochs,
        values,
        color=_COLOURS[place % len(_COLOURS)],
        linestyle="--" if dashed else "-",
        label=f"{text}: {values[-1]:.3g}",
        marker="o",
        markersize=3 if len(history) > 1 else 8,
        linewidth=1.5,
    )
