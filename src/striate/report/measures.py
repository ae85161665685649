"""Measures of networks as tables and pictures: costs and receptive fields of layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import EngFormatter, MaxNLocator

from striate.analysis import CostRow, EffectiveField, FieldRow, ReceptiveFields, Summary
from striate.report.fitting import Column, Fitted, Labelled

_FORWARD, _BACKWARD, _MEMORY = "#1f5fbf", "#8a94a6", "#c8321e"
_BARS = 40
_SLOTS = 3  # bars of fewer layers don't grow
_LONGEST = 56  # characters of a layer's name in a picture


def cost(summary: Summary) -> Fitted:
    """One row for each layer; if there is little space, columns that follow from others are left out."""
    table = Fitted((
        Column("layer", folds=True, right=False), Column("output", spare=2), Column("kernel", spare=3),
        Column("params"), Column("MACs"), Column("FLOPs", spare=4), Column("memory", spare=1),
        Column("FLOP/B", spare=5), Column("bound", spare=1),
    ))  # fmt: skip
    for row in summary.rows:
        figures = (row.parameters, row.macs, row.flops)
        table.add(
            row.name if row.calls == 1 else f"{row.name} (x{row.calls})",
            _by(row.output_shape[1:]),
            _window(row),
            *(short(figure) if figure else "" for figure in figures),
            size(row.output_bytes) if row.output_bytes else "",
            f"{row.intensity:.1f}" if row.flops else "",
            summary.bound(row),
        )
    return table


def totals(summary: Summary) -> Labelled:
    """The sums, named as what they are, and what isn't in them."""
    training = summary.saved_bytes is not None and summary.training_peak_bytes is not None
    least = "at least " if summary.at_least else ""
    inputs = summary.inputs if len(summary.inputs) > 1 else {"": summary.input_shape}
    lines = {
        "network": summary.model,
        "input": ", ".join(f"{name} {_by(shape)}".strip() for name, shape in inputs.items()),
        "parameters": f"{summary.parameters:,} ({summary.trainable:,} trainable); "
        f"{short(summary.dense_parameters)} if convolutions were fully connected",
        "MACs": f"{least}{summary.macs:,} forward ({summary.in_bounds_macs:,} in bounds), "
        f"{summary.backward_macs:,} backward",
        "FLOPs": f"{least}{summary.flops:,} forward, {summary.backward_flops:,} backward, "
        f"{summary.intensity:.1f} a byte",
        "activations": f"{size(summary.inference_peak_bytes)} at most in inference"
        + (f", {size(summary.training_peak_bytes or 0)} in training" if training else ""),
    }
    if summary.roofline is not None:
        roof = summary.roofline
        lines["roofline"] = f"{short(roof.flops)} FLOP/s, {size(roof.bandwidth)}/s, ridge at {roof.ridge:.1f} FLOP/B"
    listed = list(lines.items())
    listed += [("" if number else "note", note) for number, note in enumerate(summary.notes)]
    if summary.unused:
        listed.append(("never read", ", ".join(summary.unused)))
    return Labelled((*listed, ("not counted", "; ".join(summary.not_counted))))


def fields(found: ReceptiveFields) -> Fitted:
    """Layers and functional calls between them with size, stride and start on each axis."""
    table = Fitted((
        Column("layer", folds=True, right=False), Column("output", spare=1), Column("size"), Column("stride"),
        Column("start"), Column("note", folds=True, right=False),
    ))  # fmt: skip
    for row in found:
        if row.level == "block" or all(length == 0 for length in row.size):
            continue
        table.add(row.name, _by(row.shape[1:]), _axes(row.size), _axes(row.stride), _axes(row.start), _note(row))
    return table


