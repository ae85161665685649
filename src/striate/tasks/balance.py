"""Classes of different sizes: weights for the loss, or an order that shows all classes equally often."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from torch import Tensor

from striate.errors import RunError

WEIGHTINGS: Final = ("none", "balanced", "effective")


def class_weights(labels: Tensor, classes: int, how: str) -> Tensor:
    """A weight for each class, such that the mean weight of the images is 1 and a loss keeps its scale.

    Args:
        labels: int64 (N,) in 0 ... K - 1, of the training images.
        classes: K.
        how: ``"none"``: 1 each; ``"balanced"``: N / (present classes * n_k), for n_k images of class k, so that each
            class weighs as much as the others, as scikit-learn's ``"balanced"``; ``"effective"``: between the two, in
            proportion to (1 - beta) / (1 - beta^n_k), one over the effective number of images, with beta = 1 - 1 / N
            (Cui et al., "Class-balanced loss based on effective number of samples", CVPR 2019, equation 2, and beta =
            (N - 1) / N of its section 3.1 with N the number of images).

    Returns:
        float32 (K,). A class without images has weight 0, since no image uses it.

    Raises:
        RunError: another ``how``, no images, labels outside.

    >>> labels = torch.tensor([0, 0, 0, 1])
    >>> class_weights(labels, 2, "balanced")
    tensor([0.6667, 2.0000])
    >>> class_weights(labels, 2, "effective")
    tensor([0.8421, 1.4737])
    """
    if how not in WEIGHTINGS:
        raise RunError("class weights", f"got {how!r}", f"needed one of {', '.join(WEIGHTINGS)}")
    counts = _counts(labels, classes).double()
    images = float(counts.sum())
    if how == "none":
        weights = torch.ones_like(counts)
    elif how == "balanced":
        weights = 1 / counts
    else:
        # 1 - beta^n, accurate even for beta so close to 1 that the difference would be rounded away.
        weights = 1 / -torch.expm1(counts * torch.log1p(-(counts > 0).sum() / counts.sum()))
    weights = torch.where(counts > 0, weights, 0.0)
    return (weights * (images / (weights @ counts))).float()


def balanced_order(labels: Tensor, classes: int, seed: int, epoch: int) -> Tensor:
    """An order of the images for one epoch in which all classes are equally frequent.

    An epoch has N draws. Each of the C classes with images is drawn N // C times; N % C of them, different ones in each
    epoch, are drawn once more. Within a class, images are drawn without replacement until all have been drawn, then in
    a new order. So an epoch shows some images of a large class, and all images of a small class several times.

    Args:
        labels: int64 (N,) in 0 ... K - 1.
        classes: K.
        seed: of the order, 0 or more.
        epoch: 0 or more; the order depends on seed and epoch alone.

    Returns:
        Indices, int64 (N,).

    Raises:
        RunError: no images, labels outside, a negative seed or epoch.

    >>> labels = torch.tensor([0, 0, 0, 0, 0, 1])
    >>> labels[balanced_order(labels, 2, seed=0, epoch=0)].bincount().tolist()
    [3, 3]
    """
    if seed < 0 or epoch < 0:
        raise RunError("balanced order", f"got seed {seed}, epoch {epoch}", "needed 0 or more")
    present = _counts(labels, classes).nonzero().squeeze(1).tolist()
    # A spawn key distinguishes (seed, epoch) from all other pairs; its last number distinguishes it from plain orders.
    random = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(epoch, 1)))
    often, more = divmod(len(labels), len(present))
    lucky = set(random.permutation(present)[:more].tolist())
    known = labels.numpy()
    drawn = []
    for label in present:
        (members,) = np.nonzero(known == label)
        wanted = often + (label in lucky)
        rounds = [random.permutation(members) for _ in range(-(-wanted // len(members)))]
        drawn += [each[: max(0, wanted - number * len(members))] for number, each in enumerate(rounds)]
    return torch.from_numpy(random.permutation(np.concatenate(drawn)))


def _counts(labels: Tensor, classes: int) -> Tensor:
    """Images of each class, int64 (K,)."""
    if not len(labels) or int(labels.min()) < 0 or int(labels.max()) >= classes:
        got = f"labels from {int(labels.min())} to {int(labels.max())}" if len(labels) else "no labels"
        raise RunError("class balance", f"got {got}", f"needed one or more, from 0 to {classes - 1}")
    return torch.bincount(labels, minlength=classes)
