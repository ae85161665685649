"""Sums of products: all kinds of convolution and of matrix products, with and without bias."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor

from striate.analysis.lines import sources
from striate.analysis.operators import Operation, Value
from striate.geometry import ConvShape, Window
from striate.studio.derivation.result import MOST_PLACES, MOST_TERMS, Derivation, Hop, Terms
from striate.studio.derivation.table import Question, as_value, derives, grid, strongest

_AXES: Final = {1: ("i",), 2: ("i", "j"), 3: ("h", "i", "j")}
_TAPS: Final = {1: ("u",), 2: ("u", "v"), 3: ("t", "u", "v")}


def problem_of(operation: Operation) -> ConvShape:
    """The convolution that an operator computes; for a transposed one, the convolution whose input gradient it is."""
    x, w = as_value(operation.argument("input")), as_value(operation.argument("weight"))
    dims = len(w.shape) - 2
    stride, padding, dilation = (spread(operation.argument(name), dims) for name in ("stride", "padding", "dilation"))
    groups = int(operation.argument("groups"))
    if operation.argument("transposed"):
        extra = spread(operation.argument("output_padding"), dims)
        return ConvShape.of_transposed(x.shape, w.shape, stride, padding, extra, groups, dilation)
    return ConvShape.of(x.shape, w.shape, stride, padding, dilation, groups)


def spread(given: Any, dims: int) -> list[int]:
    """Expands a setting to one number for each axis."""
    numbers = [int(given)] if isinstance(given, int) else [int(each) for each in given]
    return numbers * dims if len(numbers) == 1 else numbers


def taps_at(operation: Operation, place: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """For each axis, the taps through which an output position sees the input, and the positions that it sees."""
    shape = problem_of(operation)
    found = []
    transposed = bool(operation.argument("transposed"))
    input_size = as_value(operation.argument("input")).shape[2:]
    for window, size, length, position in zip(shape.windows, shape.size, input_size, place[2:], strict=True):
        resolved = window.resolve(size)
        if transposed:
            pairs = sorted(
                (tap, source)
                for source in set(sources(resolved, position))
                if 0 <= source < length
                for tap in range(resolved.kernel)
                if resolved.position(source, tap) == position
            )
        else:
            pairs = [(tap, resolved.position(position, tap)) for tap in resolved.taps_inside(position, size)]
        found.append(([tap for tap, _ in pairs], [at for _, at in pairs]))
    return found


@derives("convolution", "_convolution", "convolution_overrideable")
def _convolution(question: Question) -> Derivation:
    operation = question.operation
    x, w = as_value(operation.argument("input")), as_value(operation.argument("weight"))
    transposed, groups = bool(operation.argument("transposed")), int(operation.argument("groups"))
    shape, dims = problem_of(operation), len(w.shape) - 2
    n, k = question.place[:2]
    wide = (w.shape[1] * groups if transposed else w.shape[0]) // groups
    block, within = divmod(k, wide)
    deep = x.shape[1] // groups
    channels = range(block * deep, (block + 1) * deep)
    taps = taps_at(operation, question.place)
    seen = grid([channels, *(at for _, at in taps)])
    through = grid([range(deep), *(tap for tap, _ in taps)])
    xs = torch.cat([torch.full((len(seen), 1), n), seen], 1)
    if transposed:
        # The weight is (C_in, C_out / groups, ...).
        ws = torch.cat([seen[:, :1], torch.full((len(seen), 1), within), through[:, 1:]], 1)
    else:
        ws = torch.cat([torch.full((len(seen), 1), k), through], 1)
    strands = (question.strand(x, "x", xs), question.strand(w, "w", ws))
    padded = 0 if transposed else deep * (math.prod(shape.kernel) - math.prod(len(tap) for tap, _ in taps))
    terms = Terms(strands, None, seen[:, 0].clone(), "input channel", padded)
    added = _bias(question, operation.argument("bias"), (k,))
    total = terms.total + sum(float(hop.number) for hop in added)
    size = float(terms.products.abs().sum()) + sum(abs(float(hop.number)) for hop in added)
    return Derivation(
        "sum", *_told(operation, shape, transposed, bool(added)),
        hops=strongest(question, x, strands[0], terms.products), terms=terms, added=added,
        check=question.check(total, len(seen) + len(added), size),
        facts={
            "sharing": _sharing(question, k),
            "dense": _dense(shape, transposed, len(seen), wide * groups),
            "geometry": str(shape),
            "kernel": [int(each) for each in w.shape[2:]],
            "dims": dims,
        }
        | ({} if transposed else {"flipped": _flipped(question, terms, w, added)}),
    )  # fmt: skip


def _flipped(question: Question, terms: Terms, w: Value, added: tuple[Hop, ...]) -> dict[str, Any]:
    """The result of a true convolution, with a flipped kernel, for these weights, and its relation to correlation."""
    x, along = terms.strands
    last = torch.tensor([length - 1 for length in w.shape[2:]])
    places = torch.cat([along.places[:, :2], last - along.places[:, 2:]], 1)
    turned = question.strand(w, "w", places)
    flipped = Terms((x, turned), None, terms.groups, terms.grouped, terms.padded)
    number = flipped.total + sum(float(hop.number) for hop in added)
    sent = flipped.to_dict() if len(places) <= MOST_TERMS else None
    return {
        "number": number,
        "terms": sent,
        "words": "A true convolution flips the kernel along every axis before it is laid on the window. With learnt "
        "weights it makes no difference which of the two is computed: training finds the flipped kernel instead.",
    }


def _bias(question: Question, bias: Any, place: tuple[int, ...]) -> tuple[Hop, ...]:
    return (question.hop(bias, place, "b", None),) if isinstance(bias, Value) else ()


def _told(operation: Operation, shape: ConvShape, transposed: bool, biased: bool) -> tuple[str, str, str]:
    """The title, description and formula."""
    groups, deep = shape.groups, shape.in_channels // shape.groups
    over, taps = ",".join(_AXES[shape.dims]), ",".join(_TAPS[shape.dims])
    depthwise = groups > 1 and deep == 1
    kind = "depthwise " if depthwise else f"grouped ({groups} groups) " if groups > 1 else ""
    if any(each > 1 for each in shape.dilation):
        kind += "dilated "
    bias = "b[k] + " if biased else ""
    if transposed:
        title = f"{kind}transposed convolution"
        words = (
            "Each input position spreads its number, times the kernel, over the outputs that its window covers; this "
            "output adds up all that reaches it."
        )
        reached = ",".join(
            f"{at}={_position(window, tap, source)}"
            for at, tap, source, window in zip(
                _AXES[shape.dims], _TAPS[shape.dims], _TAPS_SOURCES[shape.dims], shape.windows, strict=True
            )
        )
        sources_ = ",".join(_TAPS_SOURCES[shape.dims])
        return title, words, f"y[n,k,{over}] = {bias}Σ x[n,c,{sources_}] · w[c,k,{taps}]   where {reached}"
    title = f"{kind}convolution"
    sees = "its own channel" if depthwise else "its group's channels" if groups > 1 else "every input channel"
    words = (
        f"The kernel lies on the window of {sees}; each number is multiplied by the weight on it, "
        "and all products are added up. The kernel isn't flipped: this is a cross-correlation, as in all libraries."
    )
    positions = ",".join(
        _position(window, tap, at)
        for at, tap, window in zip(_AXES[shape.dims], _TAPS[shape.dims], shape.windows, strict=True)
    )
    channel = "k" if depthwise else "c"
    inner = "0" if depthwise else "c"
    over_what = taps if depthwise else f"c,{taps}"
    return title, words, f"y[n,k,{over}] = {bias}Σ over {over_what} of x[n,{channel},{positions}] · w[k,{inner},{taps}]"


_TAPS_SOURCES: Final = {1: ("p",), 2: ("p", "q"), 3: ("o", "p", "q")}


def _position(window: Window, tap: str, at: str) -> str:
    """``2i-1+u``: the window's map between positions, as text."""
    before = window.padding[0] if isinstance(window.padding, tuple) else 0
    scaled = at if window.stride == 1 else f"{window.stride}{at}"
    stepped = tap if window.dilation == 1 else f"{window.dilation}{tap}"
    return f"{scaled}{f'-{before}' if before else ''}+{stepped}"


