"""What one look at tensors sees, and what some looks see."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from striate.engine.llvm.codegen.isa import the_isa
from striate.engine.llvm.memory.fingerprints import BLOCK, SAMPLES, WHOLE, Fingerprints


@given(st.lists(st.integers(0, 3 * BLOCK * WHOLE), min_size=1, max_size=6), st.data())
def test_whole_tensors_and_single_numbers(sizes: list[int], data: st.DataObject) -> None:
    torch.manual_seed(0)
    tensors = [torch.randn(size) for size in sizes]
    looks = Fingerprints(tensors, the_isa())
    assert all(looks.same() for _ in range(2 * WHOLE))
    which = data.draw(st.sampled_from(tensors))
    if not which.numel():
        return
    before = which.clone()
    which.data.mul_(0.5)
    assert not looks.same()
    which.data.copy_(before)
    assert looks.same()
    at = data.draw(st.integers(0, which.numel() - 1))
    which.numpy()[at] += 1e-3
    blocks = -(-which.numel() // BLOCK)
    within = 1 if blocks <= WHOLE else -(-blocks // SAMPLES) + SAMPLES
    assert not all(looks.same() for _ in range(within))


CHANGES = {
    "exchanged rows": lambda x: x.copy_(x.flip(0)),
    "exchanged numbers": lambda x: x.copy_(x.flip(1)),
    "the sign": lambda x: x.neg_(),
    "the last bit": lambda x: x.copy_(torch.nextafter(x, torch.full((), 9.0))),
    "zeros": lambda x: x.zero_(),
    "not a number": lambda x: x.fill_(torch.nan),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("shape", [(2, 3), (8, 64), (64, 512), (100, 333)])
def test_whatever_is_done_to_all_numbers(shape: tuple[int, int], change: str) -> None:
    x = torch.randn(shape)
    looks = Fingerprints([x], the_isa())
    CHANGES[change](x.data)
    assert not looks.same()


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x[:, ::2],
        lambda x: x[:, 3:9],
        lambda x: x.t(),
        lambda x: x[0].expand(5, 64),
        lambda x: x.to(torch.int64),
        lambda x: x.to(torch.bfloat16),
        lambda x: x > 0,
        lambda x: x.to(torch.complex64),
    ],
)
def test_other_strides_and_dtypes(view) -> None:
    base = torch.randn(32, 64)
    x: Tensor = view(base)
    looks = Fingerprints([x], the_isa())
    assert looks.same()
    written = base if x.dtype is torch.float32 else x
    written.logical_not_() if x.dtype is torch.bool else written.data.add_(1)
    assert not looks.same()


def test_what_lies_beside_a_tensor_does_not_count() -> None:
    base = torch.randn(1000)
    looks = Fingerprints([base[100:900]], the_isa())
    base[:100], base[900:] = 0, 0
    assert all(looks.same() for _ in range(20))
