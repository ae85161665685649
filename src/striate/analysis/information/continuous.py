"""Entropy and mutual information of numbers without binning: neighbours, ranks, kernels.

Every estimate assumes something. Neighbours assume a density that is flat across them, and so take values without
ties; the Gaussian copula assumes that ranks, made Gaussian, are jointly Gaussian; kernels assume noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial import KDTree
from scipy.spatial.distance import cdist
from scipy.special import digamma, logsumexp, ndtri
from scipy.stats import rankdata

from striate.analysis import arguments
from striate.analysis.information.discrete import Numbers, Unit, floats, in_unit, same_length
from striate.errors import AnalysisError

_CHUNK = 512  # samples whose distances to all others are held at once


def ksg(x: ArrayLike, y: ArrayLike, *, neighbours: int = 3, unit: Unit = "nats") -> float:
    """I(X; Y) of continuous variables by the distances to nearest neighbours, under the maximum norm.

    Args:
        x: (N,) or (N, d).
        y: (N,) or (N, e).
        neighbours: k; more of them spread less and lean more to zero.
        unit: ``"nats"`` or ``"bits"``.

    Raises:
        AnalysisError: no more samples than neighbours, x and y of different length, or samples that coincide.

    Source: Kraskov, Stögbauer & Grassberger, "Estimating mutual information", Phys. Rev. E 69 (2004), algorithm 1,
    equation 8: psi(k) + psi(N) - <psi(n_x + 1) + psi(n_y + 1)>.

    >>> x = np.random.default_rng(0).normal(size=(2, 2000))
    >>> round(ksg(x[0], x[0] + x[1]), 1)  # half of ln 2
    0.3
    """
    one, other = numbers(x, "ksg", neighbours), numbers(y, "ksg", neighbours)
    same_length(one, other, "ksg")
    reach = _reach(np.hstack([one, other]), neighbours, "ksg")
    inside = digamma(_strictly_within(one, reach)) + digamma(_strictly_within(other, reach))
    return in_unit(float(digamma(neighbours) + digamma(len(one)) - inside.mean()), unit)


def ksg_labels(x: ArrayLike, labels: ArrayLike, *, neighbours: int = 3, unit: Unit = "nats") -> float:
    """I(X; Y) of a continuous X and labels Y, by the distances to nearest neighbours of the same label.

    Args:
        x: (N,) or (N, d).
        labels: (N,) of any kind.
        neighbours: k.
        unit: ``"nats"`` or ``"bits"``.

    Raises:
        AnalysisError: a label with no more than k samples, labels of another length, or samples that coincide.

    Source: Ross, "Mutual information between discrete and continuous data sets", PLoS ONE 9(2) (2014), equation 2:
    psi(N) - <psi(N_label)> + psi(k) - <psi(m)>.

    >>> x = np.random.default_rng(0).normal(size=2000)
    >>> round(ksg_labels(x + 100 * (np.arange(2000) % 2), np.arange(2000) % 2, unit="bits"), 2)
    1.0
    """
    one = numbers(x, "ksg_labels", neighbours)
    kinds = arguments.array("ksg_labels", labels, "needed labels, (N,)")
    if kinds.ndim != 1:
        raise AnalysisError("ksg_labels", f"got labels {kinds.shape}", "needed (N,)")
    same_length(one, kinds, "ksg_labels")
    reach, count = np.empty(len(one)), np.empty(len(one))
    for kind in np.unique(kinds):
        chosen = kinds == kind
        count[chosen] = chosen.sum()
        if chosen.sum() <= neighbours:
            raise AnalysisError(
                "ksg_labels",
                f"label {kind} has {chosen.sum()} samples",
                f"needed more than {neighbours}",
                "take fewer neighbours or more samples",
            )
        reach[chosen] = _reach(one[chosen], neighbours, "ksg_labels")
    inside = digamma(_strictly_within(one, reach))
    nats = digamma(len(one)) - digamma(count).mean() + digamma(neighbours) - inside.mean()
    return in_unit(float(nats), unit)


def neighbour_entropy(x: ArrayLike, *, neighbours: int = 3, unit: Unit = "nats") -> float:
    """Differential entropy of X by the distances to nearest neighbours, under the maximum norm.

    Args:
        x: (N,) or (N, d).
        neighbours: k.
        unit: ``"nats"`` or ``"bits"``.

    Raises:
        AnalysisError: no more samples than neighbours, or samples that coincide.

    Source: Kozachenko & Leonenko (1987), as in Kraskov et al. (2004), equation 20.

    >>> round(neighbour_entropy(np.random.default_rng(0).uniform(size=2000)), 1) + 0.0
    0.0
    """
    one = numbers(x, "neighbour_entropy", neighbours)
    volume = one.shape[1] * np.log(2 * _reach(one, neighbours, "neighbour_entropy"))
    return in_unit(float(digamma(len(one)) - digamma(neighbours) + volume.mean()), unit)


def gaussian_copula(x: ArrayLike, y: ArrayLike, *, unit: Unit = "nats") -> float:
    """I(X; Y) of the Gaussian that has the ranks' correlations: a lower bound up to sampling, exact for Gaussians.

    Each column is replaced by the normal quantiles of its ranks; the bias of the log determinants is taken off.

    Args:
        x: (N,) or (N, d).
        y: (N,) or (N, e).
        unit: ``"nats"`` or ``"bits"``.

    Raises:
        AnalysisError: too few samples for the dimensions, different lengths, a constant or determined column.

    Source: Ince et al., "A statistical framework for neuroimaging data analysis based on mutual information estimated
    via a Gaussian copula", Human Brain Mapping 38 (2017), sections 3 and 4.

    >>> x = np.random.default_rng(0).normal(size=(2, 2000))
    >>> round(gaussian_copula(x[0], (x[0] + x[1]) ** 3), 1)
    0.3
    """
    one, other = numbers(x, "gaussian_copula", 1), numbers(y, "gaussian_copula", 1)
    same_length(one, other, "gaussian_copula")
    n, wide = len(one), one.shape[1] + other.shape[1]
    if n < wide + 2:
        raise AnalysisError(
            "gaussian_copula", f"got {n} samples of {wide} dimensions", f"needed {wide + 2} or more", "take fewer units"
        )
    scores = ndtri(rankdata(np.hstack([one, other]), axis=0) / (n + 1))
    covariance = np.atleast_2d(np.cov(scores, rowvar=False))
    split = one.shape[1]
    parts = (covariance[:split, :split], covariance[split:, split:], covariance)
    logs = [float(np.linalg.slogdet(part)[1]) for part in parts]
    if not all(map(math.isfinite, logs)) or np.linalg.matrix_rank(covariance) < wide:
        raise AnalysisError(
            "gaussian_copula",
            "got a column that is constant or determined by the others",
            "needed a joint density",
            "leave it out, or use ksg",
        )
    # E ln det of a sample covariance, less ln det of the true one (Wishart).
    bias = [
        part.shape[0] * math.log(2 / (n - 1)) + float(digamma((n - np.arange(1, len(part) + 1)) / 2).sum())
        for part in parts
    ]
    x_log, y_log, joint_log = (log - off for log, off in zip(logs, bias, strict=True))
    return in_unit((x_log + y_log - joint_log) / 2, unit)


@dataclass(frozen=True)
class KernelBounds:
    """Between ``lower`` and ``upper`` lies the information that noisy values hold about which sample they come from."""

    lower: float
    upper: float


def kernel_bounds(x: ArrayLike, noise: float, *, unit: Unit = "nats") -> KernelBounds:
    """Bounds of I(S; X_S + Z), S one of the N samples at random, Z Gaussian noise: exact statements, no estimates.

    X_S + Z is a mixture of N Gaussians, whose entropy less that of Z is what is bounded; at most ln N. Adding
    d/2 ln(2 pi e noise^2) gives the differential entropy of X_S + Z.

    Args:
        x: (N,) or (N, d).
        noise: the noise's standard deviation on each axis, in the units of x.
        unit: ``"nats"`` or ``"bits"``.

    Raises:
        AnalysisError: no samples, or noise that isn't positive.

    Source: Kolchinsky & Tracey, "Estimating mixture entropy with pairwise distances", Entropy 19(7) (2017): equation 10
    with the Kullback-Leibler divergence (upper) and the Bhattacharyya distance (lower).

    >>> bounds = kernel_bounds([0.0, 1000.0], noise=1.0, unit="bits")
    >>> round(bounds.lower, 6), round(bounds.upper, 6)
    (1.0, 1.0)
    """
    noise = arguments.number("noise", noise, above=0)
    one = numbers(x, "kernel_bounds", 0)
    sums = np.zeros(2)
    for start in range(0, len(one), _CHUNK):
        squared = cdist(one[start : start + _CHUNK], one, "sqeuclidean") / noise**2
        sums += [float(logsumexp(-squared / scale, axis=1).sum()) for scale in (8, 2)]
    lower, upper = (math.log(len(one)) - total / len(one) for total in sums)
    # Of samples that coincide the sum is ln N up to rounding.
    return KernelBounds(in_unit(max(float(lower), 0.0), unit), in_unit(max(float(upper), 0.0), unit))


def numbers(values: ArrayLike, where: str, neighbours: int) -> Numbers:
    """Samples as float64 (N, d), finite, more than ``neighbours`` of them."""
    found = floats(where, values, "needed finite numbers, (N,) or (N, d)")
    neighbours = arguments.whole("neighbours", neighbours, 0)
    if found.ndim not in (1, 2) or not found.size or not np.isfinite(found).all():
        raise AnalysisError(where, f"got shape {found.shape}", "needed finite numbers, (N,) or (N, d)")
    if len(found) <= neighbours:
        raise AnalysisError(where, f"got {len(found)} samples", f"needed more than {neighbours}", "take more samples")
    return found.reshape(len(found), -1)


def _reach(points: Numbers, neighbours: int, where: str) -> Numbers:
    """Distance of each point to its k-th neighbour."""
    if neighbours < 1:
        raise AnalysisError(where, f"got {neighbours} neighbours", "needed 1 or more")
    found = KDTree(points).query(points, k=[neighbours + 1], p=np.inf)[0][:, 0]
    if not (found > 0).all():
        raise AnalysisError(
            where,
            f"{int((found == 0).sum())} of {len(points)} samples coincide with {neighbours} others",
            "needed a density, as constants and ReLU's zeros have none",
            "bin the values (Binning), or add noise",
        )
    return np.asarray(found, dtype=np.float64)


def _strictly_within(points: Numbers, reach: Numbers) -> Numbers:
    """How many points, itself among them, lie nearer to each point than its reach."""
    nearer = np.nextafter(reach, 0)
    return np.asarray(KDTree(points).query_ball_point(points, nearer, p=np.inf, return_length=True), dtype=np.float64)
