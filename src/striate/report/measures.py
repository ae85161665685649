"""Measures of networks as tables and pictures: what each layer costs, what it sees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import EngFormatter
from rich.table import Table
from rich.text import Text

from striate.analysis import CostRow, EffectiveField, FieldRow, ReceptiveFields, Summary
from striate.report.tables import plain_table

_FORWARD, _BACKWARD, _MEMORY = "#1f5fbf", "#8a94a6", "#c8321e"
_BARS = 40


def cost(summary: Summary) -> Table:
    """One row a layer, fit for 100 columns."""
    roofline = summary.roofline is not None
    table = plain_table(
        "layer", "output", "kernel", "params", "MACs", "FLOPs", "memory", "FLOP/B", *(["bound"] if roofline else [])
    )
    table.columns[0].overflow = "fold"
    for row in summary.rows:
        figures = (row.parameters, row.macs, row.flops)
        table.add_row(
            Text(row.name if row.calls == 1 else f"{row.name} (x{row.calls})"),
            _by(row.output_shape[1:]),
            _window(row),
            *(short(figure) if figure else "" for figure in figures),
            size(row.output_bytes) if row.output_bytes else "",
            f"{row.intensity:.1f}" if row.flops else "",
            *([summary.bound(row)] if roofline else []),
        )
    return table


def totals(summary: Summary) -> Table:
    """The sums, named as what they are, and what isn't in them."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    training = summary.saved_bytes is not None and summary.training_peak_bytes is not None
    lines = {
        "input": _by(summary.input_shape),
        "parameters": f"{summary.parameters:,} ({summary.trainable:,} trainable); "
        f"{short(summary.dense_parameters)} if convolutions were fully connected",
        "MACs": f"{summary.macs:,} forward ({summary.in_bounds_macs:,} in bounds), {summary.backward_macs:,} backward",
        "FLOPs": f"{summary.flops:,} forward, {summary.backward_flops:,} backward, {summary.intensity:.1f} a byte",
        "activations": f"{size(summary.inference_peak_bytes)} at most in inference"
        + (f", {size(summary.training_peak_bytes or 0)} in training" if training else ""),
    }
    if summary.roofline is not None:
        roof = summary.roofline
        lines["roofline"] = f"{short(roof.flops)} FLOP/s, {size(roof.bandwidth)}/s, ridge at {roof.ridge:.1f} FLOP/B"
    lines |= dict(zip(("note", *(" " * n for n in range(1, 9))), summary.notes, strict=False))
    if summary.unused:
        lines["never read"] = ", ".join(summary.unused)
    lines["not counted"] = "; ".join(summary.not_counted)
    for name, text in lines.items():
        table.add_row(name, Text(text))
    return table


def fields(found: ReceptiveFields) -> Table:
    """Layers and functional calls between them with size, stride and start on each axis."""
    table = plain_table("layer", "output", "size", "stride", "start", "note")
    table.columns[-1].justify = "left"
    table.columns[0].overflow = table.columns[-1].overflow = "fold"
    for row in found:
        if row.level == "block" or all(length == 0 for length in row.size):
            continue
        table.add_row(
            Text(row.name), _by(row.shape[1:]), _axes(row.size), _axes(row.stride), _axes(row.start), Text(_note(row))
        )
    return table


def misaligned(found: ReceptiveFields) -> Table:
    """Branches that meet with fields around different places, which blurs where a position looks."""
    table = plain_table("misaligned in", "axis", "strides", "centres")
    for each in found.misaligned:
        table.add_row(Text(each.where), str(each.axis), ", ".join(each.strides), ", ".join(each.centres))
    return table


def costs(summary: Summary) -> Figure:
    """MACs forward and backward, memory and parameters of the layers, in order; of many, the most costly."""
    rows = [row for row in summary.rows if row.macs or row.output_bytes or row.parameters]
    if len(rows) > _BARS:
        kept = sorted(rows, key=lambda row: row.macs, reverse=True)[:_BARS]
        rows = [row for row in rows if row in kept]
    figure = Figure(figsize=(13, 1.6 + 0.24 * len(rows)), layout="constrained")
    title = f"{summary.model}, {_by(summary.input_shape)}: {short(summary.parameters)} parameters"
    title += f", {short(summary.macs)} MACs"
    figure.suptitle(title + (f"; {len(rows)} of {len(summary.rows)} layers" if len(rows) < len(summary.rows) else ""))
    arithmetic, bytes_, weights = figure.subplots(1, 3, sharey=True, width_ratios=(2, 1, 1))
    places = np.arange(len(rows))
    arithmetic.barh(places - 0.2, [row.macs for row in rows], 0.4, color=_FORWARD, label="forward")
    arithmetic.barh(places + 0.2, [row.backward_macs for row in rows], 0.4, color=_BACKWARD, label="backward")
    arithmetic.legend(frameon=False)
    bytes_.barh(places, [row.output_bytes for row in rows], 0.7, color=_MEMORY)
    weights.barh(places, [row.parameters for row in rows], 0.7, color=_FORWARD)
    arithmetic.set_yticks(places, [row.name for row in rows], fontsize=8)
    arithmetic.invert_yaxis()
    for axes, name, unit in (
        (arithmetic, "MACs", ""),
        (bytes_, "activations written", "B"),
        (weights, "parameters", ""),
    ):
        axes.set(title=name)
        axes.xaxis.set_major_formatter(EngFormatter(unit))
        axes.grid(alpha=0.25, axis="x")
        axes.margins(y=0.01)
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
    """How much each position matters, over the image, with the frame of what can matter at all."""
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
