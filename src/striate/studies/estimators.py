"""Estimators of mutual information on closed forms: bias and spread."""

from __future__ import annotations

from collections.abc import Sequence

from striate.analysis.information import gaussian, gaussian_copula, ksg, validate
from striate.analysis.information.discrete import Binning
from striate.analysis.information.validation import BIASED, STANDARD, Estimator, binned
from striate.studies.panels import Bars, Curve, Curves
from striate.studies.study import Check, Finding, Measured, Say, study

_SAMPLES = (125, 250, 500, 1000, 2000)
#: A seed. Fewer would leave more doubt about a bias than the tightest bound allows.
_REPEATS = 100
#: Of the curves, and of settings whose bias is far beyond their bound.
_FEW = 20


@study(
    "estimators",
    "The estimators of mutual information that striate uses are within their stated bounds on closed forms, and "
    "settings that are known to be biased are found out.",
)
def estimators(seeds: Sequence[int], say: Say) -> Finding:
    """Each estimator on its closed forms at 1000 samples, 100 repetitions a seed; then bias over samples."""
    rows, found = [], []
    settings = [(each, _REPEATS * len(seeds)) for each in STANDARD] + [(each, _FEW) for each in BIASED]
    for (name, estimator, case, bound), repeats in settings:
        one = validate(estimator, case, repeats=repeats, bound=bound, seed=seeds[0])
        found.append(one)
        rows.append(
            Measured(f"bias of {name} on {case.name} ({case.truth:.4f})", one.bias, "nats", one.spread, repeats)
        )
        say(f"{name} on {case.name}: bias {one.bias:+.4f}, spread {one.spread:.4f} nats")
    made, broken = found[: len(STANDARD)], found[len(STANDARD) :]
    case = gaussian(0.8)
    compared: dict[str, Estimator] = {
        "32 bins of equal width": binned(Binning(32, "width", None)),
        "32 bins, corrected": binned(Binning(32, "width", None), corrected=True),
        "KSG, k 3": ksg,
        "Gaussian copula": gaussian_copula,
    }
    curves = []
    for name, estimator in compared.items():
        each = [validate(estimator, case, samples=n, repeats=_FEW, seed=seeds[0]) for n in _SAMPLES]
        curves.append(Curve(name, _SAMPLES, tuple(one.bias for one in each), tuple(one.spread for one in each)))
    return Finding(
        tuple(rows),
        (
            Check(
                f"each of {len(made)} is within its bound, two standard errors included",
                all(one.within for one in made),
            ),
            Check(
                f"none of {len(broken)} settings known to be biased is within its own",
                not any(one.within for one in broken),
            ),
        ),
        (
            "The spread is that of one estimate from 1000 samples; it shrinks with their root.",
            "Closed forms have few dimensions. Layers have many, where neighbours and bins need far more samples.",
        ),
        (
            Curves(f"{case.name}: {case.truth:.3f} nats", "samples", "bias, nats", tuple(curves), log_x=True),
            Bars(
                "1000 samples",
                "bias, nats",
                tuple(f"{name},\n{case.name}" for name, _, case, _ in STANDARD),
                tuple(one.bias for one in made),
                tuple(one.spread for one in made),
            ),
        ),
    )
