"""Regions of interest: values and gradients against the definitions, by the kernels and by PyTorch's operators."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cases import slow_but
from striate import ops
from striate.engine import regions, use
from striate.errors import GeometryError, OperandError, StriateError
from striate.ops import reference

BACKENDS = pytest.mark.parametrize("backend", ["auto", "aten"])
LAYOUTS = {False: torch.contiguous_format, True: torch.channels_last}


def some(seed: int, channels: int = 3, count: int = 5) -> tuple[Tensor, Tensor]:
    """A map, and boxes that lie in it, over its borders, outside, and upside down."""
    random = torch.Generator().manual_seed(seed)
    centre, extent = torch.rand(count, 2, generator=random) * 14 - 2, torch.rand(count, 2, generator=random) * 12 - 1
    image = torch.randint(0, 2, (count, 1), generator=random)
    boxes = torch.cat([image, centre - extent / 2, centre + extent / 2], 1)
    return torch.randn(2, channels, 8, 9, generator=random), boxes


@BACKENDS
@settings(max_examples=40)
@given(
    st.integers(0, 10_000),
    st.sampled_from([1, 3, 16, 21, 130]),
    st.integers(-1, 3),
    st.booleans(),
    st.booleans(),
    st.sampled_from([1.0, 0.5, 1.7]),
)
def test_values_and_gradients_are_the_definitions(
    backend: str, seed: int, channels: int, samples: int, aligned: bool, last: bool, scale: float
) -> None:
    x, boxes = some(seed, channels)
    x = x.contiguous(memory_format=LAYOUTS[last]).requires_grad_()
    how = (scale, samples, aligned)
    with use(backend):
        y = ops.roi_align(x, boxes, (2, 3), *how)
        g = torch.randn_like(y)
        (dx,) = torch.autograd.grad(y, x, g)
    torch.testing.assert_close(y.double(), reference.roi_align(x, boxes, (2, 3), *how), rtol=1e-4, atol=1e-4)
    expected = reference.roi_align_input_grad(x, g, boxes, *how)
    torch.testing.assert_close(dx.double(), expected, rtol=1e-4, atol=1e-4)
    if channels > 1:
        assert y.is_contiguous(memory_format=LAYOUTS[last])
        assert dx.is_contiguous(memory_format=LAYOUTS[last])


@pytest.mark.parametrize("samples", [0, 2])
@pytest.mark.parametrize("aligned", slow_but([False, True], [False]))
def test_derivatives_of_every_kind_by_finite_differences(samples: int, aligned: bool) -> None:
    x, boxes = (each.double() for each in some(3, 1, 3))
    x = x[..., 2:6, 3:7].clone().requires_grad_()

    def pool(x: Tensor) -> Tensor:
        return ops.roi_align(x, boxes, 2, 0.8, samples, aligned)

    assert torch.autograd.gradcheck(pool, (x,), check_batched_grad=True, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(pool, (x,), check_batched_grad=True)


@BACKENDS
def test_the_two_passes_are_each_others_transpose(backend: str) -> None:
    x, boxes = some(5, 20, 9)
    x.requires_grad_()
    with use(backend):
        y = ops.roi_align(x, boxes, 3, 1.0, 2, True)
        g, v = torch.randn_like(y).requires_grad_(), torch.randn_like(x)
        (dx,) = torch.autograd.grad(y, x, g, create_graph=True)
        (dg,) = torch.autograd.grad(dx, g, v)  # the gradient's own gradient: forward again
        torch.testing.assert_close((v * dx).sum(), (g * ops.roi_align(v, boxes, 3, 1.0, 2, True)).sum())
        torch.testing.assert_close(dg, ops.roi_align(v, boxes, 3, 1.0, 2, True))


@pytest.mark.usefixtures("narrower")
@pytest.mark.parametrize("channels", [5, 70])
def test_every_instruction_set(channels: int) -> None:
    x, boxes = some(6, channels)
    x.requires_grad_()
    y = ops.roi_align(x, boxes, 2, 0.9, 2)
    (dx,) = torch.autograd.grad(y, x, torch.ones_like(y))
    torch.testing.assert_close(y.double(), reference.roi_align(x, boxes, 2, 0.9, 2), rtol=1e-4, atol=1e-4)
    expected = reference.roi_align_input_grad(x, torch.ones_like(y), boxes, 0.9, 2)
    torch.testing.assert_close(dx.double(), expected, rtol=1e-4, atol=1e-4)


def test_gradients_are_the_same_bits_on_any_number_of_threads() -> None:
    x, boxes = some(7, 70, 30)
    x.requires_grad_()
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        try:
            y = ops.roi_align(x, boxes, 3, 1.0, 2)
            found.append((y.detach(), *torch.autograd.grad(y, x, torch.ones_like(y))))
        finally:
            torch.set_num_threads(1)
    for one in found[1:]:
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(one, found[0], strict=True))


@BACKENDS
def test_a_pixel_that_is_no_number_shows_only_where_it_is_seen(backend: str) -> None:
    x = torch.zeros(1, 17, 6, 6)
    x[..., 0, :], x[..., 5, 5] = torch.nan, torch.inf
    boxes = torch.tensor([[0.0, 1, 1, 5, 3], [0, -50, -50, -40, -40]])
    with use(backend):
        for samples in (0, 2):
            assert ops.roi_align(x, boxes, 2, 1.0, samples, True)[:, :, 1].eq(0).all()


@pytest.mark.parametrize("chunk", [1, 100])
def test_boxes_in_pieces(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x, boxes = some(8)
    x, boxes = x.double().requires_grad_(), boxes.double()
    whole = ops.roi_align(x, boxes, 2)
    (expected,) = torch.autograd.grad(whole, x, torch.ones_like(whole))
    monkeypatch.setattr(regions, "_ENTRIES", chunk)
    pieces = ops.roi_align(x, boxes, 2)
    torch.testing.assert_close(pieces, whole)
    torch.testing.assert_close(torch.autograd.grad(pieces, x, torch.ones_like(whole))[0], expected)


@given(st.integers(0, 10_000), st.sampled_from([1.0, 0.5, 0.25]))
def test_largest_values_are_the_definitions(seed: int, scale: float) -> None:
    x, boxes = some(seed)
    x, boxes = x.double().requires_grad_(), boxes.double()
    y = ops.roi_pool(x, boxes, (2, 3), scale)
    assert torch.equal(y, reference.roi_pool(x, boxes, (2, 3), scale))
    (dx,) = torch.autograd.grad(y.sum(), x)
    assert dx.sum() == (y != 0).sum()


@pytest.mark.parametrize("pool", [ops.roi_align, ops.roi_pool])
def test_no_boxes_no_images_and_lists(pool: Any) -> None:
    x, boxes = some(9)
    x.requires_grad_()
    listed = [boxes[boxes[:, 0] == image][:, 1:] for image in range(2)]
    ordered = torch.cat([boxes[boxes[:, 0] == image] for image in range(2)])
    assert torch.equal(pool(x, listed, 2), pool(x, ordered, 2))
    empty = pool(x, [torch.zeros(0, 4)] * 2, 2)
    assert empty.shape == (0, 3, 2, 2)
    empty.sum().backward()
    assert x.grad is not None
    assert x.grad.eq(0).all()
    assert pool(torch.zeros(0, 3, 4, 4), [], 2).shape == (0, 3, 2, 2)


def test_narrow_numbers_come_back_as_they_went_in() -> None:
    x, boxes = some(10)
    y = ops.roi_align(x.bfloat16(), boxes, 2)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), ops.roi_align(x.bfloat16().float(), boxes, 2), rtol=1e-2, atol=1e-2)


def test_samples_of_a_call_under_vmap() -> None:
    x, boxes = some(11)
    many, apart = torch.stack([x, 2 * x]), torch.stack([boxes, boxes + torch.tensor([0.0, 1, 1, 1, 1])])
    found = torch.func.vmap(lambda x: ops.roi_align(x, boxes, 2))(many)
    torch.testing.assert_close(found[1], 2 * found[0])
    found = torch.func.vmap(lambda boxes: ops.roi_align(x, boxes, 2))(apart)
    torch.testing.assert_close(found[1], ops.roi_align(x, apart[1], 2))


BAD: list[tuple[Any, Any, Any, type[StriateError], str]] = [
    (torch.rand(3, 8, 8), torch.zeros(1, 5), 2, OperandError, "(N, C, H, W)"),
    (torch.rand(1, 3, 8, 8), torch.zeros(1, 4), 2, OperandError, "(K, 5)"),
    (torch.rand(1, 3, 8, 8), [torch.zeros(1, 5)], 2, OperandError, "(L, 4)"),
    (torch.rand(2, 3, 8, 8), [torch.zeros(1, 4)], 2, OperandError, "each of 2"),
    (torch.rand(1, 3, 8, 8), torch.tensor([[1.0, 0, 0, 2, 2]]), 2, OperandError, "boxes of image 1"),
    (torch.rand(1, 3, 8, 8), torch.full((1, 5), torch.nan), 2, OperandError, "boxes of image nan"),
    (torch.rand(1, 3, 8, 8), torch.zeros(1, 5), 0, GeometryError, "at least"),
    (torch.rand(1, 3, 8, 8), torch.tensor([[0, 0, 0, torch.inf, 2]]), 2, GeometryError, "inf pixels wide"),
]


@pytest.mark.parametrize(("input", "boxes", "size", "kind", "words"), BAD)
def test_what_does_not_fit_is_refused(input: Tensor, boxes: Any, size: Any, kind: type, words: str) -> None:
    with pytest.raises(kind) as told:
        ops.roi_align(input, boxes, size)
    assert words in str(told.value)
    assert str(told.value).startswith("roi_align: ")


def test_levels_of_a_pyramid_follow_a_boxs_size() -> None:
    sides = torch.tensor([0.0, 10, 111.9, 112, 223, 224, 448, 5000, torch.nan])
    boxes = torch.stack([torch.zeros(9), torch.zeros(9), sides, sides], 1)
    assert ops.roi_levels(boxes, 2, 5).tolist() == [0, 0, 0, 1, 1, 2, 3, 3, 0]
    assert ops.roi_levels([boxes[:2], boxes[2:]], 2, 5).tolist() == ops.roi_levels(boxes, 2, 5).tolist()
