"""Batch normalisation with what residual networks do next: an addition, an activation.

    y = activation((x - mean) / sqrt(variance + eps) * weight + bias + residual)

Mean and variance are those of the batch (training), else the running ones.
"""

from __future__ import annotations

from typing import Any, Final

import torch.nn.functional as F
from torch import Tensor

_ACTIVATIONS: Final[dict[str, Any]] = {
    "": lambda normed: normed,
    "relu": F.relu,
    "relu6": F.relu6,
    "silu": F.silu,
    "hardswish": F.hardswish,
}


def batch_norm(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    *,
    residual: Tensor | None = None,
    activation: str = "",
) -> Tensor:
    """``activation(batch_norm(input) + residual)``.

    Args:
        input: (N, C, ...).
        weight, bias: (C,), or None for ones and zeros.
        running_mean, running_var: (C,); in training changed by ``momentum`` towards the batch's, where there are any.
        training: whether mean and variance are the batch's.
        momentum, eps: as in :func:`torch.nn.functional.batch_norm`.
        residual: of the input's shape.
        activation: ``""`` for none, ``"relu"``, ``"relu6"``, ``"silu"`` or ``"hardswish"``.

    Source: Ioffe & Szegedy, "Batch normalization" (2015), algorithms 1 and 2; He et al., "Deep residual learning for
    image recognition" (2016), figure 2.

    >>> import torch
    >>> mean, variance = torch.tensor([2.0]), torch.tensor([1.0])
    >>> batch_norm(torch.tensor([[[1.0, 3.0]]]), None, None, mean, variance, False, 0.1, 0.0, activation="relu")
    tensor([[[0., 1.]]])
    """
    normed = F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    activated: Tensor = _ACTIVATIONS[activation](normed if residual is None else normed + residual)
    return activated