def _sharing(question: Question, channel: int) -> dict[str, Any]:
    """All results that use the same weights: every position of this output channel, for every picture."""
    shape = question.value.shape
    count = shape[0] * math.prod(shape[2:])
    places = grid([[question.place[0]], [channel], *(range(length) for length in shape[2:])])
    return {
        "count": count,
        "a picture": math.prod(shape[2:]),
        "places": places[:MOST_PLACES].tolist(),
        "words": f"The same weights make all {count} numbers of output channel {channel}.",
    }


def _dense(shape: ConvShape, transposed: bool, used: int, outputs: int) -> dict[str, Any]:
    """The number of weights of a fully connected layer between the same maps."""
    sides = math.prod(shape.input_shape[1:]), math.prod(shape.output_shape[1:])
    inputs = sides[1] if transposed else sides[0]
    weights = shape.parameters(bias=False)
    return {
        "weights": weights,
        "dense": sides[0] * sides[1],
        "one": inputs,
        "used": used,
        "words": f"This number looks at {used} of {inputs} inputs; a dense layer would need {sides[0] * sides[1]} "
        f"weights, this layer has {weights}.",
    }


# ---------------------------------------------------------------------- matrix products


def _product(
    question: Question, left: Value, right: Value, lefts: Tensor, rights: Tensor, title: str, words: str, formula: str,
    added: tuple[Hop, ...] = (), factors: tuple[float, float] = (1.0, 1.0),
) -> Derivation:  # fmt: skip
    """A row times a column, with ``factors`` for the product and for the addend."""
    strands = (question.strand(left, "x", lefts), question.strand(right, "w", rights))
    coefficients = None if factors[0] == 1 else torch.full((len(lefts),), factors[0], dtype=torch.float64)
    terms = Terms(strands, coefficients, None, "")
    more = sum(factors[1] * float(hop.number) for hop in added)
    size = float(terms.products.abs().sum()) + sum(abs(factors[1] * float(hop.number)) for hop in added)
    return Derivation(
        "sum", title, words, formula, hops=strongest(question, left, strands[0], terms.products), terms=terms,
        added=tuple(Hop(h.value, h.place, h.name, h.number, factors[1] * float(h.number)) for h in added),
        check=question.check(terms.total + more, len(lefts) + len(added), size),
    )  # fmt: skip


