"""Inference of a whole model by a plan: its kernels in a row, walked by one native call.

A call goes by a plan if

- gradients are off, every module is in eval mode, and there is one argument, a float32 tensor on the CPU;
- nobody looks on: no hooks, no compiler, tracer, exporter, transform or mode of PyTorch's, no autocast;
- the engine may choose and measure (no backend but its own is fixed, no ``STRIATE_TUNE=0``, no run that is to be
  repeated number by number), and has found the plan to be faster than the call;
- the model is what it was when the plan was made: the same modules with the same attributes and the same tensors.

Else it goes the ordinary way, and so does a call that comes while another thread walks the plan.

A plan is made when an input of some shape and strides comes for the second time, so that images of every size don't
compile for ever; that call takes as long as some five others, since plan and ordinary way are timed, and a fifth of a
second more where one thread and several are (see company.py). A plan keeps the memory of its maps, and isn't made where
that is more than 512 MiB.

Weights are packed, and batch normalisation is folded into them, when it is made, and again when a version counter or an
address of the model's tensors has changed, or an optimiser has made a step. Other writes past autograd (through
``.data``, NumPy or the storage) change none of these; they are seen after the next call in training mode or with
gradients on. What a ``forward`` reads beside its module's attributes (a global variable, what
a list in them holds) is taken to stay as it was when the plan was made.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from operator import attrgetter, is_, itemgetter
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn.modules import module as torchs_modules
from torch.optim.optimizer import register_optimizer_step_post_hook

from striate.acceleration.capture import Graph, Refusal, captured
from striate.acceleration.company import Company
from striate.acceleration.forward import Blocks, blocked
from striate.acceleration.lowering import Lowered, lowered
from striate.acceleration.watched import Watched
from striate.engine import fresh, traced, tuning
from striate.engine.backends import fixed
from striate.engine.llvm import launch
from striate.engine.llvm.isa import host
from striate.engine.llvm.program import Program
from striate.errors import OperandError

#: Shapes that a model knows plans for, or refusals.
_KEPT: Final = 8
#: How often a plan is made again because the model was no longer what it was.
_AGAIN: Final = 4
#: Seconds that one thread and several are timed for: the scheduler lets single runs wait.
_LONGER: Final = 0.1
#: Seconds of a first walk up to which one thread is tried as well.
_ALONE: Final = 0.02
#: Bytes that a plan's maps may take, which it keeps between calls.
_MEMORY: Final = 1 << 29


def planned(module: torch.nn.Module, plans: Plans, blocks: Blocks | None, *args: Any, **kwargs: Any) -> Any:
    """A model's ``forward``: by a plan where there is one, else as before."""
    if not torch.compiler.is_compiling() and len(args) == 1 and not kwargs:
        result = plans.result(module, blocks, args[0])
        if result is not None:
            return result
    return _ordinary(module, blocks, *args, **kwargs)


def _ordinary(module: torch.nn.Module, blocks: Blocks | None, *args: Any, **kwargs: Any) -> Any:
    return type(module).forward(module, *args, **kwargs) if blocks is None else blocked(module, blocks, *args, **kwargs)


@dataclass
class _Entry:
    """What is known of inputs of one shape and strides."""

    calls: int = 0
    plan: Plan | None = None
    refusal: str = ""
    made: int = 0


