"""Cross-correlation against convolution: whether it matters that networks don't flip their kernels."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from striate import nn, ops
from striate.studies.digits import accuracy, digits, train
from striate.studies.panels import Bars, Pictures
from striate.studies.study import Check, Finding, Measured, Say, study


class _Convolution(nn.Conv2d):
    """True convolution, the kernel turned by 180 degrees, computed as the transpose of cross-correlation.

    So it takes another way through the arithmetic than turned weights would, and no bit is the same for nothing.

    Formula: F6, S2.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return ops.conv_transpose2d(input, weight.transpose(0, 1), bias, padding=weight.shape[-1] // 2)


@study(
    "flipped-kernels",
    "What networks call convolution is cross-correlation, and it makes no difference: with flipped kernels a network "
    "learns the flipped weights and the same function.",
)
def flipped_kernels(seeds: Sequence[int], say: Say) -> Finding:
    """Trains both from mirrored weights in double precision, and the convolution once more from weights of its own.

    Formula: S2.
    """
    apart, weights, agreed = [], [], []
    right: dict[str, list[float]] = {"cross-correlation": [], "convolution": [], "convolution, other weights": []}
    for seed in seeds:
        data = digits(seed)
        images, test = data.images.double(), data.test_images.double()
        torch.manual_seed(seed)
        plain = _network(nn.Conv2d)
        flipped = _network(_Convolution)
        own = copy.deepcopy(flipped)
        flipped.load_state_dict(_turned(plain))
        for kind, network in zip(right, (plain, flipped, own), strict=True):
            train(network, images, data.labels, seed=seed, epochs=8)
            right[kind].append(100 * accuracy(network, test, data.test_labels))
        with torch.no_grad():
            one, other = plain(test), flipped(test)
        apart.append(float((one - other).norm() / one.norm()))
        agreed.append(100 * float((one.argmax(1) == other.argmax(1)).double().mean()))
        mirrored = _turned(flipped)
        weights.append(
            max(float((value - mirrored[name]).norm() / value.norm()) for name, value in plain.state_dict().items())
        )
        say(f"seed {seed}: answers apart by {apart[-1]:.1e}, weights by {weights[-1]:.1e} once they are turned back")
    scores = {kind: Measured.of(f"{kind}: accuracy on held-out digits", found, "%") for kind, found in right.items()}
    gap = abs(scores["convolution, other weights"].value - scores["cross-correlation"].value)
    kernels = [each for network in (plain, flipped) for each in network.state_dict()["0.weight"][:6, 0].numpy()]
    return Finding(
        (
            Measured.of("trained networks: relative difference of their answers", apart),
            Measured.of("trained weights: largest relative difference, one set turned by 180 degrees", weights),
            Measured.of("held-out digits that get the same class", agreed, "%"),
            *scores.values(),
        ),
        (
            Check("from mirrored weights the answers stay the same to 1e-6, for every seed", max(apart) < 1e-6),
            Check("so do the weights, turned by 180 degrees", max(weights) < 1e-6),
            Check("every held-out digit gets the same class", min(agreed) == 100),
            Check("from weights of its own the convolution is within one point of it", gap < 1),
        ),
        (
            "It matters where weights come from elsewhere: a filter from signal processing has to be flipped.",
            "Double precision keeps both on one path; in single precision rounding drives them apart in time.",
        ),
        (
            Bars(
                "Digits, trained both ways",
                "held-out images predicted right, %",
                tuple(scores),
                tuple(each.value for each in scores.values()),
                tuple(each.spread for each in scores.values()),
                span=(90, 100),
            ),
            Pictures(
                "First kernels: correlation above, convolution below",
                tuple(kernels),
                ("",) * 12,
                6,
                signed=True,
            ),
        ),
    )


def _network(convolution: type[nn.Conv2d]) -> torch.nn.Sequential:
    return torch.nn.Sequential(
        convolution(1, 12, 5, padding=2),
        torch.nn.ReLU(),
        nn.MaxPool2d(2),
        convolution(12, 24, 3, padding=1),
        torch.nn.ReLU(),
        nn.MaxPool2d(2),
        torch.nn.Flatten(),
        torch.nn.Linear(24 * 4, 10),
    ).double()


def _turned(network: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.flip(2, 3) if value.dim() == 4 else value for name, value in network.state_dict().items()}
