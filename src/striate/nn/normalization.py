"""Normalisation of maps: over the channels of each position, and with numbers that training doesn't change."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


class LayerNorm2d(torch.nn.LayerNorm):
    """Layer normalisation over the channels of each position, (N, C, H, W) to the same shape.

    The C values of each position are normalised to mean 0 and variance 1, then scaled and shifted by a weight and a
    bias for each channel. Arguments are those of :class:`torch.nn.LayerNorm`.

    Source: Ba, Kiros & Hinton, "Layer Normalization" (2016); over the channels of maps: Liu et al., "A ConvNet for the
    2020s" (2022), section 2.6.

    >>> LayerNorm2d(2)(torch.tensor([[[[3.0]], [[5.0]]]])).flatten().tolist()
    [-0.9999..., 0.9999...]
    """

    def forward(self, input: Tensor) -> Tensor:
        last = input.permute(0, 2, 3, 1)
        return F.layer_norm(last, self.normalized_shape, self.weight, self.bias, self.eps).permute(0, 3, 1, 2)


class FrozenBatchNorm2d(torch.nn.Module):
    """Batch normalisation with fixed statistics, scale and shift, (N, C, H, W) to the same shape.

    All four vectors are buffers: no optimiser changes them, and a batch does not change the statistics, however small
    it is. Detectors are trained this way on few large images at a time. Names in the state_dict are those of
    :class:`torch.nn.BatchNorm2d`, whose weights load; its counter ``num_batches_tracked`` is dropped.

    Args:
        num_features: C.
        eps: what is added to the variance.

    Source: He et al. (2016) freeze batch normalisation so when they fine-tune for detection (appendix A).

    >>> sum(parameter.numel() for parameter in FrozenBatchNorm2d(64).parameters())
    0
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.num_features, self.eps = num_features, eps
        self.register_buffer("weight", torch.ones(num_features))
        self.register_buffer("bias", torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))
        self.register_load_state_dict_pre_hook(_drop_counter)

    def forward(self, input: Tensor) -> Tensor:
        return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)

    def extra_repr(self) -> str:
        return f"{self.num_features}, eps={self.eps}"


def freeze_batch_norm(module: torch.nn.Module, eps: float | None = None) -> torch.nn.Module:
    """Replaces every batch normalisation in ``module`` by a :class:`FrozenBatchNorm2d` with the same numbers.

    Args:
        module: changed, and returned; a frozen layer where it is a batch normalisation itself. Layers without running
            statistics stay.
        eps: of the frozen layers; by default each one's own.

    >>> freeze_batch_norm(torch.nn.Sequential(torch.nn.BatchNorm2d(8)))
    Sequential(
      (0): FrozenBatchNorm2d(8, eps=1e-05)
    )
    """
    if isinstance(module, torch.nn.BatchNorm2d) and module.running_mean is not None:
        frozen = FrozenBatchNorm2d(module.num_features, module.eps if eps is None else eps)
        frozen.to(module.running_mean).load_state_dict(
            FrozenBatchNorm2d(module.num_features).state_dict() | module.state_dict()
        )
        return frozen.train(module.training)
    for name, child in module.named_children():
        setattr(module, name, freeze_batch_norm(child, eps))
    return module


def _drop_counter(_: torch.nn.Module, state_dict: dict[str, Any], prefix: str, *__: Any) -> None:
    """Removes the counter of batches from a state_dict; only training with running statistics reads it."""
    state_dict.pop(f"{prefix}num_batches_tracked", None)
