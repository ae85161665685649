"""Whether a filter's response tells which pattern a patch holds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import torch

from striate import nn
from striate.analysis.information import filter_match as measure
from striate.studies.digits import digits, train
from striate.studies.panels import Bars
from striate.studies.study import Check, Finding, Measured, Say, study

_FILTERS = 12


@study(
    "filter-match",
    "A filter's response tells which pattern a patch holds, and training makes it tell more.",
)
def filter_match(seeds: Sequence[int], say: Say) -> Finding:
    """Mutual information of responses and patch classes, for 3x3 filters before and after learning digits.

    Formula: S15.
    """
    means: dict[str, list[float]] = {"before training": [], "learned": []}
    least, best, classes = [], [], []
    for seed in seeds:
        data = digits(seed)
        torch.manual_seed(seed)
        first = nn.Conv2d(1, _FILTERS, 3, padding=1)
        network = torch.nn.Sequential(
            first, torch.nn.ReLU(), nn.MaxPool2d(2), torch.nn.Flatten(), torch.nn.Linear(_FILTERS * 16, 10)
        )
        before = measure(first.weight, data.images, seed=seed)
        train(network, data.images, data.labels, seed=seed, epochs=15)
        after = measure(first.weight, data.images, seed=seed)
        means["before training"].append(statistics.fmean(before.information))
        means["learned"].append(statistics.fmean(after.information))
        least.append(min(after.information))
        best.append(max(after.information) / after.class_entropy)
        classes.append(after.class_entropy)
        say(f"seed {seed}: {means['before training'][-1]:.3f} nats before, {means['learned'][-1]:.3f} after training")
    rows = {kind: Measured.of(f"{kind}: mean I(response; class of the patch)", means[kind], "nats") for kind in means}
    gains = Measured.of(
        "learned less before, seed by seed",
        [a - b for a, b in zip(means["learned"], means["before training"], strict=True)],
        "nats",
    )
    return Finding(
        (
            *rows.values(),
            gains,
            Measured.of("H(class of the patch)", classes, "nats"),
            Measured.of("best learned filter: share of H(class)", [100 * share for share in best], "%"),
        ),
        (
            Check("every learned filter's response holds more than 0.05 nats of the class", min(least) > 0.05),
            Check(
                "training adds more than the standard error of what it adds",
                gains.value > (gains.spread or 0.0) / gains.n**0.5,
            ),
            Check("some single filter tells over half of the class's entropy, in every seed", min(best) > 0.5),
        ),
        (
            "A response is an inner product, one number a patch; mutual information is of all patches together.",
            "Classes are k-means clusters of patches: other classes, other numbers.",
        ),
        (
            Bars(
                f"{_FILTERS} filters of 3x3, eight classes of patches",
                "mean I(response; class of the patch), nats",
                tuple(rows),
                tuple(row.value for row in rows.values()),
                tuple(row.spread for row in rows.values()),
            ),
        ),
    )
