"""Auxiliary classifiers: heads half-way through a network, which add to its loss in training and do nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


class WithAuxiliary(torch.nn.Module):
    """A classifier whose auxiliary heads take part in the loss of training.

    In training mode ``forward`` gives the scores (N, K), as in evaluation, and puts the scores of the auxiliary heads
    into ``auxiliary``, where the next call of :meth:`loss` finds and removes them. ``forward`` sets them itself.

    Attributes:
        auxiliary: scores (N, K) of each head from the last call in training mode.
        auxiliary_weight: of each of their losses, the network's own loss having weight 1.

    Source: Szegedy et al., "Going deeper with convolutions" (2015), section 5.
    """

    auxiliary_weight = 0.3

    def __init__(self) -> None:
        super().__init__()
        self.auxiliary: tuple[Tensor, ...] = ()

    def loss(
        self, output: Tensor, labels: Tensor, each: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy
    ) -> Tensor:
        """The loss of the scores and, after a call in training mode, of the auxiliary heads: a scalar.

        Args:
            output: what ``forward`` gave, (N, K).
            labels: int64 (N,), or probabilities (N, K), as mixed images have them.
            each: the loss of one head, from its scores and the labels to a scalar; cross entropy, maybe smoothed.
        """
        loss = each(output, labels)
        for scores in self.auxiliary:
            loss = loss + self.auxiliary_weight * each(scores.to(output.dtype), labels)
        self.auxiliary = ()
        return loss

    def __getstate__(self) -> dict[str, Any]:
        """A copy has no scores: they belong to a graph of gradients, which can't be copied."""
        return self.__dict__ | {"auxiliary": ()}
