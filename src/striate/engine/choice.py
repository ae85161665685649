"""One chooser for everything that the engine computes: which implementation computes a pass of a problem, and why.

A problem says what is computed (:data:`striate.geometry.AnyProblem`). Each kind of problem has a *family*, a function
that lists its implementations: their names, why some refuse, and which the rule recommends. The first of these
decisions that says something counts:

1. one implementation accepts: it is taken;
2. where measuring is allowed, the fastest as measured on this machine (:mod:`striate.engine.tuning`);
3. the first one that the rule recommends, else the last one.

PyTorch's kernels (``aten``), or the last implementation where these aren't among them, were there first: others have to
be faster by more than noise. What was chosen is kept (:func:`made`) and printed under ``STRIATE_LOG=choices``.
:func:`striate.engine.explain` asks the same without computing anything.
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
    """One way of computing a pass of a problem.

    Args:
        name: what it is called in tables and times.
        refusal: why it doesn't compute this one; None if it does.
        recommended: whether the rule takes it where nothing may be measured.
    """

    name: str
    refusal: str | None = None
    recommended: bool = True


class Asked(NamedTuple):
    """A pass of a problem on operands of some kind.

    Args:
        channels_last: the layout of images.
        local: whether outputs may depend, to the last bit, on nothing but what their windows see.
    """

    problem: AnyProblem
    open_: Pass
    dtype: torch.dtype = torch.float32
    device: str = "cpu"
    channels_last: bool = False
    local: bool = True

    def question(self) -> tuning.Question:
        """All that measured times depend on."""
        layout, threads = self.channels_last, torch.get_num_threads()
        return tuning.Question(self.problem, self.open_, self.dtype, self.device, layout, threads)


@dataclass(frozen=True)
class Choice:
    """What computes a pass of a problem.

    ``why`` is ``"measured"``, ``"by rule"``, ``"no other accepts"``, or ``"not measured yet"`` where there was no time.
    ``seconds`` has measured times, ``refusals`` the reasons of those that don't compute it.
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


#: Lists the implementations of a pass, those first that the rule asks first.
Family = Callable[[Asked], list[Implementation]]
#: What makes an implementation ready to be run on the operands of a call.
Runs = Callable[[str], Callable[[], object]]

_F = TypeVar("_F", bound=Family)
_FAMILIES: Final[dict[type, Family]] = {}
#: What has been chosen in this process, to be looked up at every call.
_made: dict[tuple[Any, ...], Choice] = {}
_MOST: Final = 16384
_LOGS: Final = "choices" in os.environ.get("STRIATE_LOG", "").split(",")


def family(kind: type) -> Callable[[_F], _F]:
    """Makes a function the family of a kind of problem."""

    def register(function: _F) -> _F:
        _FAMILIES[kind] = function
        return function

    return register


def implementations(asked: Asked) -> list[Implementation]:
    """All that could compute a pass, with the reasons of those that don't."""
    return _FAMILIES[type(asked.problem)](asked)


def choose(asked: Asked, runs: Runs | None) -> Choice:
    """What computes a pass; ``runs`` prepares an implementation for measuring, None where there are no operands.

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


def known(asked: Asked) -> Choice | None:
    """What :func:`choose` found for this, if it was asked under the present settings."""
    return _made.get((asked, torch.get_num_threads(), tuning.generation))


def made() -> tuple[Choice, ...]:
    """The choices of this process, in the order in which they were made."""
    return tuple(_made.values())


def forget() -> None:
    """Forgets what this process has chosen."""
    _made.clear()


def log(told: object) -> None:
    """Prints a choice if ``STRIATE_LOG=choices`` asks for it."""
    if _LOGS:
        print(f"striate: {told}", file=sys.stderr)


def decide(asked: Asked, runs: Runs | None, times: Mapping[str, float] | None = None) -> Choice:
    """The choice itself: by ``times``, else by measuring ``runs``, else by the rule."""
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
        times = tuning.measure(asked.question(), candidates)
        if times is None:
            return Choice(asked, first, "not measured yet", {}, refusals)
    if times is not None and times.keys() >= set(names):
        seconds = {name: times[name] for name in names}
        name = tuning.fastest(seconds, sorted(names, key=lambda name: name != first))
        return Choice(asked, name, "measured", seconds, refusals)
    name = next((each.name for each in accepting if each.recommended), names[-1])
    return Choice(asked, name, "by rule", {}, refusals)


def _lazy(make: Callable[[], Callable[[], object]]) -> Callable[[], object]:
    """What ``make`` makes, made when it is called first: no kernel is compiled where times are known."""
    ready = cache(make)
    return lambda: ready()()
