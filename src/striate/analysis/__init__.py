"""Exact measures of any network, before a number is computed: what it costs, and what each layer sees."""

from striate.analysis.cost import CostRow, Summary, summarize
from striate.analysis.effective import EffectiveField, effective_receptive_field
from striate.analysis.field import FieldRow, ReceptiveFields, receptive_field
from striate.engine.timing import Roofline

__all__ = [
    "CostRow",
    "EffectiveField",
    "FieldRow",
    "ReceptiveFields",
    "Roofline",
    "Summary",
    "effective_receptive_field",
    "receptive_field",
    "summarize",
]
