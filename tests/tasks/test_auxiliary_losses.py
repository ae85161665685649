"""Networks with auxiliary heads learn from mixed images, smoothed labels and weighted classes, in every head."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from striate.models.auxiliary import WithAuxiliary
from striate.tasks.classification import loss_of

CLASSES = 5


class Twofold(WithAuxiliary):
    """Two linear heads, of which one is auxiliary."""

    def __init__(self) -> None:
        super().__init__()
        self.main, self.side = torch.nn.Linear(7, CLASSES), torch.nn.Linear(7, CLASSES)

    def forward(self, input: Tensor) -> Tensor:
        if self.training:
            self.auxiliary = (self.side(input),)
        scores: Tensor = self.main(input)
        return scores


LABELS = torch.tensor([0, 3, 4, 1])
MIXED = torch.tensor([[0.5, 0.5, 0, 0, 0], [0, 0, 0.2, 0, 0.8], [1.0, 0, 0, 0, 0], [0, 0.3, 0, 0.7, 0]])


@pytest.mark.parametrize("labels", [LABELS, MIXED], ids=["labels", "mixed"])
@pytest.mark.parametrize("smoothing", [None, 0.2])
@pytest.mark.parametrize("weighted", [False, True])
def test_every_head_has_the_same_loss(labels: Tensor, smoothing: float | None, weighted: bool) -> None:
    model, input = Twofold().train(), torch.randn(4, 7)
    weights = torch.tensor([0.5, 1.5, 1.0, 0.25, 1.75]) if weighted else None
    loss = loss_of(model, smoothing, mixed=labels.dim() == 2, weights=weights)
    value = loss(model(input), labels)

    def expected(head: Any) -> Tensor:
        """The definition, class by class."""
        truth = F.one_hot(labels, CLASSES).float() if labels.dim() == 1 else labels
        truth = (1 - (smoothing or 0)) * truth + (smoothing or 0) / CLASSES
        each = torch.ones(CLASSES) if weights is None else weights
        return -(truth * each * head(input).log_softmax(1)).sum(1).mean()

    torch.testing.assert_close(value, expected(model.main) + 0.3 * expected(model.side))
    assert model.auxiliary == ()
    value.backward()
    assert model.side.weight.grad is not None


def test_in_evaluation_there_is_one_head() -> None:
    model, input = Twofold().eval(), torch.randn(4, 7)
    torch.testing.assert_close(loss_of(model, 0.0)(model(input), LABELS), F.cross_entropy(model.main(input), LABELS))
