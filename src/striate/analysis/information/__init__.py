"""Entropy and mutual information: estimators, their validation on closed forms, and measures of a network's layers."""

from striate.analysis.information.continuous import (
    KernelBounds,
    gaussian_copula,
    kernel_bounds,
    ksg,
    ksg_labels,
    neighbour_entropy,
)
from striate.analysis.information.discrete import Binning, entropy, mutual_information
from striate.analysis.information.patches import FilterMatch, PoolingEntropy, filter_match, pooling_entropy
from striate.analysis.information.plane import InformationPlane, LayerInformation, information
from striate.analysis.information.validation import (
    Case,
    Validation,
    binned,
    erasure_channel,
    gaussian,
    independent,
    labelled_intervals,
    symmetric_channel,
    validate,
)

__all__ = [
    "Binning",
    "Case",
    "FilterMatch",
    "InformationPlane",
    "KernelBounds",
    "LayerInformation",
    "PoolingEntropy",
    "Validation",
    "binned",
    "entropy",
    "erasure_channel",
    "filter_match",
    "gaussian",
    "gaussian_copula",
    "independent",
    "information",
    "kernel_bounds",
    "ksg",
    "ksg_labels",
    "labelled_intervals",
    "mutual_information",
    "neighbour_entropy",
    "pooling_entropy",
    "symmetric_channel",
    "validate",
]
