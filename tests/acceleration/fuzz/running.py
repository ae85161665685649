"""One seed after the other: its worlds run and compared, and what fails made small."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import itertools
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch._dynamo import convert_frame
from torch._dynamo.utils import counters

from .changes import Step, steps_of
from .rounding import difference
from .sources import Source, source_of
from .worlds import Drawn, Jittered, Record, World

#: How often the plain module is run with other roundings before a difference is called one.
JITTERS = 6


@dataclasses.dataclass(frozen=True)
class Subject:
    """What is tested: a way of accelerating, and the way back."""

    accelerate: Callable[[nn.Module], nn.Module]
    restore: Callable[[nn.Module], nn.Module]
    #: What holds while its world runs.
    setting: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext


@dataclasses.dataclass
class Coverage:
    """How much of what was called went another way than plain PyTorch's."""

    calls: int = 0
    graphs: int = 0
    walks: int = 0
    shortcuts: int = 0
    compiled: int = 0
    limits: int = 0
    breaks: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    kinds: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)

    def __str__(self) -> str:
        return (
            f"{self.calls} calls of models, {self.graphs} runs of captured graphs ({self.compiled} compiled), "
            f"{self.walks} of plans, {self.shortcuts} calls past the guards, "
            f"{self.limits} times at the limit of recompiling"
        )


@dataclasses.dataclass
class Failure:
    """Where the worlds part."""

    seed: int
    source: str
    steps: list[Step]
    place: int
    told: str

    @property
    def kind(self) -> str:
        """What kind of step did it: the last change before the difference."""
        if self.told.startswith("raised: "):
            return "another type of exception"
        changes = [step.kind for step in self.steps[: self.place + 1] if step.kind not in _USUAL]
        return changes[-1] if changes else self.steps[self.place].kind

    def script(self) -> str:
        """A script that shows it."""
        lines = ",\n    ".join(repr(step.line) for step in self.steps)
        return (
            f"# seed {self.seed}, at step {self.place}: {self.steps[self.place].line}\n# {self.told}\n"
            f"# PYTHONPATH=src:tests/acceleration python this_file\nfrom fuzz.running import check\n\n"
            f"SOURCE = '''\n{self.source}'''\nSTEPS = [\n    {lines},\n]\ncheck(SOURCE, STEPS)\n"
        )


_USUAL = {"accelerate", "call", "mode", "training call"}


def records_of(source: str, steps: list[str], subject: Subject | None = None, **how: Any) -> list[Record]:
    """What is seen in one world."""
    torch._dynamo.reset()
    with (subject.setting if subject else contextlib.nullcontext)():
        options = {} if subject is None else {"accelerate": subject.accelerate, "restore": subject.restore}
        world = World(source, **options, **how)  # type: ignore[arg-type]
        try:
            return world.run(steps)
        finally:
            world.close()


def compare(source: str, steps: list[str], subject: Subject) -> tuple[int, str] | None:
    """The first step at which the worlds part, and how; None if they don't."""
    plain = records_of(source, steps)
    double = records_of(source, steps, dtype=torch.float64, mode=Drawn)
    found = records_of(source, steps, subject)
    others: list[list[Record]] | None = None
    milder: tuple[int, str] | None = None
    for place, (mine, theirs, truth) in enumerate(zip(found, plain, double, strict=True)):
        told = difference(mine, theirs, truth)
        if told and others is None:
            others = [
                records_of(source, steps, mode=lambda seed=seed: Jittered(seed))  # type: ignore[misc]
                for seed in range(JITTERS)
            ]
        if told and others is not None:
            told = difference(mine, theirs, truth, [each[place] for each in others])
            if told and _needs_less(mine, theirs):
                return milder
            if told.startswith(("log ", "attribute ")) and _raised_alike(mine, theirs):
                # An operator failed that TorchDynamo didn't see fail when it captured: it tells of side effects
                # after a graph, so those before the failure are lost, and nothing after it is comparable.
                return milder
            if told and not _both_raised(mine, theirs):
                return place, told
            milder = milder or ((place, told) if told else None)
    return milder


def _needs_less(mine: Record, theirs: Record) -> bool:
    """Whether only plain PyTorch fails, on a tensor that it keeps for a gradient and that was written to since: fused
    operations keep other tensors, and give the right gradient."""
    plain = next((str(value) for name, value in theirs if name == "raised"), "")
    return "modified by an inplace operation" in plain and all(name != "raised" for name, _ in mine)


