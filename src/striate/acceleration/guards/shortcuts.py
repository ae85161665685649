"""Skips Dynamo's guards for calls of an accelerated model while nothing that the guards read has changed."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from types import CodeType, FunctionType
from typing import Any, Final

import torch
from torch import Tensor
from torch._C._dynamo.eval_frame import _debug_get_cache_entry_list, get_eval_frame_callback
from torch._guards import Guard

from striate.acceleration.guards.methods import Methods
from striate.acceleration.guards.straight import Straight, straightened
from striate.acceleration.guards.unchanged import Read, Unchanged, UnwatchableError, described, reads

#: The number of guarded calls before the state is watched, at first and at most; it doubles if a shortcut is dropped
#: early.
_FIRST, _LAST = 4, 4096
_NEVER: Final = 1 << 62
#: The number of calls after which dropping a shortcut isn't early.
_WORTH: Final = 256
#: The most kinds of arguments that are stored.
_KEPT: Final = 256


@dataclass(slots=True, eq=False)
class _Shortcut:
    """A code object of Dynamo's and the state that its guards read; ``torch.compiler.reset()`` frees both."""

    unchanged: Unchanged
    code: weakref.ref[CodeType]
    calls: int = 0


class Shortcuts:
    """The shortcuts of one model.

    Args:
        module: the model.
        call: the function that Dynamo captures; its arguments are the model's, and its closure refers to the model.
    """

    def __init__(self, module: torch.nn.Module, call: FunctionType) -> None:
        self._module, self._call = module, call
        #: Shortcuts by the description of a call's arguments, with the graph's call if Dynamo's code does nothing else.
        self._known: dict[tuple[Any, ...], tuple[_Shortcut, Straight | None]] = {}
        #: For each code object of Dynamo's, what its guards read; None if that can't be watched or isn't known.
        self._read: weakref.WeakKeyDictionary[CodeType, list[Read] | None] = weakref.WeakKeyDictionary()
        #: What the guards read that Dynamo has created in the current call.
        self._made: list[list[Read]] = []
        self._wait = self._next = _FIRST
        _listening()[call.__code__] = self
        #: The reason why the state of the last code object can't be watched.
        self.refusal = ""

    def find(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[[], Any] | None:
        """A function that returns the call's result, or None if the guards have to be evaluated."""
        if not self._known or get_eval_frame_callback() is not None:
            return None
        tensors: list[Tensor] = []
        found = self._known.get(described(args, kwargs, tensors) or ())
        if found is None:
            return None
        shortcut, straight = found
        code = shortcut.code()
        if code is None or not _distinct(tensors) or not shortcut.unchanged.same(tensors):
            self._drop(shortcut)
            return None
        shortcut.calls += 1
        if straight is not None:
            return partial(straight, tensors)
        run = FunctionType(code, self._call.__globals__, None, None, self._call.__closure__)
        return partial(run, *args, **kwargs)

    def _drop(self, shortcut: _Shortcut) -> None:
        self._known = {key: each for key, each in self._known.items() if each[0] is not shortcut}
        self._next = _FIRST if shortcut.calls >= _WORTH else min(2 * self._next, _LAST)
        self._wait = self._next

    def met(self, guards: Iterable[Guard]) -> None:
        """Records the guards that Dynamo has just created in the current call."""
        self._made.append(reads(guards))

    def _associate(self) -> None:
        """Assigns the guards created in the last call to Dynamo's code object for them."""
        made, self._made = self._made, []
        new = [entry.code for entry in self._entries() if entry.code not in self._read]
        for code in new:
            self._read[code] = made[0] if len(new) == len(made) == 1 and _is_whole(code) else None

    def passed(self, args: tuple[Any, ...], kwargs: dict[str, Any], methods: Methods) -> None:
        """Counts a guarded call, and after enough of them watches the state that the guards read."""
        try:
            self._learn(args, kwargs, methods)
        except Exception as error:
            # Shortcuts are optional, so an error here must not make a call fail that succeeded.
            self._wait, self.refusal = _NEVER, f"{type(error).__name__}: {error}"
            told = f"striate: guards are evaluated at every call, by a mistake of its own: {self.refusal}"
            warnings.warn(told, stacklevel=2)

    def _learn(self, args: tuple[Any, ...], kwargs: dict[str, Any], methods: Methods) -> None:
        if self._made:
            self._associate()
            return
        self._wait -= 1
        if self._wait > 0:
            return
        self._associate()
        tensors: list[Tensor] = []
        key = described(args, kwargs, tensors)
        if key is None or not _distinct(tensors) or get_eval_frame_callback() is not None:
            self._wait = self._next
            return
        scope = {"args": args, "kwargs": kwargs, "module": self._module}
        entry = next((each for each in self._entries() if each.guard_manager.check(scope)), None)
        read = None if entry is None else self._read.get(entry.code)
        if entry is None or read is None:
            self._wait = self._next
            return
        code = entry.code
        try:
            made = self._shortcut(code, read, methods)
        except (UnwatchableError, AttributeError, LookupError, TypeError, ValueError) as reason:
            # Objects may be of any kind; if their state can't be watched, the guards are used.
            self._read[code], self.refusal = None, str(reason)
            return
        # The guards passed before the state was looked up, and pass again afterwards, and the state is unchanged.
        if entry.guard_manager.check(scope) and methods.same() and made.unchanged.same(tensors):
            if len(self._known) >= _KEPT:
                self._known = {}
            straight = straightened(code, self._call, args, kwargs, tensors, made.unchanged.tensors)
            self._known[key] = made, straight

    def _entries(self) -> Sequence[Any]:
        # Entries that Dynamo has invalidated, because a guarded object is gone, have no code.
        return [entry for entry in _debug_get_cache_entry_list(self._call.__code__) if entry.code is not None]

    def _shortcut(self, code: CodeType, read: list[Read], methods: Methods) -> _Shortcut:
        for each, _ in self._known.values():
            if each.code() is code and each.unchanged.same(()):
                return each
        if len(code.co_freevars) != len(self._call.__closure__ or ()):
            raise UnwatchableError("a closure of another form")
        names = {"module": self._module}
        unchanged = Unchanged(read, names, self._call.__globals__, methods.dicts, methods.kinds)
        return _Shortcut(unchanged, weakref.ref(code))


@cache
def _listening() -> weakref.WeakValueDictionary[CodeType, Shortcuts]:
    """The shortcuts that are notified of Dynamo's guards, by code object; the first call installs a hook.

    Dynamo drops its guard objects once it has compiled them to native code. Before that it passes them to a hook, which
    its own tests use. (``guard_filter_fn`` gets them as well, but makes Dynamo build the guards twice.)
    """
    from torch._dynamo import guards

    listening: weakref.WeakValueDictionary[CodeType, Shortcuts] = weakref.WeakValueDictionary()
    before = getattr(guards, "guard_manager_testing_hook_fn", None)

    def hook(manager: Any, scope: Any, builder: Any) -> None:
        if before is not None:
            before(manager, scope, builder)
        shortcuts = listening.get(builder.f_code)
        if shortcuts is not None:
            shortcuts.met(builder.check_fn_manager.output_graph.guards)

    guards.guard_manager_testing_hook_fn = hook
    return listening


def _is_whole(code: CodeType) -> bool:
    """Whether a code object of Dynamo's calls one graph, and no code that Dynamo has to guard again.

    Code that was captured in several pieces continues in frames that have guards of their own.
    """
    graphs = sum(name.startswith("__compiled_fn") for name in code.co_names)
    return graphs == 1 and not any(name.startswith("__resume") for name in code.co_names)


def _distinct(tensors: list[Tensor]) -> bool:
    return len(tensors) < 2 or len(set(map(id, tensors))) == len(tensors)
