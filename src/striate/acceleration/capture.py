"""What a model does with one input, as a list of PyTorch's operators.

The model runs once on a tensor that has a shape and no numbers (``torch._subclasses.FakeTensorMode``), so whatever
hangs on numbers, or leaves PyTorch on its way, stops the capture instead of being frozen into it. A model that draws
random numbers, changes its input, its parameters or its own attributes while it runs does more than a list of
operators says, and is refused too; attributes are put back.

An operator that changes a tensor in place becomes one that makes a new tensor, where nobody else sees the old one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only


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
        changed = _put_back(model, before)
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


_State = list[tuple[torch.nn.Module, dict[str, Any], dict[str, Any]]]


def _attributes(model: torch.nn.Module) -> _State:
    """Every module with its attributes, and with what containers among them hold."""
    return [(module, dict(vars(module)), _held(vars(module))) for module in model.modules()]


def _held(attributes: dict[str, Any]) -> dict[str, Any]:
    return {name: each.copy() for name, each in attributes.items() if isinstance(each, (dict, list, set))}


def _put_back(model: torch.nn.Module, before: _State) -> list[str]:
    """Undoes assignments; what was assigned to."""
    changed = []
    for module, attributes, held in before:
        now = vars(module)
        for name in {**attributes, **now}:
            if name not in attributes:
                del now[name]
            elif name not in now or now[name] is not attributes[name]:
                now[name] = attributes[name]
            elif name in held and not _alike(now[name], held[name]):
                now[name].clear()
                (now[name].extend if isinstance(now[name], list) else now[name].update)(held[name])
            else:
                continue
            changed.append(f"{type(module).__name__}.{name}")
    return changed


def _alike(one: Any, other: Any) -> bool:
    if len(one) != len(other):
        return False
    if isinstance(one, dict):
        return all(a is c and b is d for (a, b), (c, d) in zip(one.items(), other.items(), strict=True))
    return all(a is b for a, b in zip(one, other, strict=True)) if isinstance(one, list) else bool(one == other)
