"""Max pooling, averages of every kind, and other sums over the map of one channel (interpolation)."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from striate.analysis.operators import Value
from striate.geometry import PoolShape
from striate.studio.derivation.products import spread
from striate.studio.derivation.result import Derivation, RecordedNumber, Terms, number_of
from striate.studio.derivation.table import Question, as_value, derives, grid, strongest

_MAX: Final = (
    "max_pool2d_with_indices", "max_pool3d_with_indices", "max_pool1d", "max_pool2d", "max_pool3d",
    "adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d", "fractional_max_pool2d",
    "fractional_max_pool3d", "max_pool1d_with_indices",
)  # fmt: skip


def pool_of(question: Question, kind: Any, x: Value, dims: int) -> PoolShape:
    """The pooling problem of an operator with a window."""
    argument = question.operation.argument
    kernel = spread(argument("kernel_size"), dims)
    given = argument("stride")
    stride = spread(given, dims) if isinstance(given, int) or given else kernel
    dilation = spread(argument("dilation") or 1, dims)
    padding = spread(argument("padding") or 0, dims)
    count = argument("count_include_pad")
    shape = x.shape if len(x.shape) == dims + 2 else (1, *x.shape)
    return PoolShape.of(
        kind, shape, kernel, stride, padding, dilation, bool(argument("ceil_mode", False)),
        True if count is None else bool(count), argument("divisor_override"),
    )  # fmt: skip


@derives(*_MAX)
def _maximum(question: Question) -> Derivation:
    operation = question.operation
    x = operation.inputs[0]
    dims = int(question.name.partition("pool")[2][0])
    lead = len(x.shape) - dims
    windowed = "adaptive" not in question.name and "fractional" not in question.name
    if windowed:
        shape = pool_of(question, "max", x, dims)
        axes = []
        for window, size, at in zip(shape.windows, shape.size, question.place[lead:], strict=True):
            resolved = window.resolve(size)
            axes.append([resolved.position(at, tap) for tap in resolved.taps_inside(at, size)])
    else:
        axes = _support(question, x, lead)
    places = grid([*([each] for each in question.place[:lead]), *axes])
    seen = question.strand(x, "x", places)
    best = torch.where(seen.numbers.isnan(), math.inf, seen.numbers)
    winner = int(best.argmax())  # PyTorch takes the first of equal maxima
    indices = next((each for each in operation.outputs[1:2]), None)
    if indices is not None and question.value is not indices:
        flat = int(question.tensor(indices)[question.place])
        where = [int(each) for each in np.unravel_index(flat, x.shape[lead:])]
        found = (places[:, lead:] == torch.tensor(where)).all(1).nonzero()[:, 0]
        winner = int(found[0]) if len(found) else winner
    ties = tuple((seen.numbers == seen.numbers[winner]).nonzero()[:, 0].tolist())
    of_place = question.rank == 1
    result: float = float(seen.numbers[winner])
    place = seen.places[winner].tolist()
    words = f"The largest of {len(places)} numbers goes on, and nothing of the others."
    if len(ties) > 1:
        words += f" {len(ties)} of them are equally large; the first one counts, and gets the whole gradient."
    if of_place:
        words = f"The place of the largest of {len(places)} numbers, counted row by row over the whole map."
    computed = float(number_of(question.tensor(question.value)[question.place])) if of_place else result
    return Derivation(
        "maximum", "max pooling", words, "y[n,c,i,j] = max over u,v of x[n,c,...]",
        hops=(question.hop(x, place, "x"),), window=seen, winner=winner, ties=ties,
        check=question.check(computed, 1, 0.0),
        facts={"kernel": [len(each) for each in axes], "dims": dims}
        | ({"geometry": str(pool_of(question, "max", x, dims))} if windowed else {}),
    )  # fmt: skip


@derives("avg_pool1d", "avg_pool2d", "avg_pool3d")
def _average(question: Question) -> Derivation:
    x = question.operation.inputs[0]
    dims = int(question.name.partition("pool")[2][0])
    lead = len(x.shape) - dims
    shape = pool_of(question, "avg", x, dims)
    axes, divisor = [], 1
    for axis, (window, size, at) in enumerate(zip(shape.windows, shape.size, question.place[lead:], strict=True)):
        resolved = window.resolve(size)
        axes.append([resolved.position(at, tap) for tap in resolved.taps_inside(at, size)])
        divisor *= shape.divisors[axis][at]
    divisor = shape.divisor or divisor
    places = grid([*([each] for each in question.place[:lead]), *axes])
    padded = math.prod(shape.kernel) - len(places)
    found = _weighted(
        question, x, places, torch.full((len(places),), 1 / divisor, dtype=torch.float64), "average pooling",
        f"The mean of a window: {len(places)} numbers are added up and divided by {divisor}."
        + (" Cells of padding count as zeros." if padded and divisor > len(places) else ""),
        f"y = 1/{divisor} · Σ x", padded,
    )  # fmt: skip
    found.facts.update(geometry=str(shape), kernel=[len(each) for each in axes], dims=dims)
    return found


def _weighted(
    question: Question, x: Value, places: Tensor, weights: Tensor, title: str, words: str, formula: str, padded: int = 0
) -> Derivation:
    seen = question.strand(x, "x", places)
    terms = Terms((seen,), weights, None, "", padded)
    return Derivation(
        "sum", title, words, formula, hops=strongest(question, x, seen, terms.products), terms=terms,
        check=question.check(terms.total, len(places), float(terms.products.abs().sum())),
    )  # fmt: skip


_CHANNELWISE: Final = {
    "adaptive": ("adaptive average pooling", "The map is cut into as many windows as there are outputs; this is the "
                 "mean of one of them."),
    "upsample": ("enlargement", "A mean of neighbouring numbers, each weighted by how near it is."),
}  # fmt: skip


@derives(
    "_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d",
    "upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d", "upsample_bicubic2d", "_upsample_bilinear2d_aa",
    "_upsample_bicubic2d_aa",
)  # fmt: skip
def _channelwise(question: Question) -> Derivation:
    """A linear operator on one channel's map; its weights are its gradient, computed by PyTorch."""
    x = question.operation.inputs[0]
    dims = next(int(letter) for letter in question.name if letter.isdigit())
    lead = len(x.shape) - dims
    places, weights = _linear_places(question, x, lead)
    title, words = _CHANNELWISE["adaptive" if "adaptive" in question.name else "upsample"]
    found = _weighted(question, x, places, weights, title, f"{words} ({len(places)} numbers)", "y = Σ a · x")
    found.facts.update(
        dims=dims, kernel=[len(each) for each in found.terms.strands[0].axes[lead:]] if found.terms else []
    )
    return found


