"""Measures of any network: costs, receptive fields, and behaviour when images move or change."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from striate.analysis.adversarial import AdversarialCurve, adversarial, fgsm, pgd
from striate.analysis.checkerboard import CheckerboardRow, Checkerboards, checkerboard
from striate.analysis.consistency import ShiftConsistency, shift_consistency
from striate.analysis.cost import CostRow, Summary, summarize
from striate.analysis.effective import EffectiveField, effective_receptive_field
from striate.analysis.equivariance import Equivariance, EquivarianceRow, equivariance
from striate.analysis.field import FieldRow, ReceptiveFields, receptive_field
from striate.analysis.robustness import DISTURBANCES, Robustness, RobustnessCurve, disturbed, robustness
from striate.engine.timing import Roofline

if TYPE_CHECKING:
    from striate.analysis.gabor import Gabor, GaborFit, fit_gabor

__all__ = [
    "DISTURBANCES",
    "AdversarialCurve",
    "CheckerboardRow",
    "Checkerboards",
    "CostRow",
    "EffectiveField",
    "Equivariance",
    "EquivarianceRow",
    "FieldRow",
    "Gabor",
    "GaborFit",
    "ReceptiveFields",
    "Robustness",
    "RobustnessCurve",
    "Roofline",
    "ShiftConsistency",
    "Summary",
    "adversarial",
    "checkerboard",
    "disturbed",
    "effective_receptive_field",
    "equivariance",
    "fgsm",
    "fit_gabor",
    "pgd",
    "receptive_field",
    "robustness",
    "shift_consistency",
    "summarize",
]


def __getattr__(name: str) -> Any:
    if name in ("Gabor", "GaborFit", "fit_gabor"):  # SciPy's optimisers, which take longer to import than all the rest
        return getattr(importlib.import_module(f"{__name__}.gabor"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
