"""Elementwise operators: activations, addition, multiplication, comparisons."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from striate.analysis.operators import Operation, Value
from striate.studio.derivation.result import Check, Derivation, Hop, number_of, rounding
from striate.studio.derivation.table import Question, derives

#: Description and formula by operator; {x}, {y} stand for the operands.
_TOLD: Final[dict[str, tuple[str, str]]] = {
    "relu": ("Numbers above zero go on, all others become zero.", "y = max(0, x)"),
    "relu6": ("Numbers are cut off below 0 and above 6.", "y = min(max(0, x), 6)"),
    "hardtanh": ("Numbers are cut off below and above.", "y = min(max(low, x), high)"),
    "clamp": ("Numbers are cut off below and above.", "y = min(max(low, x), high)"),
    "clamp_min": ("Numbers are cut off below.", "y = max(low, x)"),
    "clamp_max": ("Numbers are cut off above.", "y = min(x, high)"),
    "leaky_relu": ("Numbers below zero are made smaller by a factor, all others go on.", "y = x if x > 0 else a·x"),
    "_prelu_kernel": ("Numbers below zero are multiplied by a learnt factor.", "y = x if x > 0 else a·x"),
    "elu": ("Numbers below zero go to -a smoothly, all others go on.", "y = x if x > 0 else a·(exp(x) - 1)"),
    "sigmoid": ("Squeezed to between 0 and 1.", "y = 1 / (1 + exp(-x))"),
    "tanh": ("Squeezed to between -1 and 1.", "y = tanh x"),
    "silu": ("The number, times its sigmoid.", "y = x / (1 + exp(-x))"),
    "gelu": ("The number, times the normal distribution's share below it.", "y = x · Φ(x)"),
    "mish": ("The number, times tanh of its softplus.", "y = x · tanh(log(1 + exp x))"),
    "softplus": ("A smooth maximum of zero and the number.", "y = log(1 + exp(β x)) / β"),
    "hardsigmoid": ("A line between 0 and 1, cut off at both.", "y = min(max(0, x/6 + 1/2), 1)"),
    "hardswish": ("The number, times a line between 0 and 1.", "y = x · min(max(0, x + 3), 6) / 6"),
    "exp": ("The exponential.", "y = exp x"),
    "log": ("The natural logarithm.", "y = log x"),
    "sqrt": ("The square root.", "y = √x"),
    "rsqrt": ("One over the square root.", "y = 1 / √x"),
    "square": ("The square.", "y = x²"),
    "pow": ("A power.", "y = x^p"),
    "abs": ("The absolute value.", "y = |x|"),
    "neg": ("The sign is turned.", "y = -x"),
    "reciprocal": ("One over the number.", "y = 1 / x"),
    "where": ("One of two numbers, by a condition.", "y = a if condition else b"),
    "maximum": ("The larger of two numbers.", "y = max(a, b)"),
    "minimum": ("The smaller of two numbers.", "y = min(a, b)"),
    "div": ("A quotient.", "y = a / b"),
}

#: Operators that draw random numbers.
_DRAWN: Final = frozenset(
    ("bernoulli", "rand", "rand_like", "randn", "randn_like", "normal", "uniform", "randint", "randperm", "exponential",
     "random", "multinomial", "poisson", "rrelu_with_noise")
)  # fmt: skip
#: Operators that create constants.
_MADE: Final = frozenset(
    ("zeros", "zeros_like", "ones", "ones_like", "full", "full_like", "arange", "linspace", "eye", "empty",
     "empty_like", "new_zeros", "new_ones", "new_full", "new_empty", "scalar_tensor", "fill", "zero", "empty_strided",
     "new_empty_strided", "empty_permuted", "tril_indices", "triu_indices", "fftfreq", "hann_window")
)  # fmt: skip


def is_pointwise(operation: Operation) -> bool:
    """Whether each number of the result depends on one number of each operand, at the same place."""
    return torch.Tag.pointwise in operation.target.tags


def located(value: Value, shape: tuple[int, ...], place: tuple[int, ...]) -> tuple[int, ...]:
    """The place in an operand, broadcast to ``shape``, that corresponds to a place in the result."""
    if not value.shape:
        return ()
    count = math.prod(value.shape)
    flat = torch.arange(count).view(value.shape).expand(shape)[place]
    return tuple(int(each) for each in np.unravel_index(int(flat), value.shape))


def scalars(question: Question) -> tuple[dict[Value, tuple[int, ...]], Tensor]:
    """The place of each operand's number, and the operator's result for these numbers alone."""
    operation = question.operation
    shape = np.broadcast_shapes(*(value.shape for value in operation.inputs)) if operation.inputs else ()
    target = question.value.shape
    shape = target if len(target) >= len(shape) else tuple(shape)
    places = {value: located(value, tuple(shape), question.place) for value in operation.inputs}

    def one(value: Value) -> Tensor:
        # Use tensors with one axis and one element, so that type promotion is that of tensors.
        found = question.tensor(value)[places[value]]
        return found.clone() if not value.shape else found.reshape(1).clone()

    arguments = tree_map_only(Value, one, operation.args)
    named = tree_map_only(Value, one, operation.kwargs)
    with torch.no_grad():
        result = operation.target(*arguments, **named)
    found = result[question.rank] if isinstance(result, tuple | list) else result
    return places, found.reshape(-1)[0]


def pointwise(question: Question) -> Derivation:
    """The operator's result for the operands' numbers at this place."""
    name = question.name
    places, result = scalars(question)
    letters = "x" if len(places) == 1 else "abcdef"
    hops = tuple(
        question.hop(value, place, letters[min(rank, len(letters) - 1)])
        for rank, (value, place) in enumerate(places.items())
    )
    computed = number_of(result)
    sizes = [abs(complex(each)) for each in (computed, *(hop.number for hop in hops))]
    size = math.fsum(each for each in sizes if math.isfinite(each))
    check = Check(computed, question.recorded, rounding(question.value.dtype, 12, size))
    words, formula = _TOLD.get(name, (f"{name.replace('_', ' ').strip()} of one number of each operand.",
                                      f"y = {name}({', '.join(h.name for h in hops)})"))  # fmt: skip
    settings = _settings(question.operation)
    if len(settings) and "=" in formula:
        formula += "   with " + ", ".join(f"{key} = {value}" for key, value in settings.items())
    return Derivation("pointwise", name.strip("_"), words, formula, hops, check=check)


def _settings(operation: Operation) -> dict[str, Any]:
    """The numeric arguments of an operator."""
    found: dict[str, Any] = {}
    for argument in operation.target._schema.arguments:
        given = operation.argument(argument.name)
        if isinstance(given, int | float) and not isinstance(given, bool) and argument.name not in ("dim",):
            found[argument.name] = given
    return found


@derives("add", "sub", "rsub", "subtract")
def _sum(question: Question) -> Derivation:
    """A sum; the operands are sorted by contribution."""
    operation = question.operation
    if not question.value.dtype.is_floating_point:
        return pointwise(question)
    places, _ = scalars(question)
    alpha = float(operation.argument("alpha", 1))
    signs = {"add": (1.0, alpha), "sub": (1.0, -alpha), "subtract": (1.0, -alpha), "rsub": (-alpha, 1.0)}[question.name]
    hops: list[Hop] = []
    total = 0.0
    for rank, (argument, sign) in enumerate(zip(operation.args[:2], signs, strict=False)):
        if isinstance(argument, Value):
            hop = question.hop(argument, places[argument], "ab"[rank])
            share = sign * float(hop.number)
            hops.append(Hop(hop.value, hop.place, hop.name, hop.number, share))
        else:
            share = sign * float(argument)
        total += share
    size = sum(abs(h.contribution or 0.0) for h in hops) + abs(total)
    words = (
        "Two tensors are added number by number: a shortcut meets what the layers beside it made."
        if len(hops) == 2 and question.name == "add"
        else "Numbers are added, or taken away from one another."
    )
    formula = {"add": "y = a + b", "sub": "y = a - b", "subtract": "y = a - b", "rsub": "y = b - a"}[question.name]
    if alpha != 1:
        formula += f"   with b times {alpha:g}"
    shares = tuple(sorted(hops, key=lambda hop: -abs(hop.contribution or 0.0)))
    return Derivation(
        "pointwise", {"add": "addition"}.get(question.name, "subtraction"), words, formula, shares,
        check=question.check(total, 2, size),
    )  # fmt: skip


@derives("mul", "multiply")
def _times(question: Question) -> Derivation:
    """A product; the formula mentions dropout if one factor is its mask."""
    values = question.operation.inputs
    found = pointwise(question)
    mask = next((value for value in values if _is_mask(question, value)), None)
    words, title = "Two numbers are multiplied: a gate, a scale, or a mask.", "multiplication"
    if mask is not None:
        words = "Dropout: in training a number is kept and enlarged, or becomes zero, as the mask was drawn."
        title = "dropout"
    if len(values) == 1:
        words = "The number is multiplied by a constant."
    return Derivation("pointwise", title, words, "y = a · b", found.hops, check=found.check)


def _is_mask(question: Question, value: Value) -> bool:
    """Whether a tensor is random numbers, divided by a constant, like the mask of dropout."""
    recording = question.recording
    for _ in range(4):
        operation = recording.operation_of(recording.number_of(value))
        if operation is None or not operation.inputs:
            return False
        name = operation.name.rpartition(".")[2].rstrip("_")
        if name == "bernoulli":
            return True
        if name not in ("div", "alias", "_to_copy"):
            return False
        value = operation.inputs[0]
    return False


@derives(*sorted(_DRAWN))
def _drawn(question: Question) -> Derivation:
    words = "Drawn at random: nothing was computed. The recording's seed draws the same number again."
    return Derivation("drawn", question.name, words, f"y ~ {question.name}")


@derives(*sorted(_MADE))
def _made(question: Question) -> Derivation:
    uninitialised = "empty" in question.name
    words = "Memory that nobody has written yet." if uninitialised else "A constant, written in the network's code."
    hops: tuple[Hop, ...] = ()
    given = question.operation.argument("value")
    if question.name == "fill" and isinstance(given, Value):
        hops = (question.hop(given, (), "value"),)
    return Derivation("source", question.name, words, "", hops)


@derives("hardswish", "log_sigmoid_forward", "rrelu_with_noise_functional", "prelu")
def _untagged(question: Question) -> Derivation:
    """Elementwise functions that PyTorch doesn't tag as such; a second result is a buffer for the gradient."""
    from striate.studio.derivation.general import general

    return general(question) if question.rank else pointwise(question)


