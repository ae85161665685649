"""Hand-made features with a linear classifier against a small convolutional network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from striate import nn
from striate.studies.digits import accuracy, digits, train
from striate.studies.features import gabor_bank, hog
from striate.studies.panels import Bars
from striate.studies.study import Check, Finding, Measured, Say, study

_FEATURES = {"pixels": lambda images: images.flatten(1), "Gabor bank": gabor_bank, "HOG": hog}
_NETWORK = "convolutional network"


@study(
    "handmade-features",
    "Features that a small convolutional network learns recognise digits better than hand-made ones with a linear "
    "classifier do.",
)
def handmade_features(seeds: Sequence[int], say: Say) -> Finding:
    """Logistic regression on pixels, Gabor energies and HOG, and a network of 3,706 parameters, on the same splits.

    Formula: S23.
    """
    right: dict[str, list[float]] = {kind: [] for kind in (*_FEATURES, _NETWORK)}
    for seed in seeds:
        data = digits(seed)
        for kind, features in _FEATURES.items():
            linear = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
            linear.fit(features(data.images).numpy(), data.labels.numpy())
            right[kind].append(100 * linear.score(features(data.test_images).numpy(), data.test_labels.numpy()))
        torch.manual_seed(seed)
        network = torch.nn.Sequential(
            nn.Conv2d(1, 12, 3, padding=1),
            torch.nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(12, 24, 3, padding=1),
            torch.nn.ReLU(),
            nn.MaxPool2d(2),
            torch.nn.Flatten(),
            torch.nn.Linear(24 * 4, 10),
        )
        train(network, data.images, data.labels, seed=seed, epochs=25)
        right[_NETWORK].append(100 * accuracy(network, data.test_images, data.test_labels))
        say(f"seed {seed}: " + ", ".join(f"{kind} {values[-1]:.2f} %" for kind, values in right.items()))
    scores = [Measured.of(f"{kind}: accuracy on held-out digits", values, "%") for kind, values in right.items()]
    gains = {
        kind: Measured.of(
            f"network less {kind}, seed by seed",
            [a - b for a, b in zip(right[_NETWORK], right[kind], strict=True)],
            "points",
        )
        for kind in _FEATURES
    }
    return Finding(
        (*scores, *gains.values()),
        tuple(
            Check(
                f"the network is ahead of {kind} by more than the standard error of their difference",
                gain.value > (gain.spread or 0.0) / gain.n**0.5,
            )
            for kind, gain in gains.items()
        ),
        ("Hand-made features need few images, and 1,438 of 8x8 pixels are few: a larger set favours learning.",),
        (
            Bars(
                "Held-out digits",
                "images predicted right, %",
                tuple(right),
                tuple(score.value for score in scores),
                tuple(score.spread for score in scores),
                span=(90, 100),
            ),
        ),
    )
