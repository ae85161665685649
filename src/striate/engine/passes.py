"""The passes of a problem: its output and its gradients."""

from __future__ import annotations

import enum
from typing import Final

from striate.geometry import AnyProblem, ConvPoolShape, ConvShape, NormShape


class Pass(enum.IntEnum):
    """What is computed of a problem: which operand is open, in the order of the trilinear form; or more than that."""

    INPUT_GRAD = 0
    WEIGHT_GRAD = 1
    OUTPUT = 2
    #: Of max pooling: the output with the positions that its values come from, which gradients need.
    POSITIONS = 3
    #: Of a convolution: the output from a weight that was packed before, as a step of an inference plan computes it.
    PACKED = 4

    # Looked up several times a call; an enumeration's own hash is a function in Python.
    __hash__ = int.__hash__


#: The operands of the trilinear form, each of which may be the open one.
FORM: Final = (Pass.INPUT_GRAD, Pass.WEIGHT_GRAD, Pass.OUTPUT)


def passes(problem: AnyProblem) -> tuple[Pass, ...]:
    """What there is to compute of a problem.

    Of a normalisation, INPUT_GRAD is forward and backward together: one implementation computes both.
    """
    if isinstance(problem, ConvShape):
        return Pass.OUTPUT, Pass.INPUT_GRAD, Pass.WEIGHT_GRAD
    if isinstance(problem, NormShape):
        return Pass.OUTPUT, Pass.INPUT_GRAD
    if isinstance(problem, ConvPoolShape):
        return Pass.POSITIONS, Pass.INPUT_GRAD
    return (Pass.OUTPUT, Pass.POSITIONS, Pass.INPUT_GRAD) if problem.kind == "max" else (Pass.OUTPUT, Pass.INPUT_GRAD)