class Plans:
    """A model's plans by the shape and strides of their input. A copy of the model starts with none."""

    def __init__(self) -> None:
        self._entries: OrderedDict[tuple[Any, ...], _Entry] = OrderedDict()
        self._making = threading.Lock()
        #: Counts calls after which the model's numbers may have changed unseen.
        self.doubts = 0

    def __reduce__(self) -> tuple[type[Plans], tuple[()]]:
        return Plans, ()

    def result(self, module: torch.nn.Module, blocks: Blocks | None, input: Any) -> Tensor | None:
        """By the plan, or None where the ordinary way is to be gone."""
        if torch.is_grad_enabled() or module.training:
            self.doubts += 1
            return None
        if _why_not(input):
            return None
        key = _key(input)
        entry = self._entries.get(key)
        plan = None if entry is None else entry.plan
        if entry is not None and plan is not None:
            result = plan(input, self.doubts)
            if result is not None or not plan.gone:
                if len(self._entries) > 1:
                    with contextlib.suppress(KeyError):  # another thread may have dropped it meanwhile
                        self._entries.move_to_end(key)
                return result
            entry.plan, entry.calls = None, 0
            if entry.made >= _AGAIN:
                entry.refusal = "the model changes between calls"
        # Whoever comes while a plan is made goes the ordinary way; so do the calls that are timed.
        if not self._making.acquire(blocking=False):
            return None
        try:
            self._meet(key, module, blocks, input)
        finally:
            self._making.release()
        return None

    def known(self, input: Tensor) -> _Entry | None:
        return self._entries.get(_key(input))

    def _meet(self, key: tuple[Any, ...], module: torch.nn.Module, blocks: Blocks | None, input: Tensor) -> None:
        entry = self._entries.setdefault(key, _Entry())
        self._entries.move_to_end(key)
        if len(self._entries) > _KEPT:
            # Sizes that came once go first.
            without = (key for key, each in self._entries.items() if each.plan is None and each is not entry)
            del self._entries[next(without, next(iter(self._entries)))]
        entry.calls += 1
        if entry.calls < 2 or entry.refusal:
            return
        snapshot = Snapshot(module)
        if snapshot.busy():
            return
        entry.made += 1
        try:
            entry.plan = self._fastest(module, blocks, input, snapshot)
        except Refusal as refusal:
            entry.refusal = str(refusal)
        except Exception as error:
            # A plan is something to gain; that making one fails must not make a call fail that would have gone well.
            entry.refusal = f"{type(error).__name__} while it was made: {error}"
            warnings.warn(
                f"striate: no plan for {type(module).__name__}, by a mistake of its own: {entry.refusal}", stacklevel=2
            )

    def _fastest(self, module: torch.nn.Module, blocks: Blocks | None, input: Tensor, snapshot: Snapshot) -> Plan:
        """The plan, on as many threads as it is fastest on."""
        # First of all, since a model that does more than compute may not be called for timing.
        graph = captured(module, lambda x: _ordinary(module, blocks, x), input)
        # Tensors without numbers don't always lie as PyTorch's results do.
        graph.output.stride = _ordinary(module, blocks, input).stride()
        plan = Plan(snapshot, graph, launch.threads(), self.doubts)
        many = plan.program.threads
        if many > 1:
            start = time.perf_counter()
            plan(input, self.doubts)
            plan.company = Company() if time.perf_counter() - start < _ALONE else None
        counts = (many, 1) if plan.company else (many,)
        runs: dict[str, Callable[[], object]]
        runs = {_counted(count): partial(plan, input, self.doubts, many > count == 1) for count in counts}
        times = tuning.interleaved({"": lambda: _ordinary(module, blocks, input)} | runs)
        if plan.company:
            if min(times, key=times.__getitem__):
                times |= tuning.interleaved(runs, _LONGER)
            plan.company.settle(*(times[name] for name in runs))
        if not tuning.fastest(times, ["", _counted(plan.threads)]):
            told = ", ".join(f"{times[name] * 1e6:,.0f} us on {name}" for name in runs)
            raise Refusal(f"the plan isn't faster: {told}, the ordinary call {times[''] * 1e6:,.0f} us")
        return plan


def _key(input: Tensor) -> tuple[Any, ...]:
    return input.shape, input.stride(), torch.get_num_threads()


def _why_not(input: Any) -> str:
    """Why no plan may be taken now, whatever the model; empty if one may."""
    if type(input) is not Tensor:
        return "its input is no plain tensor"
    if traced(input) or torch._C._are_functorch_transforms_active() or torch._C._len_torch_function_stack():
        return "somebody looks on: a compiler, a tracer, a transform or a mode"
    if input.dtype is not torch.float32 or not input.is_cpu or input.is_neg():
        return "its input holds no float32 numbers on the CPU"
    if torch.is_autocast_enabled("cpu"):
        return "autocast is on"
    if fixed() not in (None, "llvm"):
        return f"the backend is fixed to {fixed()}"
    if not tuning.measuring():
        return "nothing may be measured now"
    return "" if host() is not None else "there are no kernels for this machine"