def _raised_alike(mine: Record, theirs: Record) -> bool:
    both = [next((value for name, value in record if name == "raised"), None) for record in (mine, theirs)]
    return both[0] is not None and both[0] == both[1]


def _both_raised(mine: Record, theirs: Record) -> bool:
    """Whether there were exceptions, but not of one type; then what else differs is the worse fault."""
    both = [next((value for name, value in record if name == "raised"), None) for record in (mine, theirs)]
    return None not in both and both[0] != both[1]


@dataclasses.dataclass(frozen=True)
class Left:
    """What is left out: steps of some kinds, and pieces of modules in which some words stand."""

    steps: frozenset[str] = frozenset()
    words: frozenset[str] = frozenset()


def taken(seed: int, changes: int = 12, left: Left = Left()) -> tuple[Source, list[Step]]:
    """A seed's module and steps."""
    source = source_of(seed, left.words)
    return source, [step for step in steps_of(source, changes) if step.kind not in left.steps]


def examine(
    seed: int, subject: Subject, changes: int = 12, shrink: float = 60.0, left: Left = Left()
) -> Failure | None:
    """A seed's module and steps; the failure made small within some seconds, None if there is none."""
    source, steps = taken(seed, changes, left)
    result = compare(source.text, [step.line for step in steps], subject)
    if result is None:
        return None
    failure = Failure(seed, source.text, steps, *result)
    return smaller(failure, source, subject, shrink) if shrink else failure


def smaller(failure: Failure, source: Source, subject: Subject, seconds: float) -> Failure:
    """Takes away steps and pieces as long as something still fails."""
    end = time.monotonic() + seconds
    best = failure
    best = dataclasses.replace(best, steps=best.steps[: best.place + 1])

    def tries(text: str, steps: list[Step]) -> Failure | None:
        try:
            result = compare(text, [step.line for step in steps], subject)
        except Exception:
            return None  # what is left can't even be built
        if result is None:
            return None
        return Failure(failure.seed, text, steps[: result[0] + 1], *result)

    dropped = source.dropped
    changed = True
    while changed and time.monotonic() < end:
        changed = False
        # Halves, quarters, single steps; all but the last, and the one that accelerates.
        size = max(1, len(best.steps) // 2)
        while size and time.monotonic() < end:
            start = 0
            while start < len(best.steps) - 1 and time.monotonic() < end:
                kept = best.steps[:start] + [s for s in best.steps[start : start + size] if s.kind == "accelerate"]
                kept += best.steps[start + size :]
                smaller_one = tries(best.source, kept) if len(kept) < len(best.steps) else None
                if smaller_one is None:
                    start += size
                else:
                    best, changed = smaller_one, True
            size //= 2
        for name in sorted(source.pieces, key=len):
            if name in dropped or time.monotonic() > end:
                continue
            attempt = Source(source.seed, dropped | {name})
            smaller_one = tries(attempt.text, best.steps)
            if smaller_one is not None:
                best, dropped, changed = smaller_one, dropped | {name}, True
    return best


# -------------------------------------------------------------------- subjects


@contextlib.contextmanager
def _striates(coverage: Coverage | None) -> Iterator[None]:
    """Plans are made, and found to be faster, whatever the clock says; and their walks are counted.

    Guards are passed by as soon as they have passed, if nothing has changed.
    """
    from striate.acceleration.guards import shortcuts
    from striate.engine import tuning
    from striate.engine.llvm.codegen.program import Program

    def in_turns(candidates: dict[str, Callable[[], object]], *_: float) -> dict[str, float]:
        for run in candidates.values():
            run()
        return {name: 1.0 if name in ("", "aten") else 1e-3 for name in candidates}

    try:
        from striate.acceleration.backend import Compiled
    except ImportError:  # nothing is captured
        Compiled = None  # noqa: N806

    before, patience = (tuning._enabled, tuning.in_turns), (shortcuts._FIRST, shortcuts._LAST)
    tuning._enabled, tuning.in_turns = True, in_turns  # type: ignore[assignment]
    shortcuts._FIRST = shortcuts._LAST = 1  # type: ignore[misc]
    found = shortcuts.Shortcuts.find

    def find(self: Any, *given: Any) -> Any:
        run = found(self, *given)
        if coverage is not None:
            coverage.shortcuts += run is not None
        return run

    shortcuts.Shortcuts.find = find  # type: ignore[method-assign]
    tuning.forget()
    try:
        with _counting(Program, coverage, "walks"), _counting(Compiled, coverage, "graphs"), _counted(coverage):
            yield
    finally:
        tuning._enabled, tuning.in_turns = before
        shortcuts._FIRST, shortcuts._LAST = patience  # type: ignore[misc]
        shortcuts.Shortcuts.find = found  # type: ignore[method-assign]
        tuning.forget()


@contextlib.contextmanager
def _counting(kind: Any, coverage: Coverage | None, name: str) -> Iterator[None]:
    """Counts calls of a class's instances."""
    if kind is None or coverage is None:
        yield
        return
    called = kind.__call__

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        setattr(coverage, name, getattr(coverage, name) + 1)
        return called(self, *args, **kwargs)

    kind.__call__ = counted
    try:
        yield
    finally:
        kind.__call__ = called


@contextlib.contextmanager
def _counted(coverage: Coverage | None) -> Iterator[None]:
    """Counts calls, and what TorchDynamo does."""
    counters.clear()
    ran = World.call
    logs = [logging.getLogger("torch._dynamo"), logging.getLogger("torch._subclasses")]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.CRITICAL)  # they tell of every frame that can't be captured

    def call(self: World, *args: Any, **kwargs: Any) -> Any:
        if coverage is not None:
            coverage.calls += 1
        return ran(self, *args, **kwargs)

    asked = convert_frame.exceeds_recompile_limit

    def exceeds(*args: Any, **kwargs: Any) -> Any:
        answer = asked(*args, **kwargs)
        if coverage is not None and answer[0]:
            coverage.limits += 1
        return answer

    World.call = call  # type: ignore[method-assign]
    convert_frame.exceeds_recompile_limit = exceeds
    try:
        yield
    finally:
        World.call = ran  # type: ignore[method-assign]
        convert_frame.exceeds_recompile_limit = asked
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)
        if coverage is not None:
            coverage.compiled += counters["stats"]["unique_graphs"]
            coverage.breaks.update({str(key)[:100]: value for key, value in counters["graph_break"].items()})


