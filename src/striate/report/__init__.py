"""Results: the values themselves, and what they look like.

:mod:`striate.report.results` has the result types, which go to JSON and back. :mod:`striate.report.tables` shows them
on the terminal, :mod:`striate.report.figures` in pictures; both know these types and nothing of where they come from.
"""

from striate.report.results import Epoch, Evaluation, Example

__all__ = ["Epoch", "Evaluation", "Example"]