@derives("glu")
def _gated(question: Question) -> Derivation:
    operation = question.operation
    x = operation.inputs[0]
    dim = int(operation.argument("dim", -1)) % len(x.shape)
    half = x.shape[dim] // 2
    shifted = tuple(at + half if axis == dim else at for axis, at in enumerate(question.place))
    a, b = question.hop(x, question.place, "a"), question.hop(x, shifted, "b")
    result = float(a.number) / (1 + math.exp(-float(b.number)))
    return Derivation(
        "pointwise", "gated linear unit", "Half of the channels are gates for the other half: times their sigmoid.",
        "y = a / (1 + exp(-b))", (a, b), check=question.check(result, 8, abs(float(a.number)) + abs(result)),
    )  # fmt: skip


@derives("native_dropout")
def _dropout(question: Question) -> Derivation:
    x = question.operation.inputs[0]
    mask = question.operation.outputs[1]
    if question.rank == 1:
        return _drawn(question)
    kept = question.hop(mask, question.place, "mask")
    here = question.hop(x, question.place, "x")
    share = float(question.operation.argument("p"))
    scale = 1 / (1 - share) if share < 1 else 0.0
    result = float(here.number) * float(kept.number) * scale
    words = f"Dropout: the number is kept and multiplied by {scale:g}, or becomes zero, as the mask was drawn."
    return Derivation(
        "pointwise", "dropout", words, f"y = x · mask · {scale:g}", (here, kept),
        check=question.check(result, 2, abs(result)),
    )  # fmt: skip
