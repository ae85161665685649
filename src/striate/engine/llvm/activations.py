"""Activations as parts of kernels: what they make of a vector, and what a gradient becomes on its way back.

    relu        max(z, 0)
    relu6       min(max(z, 0), 6)
    silu        z * s(z), s(z) = 1 / (1 + exp(-z))
    hardswish   z * min(max(z + 3, 0), 6) / 6

NaN stays NaN. The slope at kinks, and what becomes of a NaN's gradient, is as in PyTorch's vectorised kernels.
"""

from __future__ import annotations

import math
from typing import Final

from striate.engine.llvm.emit import Function

#: None at all is an activation as well.
NAMES: Final = ("", "relu", "relu6", "silu", "hardswish")
#: Those whose slope follows from their result as it does from their operand.
SLOPE_FROM_RESULT: Final = ("relu", "relu6")

#: Terms of the exponential's series after the first: on half of log 2 the next one is below float32's rounding.
_TERMS: Final = 7
#: Arguments beyond which exp would leave float32's normal numbers.
_LOWEST, _HIGHEST = -87.0, 88.0
#: Added to a small number this leaves its nearest whole number in the lowest bits: 1.5 * 2**23.
_SHIFT: Final = 12582912.0
#: log 2 in two parts, of which the first has few enough bits that its products with whole numbers are exact.
_LOG2_HIGH: Final = 0.693359375
_LOG2_LOW: Final = math.log(2) - _LOG2_HIGH


def exponential(f: Function, value: str) -> str:
    """exp(value) = 2**n * exp(r), n the whole number nearest to value / log 2, so that r is within half of log 2."""
    wide = f"<{f.lanes} x i32>"
    value = f.at_most(f.at_least(value, f.constant(_LOWEST)), f.constant(_HIGHEST))
    shifted = f.fma(value, f.constant(1 / math.log(2)), f.constant(_SHIFT))
    whole = f.arithmetic("fsub", shifted, f.constant(_SHIFT))
    rest = f.fma(whole, f.constant(-_LOG2_HIGH), value)
    rest = f.fma(whole, f.constant(-_LOG2_LOW), rest)
    series = f.constant(1 / math.factorial(_TERMS))
    for term in reversed(range(_TERMS)):
        series = f.fma(series, rest, f.constant(1 / math.factorial(term)))
    # n stands in the lowest bits of ``shifted``; an exponent of 127 is a factor of 1.
    exponent = f.value(f"add {wide} {f.value(f'bitcast {f.vector} {shifted} to {wide}')}, splat (i32 127)")
    power = f.value(f"bitcast {wide} {f.value(f'shl {wide} {exponent}, splat (i32 23)')} to {f.vector}")
    return f.arithmetic("fmul", series, power)


def sigmoid(f: Function, z: str) -> str:
    """1 / (1 + exp(-z))"""
    one = f.constant(1.0)
    made = f.arithmetic("fdiv", one, f.arithmetic("fadd", one, exponential(f, f.negative(z))))
    # Below all normal numbers, and so that what multiplies by it goes to zero as well.
    return f.select(f.compare("olt", z, f.constant(-_HIGHEST)), f.zeros(), made)


def _clamped(f: Function, z: str) -> str:
    return f.at_most(f.at_least(z, f.zeros()), f.constant(6.0))


def activated(f: Function, name: str, z: str) -> str:
    """The activation of a vector."""
    if name == "relu":
        return f.at_least(z, f.zeros())
    if name == "relu6":
        return _clamped(f, z)
    if name == "silu":
        return f.arithmetic("fmul", z, sigmoid(f, z))
    if name == "hardswish":
        gate = _clamped(f, f.arithmetic("fadd", z, f.constant(3.0)))
        return f.arithmetic("fmul", f.arithmetic("fmul", z, gate), f.constant(1 / 6))
    return z


def sent_back(f: Function, name: str, g: str, z: str) -> str:
    """The gradient g of the activation's result as one of its operand z (or its result, see SLOPE_FROM_RESULT)."""
    if name in SLOPE_FROM_RESULT:
        passed = f.select(f.compare("ole", z, f.zeros()), f.zeros(), g)
        if name == "relu6":
            passed = f.select(f.compare("olt", z, f.constant(6.0)), passed, f.zeros())
        return passed
    if name == "silu":
        gate, one = sigmoid(f, z), f.constant(1.0)
        return f.arithmetic("fmul", g, f.fma(f.arithmetic("fmul", gate, z), f.arithmetic("fsub", one, gate), gate))
    if name == "hardswish":
        between = f.arithmetic("fmul", g, f.fma(z, f.constant(1 / 3), f.constant(0.5)))
        passed = f.select(f.compare("oge", z, f.constant(3.0)), g, between)
        return f.select(f.compare("ole", z, f.constant(-3.0)), f.zeros(), passed)
    return g
