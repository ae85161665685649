"""A study: a claim from the textbooks as an experiment whose verdict is computed from its numbers.

The function of a study takes seeds and a function for progress, and returns a :class:`Finding`: the measurements and
the checks. The verdict is computed: "holds" if all checks passed, "holds in part" if some did, else "does not hold".
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import torch

from striate.errors import StudyError, did_you_mean
from striate.studies.panels import Panel
from striate.training.environment import reproducible
from striate.training.run import versions

#: Takes a line of progress.
Say: TypeAlias = Callable[[str], None]


@dataclass(frozen=True)
class Measured:
    """One number of a study.

    Args:
        name: what was measured.
        value: the mean over ``n`` measurements.
        unit: ``"MACs"``, ``"nats"``, ``"%"``; empty for a ratio or a count.
        spread: their standard deviation (n - 1 in the denominator); None for a number that is exact.
        n: number of measurements, usually one for each seed.
    """

    name: str
    value: float
    unit: str = ""
    spread: float | None = None
    n: int = 1

    @classmethod
    def of(cls, name: str, values: Sequence[float], unit: str = "") -> Measured:
        """The mean and the spread of repeated measurements.

        >>> Measured.of("accuracy", [90.0, 92.0], "%")
        Measured(name='accuracy', value=91.0, unit='%', spread=1.4142135623730951, n=2)
        """
        spread = statistics.stdev(values) if len(values) > 1 else None
        return cls(name, statistics.fmean(values), unit, spread, len(values))

    def to_dict(self) -> dict[str, Any]:
        """All fields, for JSON; a value that isn't finite is null."""
        return {
            "name": self.name,
            "value": _finite(self.value),
            "unit": self.unit,
            "spread": None if self.spread is None else _finite(self.spread),
            "n": self.n,
        }


@dataclass(frozen=True)
class Check:
    """A criterion of the claim, and whether the numbers meet it.

    Args:
        criterion: in words, with the bound: ``"fewer parameters at every width"``.
        held: what the numbers say.
    """

    criterion: str
    held: bool


@dataclass(frozen=True)
class Finding:
    """The result of a study's function.

    Args:
        rows: the numbers.
        checks: the criteria, at least one.
        caveats: what the numbers don't show, a sentence each.
        panels: the study's figure, side by side.
    """

    rows: tuple[Measured, ...]
    checks: tuple[Check, ...]
    caveats: tuple[str, ...] = ()
    panels: tuple[Panel, ...] = ()

    def __post_init__(self) -> None:
        if not self.checks:
            raise ValueError("a finding needs a check: its verdict is computed")

    @property
    def verdict(self) -> str:
        """``"holds"``, ``"holds in part"`` or ``"does not hold"``: all, some or none of the checks passed."""
        held = sum(check.held for check in self.checks)
        return "holds" if held == len(self.checks) else "holds in part" if held else "does not hold"


@dataclass(frozen=True)
class Study:
    """A claim and the experiment that tests it.

    Args:
        name: as in ``striate study NAME``.
        claim: what the textbooks say, as one sentence that numbers can contradict.
        experiment: from (seeds, say) to a :class:`Finding`; ``say`` takes lines of progress.
    """

    name: str
    claim: str
    experiment: Callable[[Sequence[int], Say], Finding]


@dataclass(frozen=True)
class Outcome:
    """The result of running a study: the finding, and the conditions.

    Args:
        study: its name.
        claim: what was tested.
        finding: what was found.
        seeds: that it was run with.
        seconds: that it took.
        threads: of PyTorch on the CPU, where studies compute.
        versions: of python, torch and striate.
    """

    study: str
    claim: str
    finding: Finding
    seeds: tuple[int, ...]
    seconds: float
    threads: int
    versions: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Everything but the figure, for JSON."""
        finding = self.finding
        return {
            "study": self.study,
            "claim": self.claim,
            "verdict": finding.verdict,
            "checks": [{"criterion": check.criterion, "held": check.held} for check in finding.checks],
            "rows": [row.to_dict() for row in finding.rows],
            "caveats": list(finding.caveats),
            "seeds": list(self.seeds),
            "seconds": self.seconds,
            "device": "cpu",
            "threads": self.threads,
            "versions": self.versions,
        }


_STUDIES: Final[dict[str, Study]] = {}

Experiment: TypeAlias = Callable[[Sequence[int], Say], Finding]


def study(name: str, claim: str) -> Callable[[Experiment], Experiment]:
    """Registers a function as a study."""

    def enter(experiment: Experiment) -> Experiment:
        if name in _STUDIES:
            raise StudyError("studies.study", f"a study named {name!r} exists", "needed a new name")
        _STUDIES[name] = Study(name, claim, experiment)
        return experiment

    return enter


def studies() -> dict[str, Study]:
    """All studies by their names, in the order of the names."""
    return dict(sorted(_STUDIES.items()))


def run(name: str, seeds: int = 3, say: Say = lambda line: None) -> Outcome:
    """Runs a study with the seeds 0 to ``seeds`` - 1, on the CPU; the same seeds give the same numbers, times excepted.

    Args:
        name: one of :func:`studies`.
        seeds: how many.
        say: takes lines of progress.

    Raises:
        StudyError: an unknown study, or less than two seeds, which have no spread.

    >>> run("two-3x3", seeds=2).finding.verdict
    'holds'
    """
    if name not in _STUDIES:
        raise StudyError(
            "study",
            f"got {name!r}",
            "needed one of " + ", ".join(studies()),
            did_you_mean(name, _STUDIES),
        )
    if seeds < 2:
        raise StudyError("study", f"got {seeds} seeds", "needed 2 or more, for a spread")
    chosen, threads = tuple(range(seeds)), torch.get_num_threads()
    start = time.perf_counter()
    with reproducible(0, threads, torch.device("cpu")):
        finding = _STUDIES[name].experiment(chosen, say)
    seconds = time.perf_counter() - start
    return Outcome(name, _STUDIES[name].claim, finding, chosen, seconds, threads, versions())


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