def _broadcast(value: Value, shape: Sequence[int], place: Sequence[int]) -> tuple[int, ...]:
    """The place in a tensor, broadcast to ``shape``, that corresponds to a place in the result."""
    rest = place[len(shape) - len(value.shape) :]
    return tuple(0 if length == 1 else at for at, length in zip(rest, value.shape, strict=True))


@derives("mm", "addmm", "addmv", "mv", "dot", "vdot")
def _matrix(question: Question) -> Derivation:
    operation, name, place = question.operation, question.name, question.place
    values = operation.inputs
    added: tuple[Hop, ...] = ()
    factors = (1.0, 1.0)
    if name.startswith("add"):
        bias, left, right = (as_value(each) for each in operation.args[:3])
        factors = (float(operation.argument("alpha", 1)), float(operation.argument("beta", 1)))
        added = (question.hop(bias, _broadcast(bias, question.value.shape, place), "b"),) if factors[1] else ()
    else:
        left, right = values[0], values[-1]
    inner = left.shape[-1]
    row = place[:1] if len(left.shape) == 2 else ()
    column = place[-1:] if len(right.shape) == 2 else ()
    lefts = grid([*([each] for each in row), range(inner)])
    rights = grid([range(inner), *([each] for each in column)])
    biased = "b[k] + " if added else ""
    found = _product(
        question, left, right, lefts, rights, "linear layer" if added else "matrix product",
        "A row of the first matrix and a column of the second are multiplied number by number, and all products added "
        "up. Every input has a weight of its own for every output.",
        f"y[n,k] = {biased}Σ_c x[n,c] · w[c,k]", added, factors,
    )  # fmt: skip
    rows = left.shape[0] if len(left.shape) == 2 else 1
    parameter = _is_parameter(question, right)
    if parameter and column:
        found.facts["sharing"] = {
            "count": rows,
            "places": [[each, column[0]] for each in range(min(rows, MOST_PLACES))],
            "words": f"The same {inner} weights make output {column[0]} of all {rows} rows (pictures, or tokens).",
        }
        found.facts["dense"] = {
            "weights": math.prod(right.shape),
            "dense": math.prod(right.shape),
            "one": inner,
            "used": inner,
            "words": f"This number looks at all {inner} inputs: the layer is dense.",
        }
    return found


