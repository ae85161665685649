"""Converts a captured graph of PyTorch's functions to a list of PyTorch's operators, for given sizes.

The graph is run once on tensors with shapes and without numbers (``torch._subclasses.FakeTensorMode``). So code that
depends on numbers, or that leaves PyTorch, stops the capture instead of becoming a constant. A graph that draws random
numbers, or writes to its inputs or to its model's tensors, has effects that a list of operators doesn't describe, and
is refused.

An in-place operator is replaced by its out-of-place form if no other tensor shares the memory. Otherwise, as after
``y[:, :2] += 1``, PyTorch's functionalisation rewrites the graph without in-place operators.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch._subclasses.functional_tensor import FunctionalTensor, FunctionalTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from striate.engine import layout

#: Operators that return their operand unchanged.
_SAME = frozenset({"clone", "contiguous", "alias", "detach", "lift_fresh"})


#: Operators that write running statistics without declaring it in their schema, if the sixth argument is true.
_OF_BATCH = (torch.ops.aten.native_batch_norm, torch.ops.aten._native_batch_norm_legit)


class Refusal(Exception):  # noqa: N818 - an answer, not a mistake
    """The reason why a graph has no plan."""


class Changes(Refusal):
    """A graph writes to a tensor of its own that shares memory with another one."""


@dataclass(eq=False)
class Value:
    """A tensor of the list: an argument of the graph, a constant (``tensor``), or the result of a node."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    tensor: Tensor | None = None
    argument: int | None = None  #: which argument of the graph it is
    fixed: bool = False  #: whether it depends only on the model's own tensors, not on inputs
    users: list[Node] = field(default_factory=list)
    maker: Node | None = None

    @property
    def key(self) -> tuple[Any, ...]:
        """A key of a fixed value, which is the same in all lists that are captured from one graph."""
        if self.argument is not None:
            return ("argument", self.argument)
        if self.maker is None:
            return ("constant", id(self.tensor))
        args = tree_map_only(Value, lambda value: value.key, (self.maker.args, self.maker.kwargs))
        which = next(at for at, result in enumerate(self.maker.results) if result is self)
        # Use a digest, because nested texts would double their quotes at each level.
        return (str(self.maker.function), hashlib.sha256(repr(args).encode()).hexdigest(), which)


@dataclass(eq=False)
class Node:
    """A call of an operator; in ``args`` and ``kwargs``, values stand for tensors."""

    function: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    results: list[Value]

    @property
    def name(self) -> str:
        return str(self.function.overloadpacket).removeprefix("aten.")

    @property
    def is_view(self) -> bool:
        """Whether the result is a view of the operand."""
        of_numbers = len(self.results) == 1 and self.results[0].dtype == torch.float32 and self.name != "as_strided"
        return of_numbers and (self.function.is_view or self.name == "_unsafe_view")

    @property
    def is_same(self) -> bool:
        """Whether the result equals the operand; axes of length 1 may have another stride."""
        if self.name != "as_strided":
            return self.name in _SAME
        # In channels last, pooling to one position is followed by such an ``as_strided``.
        input, shape, stride, *offset = self.args
        steps = zip(shape, stride, input.stride, strict=True) if len(shape) == len(input.shape) else ()
        alike = tuple(shape) == input.shape and all(size == 1 or one == other for size, one, other in steps)
        return alike and not self.kwargs and offset in ([], [None])

    def values(self) -> Iterator[Value]:
        for leaf in tree_leaves((self.args, self.kwargs)):
            if isinstance(leaf, Value):
                yield leaf


@dataclass
class Graph:
    """A list of operators; ``outputs`` has a value for each tensor, and other outputs unchanged.

    An output that is an argument of the graph is a value with an ``argument``.
    """

    nodes: list[Node]
    inputs: list[Value]
    outputs: list[Any]

    @property
    def results(self) -> list[Value]:
        """The outputs that have to be computed, without duplicates, in order."""
        computed = (each for each in self.outputs if isinstance(each, Value) and each.argument is None)
        return list(dict.fromkeys(computed))


def captured(run: Callable[..., Sequence[Any]], arguments: Sequence[Any], owned: Sequence[bool]) -> Graph:
    """Records the operators of ``run(*arguments)``.

    Args:
        run: the graph.
        arguments: numbers, the model's own tensors, and inputs, of which only shape and strides matter.
        owned: which of the arguments are the model's own tensors, which are the same at every call except for their
            numbers.

    Raises:
        Refusal: a list of operators can't describe the graph.
    """
    try:
        return _captured(run, arguments, owned)
    except Changes as changes:
        try:
            return _captured(_without_writing(run, arguments), arguments, owned)
        except Refusal:
            raise changes from None