class Snapshot:
    """All that a model's way from input to result hangs on: modules, their classes, attributes and tensors.

    It is looked at before every call: natively where all is the same to the object, else by what is equal.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self.modules = list(model.modules())
        self._kinds = list(map(type, self.modules))
        attributes = [vars(module) for module in self.modules]
        own = [[name for name in each if name not in _EVERYBODYS] for each in attributes]
        self._readers = [(itemgetter(*_STATE, *names), each) for names, each in zip(own, attributes, strict=True)]
        self._attributes = self._read()
        self._counts = list(map(len, attributes))
        self._dicts = attributes
        tables = [each[name] for each in attributes for name in ("_parameters", "_buffers")]
        children = [each["_modules"] for each in attributes]
        self._tables = [table for table in tables + children if table]
        self._inside = _values(self._tables)
        self._empty = [table for table in tables + children if not table]
        self._hooks = [each[name] for each in attributes for name in _HOOKS]
        self._hooks += [getattr(torchs_modules, name) for name in _GLOBAL_HOOKS]
        # Attributes and methods of classes that somebody else has written, which may change them.
        foreign = {kind for each in self._kinds for kind in each.__mro__ if not kind.__module__.startswith(_OURS)}
        self._classes = sorted(foreign, key=id)
        self._methods = _methods(self._classes)
        self._watched, self._watches = self._watch(), 0

    def _watch(self) -> Watched | None:
        isa = host()
        if isa is None:
            return None
        near = [(id(each), type(each).__basicsize__) for each in (*self.modules, *self.tensors())]
        near += [part for tensor in self.tensors() for part in _memory(tensor)]
        return Watched([*self._dicts, *self._tables, *self._empty, *self._hooks], isa, near)

    def _read(self) -> list[Any]:
        return [read(attributes) for read, attributes in self._readers]

    def untouched(self) -> bool:
        """Whether nothing has changed, hooks included; if it may have, ask the others."""
        same = self._watched is not None and self._watched.unchanged()
        return same and list(map(type, self.modules)) == self._kinds and self._unpatched()

    def _unpatched(self) -> bool:
        now = _methods(self._classes)
        return len(now) == len(self._methods) and all(map(is_, now, self._methods))

    def holds(self) -> bool:
        """Whether nothing has changed that isn't equal to what it was."""
        if any(self._empty) or list(map(type, self.modules)) != self._kinds:
            return False
        if not self._unpatched():
            return False
        inside = _values(self._tables)
        if len(inside) != len(self._inside) or not all(map(is_, inside, self._inside)):
            return False
        try:
            # Lists compare by identity first; what has no answer to == has changed.
            same = self._read() == self._attributes
        except Exception:
            return False
        holds = same and list(map(len, self._dicts)) == self._counts
        if holds and self._watches < _AGAIN:
            self._watches += 1
            self._watched = self._watch()  # equal, but other objects
        return holds

    def tensors(self) -> list[Tensor]:
        """The model's parameters and buffers."""
        return [each for each in self._inside if isinstance(each, Tensor)]

    def hooked(self) -> bool:
        return any(self._hooks)

    def busy(self) -> bool:
        """Whether there are hooks, or modules in training mode: the ordinary way is to be gone until they aren't."""
        return self.hooked() or any(map(_training, self.modules))


def _memory(tensor: Tensor) -> Iterator[tuple[int, int]]:
    """Where PyTorch keeps what it is asked about a tensor: addresses, and about as many bytes."""
    yield tensor._cdata, 192
    if torch._C._has_storage(tensor):
        yield tensor.untyped_storage()._cdata, 64


def _values(tables: list[dict[str, Any]]) -> list[Any]:
    return list(itertools.chain.from_iterable(map(dict.values, tables)))


def _methods(kinds: list[type]) -> list[Any]:
    return list(itertools.chain.from_iterable(vars(kind).values() for kind in kinds))


