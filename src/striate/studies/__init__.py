"""Claims from the textbooks as experiments: each measured on the bundled digits, with a verdict from the numbers.

A study is one file here and one line below; ``striate study`` lists them.
"""

import striate.studies.augmentation
import striate.studies.conv_vs_dense
import striate.studies.equivariance
import striate.studies.flipped_kernels
import striate.studies.pooling_vs_stride
import striate.studies.two_3x3
import striate.studies.vit_vs_cnn  # noqa: F401
from striate.studies import (  # noqa: F401
    conv_vs_dense,
    depthwise,
    estimators,
    filter_match,
    gabor_filters,
    handmade_features,
    information_plane,
    pooling_entropy,
    two_3x3,
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