def _alone(question: Question, x: Value, lead: int) -> tuple[Tensor, Tensor]:
    """The operator's result for the map of one channel of one picture, and that map, which requires a gradient."""
    own = question.tensor(x)[tuple(slice(at, at + 1) for at in question.place[:lead])]
    # Operators without a batch axis get (C, H, W).
    leaf = own.detach().to(torch.float64).clone().requires_grad_()
    arguments = [leaf if each is x else each for each in question.operation.args]
    with torch.enable_grad():
        result = question.operation.target(*arguments, **question.operation.kwargs)
    return (result[0] if isinstance(result, tuple) else result), leaf


def _linear_places(question: Question, x: Value, lead: int) -> tuple[Tensor, Tensor]:
    result, leaf = _alone(question, x, lead)
    (weights,) = torch.autograd.grad(result[(*([0] * lead), *question.place[lead:])], leaf)
    places = weights.nonzero()
    picked = weights[tuple(places.T)]
    return places + torch.tensor([*question.place[:lead], *([0] * (weights.dim() - lead))]), picked


def _support(question: Question, x: Value, lead: int) -> list[list[int]]:
    """The positions that an adaptive window sees along each axis, found by adaptive averaging with the same sizes."""
    size = list(question.value.shape[lead:])
    dims = len(size)
    act: Any = (
        torch.nn.functional.adaptive_avg_pool1d,
        torch.nn.functional.adaptive_avg_pool2d,
        torch.nn.functional.adaptive_avg_pool3d,
    )[dims - 1]
    if "fractional" in question.name:
        return [list(range(length)) for length in x.shape[lead:]]
    leaf = torch.zeros((1, 1, *x.shape[lead:]), dtype=torch.float64, requires_grad=True)
    with torch.enable_grad():
        (seen,) = torch.autograd.grad(act(leaf, size)[(0, 0, *question.place[lead:])], leaf)
    return [sorted(set(column)) for column in seen.nonzero()[:, 2:].T.tolist()]


