"""The formulas of a sequence of windows, with numbers filled in, as plain data for a page.

Each formula has three texts: the symbols, the same with this layer's numbers, and the value. The library computes the
value; a test evaluates the second text and compares.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from striate.geometry import Window
from striate.studio.windows import KINDS, Layer, LayerStep, steps

Formula = dict[str, Any]

#: The symbol of an output's size.
_AFTER: Final = "n'"


def describe(size: int, channels: int, layers: Sequence[Layer], dims: int = 2) -> dict[str, Any]:
    """Everything that a page shows of a sequence of layers.

    Args:
        size: input positions along each axis.
        channels: channels of the input.
        layers: one or more layers.
        dims: 1 or 2 axes.

    Raises:
        GeometryError: layers that don't fit.
    """
    made = steps(size, channels, layers, dims)
    field: Window | None = Window(1)
    told = []
    for step in made:
        before, field = field, _with(field, step)
        told.append(_told(step, before, field, dims))
    return {
        "size": size,
        "channels": channels,
        "dims": dims,
        "layers": told,
        "total": {
            "parameters": sum(step.parameters for step in made),
            "macs": sum(step.macs for step in made if not step.layer.pools),
        },
        "call": call(size, channels, layers, dims),
    }


def _with(field: Window | None, step: LayerStep) -> Window | None:
    """Composes the windows so far with the step's window; None after a transposed window, which isn't a window."""
    if field is None or step.layer.kind == "transposed":
        return None
    return field.then(step.window)


def _told(step: LayerStep, before: Window | None, field: Window | None, dims: int) -> dict[str, Any]:
    layer, window = step.layer, step.window
    first, last = window.pads(0)
    return {
        "layer": str(layer),
        "kind": layer.kind,
        "name": KINDS[layer.kind],
        "problem": str(step.problem),
        "size": step.size,
        "outputs": step.outputs,
        "channels": step.channels,
        "out_channels": step.out_channels,
        "kernel": window.kernel,
        "stride": window.stride,
        "dilation": window.dilation,
        "padding": [first, last],
        "effective_kernel": window.effective_kernel,
        "sees": step.sees(),
        "seen_by": step.seen_by(),
        "parameters": step.parameters,
        "macs": step.macs,
        "in_bounds_macs": step.in_bounds,
        "field": None if field is None else {"size": field.kernel, "stride": field.stride, "start": -field.pads(0)[0]},
        "stretched": _stretched(step),
        "formulas": _formulas(step, before, field, dims),
    }


def _stretched(step: LayerStep) -> dict[str, Any] | None:
    """The transposed window as a plain one: the flipped kernel with stride 1 over positions separated by zeros.

    A transposed convolution computes its output in this way, and so does the input gradient of a convolution. ``cells``
    are the input positions in order, with None for a zero; output ``i`` begins at cell ``i``. None for pooling.
    """
    if step.layer.pools:
        return None
    forward = step.layer.kind == "transposed"
    made, given = (step.outputs, step.size) if forward else (step.size, step.outputs)
    adjoint = step.window.adjoint(made)
    zero: list[int | None] = [None]
    cells = zero * ((given - 1) * adjoint.expansion + 1)
    cells[:: adjoint.expansion] = range(given)
    # Add zeros before and after, or cut off cells.
    cells = zero * adjoint.before + cells[max(-adjoint.before, 0) :]
    cells = cells[: len(cells) + min(adjoint.after, 0)] + zero * adjoint.after
    return {
        "cells": cells,
        "zeros": adjoint.expansion - 1,
        "before": adjoint.before,
        "after": adjoint.after,
        "dilation": adjoint.dilation,
        "made": made,
    }


# -------------------------------------------------------------------------------------------------------- formulas


def _formulas(step: LayerStep, before: Window | None, field: Window | None, dims: int) -> list[Formula]:
    found = [_effective(step), _output(step)]
    if step.layer.kind != "transposed" and not isinstance(step.layer.padding, str) and step.layer.padding == 0:
        found += _other_paddings(step)
    if before is not None and field is not None:
        found.append(_field(before, step.window, field))
    if not step.layer.pools:
        found += [_parameters(step, dims), _macs(step, dims), _in_bounds(step, dims), _dense(step, dims)]
    else:
        found.append(_looked_at(step, dims))
    if step.layer.kind == "conv":
        found.append(_adjoint(step))
    return found


def _formula(name: str, symbols: str, numbers: str, value: int, note: str = "") -> Formula:
    return {"name": name, "symbols": symbols, "numbers": numbers, "value": value, "note": note}


def _effective(step: LayerStep) -> Formula:
    window = step.window
    return _formula(
        "Effective kernel",
        "e = d·(k - 1) + 1",
        f"{window.dilation}·({window.kernel} - 1) + 1",
        window.effective_kernel,
        "From the first tap to the last; gaps between the taps of a dilated window count.",
    )


def _output(step: LayerStep) -> Formula:
    window, size = step.window, step.size
    before, after = window.pads(0)
    e, s = window.effective_kernel, window.stride
    if step.layer.kind == "transposed":
        # The extra padding of "same" at the end is part of the fixed size.
        extra = step.outputs - ((size - 1) * s + e - before - after)
        return _formula(
            "Output size",
            "n' = (n - 1)·s + e - before - after + extra",
            f"({size} - 1)·{s} + {e} - {before} - {after} + {extra}",
            step.outputs,
            "The size of the input that the plain window would have made these positions of.",
        )
    rounded = ("⌈", "⌉") if step.layer.ceil_mode else ("⌊", "⌋")
    note = "Rounded down: a window that doesn't fit whole is left out."
    if step.layer.ceil_mode:
        spare = size + before + after - e
        whole = -(-spare // s) + 1
        note = "Rounded up: the last window may hang over the end."
        if whole != step.outputs:
            note = "Rounded up, less one: the last window would begin beyond the input and its leading padding."
            return _formula(
                "Output size",
                "n' = ⌈(n + before + after - e) / s⌉ + 1 - 1",
                f"⌈({size} + {before} + {after} - {e}) / {s}⌉ + 1 - 1",
                step.outputs,
                note,
            )
    return _formula(
        "Output size",
        f"n' = {rounded[0]}(n + before + after - e) / s{rounded[1]} + 1",
        f"{rounded[0]}({size} + {before} + {after} - {e}) / {s}{rounded[1]} + 1",
        step.outputs,
        note,
    )


def _other_paddings(step: LayerStep) -> list[Formula]:
    """The results of this window with the padding words same and full."""
    window = step.window
    found = []
    for word, symbols in (("same", "⌈n / s⌉"), ("full", "⌊(n + 2·(e - 1) - e) / s⌋ + 1")):
        other = Window(window.kernel, window.stride, word, window.dilation)
        first, last = other.pads(step.size)
        e, s = window.effective_kernel, window.stride
        numbers = f"⌈{step.size} / {s}⌉" if word == "same" else f"⌊({step.size} + 2·({e} - 1) - {e}) / {s}⌋ + 1"
        note = f"With {first} before and {last} after."
        found.append(_formula(f"With padding {word}", symbols, numbers, other.output_size(step.size), note))
    return found


def _field(before: Window, window: Window, field: Window) -> Formula:
    return _formula(
        "Receptive field",
        "r' = r + (e - 1)·j",
        f"{before.kernel} + ({window.effective_kernel} - 1)·{before.stride}",
        field.kernel,
        f"Input positions along an axis that one output sees; j is the product of the strides before this layer, "
        f"and {field.stride} behind it.",
    )


def _powers(base: int | str, dims: int) -> str:
    return "·".join([str(base)] * dims)


def _parameters(step: LayerStep, dims: int) -> Formula:
    layer = step.layer
    inner = step.channels // layer.groups
    return _formula(
        "Parameters",
        f"C'·(C / g)·{_powers('k', dims)} + C'",
        f"{layer.out}·({step.channels} / {layer.groups})·{_powers(layer.kernel, dims)} + {layer.out}",
        step.parameters,
        f"Each output channel has one kernel of {inner} channel{'s' * (inner != 1)} and one bias. "
        "The picture's size isn't in it: every place shares these weights.",
    )


def _macs(step: LayerStep, dims: int) -> Formula:
    layer = step.layer
    places = step.size if layer.kind == "transposed" else step.outputs
    which = "n" if layer.kind == "transposed" else "n'"
    return _formula(
        "MACs",
        f"C'·(C / g)·{_powers('k', dims)}·{_powers(which, dims)}",
        f"{layer.out}·({step.channels} / {layer.groups})·{_powers(layer.kernel, dims)}·{_powers(places, dims)}",
        step.macs,
        "Multiplications and additions, those with padding included, as papers count them.",
    )


def _in_bounds(step: LayerStep, dims: int) -> Formula:
    window, layer = step.window, step.layer
    size = step.outputs if layer.kind == "transposed" else step.size
    pairs = window.in_bounds_taps(size)
    return _formula(
        "MACs inside",
        f"C'·(C / g)·{_powers('t', dims)}",
        f"{layer.out}·({step.channels} / {layer.groups})·{_powers(pairs, dims)}",
        step.in_bounds,
        f"Along an axis {pairs:,} pairs of an output and a tap meet an input; the others meet padding.",
    )


def _dense(step: LayerStep, dims: int) -> Formula:
    inputs = step.channels * step.size**dims
    outputs = step.out_channels * step.outputs**dims
    return _formula(
        "Weights of a dense layer",
        f"(C·{_powers('n', dims)})·(C'·{_powers(_AFTER, dims)})",
        f"({step.channels}·{_powers(step.size, dims)})·({step.out_channels}·{_powers(step.outputs, dims)})",
        inputs * outputs,
        "What connecting every input with every output would take, without sharing and without windows.",
    )


def _looked_at(step: LayerStep, dims: int) -> Formula:
    return _formula(
        "Numbers looked at",
        f"C·{_powers(_AFTER, dims)}·{_powers('k', dims)}",
        f"{step.channels}·{_powers(step.outputs, dims)}·{_powers(step.layer.kernel, dims)}",
        step.macs,
        "Pooling has no weights.",
    )


def _adjoint(step: LayerStep) -> Formula:
    """The transposed window, which computes the input gradient."""
    window, size = step.window, step.size
    adjoint = window.adjoint(size)
    spread = (step.outputs - 1) * adjoint.expansion + 1
    cut = " A negative number cuts cells off." if min(adjoint.before, adjoint.after) < 0 else ""
    return _formula(
        "Adjoint's output size",
        "((n' - 1)·s + 1) + before + after - d·(k - 1)",
        f"(({step.outputs} - 1)·{adjoint.expansion} + 1) + {adjoint.before} + {adjoint.after}"
        f" - {adjoint.dilation}·({adjoint.kernel} - 1)",
        adjoint.output_size(step.outputs),
        f"Gradients go back by the transposed window: the flipped kernel at stride 1 over {spread} cells, "
        f"{adjoint.expansion - 1} zeros between outputs, {adjoint.before} before and {adjoint.after} after.{cut}",
    )


# ------------------------------------------------------------------------------------------------------------ calls


def call(size: int, channels: int, layers: Sequence[Layer], dims: int = 2) -> str:
    """Python code that prints the same numbers, with the library's public names."""
    made = steps(size, channels, layers, dims)
    shapes = {"PoolShape" if step.layer.pools else "ConvShape" for step in made}
    plain = all(step.layer.kind != "transposed" for step in made)
    lines = [f"from striate import {', '.join(sorted(shapes | {'Window'} if plain else shapes))}"]
    lines += ["", "field = Window(1)"] if plain else []
    for number, step in enumerate(made, 1):
        lines += ["", f"# {number}. {KINDS[step.layer.kind]}", *_lines(step, dims, plain)]
    if plain:
        lines += ["", 'print("receptive field:", field.kernel, "jump:", field.stride)']
    return "\n".join(lines) + "\n"


