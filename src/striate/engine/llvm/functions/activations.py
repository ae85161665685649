"""Activations inside kernels: their values and their gradients, of one vector at a time.

    relu                max(z, 0)
    relu6               min(max(z, 0), 6)
    silu                z * s(z), s(z) = 1 / (1 + exp(-z))
    hardswish           z * min(max(z + 3, 0), 6) / 6
    tanh, sigmoid       tanh(z), s(z)
    gelu                z * P(z), P the cumulative distribution function of the normal distribution
    leaky_relu:SLOPE    z above 0, SLOPE * z elsewhere
    elu:ALPHA           z above 0, ALPHA * (exp(z) - 1) below

NaN stays NaN. Slopes at kinks and gradients at NaN are those of PyTorch's vectorised kernels.

Sources: tanh is the polynomial of Cephes (S. L. Moshier, single precision, tanhf.c); the normal distribution in GELU is
formula 7.1.26 of Abramowitz & Stegun, Handbook of Mathematical Functions (1964).
"""

from __future__ import annotations

import math
from typing import Final

from striate.engine.llvm.codegen.ir import Function

#: The empty name is the identity. Some activations have a parameter, which follows a colon.
NAMES: Final = ("", "relu", "relu6", "silu", "hardswish", "tanh", "sigmoid", "gelu", "leaky_relu", "elu")
#: Activations whose gradient may be computed from the result instead of the operand.
SLOPE_FROM_RESULT: Final = ("relu", "relu6")

#: Terms of the exponential's series after the first: up to log(2) / 2, the next term is below float32's rounding.
_TERMS: Final = 7
#: Beyond these arguments, exp isn't a normal float32 number.
_LOWEST, _HIGHEST = -87.0, 88.0
#: Adding this to a small number puts the nearest integer into the lowest bits: 1.5 * 2**23.
_SHIFT: Final = 12582912.0
#: log 2 in two parts; the first has so few bits that its products with integers are exact.
_LOG2_HIGH: Final = 0.693359375
_LOG2_LOW: Final = math.log(2) - _LOG2_HIGH


def exponential(f: Function, value: str) -> str:
    """exp(value) = 2**n * exp(r), where n is the integer nearest to value / log 2, so |r| is at most log(2) / 2."""
    wide = f"<{f.lanes} x i32>"
    value = f.at_most(f.at_least(value, f.constant(_LOWEST)), f.constant(_HIGHEST))
    shifted = f.fma(value, f.constant(1 / math.log(2)), f.constant(_SHIFT))
    whole = f.arithmetic("fsub", shifted, f.constant(_SHIFT))
    rest = f.fma(whole, f.constant(-_LOG2_HIGH), value)
    rest = f.fma(whole, f.constant(-_LOG2_LOW), rest)
    series = f.constant(1 / math.factorial(_TERMS))
    for term in reversed(range(_TERMS)):
        series = f.fma(series, rest, f.constant(1 / math.factorial(term)))
    # n is in the lowest bits of ``shifted``; an exponent of 127 is a factor of 1.
    exponent = f.value(f"add {wide} {f.value(f'bitcast {f.vector} {shifted} to {wide}')}, splat (i32 127)")
    power = f.value(f"bitcast {wide} {f.value(f'shl {wide} {exponent}, splat (i32 23)')} to {f.vector}")
    return f.arithmetic("fmul", series, power)


def sigmoid(f: Function, z: str) -> str:
    """1 / (1 + exp(-z))"""
    one = f.constant(1.0)
    made = f.arithmetic("fdiv", one, f.arithmetic("fadd", one, exponential(f, f.negative(z))))
    # The result is smaller than all normal numbers: return zero, so that products with it are zero as well.
    return f.select(f.compare("olt", z, f.constant(-_HIGHEST)), f.zeros(), made)


def tanh(f: Function, x: str) -> str:
    size = magnitude(f, x)
    square = f.arithmetic("fmul", x, x)
    inner = _polynomial(
        f, square, -5.70498872745e-3, 2.06390887954e-2, -5.37397155531e-2, 1.33314422036e-1, -3.33332819422e-1
    )
    small = f.fma(f.arithmetic("fmul", inner, square), x, x)
    grown = exponential(f, f.arithmetic("fadd", size, size))
    far = f.arithmetic("fdiv", f.constant(-2), f.arithmetic("fadd", grown, f.constant(1)))
    large = f.call(
        f.vector,
        f"llvm.copysign.v{f.lanes}f32",
        (f.vector, f.arithmetic("fadd", far, f.constant(1))),
        (f.vector, x),
    )
    near = f.value(f"fcmp olt {f.vector} {size}, {f.constant(0.625)}")
    return f.select(near, small, large)


def normal_share(f: Function, x: str) -> tuple[str, str]:
    """The normal distribution's cumulative probability at x, and exp(-x * x / 2).

    The tail is approximated directly, so there is no cancellation.
    """
    size = f.arithmetic("fmul", magnitude(f, x), f.constant(math.sqrt(0.5)))
    t = f.arithmetic("fdiv", f.constant(1), f.fma(size, f.constant(0.3275911), f.constant(1)))
    terms = _polynomial(f, t, 1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592)
    fall = exponential(f, f.negative(f.arithmetic("fmul", size, size)))
    tail = f.arithmetic("fmul", f.arithmetic("fmul", terms, t), f.arithmetic("fmul", fall, f.constant(0.5)))
    below = f.value(f"fcmp olt {f.vector} {x}, zeroinitializer")
    return f.select(below, tail, f.value(f"fsub {f.vector} {f.constant(1)}, {tail}")), fall


