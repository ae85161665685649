"""Replaces a code object of Dynamo's that only calls its graph by a direct call of the graph.

Such code looks up the graph's arguments, calls the graph, and builds the model's return value from the results. Looking
up the 262 tensors of MobileNetV2 takes longer than checking that they are the same as before. So the code is run once
with a recorder in place of the graph, which shows which argument is which tensor of the model or of the call, and how
the return value is built from the results.
"""

from __future__ import annotations

import dis
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import CodeType, FunctionType
from typing import Any, Final

from torch import Tensor

#: Instructions without side effects beyond the code's own variables, and instructions that call.
_QUIET: Final = frozenset(
    ("RESUME", "CACHE", "NOP", "EXTENDED_ARG", "COPY_FREE_VARS", "PRECALL", "COPY", "SWAP", "POP_TOP")
    + ("LOAD_GLOBAL", "LOAD_DEREF", "LOAD_FAST", "LOAD_FAST_CHECK", "LOAD_CONST", "LOAD_ATTR", "BINARY_SUBSCR")
    + ("STORE_FAST", "DELETE_FAST", "LOAD_FAST_LOAD_FAST", "STORE_FAST_LOAD_FAST", "STORE_FAST_STORE_FAST")
    + ("BUILD_LIST", "BUILD_TUPLE", "BUILD_MAP", "BUILD_CONST_KEY_MAP", "LIST_EXTEND", "UNPACK_SEQUENCE")
    + ("RETURN_VALUE", "RETURN_CONST")
)
#: The name of the global through which Dynamo's code calls Dynamo's own functions.
_UTILITIES: Final = "__import_torch_dot__dynamo_dot_utils"
_CALLS: Final = frozenset(("CALL", "CALL_FUNCTION_EX", "CALL_KW"))


@dataclass(frozen=True)
class _Result:
    """A placeholder for one of the graph's results."""

    at: int


@dataclass(frozen=True)
class _Given:
    """A placeholder for one of the call's tensors."""

    at: int


class Straight:
    """A direct call of a graph, for arguments of one kind.

    Args:
        graph: the graph, which Dynamo may free.
        passed: its arguments, with :class:`_Given` in place of the call's tensors.
        made: the return value, with :class:`_Result` in place of the graph's results.
    """

    def __init__(self, graph: Any, passed: Sequence[Any], made: Any) -> None:
        self._graph = weakref.ref(graph)
        self._passed = list(passed)
        self._places = [(place, each.at) for place, each in enumerate(passed) if isinstance(each, _Given)]
        self._made = made
        self._only = made.at if isinstance(made, _Result) else None

    def __call__(self, given: Sequence[Tensor]) -> Any:
        """The model's return value for a call with these tensors."""
        graph, passed = self._graph(), self._passed.copy()
        assert graph is not None
        for place, at in self._places:
            passed[place] = given[at]
        results = graph(*passed)
        return results[self._only] if self._only is not None else _filled(self._made, results, given)


def straightened(
    code: CodeType,
    call: FunctionType,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    given: Sequence[Tensor],
    owned: Iterable[Tensor],
) -> Straight | None:
    """The direct call that a code object amounts to, or None if it does anything else.

    Args:
        code: the code object; its graph is among the globals of ``call``, the function that it was compiled from.
        args, kwargs: arguments of a call.
        given: the tensors among them.
        owned: tensors that are the same at every call.
    """
    from striate.acceleration.backend import Compiled

    instructions = list(dis.get_instructions(code))
    names = [instruction.opname for instruction in instructions]
    (name,) = (each for each in code.co_names if each.startswith("__compiled_fn"))
    asked = {instruction.argval for instruction in instructions if instruction.opname == "LOAD_GLOBAL"}
    # Calling anything else would need other instructions, or another global.
    if not _QUIET.union(_CALLS).issuperset(names) or not asked <= {name, _UTILITIES}:
        return None
    graph = getattr(call.__globals__[name], "_torchdynamo_orig_callable", None)
    if not isinstance(graph, Compiled):
        return None
    passed: list[Any] = []
    places = {id(each): at for at, each in enumerate(given)}
    same = set(map(id, owned))

    def noting(*arguments: Any) -> list[_Result]:
        passed.extend(_Given(places[id(each)]) if id(each) in places else each for each in arguments)
        return [_Result(at) for at in range(graph.outputs)]

    sizes = _Sizes()
    instead = {name: noting, _UTILITIES: sizes}
    try:
        run = FunctionType(code, call.__globals__ | instead, None, None, call.__closure__)
        made = _noted(run(*args, **kwargs), places)
    except AttributeError:
        return None  # it uses other functions of Dynamo's
    # There are no jumps, so each call instruction ran once: the graph's, and those for sizes.
    calls = sum(name in _CALLS for name in names)
    known = all(id(each) in same if isinstance(each, Tensor) else isinstance(each, (_Given, int)) for each in passed)
    return Straight(graph, passed, made) if known and calls == 1 + sizes.calls and made is not _OTHER else None


class _Sizes:
    """A stand-in for Dynamo's functions that return sizes and strides, which are the same for arguments of one kind."""

    def __init__(self) -> None:
        self.calls = 0

    def call_size(self, tensor: Tensor, axis: int) -> int:
        self.calls += 1
        return tensor.size(axis)

    def call_stride(self, tensor: Tensor, axis: int) -> int:
        self.calls += 1
        return tensor.stride(axis)


_OTHER: Final = object()


def _noted(made: Any, places: dict[int, int]) -> Any:
    """The value that the code built, with placeholders for the call's tensors; ``_OTHER`` for unsupported values."""
    if isinstance(made, Tensor):
        return _Given(places[id(made)]) if id(made) in places else _OTHER
    if made is None or type(made) in (_Result, bool, int, float, str):
        return made
    if type(made) in (tuple, list):
        items = [_noted(each, places) for each in made]
        return _OTHER if any(each is _OTHER for each in items) else type(made)(items)
    if type(made) is dict:
        pairs = {key: _noted(each, places) for key, each in made.items()}
        return _OTHER if any(each is _OTHER for each in pairs.values()) else pairs
    return _OTHER


def _filled(made: Any, results: Sequence[Any], given: Sequence[Tensor]) -> Any:
    kind = type(made)
    if kind is _Result:
        return results[made.at]
    if kind is _Given:
        return given[made.at]
    if kind in (tuple, list):
        return kind(_filled(each, results, given) for each in made)
    if kind is dict:
        return {key: _filled(each, results, given) for key, each in made.items()}
    return made