def _lines(step: LayerStep, dims: int, plain: bool) -> list[str]:
    layer = step.layer
    shape = (1, step.channels, *(step.size,) * dims)
    words = f"stride={layer.stride}, padding={_padding(layer, dims)}, dilation={layer.dilation}"
    taps = ", ".join([str(layer.kernel)] * dims)
    size = "size" if layer.kind == "transposed" else "output_size"
    if layer.pools:
        ceil = ", ceil_mode=True" if layer.ceil_mode else ""
        lines = [f'shape = PoolShape.of("{layer.kind}", {shape}, kernel={layer.kernel}, {words}{ceil})']
    elif layer.kind == "conv":
        weight = f"({layer.out}, {step.channels // layer.groups}, {taps})"
        lines = [f"shape = ConvShape.of({shape}, {weight}, {words}, groups={layer.groups})"]
    else:
        weight = f"({step.channels}, {layer.out // layer.groups}, {taps})"
        more = f"output_padding={layer.extra}, groups={layer.groups}"
        lines = [f"shape = ConvShape.of_transposed({shape}, {weight}, {words}, {more})"]
    lines.append(f'print("output:", shape.{size})')
    if not layer.pools:
        lines.append('print("MACs:", shape.macs, "inside:", shape.in_bounds_macs)')
        biases = f"shape.parameters(bias=False) + {layer.out}" if layer.kind == "transposed" else "shape.parameters()"
        lines.append(f'print("parameters:", {biases})')
    if plain:
        lines.append(f"field = field.then(shape.windows[0].resolve({step.size}))")
    return lines


def _padding(layer: Layer, dims: int) -> str:
    if isinstance(layer.padding, tuple):
        if layer.padding[0] == layer.padding[1]:
            return str(layer.padding[0])
        return repr((layer.padding,) * dims)
    return repr(layer.padding)
