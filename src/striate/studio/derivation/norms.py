"""Normalisation by the statistics of a channel, a layer or a group; and softmax."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from striate.analysis.operators import Value
from striate.studio.derivation.products import tokens
from striate.studio.derivation.result import Derivation, DerivationStep, Hop, Strand
from striate.studio.derivation.table import Question, as_value, derives, grid


def _normalised(
    question: Question, x: Value, mean: float, variance: float, epsilon: float, scale: Any, shift: Any,
    affine: tuple[int, ...], title: str, words: str, window: Strand | None, hops: tuple[Hop, ...] = (),
) -> Derivation:  # fmt: skip
    """(x - mean) / sqrt(variance + epsilon), times a learnt scale, plus a learnt shift."""
    here = question.hop(x, question.place, "x")
    number = float(here.number)
    root = math.sqrt(variance + epsilon)
    centred = (number - mean) / root
    gamma = question.hop(scale, affine, "scale") if isinstance(scale, Value) else None
    beta = question.hop(shift, affine, "shift") if isinstance(shift, Value) else None
    result = centred * (float(gamma.number) if gamma else 1.0) + (float(beta.number) if beta else 0.0)
    steps = (
        DerivationStep("μ", "mean", mean),
        DerivationStep("σ²", "variance", variance),
        DerivationStep("x̂", f"(x - μ) / √(σ² + {epsilon:g})", centred),
    )
    factor = abs(float(gamma.number)) if gamma else 1.0
    size = factor * (abs(number) + abs(mean)) / root * (8 + len(window.numbers if window else ())) + abs(result)
    formula = "y = scale · (x - μ) / √(σ² + ε) + shift" if gamma or beta else "y = (x - μ) / √(σ² + ε)"
    return Derivation(
        "normalisation", title, words, formula, (here, *hops, *(each for each in (gamma, beta) if each)),
        window=window, steps=steps, check=question.check(result, 8, size), facts={"epsilon": epsilon},
    )  # fmt: skip


@derives(
    "native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training", "cudnn_batch_norm",
    "_native_batch_norm_legit_functional", "batch_norm", "_batch_norm_with_update", "_batch_norm_no_update",
    "miopen_batch_norm",
)  # fmt: skip
def _batch(question: Question) -> Derivation:
    operation = question.operation
    x, weight, bias = as_value(operation.args[0]), operation.argument("weight"), operation.argument("bias")
    if question.rank:
        return _statistic(question, x)
    epsilon = float(operation.argument("eps", operation.argument("epsilon", 1e-5)))
    channel = question.place[1]
    running = operation.argument("running_mean"), operation.argument("running_var")
    by_batch = bool(operation.argument("training", operation.argument("train", False)))
    if not by_batch and isinstance(running[0], Value) and isinstance(running[1], Value):
        mean = question.hop(running[0], (channel,), "μ")
        variance = question.hop(running[1], (channel,), "σ²")
        words = (
            "In evaluation a channel is shifted and scaled by the mean and variance that training has gathered: the "
            "same for every picture."
        )
        return _normalised(
            question, x, float(mean.number), float(variance.number), epsilon, weight, bias, (channel,),
            "batch normalisation", words, None, (mean, variance),
        )  # fmt: skip
    axes = [range(length) if dim != 1 else [channel] for dim, length in enumerate(x.shape)]
    window = question.strand(x, "x", grid(axes))
    words = "In training a channel is normalised by its own mean and variance over all pictures and positions."
    return _normalised(
        question, x, *_moments(window.numbers), epsilon, weight, bias, (channel,), "batch normalisation", words, window
    )


def _moments(numbers: Tensor) -> tuple[float, float]:
    return float(numbers.mean()), float(numbers.var(correction=0))


def _statistic(question: Question, x: Value) -> Derivation:
    from striate.studio.derivation.general import general

    return general(question)


@derives("native_layer_norm", "layer_norm")
def _layer(question: Question) -> Derivation:
    operation = question.operation
    x = as_value(operation.args[0])
    if question.rank:
        return _statistic(question, x)
    over = len(operation.argument("normalized_shape"))
    lead = len(x.shape) - over
    axes = [*([at] for at in question.place[:lead]), *(range(length) for length in x.shape[lead:])]
    window = question.strand(x, "x", grid(axes))
    words = "A token (or picture) is normalised by the mean and variance of its own numbers."
    return _normalised(
        question, x, *_moments(window.numbers), float(operation.argument("eps")), operation.argument("weight"),
        operation.argument("bias"), question.place[lead:], "layer normalisation", words, window,
    )  # fmt: skip


@derives("native_group_norm")
def _group(question: Question) -> Derivation:
    operation = question.operation
    x = as_value(operation.args[0])
    if question.rank:
        return _statistic(question, x)
    deep = x.shape[1] // int(operation.argument("group"))
    channel = question.place[1]
    first = channel // deep * deep
    axes = [[question.place[0]], range(first, first + deep), *(range(length) for length in x.shape[2:])]
    window = question.strand(x, "x", grid(axes))
    words = f"{deep} channels of one picture are normalised together, by the mean and variance over all positions."
    return _normalised(
        question, x, *_moments(window.numbers), float(operation.argument("eps")), operation.argument("weight"),
        operation.argument("bias"), (channel,), "group normalisation", words, window,
    )  # fmt: skip


@derives("_softmax", "_safe_softmax", "_log_softmax", "softmax", "log_softmax", "logsumexp")
def _softmax(question: Question) -> Derivation:
    operation, log = question.operation, "log" in question.name
    x = as_value(operation.args[0])
    if question.name == "logsumexp":
        from striate.studio.derivation.pools import reduced

        places = reduced(question, x)
        own: int | None = None
    else:
        dim = int(operation.argument("dim")) % max(len(x.shape), 1)
        axes: list[Sequence[int]] = [[at] for at in question.place]
        axes[dim] = range(x.shape[dim])
        places, own = grid(axes), question.place[dim]
    row = question.strand(x, "x", places)
    most = float(row.numbers.max())
    shifted = row.numbers - (most if math.isfinite(most) else 0.0)
    total = math.fsum(shifted.exp().tolist())
    steps = (DerivationStep("m", "largest of the row", most), DerivationStep("s", "Σ exp(xⱼ - m)", total))
    if own is None:
        result = most + math.log(total)
        told = ("log of a sum of exponentials", "A smooth maximum of the row.", "y = m + log s")
    elif log:
        result = float(shifted[own]) - math.log(total)
        told = ("log softmax", "The logarithm of softmax: how much below the others this number lies.",
                "y = x - m - log s")  # fmt: skip
    else:
        result = math.exp(float(shifted[own])) / total if total else 0.0
        told = ("softmax", "Exponentials of the row, divided by their sum: positive numbers that add up to 1.",
                "y = exp(x - m) / s")  # fmt: skip
    order = row.numbers.topk(min(6, len(row.numbers))).indices.tolist()
    rows = list(dict.fromkeys([*([] if own is None else [own]), *order]))
    hops = tuple(question.hop(x, row.places[each].tolist(), "x") for each in rows)
    weights = (shifted.exp() / total).tolist() if total else [0.0] * len(row.numbers)
    spread = float(shifted.abs().nan_to_num(0, 0, 0).max())
    size = (abs(result) if not log and own is not None else 1.0 + abs(most) + abs(result)) * (4 + spread)
    facts: dict[str, Any] = {"weights": weights}
    if len(x.shape) >= 3 and not log and own is not None:
        facts["attention"] = {"row": weights} | tokens(len(weights))
    return Derivation(
        "softmax", *told, hops, window=row, winner=own, steps=steps,
        check=question.check(result, len(weights), size), facts=facts,
    )  # fmt: skip


@derives("linalg_vector_norm", "var", "std", "var_mean", "norm", "prod", "any", "all", "count_nonzero", "std_mean")
def _reduction(question: Question) -> Derivation:
    """A reduction of many numbers: shows all of them, and computes the result again by the operator itself."""
    from striate.studio.derivation.pools import reduced

    operation = question.operation
    x = as_value(operation.args[0])
    row = question.strand(x, "x", reduced(question, x))
    numbers = question.tensor(x)[tuple(row.places.T)].to(torch.float64) if x.dtype.is_floating_point else None
    check = None
    if numbers is not None and question.name in ("linalg_vector_norm", "var", "std", "prod", "var_mean", "std_mean"):
        result = _again(question, numbers)
        check = question.check(result, len(numbers), float(numbers.abs().sum()) + abs(result) * 4)
    order = row.numbers.abs().topk(min(8, len(row.numbers))).indices.tolist()
    hops = tuple(question.hop(x, row.places[each].tolist(), "x") for each in order)
    words = (
        f"One number is made of {len(row.numbers)}: their {question.name.removeprefix('linalg_').replace('_', ' ')}."
    )
    return Derivation("general", question.name, words, f"y = {question.name}(x)", hops, window=row, check=check)


def _again(question: Question, numbers: Tensor) -> float:
    """The reduction of numbers in float64."""
    operation, name = question.operation, question.name
    if name == "linalg_vector_norm":
        return float(torch.linalg.vector_norm(numbers, operation.argument("ord", 2)))
    if name == "prod":
        return float(numbers.prod())
    if question.rank:
        return float(numbers.mean())
    act = numbers.std if name.startswith("std") else numbers.var
    return float(act(correction=_correction(operation)))


def _correction(operation: Any) -> int:
    found = operation.argument("correction")
    if found is None:
        unbiased = operation.argument("unbiased")
        return 1 if unbiased is None else int(unbiased)
    return int(found)