def gelu(f: Function, x: str) -> str:
    """x times the normal distribution's cumulative probability at x."""
    return f.arithmetic("fmul", x, normal_share(f, x)[0])


def magnitude(f: Function, x: str) -> str:
    return f.call(f.vector, f"llvm.fabs.v{f.lanes}f32", (f.vector, x))


def _polynomial(f: Function, x: str, highest: float, *rest: float) -> str:
    total = f.constant(highest)
    for number in rest:
        total = f.fma(total, x, f.constant(number))
    return total


def leaky_relu(f: Function, x: str, slope: float) -> str:
    # As in PyTorch zeros are multiplied, too: an infinite slope makes them NaN.
    return f.select(f.compare("ole", x, f.zeros()), f.arithmetic("fmul", x, f.constant(slope)), x)


def elu(f: Function, x: str, alpha: float) -> str:
    grown = f.arithmetic("fmul", f.arithmetic("fsub", exponential(f, x), f.constant(1)), f.constant(alpha))
    return f.select(f.compare("ole", x, f.zeros()), grown, x)


def _clamped(f: Function, z: str) -> str:
    return f.at_most(f.at_least(z, f.zeros()), f.constant(6.0))


def parsed(name: str) -> tuple[str, float]:
    """An activation's kind and its parameter, 0 if it has none.

    >>> parsed("leaky_relu:0.1")
    ('leaky_relu', 0.1)
    """
    kind, _, number = name.partition(":")
    return kind, float(number or 0)


def activated(f: Function, name: str, z: str) -> str:
    """The activation of a vector."""
    kind, number = parsed(name)
    if kind == "relu":
        return f.at_least(z, f.zeros())
    if kind == "relu6":
        return _clamped(f, z)
    if kind == "silu":
        return f.arithmetic("fmul", z, sigmoid(f, z))
    if kind == "hardswish":
        gate = _clamped(f, f.arithmetic("fadd", z, f.constant(3.0)))
        return f.arithmetic("fmul", f.arithmetic("fmul", z, gate), f.constant(1 / 6))
    if kind in _OF_ONE:
        return _OF_ONE[kind](f, z)
    if kind in _OF_TWO:
        return _OF_TWO[kind](f, z, number)
    return z


def sent_back(f: Function, name: str, g: str, z: str) -> str:
    """The gradient by the activation's operand, from the gradient g of its result.

    ``z`` is the operand; for activations in :data:`SLOPE_FROM_RESULT` it may be the result instead.
    """
    kind, number = parsed(name)
    one = f.constant(1.0)
    if kind in SLOPE_FROM_RESULT:
        passed = f.select(f.compare("ole", z, f.zeros()), f.zeros(), g)
        if kind == "relu6":
            passed = f.select(f.compare("olt", z, f.constant(6.0)), passed, f.zeros())
        return passed
    if kind == "silu":
        gate = sigmoid(f, z)
        return f.arithmetic("fmul", g, f.fma(f.arithmetic("fmul", gate, z), f.arithmetic("fsub", one, gate), gate))
    if kind == "hardswish":
        between = f.arithmetic("fmul", g, f.fma(z, f.constant(1 / 3), f.constant(0.5)))
        passed = f.select(f.compare("oge", z, f.constant(3.0)), g, between)
        return f.select(f.compare("ole", z, f.constant(-3.0)), f.zeros(), passed)
    if kind == "tanh":
        y = tanh(f, z)
        return f.arithmetic("fmul", g, f.fma(f.negative(y), y, one))
    if kind == "sigmoid":
        y = sigmoid(f, z)
        return f.arithmetic("fmul", g, f.arithmetic("fmul", y, f.arithmetic("fsub", one, y)))
    if kind == "gelu":
        share, fall = normal_share(f, z)
        density = f.arithmetic("fmul", fall, f.constant(1 / math.sqrt(2 * math.pi)))
        return f.arithmetic("fmul", g, f.fma(z, density, share))
    if kind == "leaky_relu":
        return f.select(f.compare("ogt", z, f.zeros()), g, f.arithmetic("fmul", g, f.constant(number)))
    if kind == "elu":
        fallen = f.arithmetic("fmul", g, f.arithmetic("fmul", exponential(f, z), f.constant(number)))
        return f.select(f.compare("ogt", z, f.zeros()), g, fallen)
    return g


def sent_back_from_result(f: Function, name: str, g: str, y: str) -> str:
    """The gradient of the operand from the activation's result y, for relu, tanh and sigmoid."""
    kind, _ = parsed(name)
    if kind in SLOPE_FROM_RESULT:
        return sent_back(f, name, g, y)
    one = f.constant(1.0)
    if kind == "tanh":
        return f.arithmetic("fmul", g, f.fma(f.negative(y), y, one))
    return f.arithmetic("fmul", g, f.arithmetic("fmul", y, f.arithmetic("fsub", one, y)))


_OF_ONE: Final = {"tanh": tanh, "sigmoid": sigmoid, "gelu": gelu}
_OF_TWO: Final = {"leaky_relu": leaky_relu, "elu": elu}