def striates(coverage: Coverage | None = None) -> Subject:
    """striate.accelerate."""
    import striate
    from striate import acceleration

    return Subject(
        lambda model: striate.accelerate(model, quiet=True),
        acceleration.restore,
        lambda: _striates(coverage),
    )


#: What TorchDynamo has to be told so that it is sound, and captures more than eight times.
CONFIG: dict[str, Any] = {"recompile_limit": 64, "suppress_errors": True, "skip_nnmodule_hook_guards": False}


def dynamos(coverage: Coverage | None = None, **config: Any) -> Subject:
    """nn.Module.compile with a backend that runs what was captured as it is: what TorchDynamo itself does wrong."""

    def backend(graph: torch.fx.GraphModule, _: Any) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            if coverage is not None:
                coverage.graphs += 1
            # What functions mean to a mode or a subclass is in the graph already.
            with torch._C.DisableTorchFunction():
                return graph.forward(*args)

        return run

    def accelerate(model: nn.Module) -> nn.Module:
        model.compile(backend=backend)
        model._compiled_call_impl = functools.partial(configured, model._compiled_call_impl)
        return model

    def configured(compiled: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        # A thread doesn't see what another one has configured.
        with torch._dynamo.config.patch({**CONFIG, **config}):
            return compiled(*args, **kwargs)

    def restore(model: nn.Module) -> nn.Module:
        model._compiled_call_impl = None
        return model

    @contextlib.contextmanager
    def setting() -> Iterator[None]:
        with _counted(coverage):
            yield

    return Subject(accelerate, restore, setting)


def check(source: str, steps: list[str], subject: Subject | None = None) -> None:
    """For scripts: raises where the worlds part."""
    result = compare(source, steps, subject or striates())
    if result is not None:
        raise SystemExit(f"step {result[0]}, {steps[result[0]]}\n{result[1]}")
    print("the same")


def campaign(
    subject: Subject,
    coverage: Coverage,
    first: int,
    seconds: float = float("inf"),
    count: int | None = None,
    changes: int = 12,
    shrink: float = 60.0,
    tell: Callable[[str], None] = print,
    left: Left = Left(),
) -> list[Failure]:
    """Seeds from ``first`` on, for some seconds or so many seeds."""
    end, failures = time.monotonic() + seconds, []
    for seed in itertools.count(first) if count is None else range(first, first + count):
        if time.monotonic() > end:
            break
        failure = examine(seed, subject, changes, shrink, left)
        for step in taken(seed, changes, left)[1]:
            coverage.kinds[step.kind] += 1
        if failure is not None:
            failures.append(failure)
            tell(f"FAILED {failure.kind}\n{failure.script()}")
    return failures
