"""Elementwise functions that only inference plans fuse into a step; those that training uses are in activations.py.

    absolute, negative, square   |x|, -x, x * x
    elu                          SCALE * x above 0, SCALE * ALPHA * (exp(INPUT_SCALE * x) - 1) below
    gelu_tanh                    x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x**3)))
    mish                         x * tanh(log(1 + exp(x)))
    softplus                     log(1 + exp(BETA * x)) / BETA, and x where BETA * x is above THRESHOLD

The parameters of ELU are those of PyTorch's operator, which also computes SELU and CELU.
"""

from __future__ import annotations

import math
from typing import Final

from striate.engine.llvm.codegen.ir import Function
from striate.engine.llvm.functions.activations import exponential, magnitude, tanh

#: Terms of the series of log(1 + t) on 0 to 1; the next one is below float32's rounding.
_TERMS: Final = 8
#: Above this, tanh(log(1 + exp(x))) is 1; at this value exp(x)**2 is far from overflow.
_FLAT: Final = 20.0
#: Below the negative of this, exp(x) isn't a normal float32 number.
_NOTHING: Final = 87.0


def absolute(f: Function, x: str) -> str:
    return magnitude(f, x)


def negative(f: Function, x: str) -> str:
    return f.negative(x)


def square(f: Function, x: str) -> str:
    return f.arithmetic("fmul", x, x)


def elu(f: Function, x: str, alpha: float, scale: float, input_scale: float) -> str:
    inner = x if input_scale == 1 else f.arithmetic("fmul", x, f.constant(input_scale))
    less = f.arithmetic("fsub", exponential(f, inner), f.constant(1))
    below = f.arithmetic("fmul", less, f.constant(alpha * scale))
    above = x if scale == 1 else f.arithmetic("fmul", x, f.constant(scale))
    return f.select(f.compare("ole", x, f.zeros()), below, above)


def gelu_tanh(f: Function, x: str) -> str:
    cubic = f.fma(f.arithmetic("fmul", square(f, x), f.constant(0.044715)), x, x)
    share = f.arithmetic(
        "fadd", tanh(f, f.arithmetic("fmul", cubic, f.constant(math.sqrt(2 / math.pi)))), f.constant(1)
    )
    return f.arithmetic("fmul", f.arithmetic("fmul", x, f.constant(0.5)), share)


def mish(f: Function, x: str) -> str:
    """x * tanh(log(1 + e)) with e = exp(x), where tanh(log(1 + e)) = e * (e + 2) / (e * (e + 2) + 2).

    Far below 0 the second factor is set to 0, so that minus infinity gives NaN, as in PyTorch.
    """
    grown = exponential(f, f.at_most(x, f.constant(_FLAT)))
    product = f.fma(grown, grown, f.arithmetic("fadd", grown, grown))
    share = f.arithmetic("fdiv", product, f.arithmetic("fadd", product, f.constant(2)))
    share = f.select(f.compare("olt", x, f.constant(-_NOTHING)), f.zeros(), share)
    return f.arithmetic("fmul", x, share)


def softplus(f: Function, x: str, beta: float, threshold: float) -> str:
    """max(z, 0) + log(1 + exp(-|z|)), z = beta * x."""
    z = x if beta == 1 else f.arithmetic("fmul", x, f.constant(beta))
    rest = _log_of_one_and(f, exponential(f, f.negative(magnitude(f, z))))
    made = f.arithmetic("fadd", f.at_least(z, f.zeros()), rest)
    made = made if beta == 1 else f.arithmetic("fmul", made, f.constant(1 / beta))
    return f.select(f.compare("ogt", z, f.constant(threshold)), x, made)


def _log_of_one_and(f: Function, t: str) -> str:
    """log(1 + t) for t from 0 to 1: twice the area tangent of s = t / (2 + t), s + s**3 / 3 + s**5 / 5 + ..."""
    s = f.arithmetic("fdiv", t, f.arithmetic("fadd", t, f.constant(2)))
    squared = f.arithmetic("fmul", s, s)
    series = f.constant(2 / (2 * _TERMS - 1))
    for term in reversed(range(_TERMS - 1)):
        series = f.fma(series, squared, f.constant(2 / (2 * term + 1)))
    return f.arithmetic("fmul", series, s)
