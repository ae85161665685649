"""The exponential moving average of a network's weights, which is often better than the weights of any one step."""

from __future__ import annotations

import copy

import torch


class Average:
    """A network whose parameters follow those of another: after step t, a := d a + (1 - d) w.

    d is the smaller of ``decay`` and (1 + t) / (10 + t), so that the first steps are soon forgotten. Buffers are shared
    with the other network.

    Source: Polyak & Juditsky, "Acceleration of stochastic approximation by averaging" (1992), with weights that fade.

    Args:
        model: the network to follow.
        decay: from 0 to below 1.
    """

    def __init__(self, model: torch.nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def follow(self, model: torch.nn.Module, step: int) -> None:
        """Updates the average with the weights after step ``step``, from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.model.parameters()), list(model.parameters()), 1 - decay)
        for mine, theirs in zip(self.model.buffers(), model.buffers(), strict=True):
            mine.copy_(theirs)
