"""Made images whose evidence has a known place: a digit at a random place, on clutter of what isn't a digit."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

SIDE, DIGIT = 40, 16


def pasted(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Images (N, 1, 40, 40), digits (N,) and the boxes (N, 4) where they are: left, top, right, bottom."""
    generator = torch.Generator().manual_seed(seed)
    data = load_digits()
    chosen = torch.randint(len(data.target), (count,), generator=generator)
    small = torch.from_numpy(data.images).float()[chosen, None] / 16
    digits = F.interpolate(small, (DIGIT, DIGIT), mode="bilinear")
    # Clutter: quarters of other digits, each turned about, so that strokes alone tell nothing.
    images = torch.zeros(count, 1, SIDE, SIDE)
    places = torch.randint(0, SIDE - DIGIT + 1, (count, 2), generator=generator)
    for image in range(count):
        for _ in range(12):
            piece = digits[int(torch.randint(count, (1,), generator=generator))]
            piece = torch.rot90(piece[:, 4:10, 4:10], int(torch.randint(4, (1,), generator=generator)), (1, 2))
            top, left = torch.randint(0, SIDE - 6 + 1, (2,), generator=generator).tolist()
            images[image, :, top : top + 6, left : left + 6] = piece
        top, left = places[image].tolist()
        images[image, :, top : top + DIGIT, left : left + DIGIT] = digits[image]
    tops, lefts = places.unbind(1)
    boxes = torch.stack([lefts, tops, lefts + DIGIT, tops + DIGIT], 1)
    return images, torch.from_numpy(data.target)[chosen], boxes


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for before, after in ((1, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2)]
    layers = [*layers[:-1], nn.Conv2d(64, 64, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def train(images: Tensor, labels: Tensor, epochs: int = 7) -> nn.Sequential:
    model = network().train()
    steps = epochs * (len(images) // 64)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 6e-3, total_steps=steps)
    generator = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        for part in torch.randperm(len(images), generator=generator).split(64)[: len(images) // 64]:
            optimizer.zero_grad()
            F.cross_entropy(model(images[part]), labels[part]).backward()
            optimizer.step()
            schedule.step()
    return model.eval()
