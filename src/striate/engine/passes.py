"""The passes of a problem: its output and its gradients."""

from __future__ import annotations

import enum
from typing import Final

from striate.geometry import AnyProblem, ConvPoolShape, ConvShape, NormShape


class Pass(enum.IntEnum):
    """One computation of a problem: an open operand, in the order of the trilinear form, or a variant of the output."""

    INPUT_GRAD = 0
    WEIGHT_GRAD = 1
    OUTPUT = 2
    #: Of max pooling: the output, and for each value its position in the input, which the gradient needs.
    POSITIONS = 3
    #: Of a convolution: the output from a packed weight, as a step of an inference plan computes it.
    PACKED = 4

    # Passes are dictionary keys that each call looks up several times, and the hash of an Enum is a Python function.
    __hash__ = int.__hash__


#: The passes of the trilinear form, one for each operand that may be open.
FORM: Final = (Pass.INPUT_GRAD, Pass.WEIGHT_GRAD, Pass.OUTPUT)


def passes(problem: AnyProblem) -> tuple[Pass, ...]:
    """The passes of a problem.

    For a normalisation, INPUT_GRAD means forward and backward together, because one implementation computes both.
    """
    if isinstance(problem, ConvShape):
        return Pass.OUTPUT, Pass.INPUT_GRAD, Pass.WEIGHT_GRAD
    if isinstance(problem, NormShape):
        return Pass.OUTPUT, Pass.INPUT_GRAD
    if isinstance(problem, ConvPoolShape):
        return Pass.POSITIONS, Pass.INPUT_GRAD
    return (Pass.OUTPUT, Pass.POSITIONS, Pass.INPUT_GRAD) if problem.kind == "max" else (Pass.OUTPUT, Pass.INPUT_GRAD)
