"""Functions of PyTorch and what accelerated models call instead: where striate refuses, PyTorch's own answer counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from striate.acceleration.blocks.calls import FUNCTIONS
from striate.errors import OperandError, StriateError

#: PyTorch's functions with operands that striate's refuse.
REFUSED = {
    "another dtype": (F.conv2d, (torch.zeros(1, 2, 5, 5), torch.zeros(3, 2, 3, 3, dtype=torch.float64))),
    "too few channels": (F.conv2d, (torch.zeros(1, 1, 5, 5), torch.zeros(3, 2, 3, 3))),
    "transposed": (F.conv_transpose2d, (torch.zeros(1, 1, 5, 5), torch.zeros(3, 2, 3, 3))),
    "a window that doesn't fit": (F.max_pool2d, (torch.zeros(1, 1, 2, 2), 3)),
}


@pytest.mark.parametrize(("function", "operands"), REFUSED.values(), ids=REFUSED)
def test_errors_are_pytorchs(function: Callable[..., Any], operands: tuple[Any, ...]) -> None:
    with pytest.raises(RuntimeError) as plain:
        function(*operands)
    with pytest.raises(RuntimeError) as found:
        FUNCTIONS[function](*operands)
    assert not isinstance(found.value, StriateError)
    assert str(found.value) == str(plain.value)


def test_a_weight_on_meta() -> None:
    with pytest.raises(OperandError, match=r"weight of torch\.float32 on meta"):
        FUNCTIONS[F.conv2d](torch.zeros(1, 2, 5, 5), torch.zeros(3, 2, 3, 3, device="meta"))