def misaligned(found: ReceptiveFields) -> Fitted:
    """Branches that meet with fields around different places, which blurs where a position looks."""
    table = Fitted((
        Column("misaligned in", folds=True, right=False), Column("axis"), Column("strides"),
        Column("centres", folds=True),
    ))  # fmt: skip
    for each in found.misaligned:
        table.add(each.where, str(each.axis), ", ".join(each.strides), ", ".join(each.centres))
    return table


def costs(summary: Summary) -> Figure:
    """MACs forward and backward, memory and parameters of the layers, in order; of many, the most costly."""
    rows = [row for row in summary.rows if row.macs or row.output_bytes or row.parameters]
    told = f"{summary.model}, {_by(summary.input_shape)}: {short(summary.parameters)} parameters"
    told += f", {'at least ' if summary.at_least else ''}{short(summary.macs)} MACs"
    if len(rows) > _BARS:
        most = sorted(range(len(rows)), key=lambda place: rows[place].macs, reverse=True)[:_BARS]
        told += f"; the {_BARS} most costly of {len(rows)} layers"
        rows = [rows[place] for place in sorted(most)]
    slots = max(len(rows), _SLOTS)
    figure = Figure(figsize=(13, 1.9 + 0.24 * slots))
    figure.set_layout_engine("constrained", wspace=0.04)
    figure.suptitle(told)
    arithmetic, bytes_, weights = figure.subplots(1, 3, sharey=True, width_ratios=(2, 1, 1))
    places = np.arange(len(rows))
    arithmetic.barh(places - 0.2, [row.macs for row in rows], 0.4, color=_FORWARD, label="forward")
    arithmetic.barh(places + 0.2, [row.backward_macs for row in rows], 0.4, color=_BACKWARD, label="backward")
    figure.legend(loc="outside lower left", ncols=2, frameon=False, fontsize=9)
    bytes_.barh(places, [row.output_bytes for row in rows], 0.7, color=_MEMORY)
    weights.barh(places, [row.parameters for row in rows], 0.7, color=_FORWARD)
    arithmetic.set_yticks(places, [_ending(row.name) for row in rows], fontsize=8)
    arithmetic.set_ylim(slots - 0.4, -0.6)
    for axes, name, unit, ticks in (
        (arithmetic, "MACs", "", 8),
        (bytes_, "activations written", "B", 4),
        (weights, "parameters", "", 4),
    ):
        axes.set(title=name)
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(ticks, integer=True))
        axes.xaxis.set_major_formatter(EngFormatter(unit))
        axes.grid(alpha=0.25, axis="x")
    return figure


def field_box(
    image: np.ndarray[Any, Any], row: FieldRow, position: Sequence[int], box: Sequence[tuple[int, int]]
) -> Figure:
    """What one position sees, on the image: the box inside the image, and the whole field where that reaches beyond."""
    figure, axes = _picture(image)
    (top, bottom), (left, right) = box
    axes.add_patch(_frame(left, top, right, bottom, _MEMORY, 2.5, "sees of the image"))
    spans = [
        (int(start + o * stride), int(start + o * stride) + length - 1)
        for start, stride, length, o in zip(row.start, row.stride, row.size, position, strict=True)
        if start is not None and isinstance(stride, int) and length is not None
    ]
    if len(spans) == 2 and spans != list(map(tuple, box)):
        (first, last), (begin, end) = spans
        axes.add_patch(_frame(begin, first, end, last, _FORWARD, 1.2, "whole field, padding included", dashed=True))
        height, width = image.shape[:2]
        axes.set_xlim(min(begin, 0) - 0.5 - 0.02 * width, max(end, width - 1) + 0.5 + 0.02 * width)
        axes.set_ylim(max(last, height - 1) + 0.5 + 0.02 * height, min(first, 0) - 0.5 - 0.02 * height)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.02), frameon=False, ncols=2)
    at = ", ".join(map(str, position))
    axes.set_title(f"{row.name} at ({at}): rows {top} to {bottom}, columns {left} to {right}", fontsize=11)
    return figure


