"""What each operator does to dependence: :mod:`table <striate.analysis.rules.table>` and the files that fill it."""

from striate.analysis.rules import moves, sums, windows
from striate.analysis.rules.moves import CUTS, parts_of
from striate.analysis.rules.table import RULES, follow

__all__ = ["CUTS", "RULES", "follow", "moves", "parts_of", "sums", "windows"]