def _captured(run: Callable[..., Sequence[Any]], arguments: Sequence[Any], owned: Sequence[bool]) -> Graph:
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    try:
        with _unlogged(), torch.inference_mode(False), torch.no_grad(), fake:
            standing = [each if own else _standing(each) for each, own in zip(arguments, owned, strict=True)]
            recorder = _Recorder(standing, owned)
            with recorder:
                outputs = run(*standing)
    except Refusal:
        raise
    except Exception as error:
        # A graph may raise any error on tensors without numbers; the real call will raise it if it is one.
        raise Refusal(f"{type(error).__name__} while it was captured: {str(error).partition(chr(10))[0]}") from error
    if recorder.changes:
        raise Changes(recorder.changes[0])
    return Graph(recorder.nodes, recorder.inputs, recorder.told(outputs))


def _without_writing(run: Callable[..., Sequence[Any]], arguments: Sequence[Any]) -> Callable[..., Sequence[Any]]:
    """A functional graph of operators that computes the same; ``run`` must not write to its arguments.

    Raises:
        Refusal: the graph can't be made functional.
    """

    def functional(*arguments: Any) -> list[Any]:
        # As in AOTAutograd. ``torch.func.functionalize`` loses writes through views that operators return without
        # declaring it in their schemas, such as ``einsum`` (PyTorch 2.13).
        with FunctionalTensorMode():
            wrapped = [FunctionalTensor.to_functional(each) if isinstance(each, Tensor) else each for each in arguments]
            outputs = run(*wrapped)
            return [_unwrapped(each) if isinstance(each, FunctionalTensor) else each for each in outputs]

    standing = [_standing(each) if is_number(each) else each for each in arguments]
    try:
        with _unlogged(), torch.inference_mode(False), torch.no_grad():
            made: Callable[..., Sequence[Any]] = make_fx(functional, tracing_mode="fake")(*standing)
    except Exception as error:
        raise Refusal(
            f"{type(error).__name__} while writes were removed: {str(error).partition(chr(10))[0]}"
        ) from error
    return made


def _unwrapped(tensor: FunctionalTensor) -> Tensor:
    torch._sync(tensor)  # type: ignore[attr-defined]
    found: Tensor = torch._from_functional_tensor(tensor.elem)
    return found


@contextmanager
def _unlogged() -> Iterator[None]:
    """Silences PyTorch's log of operators that fail on fake tensors, because such a failure becomes a Refusal."""
    _quiet.on = True
    logging.getLogger("torch._subclasses.fake_tensor").addFilter(_is_told)
    try:
        yield
    finally:
        _quiet.on = False


def _is_told(record: logging.LogRecord) -> bool:
    return not getattr(_quiet, "on", False)


_quiet = threading.local()


def is_number(argument: Any) -> bool:
    """Whether an argument is a Python number that changes between calls, in the form in which Dynamo passes it."""
    return isinstance(argument, Tensor) and argument.dim() == 0 and argument.dtype is torch.float64 and argument.is_cpu


class _Number:
    """A number that the graph reads by ``item``, and doesn't use otherwise."""

    def __init__(self, value: float) -> None:
        self._value = value

    def item(self) -> float:
        return self._value


def _standing(argument: Any) -> Any:
    """The stand-in for an argument during capture."""
    if not isinstance(argument, Tensor):
        return argument
    if is_number(argument):
        with no_dispatch():
            return _Number(argument.item())
    return torch.empty_strided(argument.shape, argument.stride(), dtype=argument.dtype, device=argument.device)


