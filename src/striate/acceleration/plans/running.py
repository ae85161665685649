"""Decides when inference plans are made and used; a plan runs a captured graph's kernels by one native call.

A graph that was captured with gradients off has a plan for inputs of given sizes and strides if

- its inputs are tensors on the CPU (operators without a kernel are foreign steps);
- the engine may choose and measure (no other backend is fixed, ``STRIATE_TUNE`` isn't 0, and no reproducible training
  run is active), and has measured that the plan is faster than the ordinary call.

A plan is made when inputs of these sizes occur for the second time. The first few plans of a graph are timed against
the ordinary call. This takes as long as some five calls, and a fifth of a second more if one thread and several are
compared (threads.py). Later plans use the measurement of the most similar size. All plans of a graph share its packed
weights (constants.py), and all plans of the process share memory (engine/llvm/memory/arenas.py).

PyTorch's guards check that modules, attributes and other state of the capture are unchanged. They don't check numbers:
weights are packed, with batch normalisation folded into them, when the first plan is made, and again whenever
weights.py detects changed numbers in the model's tensors. A call that comes while another thread runs a plan of the
same graph is an ordinary call.
"""

from __future__ import annotations

import math
import threading
import time
import warnings
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor
from torch.nn import Parameter

from striate.acceleration.plans.capture import Graph, Refusal, Value, captured, is_number
from striate.acceleration.plans.constants import Constants
from striate.acceleration.plans.lowering import lowered
from striate.acceleration.plans.threads import ThreadChoice
from striate.acceleration.plans.weights import WeightSnapshot
from striate.engine import fresh, tuning
from striate.engine.backends import fixed, watched
from striate.engine.llvm.codegen import launch
from striate.engine.llvm.codegen.isa import Isa, host
from striate.engine.llvm.codegen.program import Foreign, Program, Step
from striate.engine.llvm.memory.arenas import ARENAS

if TYPE_CHECKING:
    from striate.acceleration.variants import Variants

#: The most sizes of a graph for which plans or refusals are stored.
_KEPT: Final = 256
#: The number of sizes that are timed before measurements are reused.
_TIMED: Final = 3
#: The largest ratio of input sizes between which a measurement is reused.
_SIMILAR: Final = 4
#: The seconds for comparing one thread with several, long enough to average over delays by the scheduler.
_LONGER: Final = 0.1
#: One thread is only tried if the first run takes at most this many seconds.
_ALONE: Final = 0.02
#: Share of PyTorch's time below which a plan is so much faster that blocks needn't be measured.
_CLEARLY: Final = 0.8

OrdinaryCall = Callable[..., Sequence[Any]]


@dataclass(slots=True)
class _Entry:
    """The state of inputs of given sizes and strides."""

    calls: int = 0
    draft: Plan | None = None  #: a plan whose kernels are being compiled
    plan: Plan | None = None
    refusal: str = ""


@dataclass(frozen=True, slots=True)
class _Verdict:
    numbers: int  #: numbers of all inputs
    refusal: str
    company: ThreadChoice | None


