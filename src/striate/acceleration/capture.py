"""What a model does with one input, as a list of PyTorch's operators.

The model runs once on a tensor that has a shape and no numbers (``torch._subclasses.FakeTensorMode``), so whatever
hangs on numbers, or leaves PyTorch on its way, stops the capture instead of being frozen into it. A model that draws
random numbers, changes its input, its parameters or its own attributes while it runs does more than a list of
operators says, and is refused too; attributes are put back.

An operator that changes a tensor in place becomes one that makes a new tensor, where nobody else sees the old one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from types import FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

#: Operators that give what they got.
_SAME = frozenset({"clone", "contiguous", "alias", "detach", "lift_fresh"})


class Refusal(Exception):  # noqa: N818 - an answer, not a mistake
    """Why a model has no plan."""


@dataclass(eq=False)
class Value:
    """A tensor of the graph: the input, something the model owns (``tensor``), or what a node makes."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    tensor: Tensor | None = None
    fixed: bool = False  #: follows from what the model owns, whatever the input
    users: list[Node] = field(default_factory=list)


@dataclass(eq=False)
class Node:
    """A call of an operator; ``args`` and ``kwargs`` have values where it got tensors."""

    function: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    results: list[Value]

    @property
    def name(self) -> str:
        return str(self.function.overloadpacket).removeprefix("aten.")

    @property
    def is_view(self) -> bool:
        """Whether its result is its operand's numbers, in another shape or order or a part of them."""
        of_numbers = len(self.results) == 1 and self.results[0].dtype == torch.float32 and self.name != "as_strided"
        return of_numbers and (self.function.is_view or self.name == "_unsafe_view")

    @property
    def is_same(self) -> bool:
        """Whether its result is its operand, number by number; axes of length 1 may have another stride."""
        if self.name != "as_strided":
            return self.name in _SAME
        # Pooling to one position says so in channels last.
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
    nodes: list[Node]
    input: Value
    output: Value


def captured(model: torch.nn.Module, run: Callable[[Tensor], Any], input: Tensor) -> Graph:
    """The graph of ``run(input)``, a way through the model.

    Raises:
        Refusal: there is none that says all.
    """
    owned = {id(tensor): tensor for tensor in _owned(model)}
    before = _attributes(model)
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    try:
        with torch.inference_mode(False), torch.no_grad(), fake:
            standing = torch.empty_strided(input.shape, input.stride(), dtype=input.dtype)
            recorder = _Recorder(standing, owned)
            with recorder:
                result = run(standing)
    except Refusal:
        raise
    except Exception as error:
        # Whatever a model may raise on a tensor without numbers, it is no reason to fail: the call itself will tell.
        raise Refusal(f"{type(error).__name__} while it was captured: {str(error).partition(chr(10))[0]}") from error
    finally:
        changed = _put_back(before)
    if changed:
        raise Refusal(f"{changed[0]} changes while it runs")
    if not isinstance(result, Tensor):
        raise Refusal(f"its result is {type(result).__name__}, not one tensor")
    output = recorder.known.get(id(result))
    if output is None or output.fixed or output is recorder.input:
        raise Refusal("its result is nothing that it computed from its input")
    return Graph(recorder.nodes, recorder.input, output)


