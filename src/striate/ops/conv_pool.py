"""Convolution and max pooling in one: the pooled map of relu(conv(x)), without keeping the map before the pooling.

    y[o] = activation(max over taps t of  (x * w + b)[o * stride - before + t * dilation])

A clamp is monotonic, so the maximum of clamped values is the clamped maximum: of as many values fewer as a window has.
The gradient goes to the first of the largest either way, and where these are clamped none goes anywhere.
"""

from __future__ import annotations

from typing import Any, Final

import torch.nn.functional as F
from torch import Tensor

from striate.ops.convolution import conv1d, conv2d, conv3d
from striate.ops.pooling import max_pool1d, max_pool2d, max_pool3d

_CONVOLUTIONS: Final = {1: conv1d, 2: conv2d, 3: conv3d}
_POOLINGS: Final = {1: max_pool1d, 2: max_pool2d, 3: max_pool3d}
_ACTIVATIONS: Final[dict[str, Any]] = {"": lambda pooled: pooled, "relu": F.relu, "relu6": F.relu6}


def conv_max_pool(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
    activation: str,
    kernel_size: Any,
    pool_stride: Any,
    pool_padding: Any,
    pool_dilation: Any,
    ceil_mode: bool,
) -> Tensor:
    """``max_pool(activation(conv(input)))``, in as many axes as the weight has.

    Args:
        input, weight, bias, stride, padding, dilation, groups: as :func:`striate.ops.conv2d` takes them.
        activation: ``""`` for none, ``"relu"`` or ``"relu6"``.
        kernel_size, pool_stride, pool_padding, pool_dilation, ceil_mode: as :func:`striate.ops.max_pool2d` takes them.

    >>> import torch
    >>> row = torch.tensor([[[1.0, -3.0, 2.0, -4.0]]])
    >>> conv_max_pool(row, -torch.ones(1, 1, 1), None, 1, 0, 1, 1, "relu", 2, None, 0, 1, False)
    tensor([[[3., 4.]]])
    """
    dims = weight.dim() - 2
    mapped = _CONVOLUTIONS[dims](input, weight, bias, stride, padding, dilation, groups)
    pooled = _POOLINGS[dims](mapped, kernel_size, pool_stride, pool_padding, pool_dilation, ceil_mode)
    activated: Tensor = _ACTIVATIONS[activation](pooled)
    return activated
