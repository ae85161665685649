"""Computes operations: a table of backends, the choice among them, and the reference that defines correct results."""

from striate.engine import conv_pool, normalization  # noqa: F401 - importing them registers their problem families
from striate.engine.aten import AtenBackend
from striate.engine.backends import (
    FORM,
    Backend,
    Pass,
    backends,
    choose,
    gain,
    passes,
    ready,
    register,
    traced,
    use,
)
from striate.engine.choice import Choice, choices
from striate.engine.explanation import Explanation, explain
from striate.engine.llvm.backend import LlvmBackend
from striate.engine.llvm.winograd.backend import WinogradBackend
from striate.engine.matmul import MatmulBackend
from striate.engine.reference import ReferenceBackend
from striate.engine.timing import Timing, time_problem

# The reference comes last: it accepts every problem, but is slow.
register(MatmulBackend())
register(WinogradBackend())
register(LlvmBackend())
register(AtenBackend())
register(ReferenceBackend())

__all__ = [
    "FORM",
    "Backend",
    "Choice",
    "Explanation",
    "Pass",
    "Timing",
    "backends",
    "choices",
    "choose",
    "explain",
    "gain",
    "passes",
    "ready",
    "register",
    "time_problem",
    "traced",
    "use",
]
