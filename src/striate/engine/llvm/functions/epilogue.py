"""Epilogues of kernels: a tensor that is added to the sums, and a function that is applied before they are written.

    y = function(total + added)

While the sums are in registers, the function costs a few instructions; later it would cost a pass over memory.
Functions keep NaN, as PyTorch's do. They agree with float64 to a few units in the last place of the result or of 1,
whichever is larger.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from striate.engine.llvm.codegen.ir import Function, Number, Pointer
from striate.engine.llvm.functions import pointwise
from striate.engine.llvm.functions.activations import activated, gelu, leaky_relu, sigmoid, tanh


@dataclass(frozen=True)
class Epilogue:
    """An epilogue of a kernel.

    Args:
        function: a name in :data:`FUNCTIONS`, or empty for the identity.
        numbers: the parameters of the function.
        adds: whether a tensor is added to the sums first.
    """

    function: str = ""
    numbers: tuple[float, ...] = ()
    adds: bool = False

    def __str__(self) -> str:
        numbers = f"({', '.join(f'{number:g}' for number in self.numbers)})" if self.numbers else ""
        return " + added" * self.adds + (f", {self.function}{numbers}" if self.function else "")

    @property
    def rises(self) -> bool:
        """Whether the epilogue is increasing, so that it may be applied after max pooling instead of before."""
        if self.function == "leaky_relu":
            return not self.adds and 0 <= self.numbers[0] < math.inf
        return not self.adds and self.function in ("", "clamp", "hard_sigmoid", "sigmoid", "tanh")

    def apply(self, f: Function, total: str, added: Pointer | None, mask: str = "") -> str:
        """The values to write for a vector of sums; ``added`` is the address of the vector to add."""
        if added is not None:
            total = f.arithmetic("fadd", total, f.load(added, mask))
        return FUNCTIONS[self.function](f, total, *self.numbers) if self.function else total

    def store_row(
        self, f: Function, totals: list[str], place: Pointer, added: Pointer | None, room: Number, rest: int
    ) -> None:
        """Stores consecutive vectors, at most ``room`` numbers: whole vectors, then ``rest`` lanes of the last one."""
        whole = f.less(len(totals) * f.lanes - 1, room)
        with f.when(whole):
            for v, total in enumerate(totals):
                here = None if added is None else added + v * f.lanes
                f.store(self.apply(f, total, here), place + v * f.lanes)
        with f.when(f.negation(whole)):
            for v, total in enumerate(totals):
                here = None if added is None else added + v * f.lanes
                if v + 1 < len(totals):
                    with f.when(f.less((v + 1) * f.lanes - 1, room)):
                        f.store(self.apply(f, total, here), place + v * f.lanes)
                if rest:
                    with f.when(f.same(room, v * f.lanes + rest)):
                        mask = f.inside(0, rest)
                        f.store_first(self.apply(f, total, here, mask), place + v * f.lanes, rest)


#: No epilogue.
PLAIN: Final = Epilogue()


def clamp(f: Function, x: str, low: float, high: float) -> str:
    x = f.at_least(x, f.constant(low)) if low > -math.inf else x
    return f.at_most(x, f.constant(high)) if high < math.inf else x


def hard_sigmoid(f: Function, x: str) -> str:
    """relu6(x + 3) / 6"""
    inner = clamp(f, f.arithmetic("fadd", x, f.constant(3)), 0, 6)
    return f.arithmetic("fdiv", inner, f.constant(6))


def _named(name: str, f: Function, x: str) -> str:
    return activated(f, name, x)


#: The functions of epilogues, by name.
FUNCTIONS: Final[dict[str, Callable[..., str]]] = {
    "absolute": pointwise.absolute,
    "clamp": clamp,
    "elu": pointwise.elu,
    "gelu": gelu,
    "gelu_tanh": pointwise.gelu_tanh,
    "hard_sigmoid": hard_sigmoid,
    "hard_swish": partial(_named, "hardswish"),
    "leaky_relu": leaky_relu,
    "mish": pointwise.mish,
    "negative": pointwise.negative,
    "sigmoid": sigmoid,
    "silu": partial(_named, "silu"),
    "softplus": pointwise.softplus,
    "square": pointwise.square,
    "tanh": tanh,
}
