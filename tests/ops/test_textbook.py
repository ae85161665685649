"""The worked examples of the textbooks, with symbols as numbers that can't be confused."""

from __future__ import annotations

import itertools

import pytest
import torch

from striate import ops

X = torch.tensor([[1.0, 5, 4], [9, 2, 1], [6, 3, 2]])
UPSTREAM = torch.tensor([[2.0, 30], [500, 7000]])
A, B, C, D = UPSTREAM.flatten().tolist()


def gradient_of(operation, *leaves: torch.Tensor) -> tuple[torch.Tensor, ...]:
    leaves = tuple(leaf[None, None].clone().requires_grad_() for leaf in leaves)
    grads = torch.autograd.grad(operation(*leaves), leaves, UPSTREAM[None, None])
    return tuple(grad[0, 0] for grad in grads)


@pytest.mark.formula("F14", "F15")
def test_backward_of_a_2x2_kernel_on_3x3_written_out() -> None:
    (w00, w01), (w10, w11) = kernel = torch.tensor([[0.1, 0.02], [0.003, 0.0004]])
    dx, dw = gradient_of(ops.conv2d, X, kernel)
    (x00, x01, x02), (x10, x11, x12), (x20, x21, x22) = X
    expected = [
        [A * x00 + B * x01 + C * x10 + D * x11, A * x01 + B * x02 + C * x11 + D * x12],
        [A * x10 + B * x11 + C * x20 + D * x21, A * x11 + B * x12 + C * x21 + D * x22],
    ]
    torch.testing.assert_close(dw, torch.tensor(expected))
    expected = [
        [A * w00, A * w01 + B * w00, B * w01],
        [A * w10 + C * w00, A * w11 + B * w10 + C * w01 + D * w00, B * w11 + D * w01],
        [C * w10, C * w11 + D * w10, D * w11],
    ]
    torch.testing.assert_close(dx, torch.tensor(expected))


@pytest.mark.formula("F14", "F18", "W16")
def test_the_shared_weights_gradient_is_a_sum_over_places_not_a_mean() -> None:
    w = torch.zeros(1, 1, 3, 3, requires_grad=True)
    for stride, places in ((1, 9), (2, 4)):
        y = ops.conv2d(torch.ones(1, 1, 5, 5), w, stride=stride)
        (dw,) = torch.autograd.grad(y.sum(), w)
        assert torch.equal(dw, torch.full_like(dw, places))


@pytest.mark.formula("F36", "F39")
def test_max_pooling_hands_the_gradient_to_the_maxima() -> None:
    assert ops.max_pool2d(X[None], 2, 1).tolist() == [[[9, 5], [9, 3]]]
    (dx,) = gradient_of(lambda x: ops.max_pool2d(x, 2, 1), X)
    assert dx.tolist() == [[0, B, 0], [A + C, 0, 0], [0, D, 0]]


@pytest.mark.formula("F37", "F40")
def test_average_pooling_shares_the_gradient_out() -> None:
    assert ops.avg_pool2d(X[None], 2, 1).tolist() == [[[4.25, 3], [5, 2]]]
    (dx,) = gradient_of(lambda x: ops.avg_pool2d(x, 2, 1), X)
    expected = [[A, A + B, B], [A + C, A + B + C + D, B + D], [C, C + D, D]]
    torch.testing.assert_close(dx * 4, torch.tensor(expected))


@pytest.mark.formula("F19")
def test_sizes_on_224() -> None:
    x = torch.zeros(1, 3, 224, 224)
    y = ops.conv2d(x, torch.zeros(64, 3, 7, 7), stride=2, padding=3)
    assert y.shape == (1, 64, 112, 112)
    assert ops.max_pool2d(y, 3, 2).shape == (1, 64, 55, 55)
    assert ops.max_pool2d(y, 3, 2, 1).shape == (1, 64, 56, 56)


@pytest.mark.formula("W11", "S9")
def test_three_3x3_layers_see_7x7() -> None:
    x = torch.zeros(1, 1, 15, 15, requires_grad=True)
    w = torch.ones(1, 1, 3, 3)
    y = ops.conv2d(ops.conv2d(ops.conv2d(x, w, padding=1), w, padding=1), w, padding=1)
    (dx,) = torch.autograd.grad(y[0, 0, 7, 7], x)
    rows, columns = (axis.unique().tolist() for axis in dx[0, 0].nonzero().T)
    assert rows == columns == list(range(4, 11))


@pytest.mark.formula("S3")
def test_convolution_follows_a_shift_and_strided_pooling_does_not() -> None:
    x, w = torch.randn(1, 1, 12, 12), torch.randn(1, 1, 3, 3)

    def shift(tensor: torch.Tensor, by: int) -> torch.Tensor:
        return tensor.roll(by, -1)

    def circular(tensor: torch.Tensor) -> torch.Tensor:
        return ops.conv2d(torch.nn.functional.pad(tensor, (1, 1, 1, 1), mode="circular"), w)

    torch.testing.assert_close(circular(shift(x, 1)), shift(circular(x), 1))
    pooled = ops.max_pool2d(x, 2)
    # by one pixel no shift of the output will do; by the stride one does
    assert not any(torch.allclose(ops.max_pool2d(shift(x, 1), 2), shift(pooled, by)) for by in range(6))
    assert torch.equal(ops.max_pool2d(shift(x, 2), 2), shift(pooled, 1))


@pytest.mark.formula("F1", "F5", "F7")
def test_correlation_and_convolution_differ_by_a_flip() -> None:
    x, k = torch.tensor([0.0, 1, 2, 3]), torch.tensor([1.0, 10, 100])
    assert ops.correlate(x, k).tolist() == [210, 321]
    assert ops.convolve(x, k, "valid").tolist() == [12, 123]
    assert torch.equal(ops.convolve(x, k), ops.correlate(x, k.flip(0), "full"))
    # which is what the layers of networks compute
    assert torch.equal(ops.correlate(x, k), ops.conv1d(x[None, None], k[None, None])[0, 0])


@pytest.mark.formula("F9")
@pytest.mark.parametrize("shapes", [((6,), (4,)), ((3, 4), (2, 5))])
def test_convolution_of_two_distributions_is_the_distribution_of_the_sum(shapes) -> None:
    first, second = (torch.rand(shape, dtype=torch.float64) for shape in shapes)
    first, second = first / first.sum(), second / second.sum()
    expected = torch.zeros([n + m - 1 for n, m in zip(*shapes, strict=True)], dtype=torch.float64)
    # every pair of outcomes, with the probability that both happen
    for a in itertools.product(*map(range, shapes[0])):
        for b in itertools.product(*map(range, shapes[1])):
            expected[tuple(i + j for i, j in zip(a, b, strict=True))] += first[a] * second[b]
    found = ops.convolve(first, second)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(found.sum(), torch.ones((), dtype=torch.float64))
    torch.testing.assert_close(found, ops.convolve(second, first))
