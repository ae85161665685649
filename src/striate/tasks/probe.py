"""A new head that starts as the best linear classifier on the features of trained weights.

Fine-tuning with a random head sends noise into the pretrained weights in its first steps. If the head is first fitted
to the unchanged features and everything is trained afterwards, results are better, especially with few images.

Source: Kumar, Raghunathan, Jones, Ma & Liang, "Fine-tuning can distort pretrained features and underperform
out-of-distribution" (2022), section 3; linear probes are of Alain & Bengio, "Understanding intermediate layers using
linear classifier probes" (2017).
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from striate.data import Batches
from striate.data.progress import progress
from striate.errors import RunError
from striate.tasks.heads import Parts

#: Largest number of images whose features are used; from a larger set, this many are taken, spread evenly.
_IMAGES: Final = 5_000
#: Inverse strength of the penalty on the weights' squares, that of scikit-learn's LogisticRegression.
_INVERSE_PENALTY: Final = 1.0
_ITERATIONS: Final = 1_000


def linear_head(model: torch.nn.Module, num_classes: int) -> torch.nn.Linear | None:
    """The linear layer with an output for each class at the end of a network; None if it doesn't end in one."""
    try:
        head = Parts.of(model, num_classes).head
    except RunError:
        return None
    return head if isinstance(head, torch.nn.Linear) else None


def can_probe(model: torch.nn.Module, num_classes: int) -> bool:
    """Whether a network ends in a linear layer that is trained with cross entropy."""
    return getattr(model, "loss", None) is None and linear_head(model, num_classes) is not None


def fit_head(model: torch.nn.Module, batches: Batches, num_classes: int) -> None:
    """Fits the last linear layer to its inputs by multinomial logistic regression.

    Args:
        model: a network that :func:`can_probe` accepts; only its head changes.
        batches: training images without shuffling and augmentation.
        num_classes: K; a class without images keeps an output that is never the largest.
    """
    from sklearn.linear_model import LogisticRegression

    head = linear_head(model, num_classes)
    assert head is not None
    every = -(-len(batches.images) // _IMAGES)
    chosen = batches.images if every == 1 else batches.images.subset(range(0, len(batches.images), every))
    some = Batches(chosen, batches.batch_size, batches.normalization, device=batches.device, workers=batches.workers)
    inputs, labels = features(model, head, some)
    present = np.unique(labels)
    if len(present) < 2:
        return
    fitted = LogisticRegression(C=_INVERSE_PENALTY, max_iter=_ITERATIONS).fit(inputs, labels)
    # Two classes are one row: the second against the first.
    rows, offsets = fitted.coef_, fitted.intercept_
    if len(present) == 2:
        rows, offsets = np.concatenate([-rows, rows]) / 2, np.concatenate([-offsets, offsets]) / 2
    with torch.no_grad():
        head.weight.zero_()
        head.weight[torch.from_numpy(present)] = torch.from_numpy(rows).to(head.weight)
        if head.bias is not None:
            head.bias.fill_(float(offsets.min()))
            head.bias[torch.from_numpy(present)] = torch.from_numpy(offsets).to(head.bias)


def features(model: torch.nn.Module, head: torch.nn.Linear, batches: Batches) -> tuple[NDArray[Any], NDArray[Any]]:
    """The inputs of a layer, computed in evaluation mode; the network's mode is restored afterwards.

    Args:
        model: the network.
        head: one of its linear layers.
        batches: labelled images, unshuffled.

    Returns:
        float32 (N, F), and the labels, int64 (N,).
    """
    kept: list[Tensor] = []
    labels: list[Tensor] = []
    handle = head.register_forward_pre_hook(lambda _, inputs: kept.append(inputs[0].float().cpu()))
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), progress("features of the weights", len(batches)) as advance:
            for images, known in batches.epoch(0):
                model(images)
                labels.append(known.cpu())
                advance()
    finally:
        handle.remove()
        model.train(training)
    return torch.cat(kept).numpy(), torch.cat(labels).numpy()
