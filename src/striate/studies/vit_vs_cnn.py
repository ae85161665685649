"""A vision transformer against a convolutional network on few images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from striate import nn
from striate.studies.digits import accuracy, digits, train
from striate.studies.panels import Curve, Curves
from striate.studies.study import Check, Finding, Measured, Say, study

_NUMBERS: Final = (50, 150, 450, 1400)
_STEPS: Final = 300
_BATCH: Final = 64
_WIDTH: Final = 32


class _Transformer(torch.nn.Module):
    """Patches of 2x2 as tokens with learned places, two encoder blocks, the mean of the tokens to classes."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(1, _WIDTH, 2, 2)
        self.places = torch.nn.Parameter(0.02 * torch.randn(16, _WIDTH))
        block = torch.nn.TransformerEncoderLayer(
            _WIDTH, 4, 2 * _WIDTH, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.blocks = torch.nn.TransformerEncoder(block, 2, enable_nested_tensor=False)
        self.norm = torch.nn.LayerNorm(_WIDTH)
        self.classify = torch.nn.Linear(_WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x).flatten(2).transpose(1, 2) + self.places
        scores: Tensor = self.classify(self.norm(self.blocks(tokens)).mean(1))
        return scores


@study(
    "vit-vs-cnn",
    "On few images a convolutional network beats a vision transformer of as many parameters, and the gap closes as "
    "images are added.",
)
def vit_vs_cnn(seeds: Sequence[int], say: Say) -> Finding:
    """Trains both on 50 to 1,400 digits, equally many steps each.

    Formula: S17.
    """
    kinds = {"convolutional": _convolutional, "transformer": _Transformer}
    sizes = {kind: sum(parameter.numel() for parameter in build().parameters()) for kind, build in kinds.items()}
    right: dict[str, list[list[float]]] = {kind: [[] for _ in _NUMBERS] for kind in kinds}
    for seed in seeds:
        data = digits(seed)
        order = torch.randperm(len(data.images), generator=torch.Generator().manual_seed(seed))
        for place, number in enumerate(_NUMBERS):
            chosen = order[:number]
            for kind, build in kinds.items():
                torch.manual_seed(seed)
                network = build()
                epochs = round(_STEPS / -(-number // _BATCH))
                train(network, data.images[chosen], data.labels[chosen], seed=seed, epochs=epochs, batch_size=_BATCH)
                right[kind][place].append(100 * accuracy(network, data.test_images, data.test_labels))
            words = ", ".join(f"{kind} {right[kind][place][-1]:.1f} %" for kind in kinds)
            say(f"seed {seed}, {number} images: {words}")
    scores = {
        (kind, number): Measured.of(f"{kind}, {number} images: accuracy on held-out digits", values, "%")
        for kind in kinds
        for number, values in zip(_NUMBERS, right[kind], strict=True)
    }
    gaps = [
        Measured.of(
            f"convolutional less transformer, {number} images",
            [a - b for a, b in zip(right["convolutional"][place], right["transformer"][place], strict=True)],
            "points",
        )
        for place, number in enumerate(_NUMBERS)
    ]
    parameters = [Measured(f"{kind}: parameters", size) for kind, size in sizes.items()]
    few, many = gaps[0], gaps[-1]
    return Finding(
        (*parameters, *scores.values(), *gaps),
        (
            Check(
                "both have as many parameters to within 5 %",
                abs(sizes["convolutional"] - sizes["transformer"]) < 0.05 * sizes["transformer"],
            ),
            Check(f"with {_NUMBERS[0]} images the convolutional one is better on average", few.value > 0),
            Check("it is so at every number of images", all(gap.value > 0 for gap in gaps)),
            Check(
                f"the gap with {_NUMBERS[-1]} images is less than half of that with {_NUMBERS[0]}",
                2 * many.value < few.value,
            ),
        ),
        (
            "Both are tiny, trained by one recipe without augmentation or pre-training, which transformers gain from.",
            "Learning rate and schedule are the same for both and tuned for neither.",
        ),
        (
            Curves(
                f"{_STEPS} steps each",
                "training images",
                "held-out images predicted right, %",
                tuple(
                    Curve(
                        f"{kind}, {sizes[kind]:,} parameters",
                        tuple(map(float, _NUMBERS)),
                        tuple(scores[kind, number].value for number in _NUMBERS),
                        tuple(scores[kind, number].spread or 0.0 for number in _NUMBERS),
                    )
                    for kind in kinds
                ),
                log_x=True,
            ),
        ),
    )


def _convolutional() -> torch.nn.Module:
    return torch.nn.Sequential(
        nn.Conv2d(1, 24, 3, padding=1),
        torch.nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(24, 48, 3, padding=1),
        torch.nn.ReLU(),
        nn.MaxPool2d(2),
        torch.nn.Flatten(),
        torch.nn.Linear(48 * 4, 34),
        torch.nn.ReLU(),
        torch.nn.Linear(34, 10),
    )
