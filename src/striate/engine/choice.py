"""Chooses the implementation of every pass of every problem that the engine computes, and records the reason.

A problem describes one computation (:data:`striate.geometry.AnyProblem`). Each kind of problem has a *family*, a
function that lists its implementations: their names, their reasons for refusing, and whether the rule recommends them.
The first of these decisions that applies is final:

1. If only one implementation accepts, choose it.
2. If measuring is allowed, choose the fastest as measured on this machine (:mod:`striate.engine.tuning`).
3. Otherwise choose the first one that the rule recommends, or the last one if it recommends none.

The default is PyTorch's kernels (``aten``), or the last implementation where ``aten`` doesn't accept. Any other one has
to be faster by more than noise. Choices are cached (:func:`choices`) and printed under ``STRIATE_LOG=choices``.
:func:`striate.engine.explain` reports the same choice without computing anything.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any, Final, NamedTuple, TypeVar

import torch

from striate.engine import tuning
from striate.engine.passes import Pass
from striate.errors import BackendError
from striate.geometry import AnyProblem


@dataclass(frozen=True)
class Implementation:
    """An implementation of one pass of one problem.

    Args:
        name: its name in tables and measured times.
        refusal: the reason for refusing this problem; None if the implementation accepts it.
        recommended: whether the rule may choose it where measuring isn't allowed.
    """

    name: str
    refusal: str | None = None
    recommended: bool = True


class Asked(NamedTuple):
    """A request to the chooser: a pass of a problem, and the properties of its operands.

    Args:
        problem: the problem.
        open_: the pass.
        dtype: of the operands.
        device: of the operands.
        channels_last: whether images are in channels last.
        local: whether an output has to depend, to the last bit, only on the inputs in its window.
    """

    problem: AnyProblem
    open_: Pass
    dtype: torch.dtype = torch.float32
    device: str = "cpu"
    channels_last: bool = False
    local: bool = True

    def timing_key(self) -> tuning.TimingKey:
        """The key under which measured times are stored: everything that they depend on."""
        layout, threads = self.channels_last, torch.get_num_threads()
        return tuning.TimingKey(self.problem, self.open_, self.dtype, self.device, layout, threads)


@dataclass(frozen=True)
class Choice:
    """The implementation chosen for a pass of a problem, and the reason.

    ``why`` is ``"measured"``, ``"by rule"``, ``"no other accepts"``, or ``"not measured yet"`` if there was no time to
    measure. ``seconds`` has the measured times, ``refusals`` the reasons of the implementations that refused.
    """

    asked: Asked
    name: str
    why: str
    seconds: Mapping[str, float] = field(default_factory=dict)
    refusals: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        what = self.asked.open_.name.lower().replace("_", " ")
        times = ", ".join(f"{name} {taken * 1e6:,.1f} us" for name, taken in self.seconds.items())
        refused = "; ".join(f"{name}: {refusal}" for name, refusal in self.refusals.items())
        rest = "".join(f" ({told})" for told in (times, refused) if told)
        layout = ", channels_last" * self.asked.channels_last
        return f"{self.asked.problem}, {what}{layout}: {self.name}, {self.why}{rest}"


#: Lists the implementations of a pass, in the order in which the rule considers them.
Family = Callable[[Asked], list[Implementation]]
#: Maps an implementation's name to a function that runs it on the operands of a call.
Runs = Callable[[str], Callable[[], object]]

_F = TypeVar("_F", bound=Family)
_FAMILIES: Final[dict[type, Family]] = {}
#: The choices of this process, looked up at every call.
_made: dict[tuple[Any, ...], Choice] = {}
_MOST: Final = 16384
_LOGS: Final = "choices" in os.environ.get("STRIATE_LOG", "").split(",")


def family(kind: type) -> Callable[[_F], _F]:
    """Registers a function as the family of a kind of problem."""

    def register(function: _F) -> _F:
        _FAMILIES[kind] = function
        return function

    return register


def implementations(asked: Asked) -> list[Implementation]:
    """All implementations of a pass, with the reasons of those that refuse."""
    return _FAMILIES[type(asked.problem)](asked)


def choose(asked: Asked, runs: Runs | None) -> Choice:
    """Returns the cached choice for a pass, or makes it.

    ``runs`` prepares an implementation for measuring; None if there are no operands to measure on.

    Raises:
        BackendError: no implementation accepts.
    """
    key = (asked, torch.get_num_threads(), tuning.generation)
    found = _made.get(key)
    if found is None:
        found = decide(asked, runs if tuning.measuring() else None)
        if len(_made) >= _MOST:
            _made.clear()
        _made[key] = found
        log(found)
    return found


def cached(asked: Asked) -> Choice | None:
    """The cached choice of :func:`choose` under the present settings; None if there is none."""
    return _made.get((asked, torch.get_num_threads(), tuning.generation))


def choices() -> tuple[Choice, ...]:
    """All cached choices of this process, in the order in which they were made."""
    return tuple(_made.values())


def forget() -> None:
    """Clears the cached choices."""
    _made.clear()


def log(told: object) -> None:
    """Prints a choice if ``STRIATE_LOG`` contains ``choices``."""
    if _LOGS:
        print(f"striate: {told}", file=sys.stderr)


def decide(asked: Asked, runs: Runs | None, times: Mapping[str, float] | None = None) -> Choice:
    """Makes a choice without the cache: by measuring ``runs`` if given, else by ``times``, else by the rule."""
    all_ = implementations(asked)
    refusals = {each.name: each.refusal for each in all_ if each.refusal is not None}
    accepting = [each for each in all_ if each.refusal is None]
    names = [each.name for each in accepting]
    if not names:
        told = "; ".join(f"{name}: {refusal}" for name, refusal in refusals.items())
        raise BackendError(str(asked.problem), f"every backend refuses ({told})")
    if len(names) == 1:
        return Choice(asked, names[0], "no other accepts", {}, refusals)
    first = "aten" if "aten" in names else names[-1]
    if runs is not None:
        candidates = {name: _lazy(partial(runs, name)) for name in names}
        times = tuning.measure(asked.timing_key(), candidates)
        if times is None:
            return Choice(asked, first, "not measured yet", {}, refusals)
    if times is not None and times.keys() >= set(names):
        seconds = {name: times[name] for name in names}
        name = tuning.fastest(seconds, sorted(names, key=lambda name: name != first))
        return Choice(asked, name, "measured", seconds, refusals)
    name = next((each.name for each in accepting if each.recommended), names[-1])
    return Choice(asked, name, "by rule", {}, refusals)


def _lazy(make: Callable[[], Callable[[], object]]) -> Callable[[], object]:
    """Delays ``make`` until the first call, so that no kernel is compiled if the times are already known."""
    ready = cache(make)
    return lambda: ready()()