class _Recorder(TorchDispatchMode):
    def __init__(self, input: Tensor, owned: dict[int, Tensor]) -> None:
        super().__init__()
        self.nodes: list[Node] = []
        self.owned = owned
        self.known: dict[int, Value] = {}
        self.alive: list[Tensor] = []  # so that no identity is given twice
        self.storages: dict[int, list[Tensor]] = {}
        self.input = self.value_of(input)

    def value_of(self, tensor: Tensor, own: Tensor | None = None, fixed: bool = False) -> Value:
        made = Value(tuple(tensor.shape), tensor.stride(), tensor.dtype, own, fixed)
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
        if id(tensor) not in self.owned:
            raise Refusal("it uses a tensor that is neither a parameter nor a buffer of its own")
        return self.value_of(tensor, tensor, True)

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if function.namespace == "prim":
            return function(*args, **kwargs)  # asks for a device or a layout
        if torch._C._dispatch_has_kernel_for_dispatch_key(function.name(), "CompositeImplicitAutograd"):
            with self:
                composed = function.decompose(*args, **kwargs)
            if composed is not NotImplemented:
                return composed
        if torch.Tag.nondeterministic_seeded in function.tags:
            raise Refusal(f"{function.overloadpacket} is random")
        if function.overloadpacket is torch.ops.aten.lift_fresh:
            # A number written in the model's code.
            self.owned.setdefault(id(args[0]), args[0])
        taken, named = tree_map_only(Tensor, self.known_value, (args, kwargs))
        node = Node(function, taken, named, [])
        changed = [at for at, each in enumerate(function._schema.arguments) if _written(each)]
        if changed:
            node = self.without_change(node, args, changed)
        made = function(*args, **kwargs)
        fixed = all(value.fixed for value in node.values())
        for leaf in tree_leaves(made):
            if not isinstance(leaf, Tensor):
                if leaf is not None:
                    raise Refusal(f"{function.overloadpacket} makes a number, on which the rest may hang")
                continue
            node.results.append(self.value_of(leaf, None, fixed))
        for value in node.values():
            value.users.append(node)
        self.nodes.append(node)
        return made

    def without_change(self, node: Node, args: tuple[Any, ...], changed: list[int]) -> Node:
        """The node as one that makes a new tensor."""
        name = node.function._schema.name.removeprefix("aten::")
        if changed != [0] or not name.endswith("_") or not hasattr(torch.ops.aten, name[:-1]):
            raise Refusal(f"{name} writes into a tensor")
        value = self.known[id(args[0])]
        if value is self.input or value.fixed:
            raise Refusal(f"{name} changes its input or something of its own")
        if len(self.storages[args[0].untyped_storage()._cdata]) > 1:
            raise Refusal(f"{name} changes a tensor that is seen elsewhere too")
        function = getattr(getattr(torch.ops.aten, name[:-1]), node.function._overloadname, None)
        if function is None:
            raise Refusal(f"{name} has no form that leaves its operand")
        return Node(function, node.args, node.kwargs, node.results)


def _written(argument: Any) -> bool:
    return argument.alias_info is not None and argument.alias_info.is_write


def _owned(model: torch.nn.Module) -> Iterable[Tensor]:
    for module in model.modules():
        for held in (module._parameters, module._buffers):
            yield from (tensor for tensor in held.values() if tensor is not None)


#: Containers that a model's attributes lead to, each with where it was found and what it held.
_State = list[tuple[str, Any, Any]]
_CONTAINERS = (dict, list, set, deque, tuple)
#: Containers that are gone through; who has more keeps data in them.
_MOST_CONTAINERS = 10_000


def _attributes(model: torch.nn.Module) -> _State:
    """What modules' attributes are, what is in the containers among them, however deep, and in the objects.

    Raises:
        Refusal: there are too many.
    """
    found: _State = []
    waiting: list[tuple[str, Any, bool]] = [(type(module).__name__, vars(module), True) for module in model.modules()]
    seen = {id(each) for _, each, _ in waiting}
    while waiting:
        where, container, own = waiting.pop()
        found.append((where, container, _copied(container)))
        if len(found) > _MOST_CONTAINERS:
            raise Refusal("its attributes lead to more than can be looked at")
        inside = container.items() if isinstance(container, dict) else enumerate(container)
        for name, value in inside:
            # Objects within objects lead to everything there is: loggers, trainers, and what other threads work with.
            inner = value if isinstance(value, _CONTAINERS) else _attributes_of(value) if own else None
            if inner is not None and id(inner) not in seen:
                seen.add(id(inner))
                waiting.append((f"{where}.{name}", inner, False))
    return found


def _attributes_of(value: Any) -> dict[str, Any] | None:
    """Those of an object that is neither tensor, module nor function."""
    if isinstance(value, (Tensor, torch.nn.Module, type, ModuleType, FunctionType, MethodType, partial)):
        return None
    return getattr(value, "__dict__", None)


def _copied(container: Any) -> Any:
    return dict(container) if isinstance(container, dict) else list(container)


def _put_back(before: _State) -> list[str]:
    """Undoes assignments; what was assigned to."""
    changed = []
    for where, container, held in before:
        if _alike(container, held):
            continue
        if isinstance(container, dict):
            # One by one: another thread may look meanwhile.
            for name in list({**held, **container}):
                if name not in held:
                    del container[name]
                elif name not in container or container[name] is not held[name]:
                    container[name] = held[name]
                else:
                    continue
                changed.append(f"{where}.{name}")
            continue
        changed.append(where)
        if isinstance(container, list):
            container[:] = held
        else:
            container.clear()
            (container.extend if isinstance(container, deque) else container.update)(held)
    return changed


def _alike(container: Any, held: Any) -> bool:
    if len(container) != len(held):
        return False
    if isinstance(container, dict):
        return all(a is c and b is d for (a, b), (c, d) in zip(container.items(), held.items(), strict=True))
    if isinstance(container, (set, frozenset)):
        return {id(each) for each in container} == {id(each) for each in held}
    return all(a is b for a, b in zip(container, held, strict=True))