class _Recorder(TorchDispatchMode):
    def __init__(self, arguments: Sequence[Any], owned: Sequence[bool]) -> None:
        super().__init__()
        self.nodes: list[Node] = []
        self.known: dict[int, Value] = {}
        self.alive: list[Tensor] = []  # keeps tensors alive, so that no id is reused
        self.storages: dict[int, list[Tensor]] = {}
        self.constants: set[int] = set()
        self.inputs: list[Value] = []
        #: Why the list of operators is incomplete. Recording continues, because a later operator may write to an
        #: argument.
        self.changes: list[str] = []
        for at, (each, own) in enumerate(zip(arguments, owned, strict=True)):
            if isinstance(each, Tensor):
                value = self.value_of(each, None, own)
                value.argument = at
                if not own:
                    self.inputs.append(value)

    def told(self, outputs: Sequence[Any]) -> list[Any]:
        """The outputs as values."""
        told, seen = list[Any](), dict[int, Value]()
        for each in outputs:
            value = each
            if isinstance(each, Tensor):
                value = self.known.get(id(each))
                if value is None:
                    raise Refusal("it returns a tensor that it didn't compute")
                storage = each.untyped_storage()._cdata
                if value.argument is None and value.fixed:
                    raise Refusal("it returns a tensor that doesn't depend on its inputs")
                if seen.setdefault(storage, value) is not value or (
                    value.argument is None
                    and any(self.known[id(one)].argument is not None for one in self.storages[storage])
                ):
                    raise Refusal("it returns a view of memory that is used elsewhere")
            elif each is not None and not isinstance(each, (int, float, bool)):
                raise Refusal(f"it returns a {type(each).__name__}")
            told.append(value)
        return told

    def value_of(self, tensor: Tensor, own: Tensor | None = None, fixed: bool = False) -> Value:
        made = Value(tuple(tensor.shape), tensor.stride(), tensor.dtype, own, None, fixed)
        self.known[id(tensor)] = made
        self.alive.append(tensor)
        shared = self.storages.setdefault(tensor.untyped_storage()._cdata, [])
        if not any(tensor is other for other in shared):
            shared.append(tensor)
        return made

    def known_value(self, tensor: Tensor) -> Value:
        found = self.known.get(id(tensor))
        if found is not None:
            return found
        if id(tensor) not in self.constants:
            raise Refusal("it uses a tensor that is neither an argument nor a constant in its code")
        return self.value_of(tensor, tensor, True)

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if function.namespace == "prim":
            return function(*args, **kwargs)  # reads a device or a layout
        if torch._C._dispatch_has_kernel_for_dispatch_key(function.name(), "CompositeImplicitAutograd"):
            with self:
                composed = function.decompose(*args, **kwargs)
            if composed is not NotImplemented:
                return composed
        if torch.Tag.nondeterministic_seeded in function.tags and not _drops_nothing(function, args, kwargs):
            raise Refusal(f"{function.overloadpacket} is random")
        if function.overloadpacket in _OF_BATCH and args[5]:
            raise Refusal("batch normalisation by statistics of the batch, which it may record")
        if function.overloadpacket is torch.ops.aten.lift_fresh:
            # A constant in the model's code.
            self.constants.add(id(args[0]))
        taken, named = tree_map_only(Tensor, self.known_value, (args, kwargs))
        node = Node(function, taken, named, [])
        changed = [at for at, each in enumerate(function._schema.arguments) if _written(each)]
        if changed:
            node = self.without_change(node, args, kwargs, changed)
        made = _made(function, args, kwargs)
        fixed = all(value.fixed for value in node.values())
        for leaf in tree_leaves(made):
            if not isinstance(leaf, Tensor):
                if leaf is not None:
                    raise Refusal(f"{function.overloadpacket} returns a Python number, on which the rest may depend")
                continue
            value = self.value_of(leaf, None, fixed)
            value.maker = node
            node.results.append(value)
        for value in node.values():
            value.users.append(node)
        self.nodes.append(node)
        return made

    def without_change(self, node: Node, args: tuple[Any, ...], kwargs: dict[str, Any], changed: list[int]) -> Node:
        """The out-of-place form of an in-place node, if there is one."""
        name = node.function._schema.name.removeprefix("aten::")
        names = [each.name for each in node.function._schema.arguments]
        for tensor in tree_leaves([args[at] if at < len(args) else kwargs.get(names[at]) for at in changed]):
            shared = self.storages.get(tensor.untyped_storage()._cdata, []) if isinstance(tensor, Tensor) else []
            if any((known := self.known[id(each)]).argument is not None or known.fixed for each in shared):
                raise Refusal(f"{name} writes to an input or to a tensor of the model")
        if changed != [0] or not name.endswith("_") or not hasattr(torch.ops.aten, name[:-1]):
            self.changes.append(f"{name} writes into a tensor")
            return node
        if len(self.storages[args[0].untyped_storage()._cdata]) > 1:
            self.changes.append(f"{name} changes a tensor that is seen elsewhere too")
            return node
        function = getattr(getattr(torch.ops.aten, name[:-1]), node.function._overloadname, None)
        if function is None:
            self.changes.append(f"{name} has no form that leaves its operand")
            return node
        return Node(function, node.args, node.kwargs, node.results)


def _drops_nothing(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether an operator with dropout, such as attention, has a dropout probability of 0."""
    for at, each in enumerate(function._schema.arguments):
        if each.name in ("dropout_p", "dropout"):
            return bool((args[at] if at < len(args) else kwargs.get(each.name, each.default_value)) == 0)
    return False


def _made(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The result of an operator on tensors without numbers.

    For a normalisation, PyTorch would run a decomposition into some twenty operators in Python. Batch normalisation
    here always uses running statistics, so its result is known.
    """
    if function.overloadpacket in _OF_BATCH:
        x: Tensor = args[0]
        return layout.new_empty(x, x.shape, layout.is_channels_last(x)), x.new_empty(0), x.new_empty(0)
    if function is torch.ops.aten.native_layer_norm.default:
        x, axes = args[0], len(args[1])
        outer = (*x.shape[: x.dim() - axes], *[1] * axes)
        return x.new_empty(x.shape), x.new_empty(outer), x.new_empty(outer)
    return function(*args, **kwargs)


def _written(argument: Any) -> bool:
    return argument.alias_info is not None and argument.alias_info.is_write