class _Updates:
    """Counts steps of optimisers, since fused ones change weights without their version."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, *_: Any) -> None:
        self.count += 1


@cache
def _updates() -> _Updates:
    made = _Updates()
    register_optimizer_step_post_hook(made)
    return made


_training = attrgetter("training")
_version = attrgetter("_version")
#: What every module has: tables, of which what they hold is looked at by itself, and the mode.
_STATE: Final = ("_parameters", "_buffers", "_modules", "training")
_HOOKS: Final = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
_GLOBAL_HOOKS: Final = tuple(f"_global{hooks}" for hooks in _HOOKS)
#: Where classes come from whose methods nobody changes.
_OURS: Final = ("torch.", "striate.", "builtins")
#: Versions and addresses of tensors, and how many steps optimisers have made.
_Marks = tuple[list[int], list[int], int]
_EVERYBODYS: Final = frozenset(vars(torch.nn.Module()))


class Plan:
    """A program for inputs of one shape and strides, on at most so many threads."""

    def __init__(self, snapshot: Snapshot, graph: Graph, threads: int, doubts: int) -> None:
        # All of the model's: statistics of batches change without a version, but not without their number of batches.
        self._snapshot, self._tensors, self._doubts = snapshot, snapshot.tensors(), doubts
        if any(tensor.is_inference() for tensor in self._tensors):
            raise Refusal("it has tensors made in inference mode, which count no versions")
        self._kept = [(tensor.dtype, tensor.shape, tensor.stride()) for tensor in self._tensors]
        isa = host()
        assert isa is not None
        with torch.inference_mode(False), torch.no_grad():
            # Aliases keep the memory, so that no other tensor gets its address.
            self._aliases = [tensor.detach() for tensor in self._tensors]
            made: Lowered = lowered(graph, threads)
            self.program = Program(made.steps, made.source, made.result, isa, threads)
        if 4 * self.program.numbers > _MEMORY:
            raise Refusal(f"it would keep {4 * self.program.numbers >> 20:,} MiB of memory between calls")
        self._lowered = made
        self._updates = _updates()
        self._marks = self._now()
        self._lock = threading.Lock()
        #: Whether the model is another one now, for good.
        self.gone = False
        #: Who walks the program, where that is open.
        self.company: Company | None = None

    @property
    def threads(self) -> int:
        """How many threads walk it now."""
        return 1 if self.company is not None and self.company.alone else self.program.threads

    def _now(self) -> _Marks:
        return list(map(_version, self._tensors)), list(map(Tensor.data_ptr, self._tensors)), self._updates.count

    def __call__(self, input: Tensor, doubts: int, alone: bool | None = None) -> Tensor | None:
        """The model's result, or None if another thread is here or the model isn't what it was.

        ``alone`` says whether one thread walks it; else its company does.
        """
        if not self._lock.acquire(blocking=False):
            return None
        try:
            if not self._snapshot.untouched():
                if self._snapshot.hooked():
                    return None
                if not self._snapshot.holds():
                    # The mode is an attribute too, and comes back.
                    self.gone = not self._snapshot.busy()
                    return None
            marks = self._now()
            if (marks != self._marks or doubts != self._doubts) and not self._pack(marks, doubts):
                return None
            result = fresh.empty_strided(self._lowered.shape, self._lowered.stride)
            if alone is not None or self.company is None:
                self.program(input.data_ptr(), result.data_ptr(), bool(alone))
                return result
            alone, start = self.company.turn(), time.perf_counter()
            self.program(input.data_ptr(), result.data_ptr(), alone)
            self.company.took(alone, time.perf_counter() - start)
            return result
        finally:
            self._lock.release()

    def _pack(self, marks: _Marks, doubts: int) -> bool:
        kept = [(tensor.dtype, tensor.shape, tensor.stride()) for tensor in self._tensors]
        self.gone = kept != self._kept or any(not tensor.is_cpu for tensor in self._tensors)
        if self.gone:
            return False
        self._aliases = [tensor.detach() for tensor in self._tensors]
        self._lowered.repack()
        self._marks, self._doubts = marks, doubts
        return True

    def __str__(self) -> str:
        program, memory = self.program, self.program.numbers * 4 / 1024
        lines = [f"{len(program.steps)} steps on {_counted(self.threads)}, {memory:,.0f} KiB of memory"]
        for step in program.steps:
            shared = f"{step.items} shares on {_counted(min(step.threads, self.threads))}"
            lines.append(f"  {step.kernel.name}, {shared}: {step.name}")
        return "\n".join(lines)


def _counted(threads: int) -> str:
    return f"{threads} thread" + "s" * (threads > 1)


def plan_of(model: torch.nn.Module, input: Tensor) -> str:
    """The plan by which a model's inference on inputs like this one goes, step by step; or why there is none.

    Each line names a kernel, the threads among which how many shares of work are divided, and what is computed.

    Raises:
        OperandError: the model isn't accelerated.

    >>> import striate
    >>> model = torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3), torch.nn.Softmax(1)).eval()
    >>> print(plan_of(striate.accelerate(model, quiet=True), torch.randn(1, 1, 6, 6)))
    no plan: _softmax has no kernel here
    """
    forward = vars(model).get("forward")
    if not is_planned(model):
        raise OperandError("plan_of", "the model isn't accelerated", "needed what striate.accelerate gave back")
    _, plans, blocks = forward.args  # type: ignore[union-attr]
    known = plans.known(input)
    if known is not None and known.plan is not None:
        return str(known.plan)
    if known is not None and known.refusal:
        return f"no plan: {known.refusal}"
    try:
        snapshot = Snapshot(model)
        if snapshot.busy():
            raise Refusal("it has hooks, or a part of it is in training mode")
        with torch.no_grad():
            graph = captured(model, lambda x: _ordinary(model, blocks, x), input)
            made = Plan(snapshot, graph, launch.threads(), 0)
    except Refusal as refusal:
        return f"no plan: {refusal}"
    reason = _why_not(input) or "it is made when such an input comes for the second time"
    return f"not taken yet ({reason}): {made}"


def is_planned(module: torch.nn.Module) -> bool:
    return getattr(vars(module).get("forward"), "func", None) is planned
