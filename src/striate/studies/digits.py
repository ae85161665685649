"""The bundled digits and a plain training loop for studies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from striate.data import Normalization, load


@dataclass(frozen=True, eq=False)
class Digits:
    """Images of digits for training and for testing, as a network takes them.

    Args:
        images: float32 (N, 1, H, W), mean 0 and standard deviation 1 over all pixels of the training images.
        labels: int64 (N,), 0 to 9.
        test_images: likewise, for testing.
        test_labels: likewise, for testing.
    """

    images: Tensor
    labels: Tensor
    test_images: Tensor
    test_labels: Tensor


def digits(seed: int, image_size: tuple[int, int] = (8, 8), test_fraction: float = 0.2) -> Digits:
    """scikit-learn's 1,797 digits, split anew for each seed.

    >>> digits(0).images.shape
    torch.Size([1438, 1, 8, 8])
    """
    found = load("digits", image_size=image_size, test_fraction=test_fraction, seed=seed)
    prepare = Normalization.of(found.train)
    images, test_images = (prepare(part.gather(torch.arange(len(part)))) for part in (found.train, found.test))
    return Digits(images, found.train.labels, test_images, found.test.labels)


def train(
    network: torch.nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    seed: int,
    epochs: int = 15,
    batch_size: int = 64,
    learning_rate: float = 3e-3,
    augment: Callable[[Tensor, torch.Generator], Tensor] | None = None,
    after_epoch: Callable[[int], None] | None = None,
) -> None:
    """Trains a network in place with Adam on the cross-entropy; the rate falls in a line to zero.

    Args:
        network: gives (N, K) scores; left in evaluation mode.
        images: (N, C, H, W).
        labels: int64 (N,).
        seed: of the order of the images and of ``augment``; weights are drawn by whoever makes the network.
        epochs: how often each image is seen.
        batch_size: images a step.
        learning_rate: at the first step.
        augment: from a batch and a generator to another batch of the same size.
        after_epoch: called with the number of each finished epoch, from 1, in evaluation mode.
    """
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate)
    steps = epochs * -(-len(images) // batch_size)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)
    for epoch in range(1, epochs + 1):
        network.train()
        for chosen in torch.randperm(len(images), generator=generator).split(batch_size):
            batch = images[chosen] if augment is None else augment(images[chosen], generator)
            optimizer.zero_grad()
            F.cross_entropy(network(batch), labels[chosen]).backward()
            optimizer.step()
            schedule.step()
        network.eval()
        if after_epoch is not None:
            after_epoch(epoch)


def accuracy(network: torch.nn.Module, images: Tensor, labels: Tensor) -> float:
    """The share of images that are predicted right, 0 to 1, in evaluation mode."""
    network.eval()
    with torch.no_grad():
        return float((network(images).argmax(1) == labels).double().mean())
