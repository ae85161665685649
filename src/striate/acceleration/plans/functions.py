"""Maps PyTorch's elementwise operators to the functions of epilogues."""

from __future__ import annotations

import math
from collections.abc import Callable

from striate.acceleration.plans.capture import Node, Refusal, Value
from striate.engine.llvm.functions.epilogue import Epilogue


def is_function(node: Node) -> bool:
    """Whether an operator is an elementwise function that kernels support, with parameters that they support."""
    if node.name not in _FUNCTIONS:
        return False
    try:
        function(node)
    except Refusal:
        return False
    return True


def function(node: Node) -> Epilogue:
    """The epilogue of an elementwise operator, with its parameters.

    Raises:
        Refusal: kernels don't support the parameters.
    """
    made = _FUNCTIONS[node.name](*node.args[1:], **node.kwargs)
    # A bound of clamp may be infinite; other functions of infinite parameters depend on how PyTorch computes them.
    if any(map(math.isnan, made.numbers)) or (made.function != "clamp" and any(map(math.isinf, made.numbers))):
        raise Refusal("a parameter that isn't finite")
    return made


def _clamp(low: float | None = None, high: float | None = None) -> Epilogue:
    if isinstance(low, Value) or isinstance(high, Value):
        raise Refusal("clamping by tensors")
    return Epilogue("clamp", (-math.inf if low is None else float(low), math.inf if high is None else float(high)))


def _gelu(approximate: str = "none") -> Epilogue:
    return Epilogue("gelu" if approximate == "none" else "gelu_tanh")


def _elu(alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Epilogue:
    return Epilogue("elu", (float(alpha), float(scale), float(input_scale)))


def _softplus(beta: float = 1.0, threshold: float = 20.0) -> Epilogue:
    if beta == 0:
        raise Refusal("a softplus that divides by 0")
    return Epilogue("softplus", (float(beta), float(threshold)))


def _power(exponent: float) -> Epilogue:
    if exponent != 2:  # also if it is a tensor
        raise Refusal("a power other than the square")
    return Epilogue("square")


_FUNCTIONS: dict[str, Callable[..., Epilogue]] = {
    "abs": lambda: Epilogue("absolute"),
    "elu": _elu,
    "mish": lambda: Epilogue("mish"),
    "neg": lambda: Epilogue("negative"),
    "pow": _power,
    "softplus": _softplus,
    "relu": lambda: _clamp(0.0),
    "hardtanh": lambda low=-1.0, high=1.0: _clamp(low, high),
    "clamp": _clamp,
    "clamp_min": _clamp,
    "gelu": _gelu,
    "hardsigmoid": lambda: Epilogue("hard_sigmoid"),
    "hardswish": lambda: Epilogue("hard_swish"),
    "leaky_relu": lambda slope=0.01: Epilogue("leaky_relu", (float(slope),)),
    "sigmoid": lambda: Epilogue("sigmoid"),
    "silu": lambda: Epilogue("silu"),
    "tanh": lambda: Epilogue("tanh"),
}
