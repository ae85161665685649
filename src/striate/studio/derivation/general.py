"""The derivation of any operator: shapes, and the operand elements that influence a result, found by its gradient."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from striate.analysis.operators import Value
from striate.studio.derivation.result import Derivation, Hop
from striate.studio.derivation.table import Question, wide

#: The most elements of operands for which a gradient is computed.
_MOST: Final = 1 << 24
_HOPS: Final = 12


def general(question: Question) -> Derivation:
    """The operands with their shapes, and the elements with the most influence on the result."""
    operation = question.operation
    name = question.name.strip("_").replace("_", " ")
    shapes = [{"value": question.number(each), "shape": list(each.shape)} for each in operation.inputs]
    found = dependence(question)
    if found is None:
        words = (
            f"{name}: this page knows no formula for it, and it has no gradient; what the number depends on is unknown."
        )
        hops = tuple(_corner(question, each) for each in operation.inputs if 0 not in each.shape)
        return Derivation("general", name, words, hops=hops, facts={"operands": shapes, "dependence": "unknown"})
    hops_, counts = found
    words = (
        f"{name}: this page knows no formula for it. By its gradient the number depends on "
        + (" and ".join(f"{count} numbers of operand {rank + 1}" for rank, count in counts.items()) or "no operand")
        + "; those by which it moves most stand beside."
    )
    return Derivation("general", name, words, hops=hops_, facts={"operands": shapes, "dependence": "by gradient"})


def _corner(question: Question, value: Value) -> Hop:
    return question.hop(value, (0,) * len(value.shape), "operand")


def _moves(value: Value) -> bool:
    """Whether there is a gradient by a tensor's numbers."""
    return value.dtype.is_floating_point or value.dtype.is_complex


def dependence(question: Question) -> tuple[tuple[Hop, ...], dict[int, int]] | None:
    """The elements of the operands by influence on the number (gradient times element); None if unknown."""
    operation = question.operation
    if not _moves(question.value):
        return None
    wanted = [each for each in dict.fromkeys(operation.inputs) if _moves(each)]
    if not wanted or sum(each.numel for each in wanted) > _MOST:
        return None
    leaves: dict[Value, Tensor] = {}

    def leaf(value: Value) -> Tensor:
        tensor = question.tensor(value).detach().clone()
        if value in wanted:
            leaves.setdefault(value, tensor.requires_grad_())
            tensor = leaves[value]
            # In-place operators refuse leaf tensors.
            return tensor.clone() if operation.written else tensor
        return tensor

    try:
        with torch.enable_grad():
            arguments: Any = tree_map_only(Value, leaf, operation.args)
            named: Any = tree_map_only(Value, leaf, operation.kwargs)
            result = operation.target(*arguments, **named)
            picked = result[question.rank] if isinstance(result, tuple | list) else result
            if not picked.requires_grad:
                return None
            number = picked[question.place]
            # Of a complex number both parts move.
            parts = torch.view_as_real(number.resolve_conj()).unbind() if number.is_complex() else (number,)
            gradients = [
                torch.autograd.grad(each, list(leaves.values()), retain_graph=True, allow_unused=True) for each in parts
            ]
    except (RuntimeError, NotImplementedError, IndexError):
        return None
    hops: list[Hop] = []
    counts: dict[int, int] = {}
    for rank, (value, *ways) in enumerate(zip(leaves, *gradients, strict=True)):
        known = [each for each in ways if each is not None]
        if not known:
            continue
        tensor = question.tensor(value)
        shares = sum(wide(each.conj() * tensor) if each.is_complex() else wide(each) * wide(tensor) for each in known)
        assert isinstance(shares, Tensor)
        strength = torch.stack([wide(each.abs()) for each in known]).square().sum(0)
        counts[rank] = int((strength != 0).sum())
        order = strength.reshape(-1).topk(min(_HOPS, value.numel, counts[rank])).indices
        for flat in order.tolist():
            at = np.unravel_index(flat, value.shape) if value.shape else ()
            place = tuple(int(each) for each in at)
            hops.append(question.hop(value, place, f"operand {rank + 1}", float(shares[place])))
    hops.sort(key=lambda hop: -abs(hop.contribution or 0.0))
    return tuple(hops[:_HOPS]), counts
