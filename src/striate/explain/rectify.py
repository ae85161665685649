"""Replaces the derivative of every ReLU of a network by another rule.

The rules are set at the nodes of the autograd graph and not at layers, so functional and in-place calls are included,
and the network isn't changed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from torch import Tensor

from striate.errors import ExplainError

_Gradients = tuple[Tensor | None, ...]


def _guided(inner: _Gradients, _: _Gradients) -> _Gradients:
    return tuple(None if gradient is None else gradient.clamp_min(0) for gradient in inner)


def _deconvolved(_: _Gradients, outer: _Gradients) -> _Gradients:
    return tuple(None if gradient is None else gradient.clamp_min(0) for gradient in outer)


#: The new gradient of a ReLU's input, from the ordinary gradient and the upstream gradient.
_RULES: Final[dict[str, Callable[[_Gradients, _Gradients], _Gradients]]] = {
    "guided": _guided,
    "deconvolved": _deconvolved,
}


def change_rectifiers(score: Tensor, rule: str) -> None:
    """Changes the gradients of each ReLU and ReLU6 that a score depends on.

    Args:
        score: whose graph.
        rule: ``"guided"``, where input and gradient are positive; ``"deconvolved"``, where the gradient is.

    Raises:
        ExplainError: a network without these.
    """
    found = False
    waiting, seen = [score.grad_fn], set()
    while waiting:
        node: Any = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        # ReLU6 is a hard tanh from 0 to 6
        if node.name() == "ReluBackward0" or (node.name() == "HardtanhBackward0" and node._saved_min_val == 0):
            found = True
            node.register_hook(_RULES[rule])
        waiting += [following for following, _ in node.next_functions]
    if not found:
        raise ExplainError(
            rule, "the network has no ReLU on the way", "needed ReLU or ReLU6", "saliency and integrated_gradients go"
        )
