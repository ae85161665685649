"""Auxiliary classifiers: heads at intermediate layers, used only in training, where they add to the loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


class WithAuxiliary(torch.nn.Module):
    """A classifier whose auxiliary heads take part in the loss of training.

    In training mode ``forward`` returns the scores (N, K), as in evaluation, and stores the scores of the auxiliary
    heads in ``auxiliary``. The next call of :meth:`loss` reads and removes them.

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
            output: the result of ``forward``, (N, K).
            labels: int64 (N,), or probabilities (N, K) for mixed images.
            each: the loss of one head, from its scores and the labels to a scalar; cross entropy, possibly smoothed.
        """
        loss = each(output, labels)
        for scores in self.auxiliary:
            loss = loss + self.auxiliary_weight * each(scores.to(output.dtype), labels)
        self.auxiliary = ()
        return loss

    def __getstate__(self) -> dict[str, Any]:
        """A copy has no stored scores, because they belong to an autograd graph, which can't be copied."""
        return self.__dict__ | {"auxiliary": ()}
