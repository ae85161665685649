"""Losses of detection and segmentation against their definitions, and where nothing counts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from striate import ops
from striate.errors import OperandError


def jaccard_loss(errors: set[int], truth: set[int]) -> float:
    """1 - IoU of a class where just these positions are taken wrongly (Berman et al., equation 6)."""
    union = truth | errors
    return len(errors) / len(union) if union else 0.0


def lovasz(logits: Tensor, labels: Tensor, ignored: int, present: bool) -> float:
    """Class by class, position by position (equations 8 and 9): (K, P) and (P,)."""
    counted = [place for place in range(len(labels)) if labels[place] != ignored]
    p, losses = logits.double().softmax(0), []
    for class_ in range(len(logits)):
        truth = {place for place in counted if labels[place] == class_}
        if present and not truth:
            continue
        errors = {place: abs((place in truth) - p[class_, place].item()) for place in counted}
        order = sorted(counted, key=lambda place: -errors[place])
        steps = [
            jaccard_loss(set(order[: n + 1]), truth) - jaccard_loss(set(order[:n]), truth) for n in range(len(order))
        ]
        losses.append(sum(errors[place] * step for place, step in zip(order, steps, strict=True)))
    return sum(losses) / len(losses) if losses else 0.0


@given(st.integers(0, 10_000), st.sampled_from(["present", "all"]), st.booleans())
def test_lovasz_is_its_definition(seed: int, classes: Any, per_image: bool) -> None:
    random = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 3, 2, 4, generator=random, dtype=torch.float64)
    labels = torch.randint(0, 4, (2, 2, 4), generator=random)  # 3 doesn't count
    found = ops.lovasz_softmax(logits, labels, 3, classes, per_image)
    flat, wide = labels.flatten(1), logits.flatten(2)
    if per_image:
        expected = sum(lovasz(wide[n], flat[n], 3, classes == "present") for n in range(2)) / 2
    else:
        expected = lovasz(torch.cat([*wide], 1), flat.flatten(), 3, classes == "present")
    assert found.item() == pytest.approx(expected, abs=1e-9)


def test_dice_is_its_definition() -> None:
    logits, labels = torch.randn(2, 3, 5), torch.tensor([[0, 2, 9, 1, 0], [2, 2, 2, 9, 9]])
    p, losses = logits.softmax(1), torch.zeros(2, 3)
    for n in range(2):
        for k in range(3):
            shared = sum(p[n, k, i] for i in range(5) if labels[n, i] == k)
            total = sum(p[n, k, i] + (labels[n, i] == k) for i in range(5) if labels[n, i] != 9)
            losses[n, k] = 1 - (2 * shared + 1) / (total + 1)
    torch.testing.assert_close(ops.dice_loss(logits, labels, 9, reduction="none"), losses)
    masks, truth = torch.randn(3, 4, 4), torch.randint(0, 2, (3, 4, 4))
    p = masks.sigmoid()
    expected = 1 - (2 * (p * truth).sum((1, 2)) + 1) / (p.sum((1, 2)) + truth.sum((1, 2)) + 1)
    torch.testing.assert_close(ops.dice_loss(masks, truth, reduction="none"), expected)


CALLS: dict[str, Any] = {
    "focal": lambda x: ops.sigmoid_focal_loss(x, torch.ones_like(x), reduction="mean"),
    "focal, small gamma": lambda x: ops.sigmoid_focal_loss(x, torch.ones_like(x), gamma=0.5, reduction="mean"),
    "dice": lambda x: ops.dice_loss(x, torch.full((len(x), *x.shape[2:]), 255), 255),
    "dice without smoothing": lambda x: ops.dice_loss(x, torch.full((len(x), *x.shape[2:]), 255), 255, smooth=0),
    "masks": lambda x: ops.dice_loss(x, torch.zeros_like(x)),
    "lovasz": lambda x: ops.lovasz_softmax(x, torch.full((len(x), *x.shape[2:]), 255)),
    "lovasz, an image": lambda x: ops.lovasz_softmax(x, torch.full((len(x), *x.shape[2:]), 255), per_image=True),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (0, 3, 4, 4), (2, 3, 0, 4)])
@pytest.mark.parametrize("size", [1.0, 1000.0])
def test_nothing_that_counts_and_wild_logits_give_numbers(name: str, shape: tuple[int, ...], size: float) -> None:
    x = (torch.randn(shape) * size).requires_grad_()
    loss = CALLS[name](x)
    loss.backward()
    assert loss.isfinite()
    assert x.grad is not None
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("targets", [torch.tensor([0, 2]), torch.tensor([1, 255])])
def test_gradients_by_finite_differences(targets: Tensor) -> None:
    x = torch.randn(1, 3, 2, dtype=torch.float64, requires_grad=True)
    for loss in (ops.lovasz_softmax, lambda x, t: ops.dice_loss(x, t, 255)):
        assert torch.autograd.gradcheck(lambda x, loss=loss: loss(x, targets[None]), (x,))
    assert torch.autograd.gradcheck(lambda x: ops.sigmoid_focal_loss(x, (x > 0).to(x)), (x,))


def test_narrow_logits_are_computed_in_float32() -> None:
    x = torch.randn(2, 3, 4).bfloat16()
    assert ops.lovasz_softmax(x, torch.zeros(2, 4)).dtype == torch.float32
    assert ops.sigmoid_focal_loss(x, torch.zeros(2, 3, 4)).dtype == torch.float32


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(OperandError, match=r"^sigmoid_focal_loss: got inputs"):
        ops.sigmoid_focal_loss(torch.zeros(2, 3), torch.zeros(2))
    for loss in (ops.dice_loss, ops.lovasz_softmax):
        with pytest.raises(OperandError, match=r"needed \(N, K, \.\.\.\) and \(N, \.\.\.\)"):
            loss(torch.zeros(2, 3, 4), torch.zeros(2, 5))
    with pytest.raises(OperandError, match="classes 'some'"):
        ops.lovasz_softmax(torch.zeros(2, 3, 4), torch.zeros(2, 4), classes="some")  # type: ignore[arg-type]
