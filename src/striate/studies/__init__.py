"""Claims from the textbooks as experiments, measured on the bundled digits or on scenes of them, with a verdict that
follows from the numbers.

A study is one file here and one line below; ``striate study`` lists them.
"""

from striate.studies import (  # noqa: F401
    augmentation,
    conv_vs_dense,
    depthwise,
    dilated_trunk,
    equivariance,
    estimators,
    filter_match,
    flipped_kernels,
    gabor_filters,
    handmade_features,
    information_plane,
    object_augmentation,
    pooling_entropy,
    pooling_vs_stride,
    pyramid_levels,
    two_3x3,
    vit_vs_cnn,
)
from striate.studies.panels import Bars, Curve, Curves, Panel, Pictures
from striate.studies.study import Check, Finding, Measured, Outcome, Say, Study, run, studies, study

__all__ = [
    "Bars",
    "Check",
    "Curve",
    "Curves",
    "Finding",
    "Measured",
    "Outcome",
    "Panel",
    "Pictures",
    "Say",
    "Study",
    "run",
    "studies",
    "study",
]
