"""True convolution and correlation, against SciPy and against the definitions."""

from __future__ import annotations

import pytest
import scipy.signal
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cases import assert_same, slow_but
from striate import ops
from striate.errors import GeometryError, OperandError


@pytest.mark.formula("F5", "F7")
@pytest.mark.parametrize("mode", slow_but(["full", "same", "valid"], ["full", "valid"]))
@pytest.mark.parametrize("name", ["convolve", "correlate"])
@given(data=st.data())
@settings(max_examples=200)
def test_against_scipy_and_the_definitions(name: str, mode: str, data: st.DataObject) -> None:
    dims = data.draw(st.integers(1, 3))
    kernel = data.draw(st.tuples(*[st.integers(1, 4)] * dims))
    size = tuple(k + data.draw(st.integers(0, 5)) for k in kernel)
    x = torch.randn(size, dtype=torch.float64, requires_grad=True)
    w = torch.randn(kernel, dtype=torch.float64, requires_grad=True)
    y = getattr(ops, name)(x, w, mode)
    peer = getattr(scipy.signal, name)(x.detach().numpy(), w.detach().numpy(), mode, method="direct")
    assert_same(y.detach(), torch.from_numpy(peer.copy()), 64)
    assert_same(y.detach(), getattr(ops.reference, name)(x, w, mode), 64)
    g = torch.randn_like(y)
    for mine, theirs in zip(
        torch.autograd.grad(y, (x, w), g), getattr(ops.reference, f"{name}_backward")(g, x, w, mode), strict=True
    ):
        assert_same(mine, theirs, 1000)


def test_leading_axes_are_independent_signals() -> None:
    x, w = torch.randn(2, 3, 8), torch.randn(3)
    y = ops.convolve(x, w)
    assert y.shape == (2, 3, 10)
    torch.testing.assert_close(y[1, 2], ops.convolve(x[1, 2], w))


def test_full_and_same_take_a_kernel_longer_than_the_input() -> None:
    x, w = torch.randn(3, dtype=torch.float64), torch.randn(6, dtype=torch.float64)
    torch.testing.assert_close(ops.convolve(x, w), ops.convolve(w, x))
    assert ops.convolve(x, w, "same").shape == (3,)


@pytest.mark.parametrize(
    ("x", "w", "mode", "error"),
    [
        (torch.zeros(3), torch.zeros(4), "valid", GeometryError),
        (torch.zeros(3), torch.zeros(2), "middle", GeometryError),
        (torch.zeros(3), torch.zeros(0), "full", GeometryError),
        (torch.zeros(0), torch.zeros(2), "full", GeometryError),
        (torch.zeros(3), torch.zeros(2, 2), "full", OperandError),
        (torch.zeros(3), torch.tensor(1.0), "full", OperandError),
        (torch.zeros(3), torch.zeros(2).double(), "full", OperandError),
    ],
)
def test_wrong_calls(x: torch.Tensor, w: torch.Tensor, mode: str, error: type[Exception]) -> None:
    with pytest.raises(error) as caught:
        ops.convolve(x, w, mode)
    assert "\n" not in str(caught.value)