class Plans:
    """The plans of one captured graph.

    Args:
        graph: the captured graph of PyTorch's functions.
        ordinary: computes the graph without a plan.
        owned: which of its arguments are the model's own tensors.
        variants: times the ordinary call's variants and chooses the fastest one.
    """

    def __init__(
        self,
        graph: OrdinaryCall,
        ordinary: OrdinaryCall,
        owned: Sequence[bool],
        variants: Variants | None = None,
    ) -> None:
        self._graph, self._ordinary, self._owned, self._variants = graph, ordinary, tuple(owned), variants
        self._mine = _items([at for at, own in enumerate(owned) if own])
        self._given = [at for at, own in enumerate(owned) if not own]
        self._entries: OrderedDict[tuple[Any, ...], _Entry] = OrderedDict()
        self._verdicts: list[_Verdict] = []
        self._lock = threading.Lock()
        self._isa = host()
        self._constants: Constants | None = None
        self._weights = None if self._isa is None else WeightSnapshot(self._isa)

    def __call__(self, arguments: tuple[Any, ...]) -> list[Any] | None:
        """The graph's outputs, or None if the ordinary call should compute them."""
        if why_not():
            return None
        key = self._key(arguments)
        entry = None if key is None else self._entries.get(key)
        if key is None or (entry is not None and entry.refusal) or not self._lock.acquire(blocking=False):
            return None
        # Concurrent calls are ordinary calls, and so are the calls that are timed.
        try:
            if entry is not None and entry.plan is not None:
                self._entries.move_to_end(key)
                return self._by(entry.plan, arguments)
            entry = self._entries.setdefault(key, _Entry())
            if len(self._entries) > _KEPT:
                self._entries.popitem(last=False)
            entry.calls += 1
            if entry.calls > 1:
                self._settle(entry, arguments)
        finally:
            self._lock.release()
        # PyTorch's functions need no kernel to be compiled or measured, so they compute the calls before the plan's.
        return None if entry.refusal else list(self._graph(*arguments))

    def _key(self, arguments: Sequence[Any]) -> tuple[Any, ...] | None:
        """The key of a plan; None if there can be no plan."""
        key: list[Any] = [torch.get_num_threads()]
        for at in self._given:
            each = arguments[at]
            if is_number(each):
                key.append(each.item())
            elif isinstance(each, Tensor):
                is_plain = type(each) is Tensor or type(each) is Parameter
                if not is_plain or not each.is_cpu or each.is_neg() or each.is_conj() or each.layout != torch.strided:
                    return None
                key += (each.dtype, each.shape, each.stride())
            else:
                key.append(each)
        return tuple(key)

    def _by(self, plan: Plan, arguments: tuple[Any, ...], alone: bool | None = None) -> list[Any] | None:
        tensors = self._mine(arguments)
        assert self._weights is not None
        assert self._constants is not None
        same = self._weights.same(tensors)
        if same is None:
            return None
        if not same:
            self._weights.take(tensors)
            self._constants.again(arguments)
        return plan(arguments, alone)

    def _settle(self, entry: _Entry, arguments: tuple[Any, ...]) -> None:
        try:
            entry.plan = self._fastest(entry, arguments)
        except Refusal as refusal:
            entry.refusal = str(refusal)
        except Exception as error:
            # Plans are optional, so an error while making one must not make a call fail.
            entry.refusal = f"{type(error).__name__} while it was made: {error}"
            warnings.warn(f"striate: no plan, by a mistake of its own: {entry.refusal}", stacklevel=2)

    def made(self, arguments: tuple[Any, ...]) -> Plan:
        """Makes a plan for arguments like these.

        Raises:
            Refusal: there is no plan.
        """
        tensors = self._mine(arguments)
        if any(tensor.is_inference() for tensor in tensors):
            raise Refusal("the model has tensors that were created in inference mode and have no versions")
        if any(tensor.dtype.itemsize % 4 or not tensor.is_cpu for tensor in tensors):
            raise Refusal("the model has tensors of other dtypes, or on other devices")
        if self._isa is None or self._weights is None:
            raise Refusal("there are no kernels for this machine")
        graph = captured(self._graph, arguments, self._owned)
        # Tensors without numbers don't always have the layout of PyTorch's real results.
        for value, told in zip(graph.outputs, self._graph(*arguments), strict=True):
            if isinstance(value, Value) and value.argument is None:
                value.stride = told.stride()
        if self._constants is None or not self._weights.same(tensors):
            self._weights.take(tensors)
            if self._constants is None:
                self._constants = Constants(arguments)
            else:
                self._constants.again(arguments)
        self._constants.settle(arguments)
        try:
            return Plan(graph, self._constants, launch.threads(), self._isa)
        finally:
            self._constants.settle(())

    def _fastest(self, entry: _Entry, arguments: tuple[Any, ...]) -> Plan | None:
        """Makes the plan and chooses its threads; None while its kernels are compiled in the background.

        Raises:
            Refusal: there is no plan, or the ordinary call is faster.
        """
        numbers = sum(each.numel() for each in map(arguments.__getitem__, self._given) if isinstance(each, Tensor))
        known = self._known(numbers)
        if known is not None and known.refusal:
            raise Refusal(known.refusal)
        # A graph with side effects is refused here, before it is called for timing.
        plan = entry.draft or self.made(arguments)
        if not plan.compiled(tuning.patient()):
            entry.draft = plan
            return None
        entry.draft = None
        program = plan.program
        if known is not None:
            if known.company is not None and program.threads > 1:
                plan.company = ThreadChoice()
                plan.company.alone = known.company.alone
            return plan
        refusal = self._timed(plan, arguments)
        if numbers:
            self._verdicts.append(_Verdict(numbers, refusal, plan.company))
        if refusal:
            raise Refusal(refusal)
        return plan

    def _known(self, numbers: int) -> _Verdict | None:
        """The measurement for the most similar input size, if it is similar enough."""
        if not self._verdicts or not numbers:
            return None
        nearest = min(self._verdicts, key=lambda each: abs(math.log(each.numbers / numbers)))
        alike = max(nearest.numbers, numbers) <= _SIMILAR * min(nearest.numbers, numbers)
        return nearest if alike and len(self._verdicts) >= _TIMED else None

    def _timed(self, plan: Plan, arguments: tuple[Any, ...]) -> str:
        """Times the plan against the ordinary call; returns why it isn't used, or an empty string if it is."""
        many = plan.program.threads
        if many > 1:
            start = time.perf_counter()
            self._by(plan, arguments)
            plan.company = ThreadChoice() if time.perf_counter() - start < _ALONE else None
        counts = (many, 1) if plan.company else (many,)
        runs: dict[str, Callable[[], object]]
        runs = {counted(count): partial(self._by, plan, arguments, many > count == 1) for count in counts}
        ordinary: dict[str, Callable[[], object]] = {"": lambda: self._ordinary(*arguments)}
        plain = {} if self._variants is None else self._variants.plain(arguments)
        others = {name: partial(run, *arguments) for name, run in plain.items()} or ordinary
        times = tuning.in_turns(others | runs)
        close = min(times[name] for name in runs) > _CLEARLY * min(times[name] for name in others)
        if self._variants is not None and close:
            # Blocks may be faster than PyTorch's functions, but take long to compile and to measure.
            self._variants.settle(arguments)
            others = ordinary
            times = tuning.in_turns(others | runs)
        times[""] = min(times.pop(name) for name in others)
        if plan.company:
            if min(times, key=times.__getitem__):
                times |= tuning.in_turns(runs, _LONGER)
            plan.company.settle(*(times[name] for name in runs))
        if tuning.fastest(times, ["", counted(plan.threads)]):
            return ""
        told = ", ".join(f"{times[name] * 1e6:,.0f} us on {name}" for name in runs)
        return f"the plan isn't faster: {told}, the ordinary call {times[''] * 1e6:,.0f} us"

    def told(self, arguments: tuple[Any, ...]) -> str:
        """The text of the plan for arguments like these, step by step, or the reason why there is none."""
        key, reason = self._key(arguments), why_not()
        if key is None:
            return "no plan: an input isn't a plain tensor on the CPU"
        entry = self._entries.get(key)
        if entry is not None and entry.plan is not None:
            return str(entry.plan)
        if entry is not None and entry.refusal:
            return f"no plan: {entry.refusal}"
        with self._lock:
            try:
                made = str(entry.draft if entry is not None and entry.draft is not None else self.made(arguments))
            except Refusal as refusal:
                return f"no plan: {refusal}"
        reason = reason or "it is used when such an input has occurred twice and its kernels are compiled"
        return f"not taken yet ({reason}): {made}"


