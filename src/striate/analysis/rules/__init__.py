"""Rules of dependence for each operator: :mod:`table <striate.analysis.rules.table>` and the files that fill it."""

from striate.analysis.rules import moves, sums, windows, writes
from striate.analysis.rules.moves import CUTS, parts_of
from striate.analysis.rules.sums import RECURRENT
from striate.analysis.rules.table import RULES, follow
from striate.analysis.rules.writes import View, overwritten, region_of

__all__ = [
    "CUTS",
    "RECURRENT",
    "RULES",
    "View",
    "follow",
    "moves",
    "overwritten",
    "parts_of",
    "region_of",
    "sums",
    "windows",
    "writes",
]
