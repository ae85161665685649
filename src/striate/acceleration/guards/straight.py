"""Code of Dynamo's that does nothing but call its graph, remembered as that call.

Such code looks up the graph's arguments, calls the graph and makes what the model gives back of the results. Looking up
the 262 tensors of MobileNetV2 takes longer than to find that they are the same as at the call before. So which argument
is which tensor, of the model or of the call, is found once, by running the code with something in place of the graph
that takes notes, and what is made of the results likewise.
"""

from __future__ import annotations

import dis
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import CodeType, FunctionType
from typing import Any, Final

from torch import Tensor

#: Instructions that change nothing but the code's own variables; and those that call.
_QUIET: Final = frozenset(
    ("RESUME", "CACHE", "NOP", "EXTENDED_ARG", "COPY_FREE_VARS", "PRECALL", "COPY", "SWAP", "POP_TOP")
    + ("LOAD_GLOBAL", "LOAD_DEREF", "LOAD_FAST", "LOAD_FAST_CHECK", "LOAD_CONST", "LOAD_ATTR", "BINARY_SUBSCR")
    + ("STORE_FAST", "DELETE_FAST", "LOAD_FAST_LOAD_FAST", "STORE_FAST_LOAD_FAST", "STORE_FAST_STORE_FAST")
    + ("BUILD_LIST", "BUILD_TUPLE", "BUILD_MAP", "BUILD_CONST_KEY_MAP", "LIST_EXTEND", "UNPACK_SEQUENCE")
    + ("RETURN_VALUE", "RETURN_CONST")
)
#: The global under which code of Dynamo's finds Dynamo's own functions.
_UTILITIES: Final = "__import_torch_dot__dynamo_dot_utils"
_CALLS: Final = frozenset(("CALL", "CALL_FUNCTION_EX", "CALL_KW"))


@dataclass(frozen=True)
class _Result:
    """In place of one of the graph's results."""

    at: int


@dataclass(frozen=True)
class _Given:
    """In place of one of the call's tensors."""

    at: int


class Straight:
    """The call of a graph, for arguments of a kind.

    Args:
        graph: the graph, which goes when Dynamo forgets it.
        passed: its arguments, in which the call's tensors have a :class:`_Given` in their place.
        made: what is given back, in which results have a :class:`_Result` in their place.
    """

    def __init__(self, graph: Any, passed: Sequence[Any], made: Any) -> None:
        self._graph = weakref.ref(graph)
        self._passed = list(passed)
        self._places = [(place, each.at) for place, each in enumerate(passed) if isinstance(each, _Given)]
        self._made = made
        self._only = made.at if isinstance(made, _Result) else None

    def __call__(self, given: Sequence[Tensor]) -> Any:
        """What the model gives back, of a call with these tensors."""
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
    """What some code does, if that is nothing but to call its graph; else None.

    Args:
        code: the code, whose one graph is among the globals of ``call``, the function that it stands for.
        args, kwargs: arguments of a call.
        given: the tensors among them.
        owned: tensors that are the same at every call.
    """
    from striate.acceleration.backend import Compiled

    instructions = list(dis.get_instructions(code))
    names = [instruction.opname for instruction in instructions]
    (name,) = (each for each in code.co_names if each.startswith("__compiled_fn"))
    asked = {instruction.argval for instruction in instructions if instruction.opname == "LOAD_GLOBAL"}
    # Whatever else is called would have to be pushed by other instructions, or be another global.
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
        return None  # it asks Dynamo for something else
    # There are no jumps, so each call was made once: the graph's, and those for sizes.
    calls = sum(name in _CALLS for name in names)
    known = all(id(each) in same if isinstance(each, Tensor) else isinstance(each, (_Given, int)) for each in passed)
    return Straight(graph, passed, made) if known and calls == 1 + sizes.calls and made is not _OTHER else None


class _Sizes:
    """In place of Dynamo's functions: those for sizes and strides, which are the same for arguments of a kind."""

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
    """What the code made, with what stands for the call's tensors; ``_OTHER`` if it is of another kind."""
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
