"""PyTorch's functions, each with what is called instead."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from inspect import signature
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from striate import ops
from striate.engine import traced
from striate.errors import StriateError
from striate.ops import convolution

Call = Callable[..., Any]


def _up_to_rounding(mine: Call, compute: Call) -> Call:
    """A convolution by whatever is quickest, local to the last bit or not; ``compute`` does it."""
    dims, settings = int(mine.__name__[-2]), list(signature(mine).parameters.values())[3:]

    @wraps(mine)
    def call(input: Tensor, weight: Tensor, bias: Tensor | None = None, *how: Any, **named: Any) -> Any:
        if len(how) < len(settings):
            how = (*how, *(named.pop(each.name, each.default) for each in settings[len(how) :]))
        if named or traced(input, weight):
            return mine(input, weight, bias, *how, **named)
        return compute(dims, input, weight, bias, *how, local=False)

    return call


_MINE: Final = {
    f"{kind}{dims}d": getattr(ops, f"{kind}{dims}d")
    for kind in ("conv", "conv_transpose", "max_pool", "avg_pool")
    for dims in (1, 2)
}
_CALLS: Final = {
    name: _up_to_rounding(mine, convolution.convolve_transposed if "transpose" in name else convolution.convolve)
    if name.startswith("conv")
    else mine
    for name, mine in _MINE.items()
}


def _as_pytorch(pytorchs: Call, mine: Call) -> Call:
    """``mine``; but where striate refuses the operands, PyTorch computes the result or raises its own error.

    A ``forward`` may catch a ``RuntimeError``. Operands on ``meta`` are the exception: of an input in main memory and a
    weight on ``meta`` PyTorch computes numbers from memory that no one wrote.
    """

    @wraps(mine)
    def call(*operands: Any, **named: Any) -> Any:
        try:
            return mine(*operands, **named)
        except StriateError:
            if any(isinstance(each, Tensor) and each.is_meta for each in (*operands, *named.values())):
                raise
        return pytorchs(*operands, **named)

    return call


#: PyTorch's functions, and striate's that are local to the last bit, each with what is called instead. In three
#: dimensions there are no kernels of striate's own yet.
FUNCTIONS: Final[dict[Any, Call]] = {getattr(ops, name): call for name, call in _CALLS.items()} | {
    getattr(room, name): _as_pytorch(getattr(room, name), call)
    for room in (torch, F)
    for name, call in _CALLS.items()
    if hasattr(room, name)
}
