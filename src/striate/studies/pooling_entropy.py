"""The effect of pooling on the entropy of digits and of a network's maps."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from striate import nn
from striate.analysis.information import pooling_entropy as measure
from striate.studies.digits import digits, train
from striate.studies.panels import Bars
from striate.studies.study import Check, Finding, Measured, Say, study

_KINDS = ("max", "avg")


@study("pooling-entropy", "Pooling reduces entropy: a pooled value has less of it than its window, and than one value.")
def pooling_entropy(seeds: Sequence[int], say: Say) -> Finding:
    """Entropies before and after 2x2 pooling, in four bins, of digits and of a trained first layer's ReLU maps.

    Formula: S14.
    """
    found: dict[tuple[str, str, str], list[float]] = {}
    for seed in seeds:
        data = digits(seed)
        torch.manual_seed(seed)
        first = torch.nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), torch.nn.ReLU())
        network = torch.nn.Sequential(first, nn.MaxPool2d(2), torch.nn.Flatten(), torch.nn.Linear(8 * 16, 10))
        train(network, data.images, data.labels, seed=seed, epochs=6)
        with torch.no_grad():
            maps = {"digits": data.images, "ReLU maps": first(data.images)}
        for where, values in maps.items():
            for kind in _KINDS:
                one = measure(values, kind)  # type: ignore[arg-type]
                for what in ("window", "value", "pooled"):
                    found.setdefault((where, kind, what), []).append(getattr(one, what))
        say(f"seed {seed}: counted")
    words = {"window": "a 2x2 window, jointly", "value": "one value", "pooled": "a pooled value"}
    rows = {
        key: Measured.of(f"{key[0]}, {key[1]} pooling: entropy of {words[key[2]]}", values, "nats")
        for key, values in found.items()
    }
    places = list(dict.fromkeys((where, kind) for where, kind, _ in found))
    checks = [
        Check(
            f"{where}, {kind}: a pooled value has less entropy than {words[other]}, in every seed",
            all(a < b for a, b in zip(found[where, kind, "pooled"], found[where, kind, other], strict=True)),
        )
        for other in ("window", "value")
        for where, kind in places
    ]
    return Finding(
        tuple(rows.values()),
        tuple(checks),
        (
            "That a pooled value has no more entropy than its window is a theorem; that it has no more than one value "
            "isn't.",
            "Entropies are of values in four bins of equal width; other bins give other numbers.",
        ),
        (
            Bars(
                "Before and after 2x2 pooling",
                "entropy, nats",
                tuple(f"{where}, {kind}: {words[what]}" for where, kind, what in rows),
                tuple(row.value for row in rows.values()),
                tuple(row.spread for row in rows.values()),
            ),
        ),
    )
