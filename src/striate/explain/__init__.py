"""Why a network says what it says: maps of evidence on images, from any network."""

from striate.explain.probe import Probe, probing
from striate.explain.result import Explanation, Pictured
from striate.explain.targets import Guess, detection_target, segmentation_target

__all__ = [
    "Explanation",
    "Guess",
    "Pictured",
    "Probe",
    "detection_target",
    "probing",
    "segmentation_target",
]
