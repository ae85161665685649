"""Functions of single numbers that plans know, as operators tell of them."""

from __future__ import annotations

import math
from collections.abc import Callable

from striate.acceleration.capture import Node, Refusal, Value
from striate.engine.llvm.epilogue import Epilogue


def is_function(node: Node) -> bool:
    return node.name in _FUNCTIONS


def function(node: Node) -> Epilogue:
    """A function of single numbers, with its settings."""
    return _FUNCTIONS[node.name](*node.args[1:], **node.kwargs)


def _clamp(low: float | None = None, high: float | None = None) -> Epilogue:
    if isinstance(low, Value) or isinstance(high, Value):
        raise Refusal("clamping by tensors")
    return Epilogue("clamp", (-math.inf if low is None else float(low), math.inf if high is None else float(high)))


def _gelu(approximate: str = "none") -> Epilogue:
    if approximate != "none":
        raise Refusal(f"GELU approximated by {approximate}")
    return Epilogue("gelu")


_FUNCTIONS: dict[str, Callable[..., Epilogue]] = {
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
