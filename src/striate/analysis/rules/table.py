"""A table of rules that compute the dependence of each operator's output, a few lines each.

A rule gets the operation, its tensors' dependences (None: on no input) and the notes, and returns the output's
dependence. If an operator has no rule, the dependence of everything after it is unknown, with the operator as the
reason.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

import torch

from striate.analysis.dependence import Dependence, Maybe, Notes, union
from striate.analysis.lines import Line
from striate.analysis.trace import Operation, Value

Rule: TypeAlias = Callable[[Operation, Callable[[Value], Maybe], Notes, str], Maybe]
RULES: Final[dict[str, Rule]] = {}


class Unclear(Exception):  # noqa: N818 - a signal inside this package
    """A rule doesn't hold for these arguments; the message says why."""


def rule(*names: str) -> Callable[[Rule], Rule]:
    def enter(function: Rule) -> Rule:
        for name in names:
            assert f"aten.{name}" not in RULES, name
            RULES[f"aten.{name}"] = function
        return function

    return enter


def follow(operation: Operation, lookup: Callable[[Value], Maybe], notes: Notes, where: str) -> Maybe:
    """The dependence of an operation's outputs."""
    parts = [part for value in operation.inputs if (part := lookup(value)) is not None]
    if not parts:
        return None
    unknown = next((part for part in parts if part.unknown), None)
    if unknown is not None:
        return unknown
    act = RULES.get(operation.name)
    if act is None and _is_pointwise(operation):
        act = pointwise
    if act is None:
        return Dependence.unclear(f"{operation.name} in {where} has no rule")
    try:
        return act(operation, lookup, notes, where)
    except Unclear as reason:
        return Dependence.unclear(f"{operation.name} in {where}: {reason}")


_POINTWISE: Final = ("add_", "hardswish", "hardswish_", "dropout", "native_dropout", "bernoulli", "rrelu_with_noise")


def _is_pointwise(operation: Operation) -> bool:
    return torch.Tag.pointwise in operation.target.tags or operation.name in {f"aten.{name}" for name in _POINTWISE}


def pointwise(operation: Operation, lookup: Any, notes: Notes, where: str) -> Maybe:
    parts = [part for value in operation.inputs if (part := lookup(value)) is not None]
    return union(parts, operation.outputs[0].shape, notes, where)


def first(operation: Operation, lookup: Any) -> Dependence:
    part: Maybe = lookup(operation.inputs[0])
    if part is None:
        raise Unclear("the input reaches it through another operand than the first")
    return part


def picked(
    part: Dependence, dim: int, picks: Sequence[int], draw: Callable[[Line], Line | None], why: str
) -> Dependence:
    return part.looking(dim, [[pick] for pick in picks], draw, why)