@derives("bmm", "baddbmm")
def _batched(question: Question) -> Derivation:
    operation, place = question.operation, question.place
    added: tuple[Hop, ...] = ()
    factors = (1.0, 1.0)
    if question.name == "baddbmm":
        bias, left, right = (as_value(each) for each in operation.args[:3])
        factors = (float(operation.argument("alpha", 1)), float(operation.argument("beta", 1)))
        added = (question.hop(bias, _broadcast(bias, question.value.shape, place), "b"),) if factors[1] else ()
    else:
        left, right = operation.inputs[0], operation.inputs[-1]
    batch, row, column = place
    inner = left.shape[2]
    lefts, rights = grid([[batch], [row], range(inner)]), grid([[batch], range(inner), [column]])
    attends = attention_behind(question, left)
    title, words, formula = (
        "batched matrix product",
        "Matrix number n of the first batch times matrix number n of the second: a row times a column, added up.",
        "y[n,i,k] = Σ_c x[n,i,c] · w[n,c,k]",
    )
    if attends is not None:
        title = "attention: a weighted mean of the values"
        words = (
            "Each token's value is weighted by how much this token attends to that one; the weights are a row of "
            "softmax and add up to 1."
        )
        formula = "y[i,k] = Σ_j a[i,j] · v[j,k]"
    found = _product(question, left, right, lefts, rights, title, words, formula, added, factors)
    if attends is not None:
        found.facts["attention"] = {"row": found.terms.strands[0].numbers.tolist() if found.terms else []} | tokens(
            inner
        )
    return found


def _is_parameter(question: Question, value: Value) -> bool:
    return value.kind == "parameter"


_LOOKS_THROUGH: Final = frozenset(
    ("view", "_unsafe_view", "expand", "reshape", "clone", "unsqueeze", "squeeze", "contiguous", "_to_copy", "alias",
     "mul", "native_dropout", "dropout")
)  # fmt: skip


def attention_behind(question: Question, value: Value) -> Value | None:
    """The result of a softmax along the last axis of which a value is a reshaped form, or None."""
    recording = question.recording
    for _ in range(8):
        operation = recording.operation_of(recording.number_of(value))
        if operation is None:
            return None
        name = operation.name.rpartition(".")[2].rstrip("_")
        if name.endswith("softmax"):
            return value if value.shape[-1] > 1 else None
        if name not in _LOOKS_THROUGH or not operation.inputs:
            return None
        value = operation.inputs[0]
    return None


def tokens(count: int) -> dict[str, Any]:
    """The square grid of a picture's tokens, and the number of tokens before them (such as a class token)."""
    for first in (0, 1, 2, 5):
        side = math.isqrt(max(count - first, 0))
        if side > 1 and side * side == count - first:
            return {"grid": [side, side], "first": first}
    return {"grid": [1, count], "first": 0}
