"""True convolution and correlation of plain arrays, without channels: signals, images, distributions.

    (x * w)[z] = sum over a of  x[a] * w[z - a]        convolution: the kernel runs backwards
    (x . w)[z] = sum over a of  x[a + z] * w[a]        correlation: what CNNs call convolution

Convolution is what addition does to distributions: if X and Y are independent and whole-numbered, then
P(X + Y = z) = sum over a of P(X = a) * P(Y = z - a), the convolution of the two (in two dimensions for pairs).
"""

from __future__ import annotations

from typing import Final, Literal

from torch import Tensor
from torch.nn.functional import pad

from striate.engine import Pass
from striate.errors import GeometryError, OperandError
from striate.geometry import ConvShape, Padding
from striate.ops._calls import check_tensor, check_weight, overridable, prepared
from striate.ops.convolution import contract

Mode = Literal["full", "same", "valid"]

# In "same" the cell in the middle of an even kernel belongs to the later half, as in NumPy and SciPy.
_PADDING: Final[dict[str, Padding]] = {"full": "full", "same": "same_lower", "valid": "valid"}


_shape = prepared(ConvShape.of)


def _slide(call: str, input: Tensor, weight: Tensor, mode: Mode, *, flipped: bool) -> Tensor:
    check_tensor(call, "input", input)
    check_tensor(call, "weight", weight)
    dims = weight.dim()
    if mode not in _PADDING:
        raise GeometryError(call, f"got mode {mode!r}", 'needed "full", "same" or "valid"')
    if not 1 <= dims <= 3 or input.dim() < dims:
        raise OperandError(
            call,
            f"got an input of shape {tuple(input.shape)} and a weight of shape {tuple(weight.shape)}",
            "needed a weight with 1, 2 or 3 axes and an input with as many or more",
        )
    if min(weight.shape) < 1 or min(input.shape[input.dim() - dims :]) < 1:
        raise GeometryError(
            call,
            f"got an input of shape {tuple(input.shape)} and a weight of shape {tuple(weight.shape)}",
            "needed at least one position on each axis",
        )
    lead, size = input.shape[: input.dim() - dims], input.shape[input.dim() - dims :]
    signals, kernel = input.reshape(-1, 1, *size), weight[None, None]
    if flipped:
        kernel = kernel.flip(list(range(2, dims + 2)))
    check_weight(call, dims, signals, kernel, None)
    shape = _shape(signals.shape, kernel.shape, 1, _PADDING[mode])
    output = contract(shape, False, Pass.OUTPUT, {Pass.INPUT_GRAD: signals, Pass.WEIGHT_GRAD: kernel})
    return output.reshape(*lead, *shape.output_size)


@overridable
def convolve(input: Tensor, weight: Tensor, mode: Mode = "full") -> Tensor:
    """True convolution, with the flipped kernel; for two probability vectors, the distribution of the sum.

    Args:
        input: (..., L), (..., H, W) or (..., D, H, W); the leading axes number independent signals.
        weight: (k,), (kH, kW) or (kD, kH, kW).
        mode: ``"full"`` every overlap, L + k - 1 long; ``"same"`` its middle, as long as the input; ``"valid"`` only
            where the two overlap completely, L - k + 1 long.

    Returns:
        (..., L') with the input's leading axes.

    Raises:
        GeometryError: an unknown mode, an empty axis, ``"valid"`` with a kernel longer than the input.
        OperandError: ranks, dtypes or devices that don't fit.

    Source: Goodfellow, Bengio & Courville, "Deep Learning" (2016), equations 9.3 to 9.5; agrees with
    ``scipy.signal.convolve``.

    >>> import torch
    >>> die = torch.full((6,), 1 / 6)
    >>> 36 * convolve(die, die)               # of 36 throws of two dice, how many sum to 2, 3, ... 12
    tensor([1.0000, 2.0000, 3.0000, 4.0000, 5.0000, 6.0000, 5.0000, 4.0000, 3.0000,
            2.0000, 1.0000])

    Formula: F5, F9, F10.
    """
    return _slide("convolve", input, weight, mode, flipped=True)


@overridable
def correlate(input: Tensor, weight: Tensor, mode: Mode = "valid") -> Tensor:
    """Cross-correlation, the kernel as it is: what CNNs call convolution. Arguments as for :func:`convolve`.

    Complex weights are not conjugated. Otherwise this agrees with ``scipy.signal.correlate``.

    Source: Goodfellow, Bengio & Courville, "Deep Learning" (2016), equation 9.6.

    >>> import torch
    >>> correlate(torch.tensor([1.0, 5.0, 4.0]), torch.tensor([1.0, -1.0]))
    tensor([-4.,  1.])

    Formula: F7.
    """
    return _slide("correlate", input, weight, mode, flipped=False)


@overridable
def distribution_of_sum(joint: Tensor) -> Tensor:
    """The distribution of X + Y from the joint one, whether or not X and Y are independent.

        P(X + Y = z) = sum over x of P(X = x, Y = z - x)

    If X and Y are independent, this is the convolution of their distributions (:func:`convolve`). For a joint density
    on a grid of cells h wide, the result times h is the density of the sum on a grid of the same cells.

    Args:
        joint: (..., A, B), entry (x, y) being P(X = x, Y = y).

    Returns:
        (..., A + B - 1).

    Raises:
        OperandError: less than two axes.
        GeometryError: an empty axis.

    >>> import torch
    >>> distribution_of_sum(torch.tensor([[0.5, 0.0], [0.0, 0.5]]))       # Y is the same throw as X
    tensor([0.5000, 0.0000, 0.5000])

    Formula: F11, F12.
    """
    check_tensor("distribution_of_sum", "joint", joint)
    if joint.dim() < 2:
        raise OperandError(
            "distribution_of_sum", f"got a tensor of shape {tuple(joint.shape)}", "needed two axes or more"
        )
    first, second = joint.shape[-2:]
    if not first or not second:
        raise GeometryError(
            "distribution_of_sum", f"got a tensor of shape {tuple(joint.shape)}", "needed an entry on each axis"
        )
    # Rows are padded to A + B cells, joined, and cut every A + B - 1 cells. So row x starts x cells later.
    skewed = pad(joint, (0, first)).flatten(-2)[..., : first * (first + second - 1)]
    output: Tensor = skewed.unflatten(-1, (first, first + second - 1)).sum(-2)
    return output
