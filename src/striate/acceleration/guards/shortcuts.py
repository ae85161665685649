"""Calls of an accelerated model that need not ask Dynamo's guards, since nothing that they read has changed."""

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

#: Guarded calls before the state that guards read is watched. The count doubles whenever a shortcut is dropped early.
_FIRST, _LAST = 4, 4096
_NEVER: Final = 1 << 62
#: A shortcut that has served so many calls isn't dropped early.
_WORTH: Final = 256
#: Kinds of arguments that are remembered.
_KEPT: Final = 256


@dataclass(slots=True, eq=False)
class _Shortcut:
    """A code of Dynamo's and what its guards read. Dynamo forgets codes (``torch.compiler.reset()``), and they go."""

    unchanged: Unchanged
    code: weakref.ref[CodeType]
    calls: int = 0


class Shortcuts:
    """Those of one model.

    Args:
        module: the model.
        call: the function that Dynamo captures, whose arguments are the model's, and whose closure is the model.
    """

    def __init__(self, module: torch.nn.Module, call: FunctionType) -> None:
        self._module, self._call = module, call
        #: By what is told of a call's arguments; and the graph's call, where Dynamo's code does nothing but that.
        self._known: dict[tuple[Any, ...], tuple[_Shortcut, Straight | None]] = {}
        #: What the guards of each code read that Dynamo has made; None where that can't be watched, or isn't known.
        self._read: weakref.WeakKeyDictionary[CodeType, list[Read] | None] = weakref.WeakKeyDictionary()
        #: What the guards read that were made in the call that is under way.
        self._made: list[list[Read]] = []
        self._wait = self._next = _FIRST
        _listening()[call.__code__] = self
        #: Why the state of the last code can't be watched.
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
        """Takes the guards that Dynamo has just made, in the current call."""
        self._made.append(reads(guards))

    def _associate(self) -> None:
        """Assigns the guards made in the last call to the code that Dynamo made for them."""
        made, self._made = self._made, []
        new = [entry.code for entry in self._entries() if entry.code not in self._read]
        for code in new:
            self._read[code] = made[0] if len(new) == len(made) == 1 and _is_whole(code) else None

    def passed(self, args: tuple[Any, ...], kwargs: dict[str, Any], methods: Methods) -> None:
        """Counts a guarded call, and after enough of them watches the state that the guards read."""
        try:
            self._learn(args, kwargs, methods)
        except Exception as error:
            # A shortcut is something to gain; that learning fails must not make a call fail that went well.
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
            # Objects may be of any kind; what they make impossible here the guards do.
            self._read[code], self.refusal = None, str(reason)
            return
        # The guards have passed before what they read was looked up, and pass afterwards, with nothing changed since.
        if entry.guard_manager.check(scope) and methods.same() and made.unchanged.same(tensors):
            if len(self._known) >= _KEPT:
                self._known = {}
            straight = straightened(code, self._call, args, kwargs, tensors, made.unchanged.tensors)
            self._known[key] = made, straight

    def _entries(self) -> Sequence[Any]:
        # Entries that Dynamo has given up, since something that they were guarded by is gone, have no code.
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
    """Whom Dynamo's guards for some code are told to, from now on.

    Dynamo forgets its guards as such once it has made native code of them. It shows them once, to a hook that its own
    tests use. (``guard_filter_fn``, which sees them too, has them made twice.)
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
    """Whether some code of Dynamo's calls one graph, and nothing that Dynamo has to look at again.

    What was captured in pieces goes on in frames that have guards of their own.
    """
    graphs = sum(name.startswith("__compiled_fn") for name in code.co_names)
    return graphs == 1 and not any(name.startswith("__resume") for name in code.co_names)


def _distinct(tensors: list[Tensor]) -> bool:
    return len(tensors) < 2 or len(set(map(id, tensors))) == len(tensors)