@derives("mean", "sum", "nansum")
def _mean(question: Question) -> Derivation:
    x = as_value(question.operation.args[0])
    places = reduced(question, x)
    mean = question.name == "mean"
    weight = 1 / max(len(places), 1) if mean else 1.0
    words = f"{len(places)} numbers are added up" + (f" and divided by {len(places)}." if mean else ".")
    formula = f"y = 1/{len(places)} · Σ x" if mean else "y = Σ x"
    weights = torch.full((len(places),), weight, dtype=torch.float64)
    title = "mean" if mean else "sum"
    return _weighted(question, x, places, weights, title, words, formula)


def reduced(question: Question, x: Value) -> Tensor:
    """All places over which a reduction sums for one element of its result."""
    given = question.operation.argument("dim")
    rank = len(x.shape)
    whole = given is None or (isinstance(given, list | tuple) and not given)
    listed = list(range(rank)) if whole else [given] if isinstance(given, int) else list(given)
    dims = {each % rank for each in listed} if rank else set()
    keeps = bool(question.operation.argument("keepdim", False))
    rest = iter(question.place)
    axes: list[Any] = []
    for dim, length in enumerate(x.shape):
        if dim in dims:
            axes.append(range(length))
            if keeps:
                next(rest)
        else:
            axes.append([next(rest)])
    return grid(axes)


@derives("amax", "amin", "max", "min", "median", "nanmedian", "kthvalue", "mode", "argmax", "argmin")
def _chosen(question: Question) -> Derivation:
    """The maximum, minimum or median of a row, or its place."""
    operation, name = question.operation, question.name
    x = as_value(operation.args[0])
    if len(operation.inputs) > 1 and name in ("max", "min"):
        from striate.studio.derivation.pointwise import pointwise

        return pointwise(question)
    places = reduced(question, x)
    seen = question.strand(x, "x", places)
    recorded: RecordedNumber = question.recorded
    of_place = name.startswith("arg") or question.rank == 1
    if of_place:
        winner = min(int(recorded), len(places) - 1)
    else:
        equal = (seen.numbers == float(recorded)).nonzero()[:, 0]
        winner = int(equal[0]) if len(equal) else 0
    ties = tuple((seen.numbers == seen.numbers[winner]).nonzero()[:, 0].tolist())
    what = {
        "amax": "largest",
        "max": "largest",
        "argmax": "largest",
        "amin": "least",
        "min": "least",
        "argmin": "least",
    }
    told = what.get(name, name)
    place = " the place of" if of_place else ""
    return Derivation(
        "maximum", name, f"Of {len(places)} numbers{place} the {told}.", f"y = {name}(x)",
        hops=(question.hop(x, seen.places[winner].tolist(), "x"),), window=seen, winner=winner, ties=ties,
        check=question.check(float(recorded) if of_place else float(seen.numbers[winner]), 1, 0.0),
    )  # fmt: skip
