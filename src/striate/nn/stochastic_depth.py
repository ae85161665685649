"""Stochastic depth: residual branches that training leaves out at random."""

from __future__ import annotations

import torch
from torch import Tensor

from striate.errors import GeometryError


class StochasticDepth(torch.nn.Module):
    """Sets a residual branch to zero for each image of the batch with a probability; (N, ...) to the same shape.

    What is kept is divided by the probability of being kept, so that the mean stays. In evaluation all is kept as it
    is.

    Args:
        p: probability of dropping, from 0 to below 1.

    Raises:
        GeometryError: a probability outside of that.

    Source: Huang et al., "Deep Networks with Stochastic Depth" (2016), section 3; drawn for each image, and scaled
    while training instead of testing.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise GeometryError("StochasticDepth", f"got probability {p}", "needed 0 or more and below 1")
        self.p = p

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return input
        kept = input.new_empty(input.shape[0], *(1,) * (input.dim() - 1)).bernoulli_(1 - self.p)
        return input * kept / (1 - self.p)

    def extra_repr(self) -> str:
        return f"p={self.p:g}"
