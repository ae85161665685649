"""Exact measures of any network, before a number is computed: what it costs, and what each layer sees."""

from striate.analysis.cost import CostRow, Summary, summarize
from striate.analysis.effective import EffectiveField, effective_receptive_field
from striate.analysis.equivariance import Equivariance, EquivarianceRow, equivariance
from striate.analysis.field import FieldRow, ReceptiveFields, receptive_field
from striate.engine.timing import Roofline

__all__ = [
    "CostRow",
    "EffectiveField",
    "Equivariance",
    "EquivarianceRow",
    "FieldRow",
    "ReceptiveFields",
    "Roofline",
    "Summary",
    "effective_receptive_field",
    "equivariance",
    "receptive_field",
    "summarize",
]