def _items(places: Sequence[int]) -> Callable[[Sequence[Any]], Sequence[Any]]:
    """A function that returns the items at these places."""
    if len(places) > 1:
        return itemgetter(*places)
    return lambda items: [items[at] for at in places]


def why_not() -> str:
    """The reason why no plan may be used now for any graph; empty if plans may be used."""
    if watched() or torch._C._are_functorch_transforms_active():
        return "a compiler, a tracer, a transform or a mode is active"
    if fixed() not in (None, "llvm"):
        return f"the backend is fixed to {fixed()}"
    return "" if tuning.measuring() else "nothing may be measured now"


class Plan:
    """A program for inputs of given sizes and strides, on at most ``threads`` threads; calls must not overlap."""

    def __init__(self, graph: Graph, constants: Constants, threads: int, isa: Isa) -> None:
        with torch.inference_mode(False), torch.no_grad():
            made = lowered(graph, constants, threads)
        self._steps, self._link = made.steps, partial(Program, made.steps, made.sources, made.results, isa, threads)
        self._inputs = [value.argument for value in graph.inputs if value.argument is not None]
        #: Shapes and strides of the results.
        self._shapes = made.shapes
        self._held = made.held
        results = {value: at for at, value in enumerate(graph.results)}
        #: For each output, which result, argument or constant it is.
        self._outputs: list[tuple[str, int]] = []
        self._numbers: list[Any] = []
        for each in graph.outputs:
            if not isinstance(each, Value):
                self._outputs.append(("constant", len(self._numbers)))
                self._numbers.append(each)
            elif each.argument is not None:
                self._outputs.append(("argument", each.argument))
            else:
                self._outputs.append(("result", results[each]))
        #: Whether the outputs are exactly the program's results, in order.
        self._plainly = self._outputs == [("result", at) for at in range(len(self._shapes))]
        #: Chooses between one thread and several, if both are possible.
        self.company: ThreadChoice | None = None

    def compiled(self, wait: bool) -> bool:
        """Whether all kernels are compiled; compiles them now, or in the background without ``wait``."""
        missing = [] if wait else [step for step in self._steps if isinstance(step, Step) and not step.kernel.request()]
        return not missing

    @cached_property
    def program(self) -> Program:
        """The linked program.

        Raises:
            Refusal: it needs too much memory.
        """
        made = self._link()
        if not ARENAS.fits(made.numbers):
            raise Refusal(f"it needs {4 * made.numbers >> 20:,} MiB of memory")
        ARENAS.reserve(self, made.numbers)
        return made

    @cached_property
    def _results(self) -> list[tuple[Any, bool]]:
        """The shapes and strides of the results, and whether PyTorch operators allocate them."""
        return list(zip(self._shapes, self.program.foreign_results, strict=True))

    @property
    def threads(self) -> int:
        """The number of threads that the plan uses now."""
        return 1 if self.company is not None and self.company.alone else self.program.threads

    def __call__(self, arguments: Sequence[Any], alone: bool | None = None) -> list[Any] | None:
        """The graph's outputs; None if there is no memory for the arena.

        ``alone`` fixes whether one thread runs the program; by default ``company`` decides.
        """
        arena = ARENAS.borrow(self.program.numbers)
        if arena is None:
            return None
        try:
            passed = [arguments[at] for at in self._inputs]
            passed += [None if foreign else fresh.empty_strided(*how) for how, foreign in self._results]
            if alone is not None or self.company is None:
                self.program(passed, arena, bool(alone))
            else:
                alone, start = self.company.turn(), time.perf_counter()
                self.program(passed, arena, alone)
                self.company.took(alone, time.perf_counter() - start)
        finally:
            ARENAS.give_back(arena)
        results = passed[len(self._inputs) :]
        if self._plainly:
            return results
        sources: dict[str, Sequence[Any]] = {"result": results, "argument": arguments, "constant": self._numbers}
        return [sources[kind][at] for kind, at in self._outputs]

    def __str__(self) -> str:
        program, memory = self.program, self.program.numbers * 4 / 1024
        lines = [f"{len(program.steps)} steps on {counted(self.threads)}, {memory:,.0f} KiB of memory"]
        for step in program.steps:
            if isinstance(step, Foreign):
                lines.append(f"  PyTorch: {step.name}")
                continue
            shared = f"{step.items} shares on {counted(min(step.threads, self.threads))}"
            lines.append(f"  {step.kernel.name}, {shared}: {step.name}")
        return "\n".join(lines)


def counted(threads: int) -> str:
    return f"{threads} thread" + "s" * (threads > 1)
