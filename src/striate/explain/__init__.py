"""Why a network says what it says: maps of evidence on images, from any network."""

from striate.explain.filters import Filter, Filters, filters
from striate.explain.probe import Probe, probing
from striate.explain.result import Explanation, Pictured
from striate.explain.targets import Guess, detection_target, segmentation_target

__all__ = [
    "Explanation",
    "Filter",
    "Filters",
    "Guess",
    "Pictured",
    "Probe",
    "detection_target",
    "filters",
    "probing",
    "segmentation_target",
]