def effective(
    image: np.ndarray[Any, Any], found: EffectiveField, box: Sequence[tuple[int, int]] | None = None
) -> Figure:
    """The influence of each position, over the image, with the frame of the receptive field."""
    figure, axes = _picture(image)
    strength = np.sqrt(found.density.numpy() / found.density.max().item())
    # Where nothing matters the image shows as it is.
    shown = axes.imshow(strength, cmap="inferno", alpha=np.minimum(2 * strength, 0.85), vmin=0, vmax=1)
    if box is not None:
        (top, bottom), (left, right) = box
        axes.add_patch(_frame(left, top, right, bottom, "white", 1.5, "receptive field"))
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.02), frameon=True, facecolor="#8a94a6")
    scale = ScalarMappable(Normalize(0, 1), shown.cmap)  # without the transparency
    figure.colorbar(scale, ax=axes, label="root of the gradient's share of its peak", shrink=0.8)
    axes.set_title(
        f"{found.layer} at {found.position}: radius {found.radius:.1f}, effective size {found.size:.1f} pixels",
        fontsize=11,
    )
    return figure


def _picture(image: np.ndarray[Any, Any]) -> tuple[Figure, Any]:
    height, width = image.shape[:2]
    side = 6.5 / max(height, width)
    figure = Figure(figsize=(max(side * width, 3) + 1.5, max(side * height, 3) + 1.2), layout="constrained")
    axes = figure.subplots()
    axes.imshow(
        image.squeeze(), cmap="gray" if image.shape[-1] == 1 or image.ndim == 2 else None, interpolation="nearest"
    )
    axes.set(xticks=[], yticks=[])
    return figure, axes


def _frame(
    left: float, top: float, right: float, bottom: float, colour: str, width: float, label: str, *, dashed: bool = False
) -> Rectangle:
    corner, size_ = (left - 0.5, top - 0.5), (right - left + 1, bottom - top + 1)
    return Rectangle(
        corner, *size_, fill=False, edgecolor=colour, linewidth=width, label=label, linestyle="--" if dashed else "-"
    )


def short(number: float) -> str:
    """``11.5G``: three digits and a decimal prefix."""
    for factor, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= 0.9995 * factor:
            return f"{number / factor:.3g}{prefix}"
    return f"{number:.3g}"


def size(bytes_: float) -> str:
    """``3.06 MiB``."""
    for factor, prefix in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if bytes_ >= factor:
            return f"{bytes_ / factor:.3g} {prefix}" if bytes_ < 1000 * factor else f"{bytes_ / factor:.0f} {prefix}"
    return f"{bytes_:.0f} B"


def _ending(name: str) -> str:
    """A layer's name, or its end, which tells it from others."""
    return name if len(name) <= _LONGEST else "…" + name[1 - _LONGEST :]


def _by(lengths: Sequence[object]) -> str:
    return "x".join(map(str, lengths))


def _axes(values: Sequence[object]) -> str:
    words = ["?" if value is None else str(value) for value in values]
    return words[0] if len(set(words)) == 1 else " x ".join(words)


def _note(row: FieldRow) -> str:
    if all(row.whole):
        local = "" if None in row.local or not any(row.local) else f", {_axes(row.local)} locally"
        return f"whole input{local}"
    return row.note


def _window(row: CostRow) -> str:
    if not row.kernel:
        return ""
    words = [_axes(row.kernel)]
    words += [f"s{_axes(row.stride)}"] if any(n != 1 for n in row.stride) else []
    pads = [str(a) if a == b else f"{a}:{b}" for a, b in row.padding]
    words += [f"p{_axes(pads)}"] if any(pad != "0" for pad in pads) else []
    words += [f"d{_axes(row.dilation)}"] if any(n != 1 for n in row.dilation) else []
    words += [f"g{row.groups}"] if row.groups != 1 else []
    return " ".join((*words, "T") if row.transposed else words).replace(" x ", "x")
