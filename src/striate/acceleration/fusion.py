"""Neighbouring layers as one operation, found in the graph of a module's forward.

    (convolution) + clamp* + max pooling + clamp*          -> conv_max_pool as one, or the pooling before the clamps
    batch norm + (addition) + (activation)                 -> normalize
    convolution + batch norm + ... + convolution + ...     -> one operation for autograd

A layer and the function of the same name are one thing here: ``self.relu(x)``, ``F.relu(x)``, ``x.relu()``. A map that
somebody else uses too is never fused away. An activation that works in place is like any other where it works on what
a convolution or normalisation has just made. An operation's operands are read where they were: a group stands at its
first member's place, or where the addition stood, for what is added may have changed until then.

A pattern is a method of :class:`Fusion`, which finds its members, and a function of fused.py.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch.fx import Node

from striate import nn, ops
from striate.acceleration import layers
from striate.acceleration.fused import (
    Normed,
    chained,
    convolve_and_pool,
    normalize,
    normalize_by,
    pool_and_activate,
)
from striate.acceleration.tracing import Path, Trace
from striate.ops import chain

_CONVOLUTIONS: Final[dict[Any, int]] = {
    **{getattr(room, f"conv{dims}d"): dims for room in (torch, F, ops) for dims in (1, 2)},
    layers.Conv1d: 1,
    layers.Conv2d: 2,
}
_POOLINGS: Final[dict[Any, int]] = {
    **{getattr(room, f"max_pool{dims}d"): dims for room in (torch, F, ops) for dims in (1, 2, 3)},
    layers.MaxPool1d: 1,
    layers.MaxPool2d: 2,
    nn.MaxPool3d: 3,
    torch.nn.MaxPool3d: 3,
}
#: Layers of one, two and three axes, then the function.
_NORMS: Final = (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d, torch.nn.BatchNorm3d, F.batch_norm)
_NORMALIZE: Final = (normalize_by, normalize)
#: Each with its name. ``clamp(min=0)`` is none of them: it hands gradients on at 0.
_ACTIVATIONS: Final[dict[Any, str]] = {
    **dict.fromkeys((F.relu, torch.relu, torch.relu_, torch.Tensor.relu, torch.Tensor.relu_), "relu"),
    **dict.fromkeys(("relu", "relu_", torch.nn.ReLU), "relu"),
    **dict.fromkeys((F.relu6, torch.nn.ReLU6, torch.nn.Hardtanh), "relu6"),
    **dict.fromkeys((F.silu, torch.nn.SiLU), "silu"),
    **dict.fromkeys((F.hardswish, torch.nn.Hardswish), "hardswish"),
}
#: What has results of its operand's rank.
_RANK_KEEPERS: Final = (*_CONVOLUTIONS, *_POOLINGS, *_NORMS, *_ACTIVATIONS)
_CLAMPS: Final = ("relu", "relu6")
_INTO_FIRST: Final = (operator.iadd, torch.Tensor.add_, "add_")
_ADDITIONS: Final = (operator.add, torch.add, torch.Tensor.add, "add", *_INTO_FIRST)
_CONVOLUTION: Final = {"bias": None, "stride": 1, "padding": 0, "dilation": 1, "groups": 1}
_CONVOLVED: Final = {"input": None, "weight": None, **_CONVOLUTION}
_NORM: Final = {"weight": None, "bias": None, "training": False, "momentum": 0.1, "eps": 1e-5}
_WINDOW: Final = {"stride": None, "padding": 0, "dilation": 1, "ceil_mode": False}
#: Layers and functions whose result is new memory.
_MAKERS: Final = (*_CONVOLUTIONS, *_POOLINGS, *_NORMS, torch.nn.Conv3d, torch.nn.Linear, F.linear)


class Fusion:
    """Rewrites a graph.

    ``layers``: those that no longer are called, with nobody to notice.
    """

    def __init__(self, module: torch.nn.Module, made: Trace) -> None:
        self.layers: dict[Path, None] = {}
        self._told: dict[Node, str] = {}
        self._module, self._made = module, made
        for node in list(made.graph.nodes):
            if self._kind(node) is torch.nn.Identity and isinstance(node.args[0], Node):
                node.replace_all_uses_with(node.args[0])
                self._erase(node)
        self._ask_for_ranks_early()
        # From the end: of two normalisations that are added, the later one takes the other's result.
        for node in reversed(made.graph.nodes):
            if self._kind(node) in _NORMS:
                self._fuse_norm(node)
        for node in reversed(made.graph.nodes):
            if self._kind(node) in _POOLINGS:
                self._fuse_pooling(node)
        met: set[Node] = set()
        for node in list(made.graph.nodes):
            if node not in met:
                met.update(self._fuse_chain(node))

    @property
    def fused(self) -> list[str]:
        """What was put together, in words."""
        return [self._told[node] for node in self._made.graph.nodes if node in self._told]

    def _ask_for_ranks_early(self) -> None:
        """Has assertions about a map's rank ask the earliest map that has it too: no layer's result has two users then,
        one of them between it and the next layer.
        """
        ranks: dict[Node, Node] = {}
        for node in list(self._made.graph.nodes):
            ranks[node] = node
            first, second = (*node.args, None, None)[:2]
            if self._kind(node) in _RANK_KEEPERS and isinstance(_operand(node), Node):
                ranks[node] = ranks[_operand(node)]
            elif self._is_addition(node) and ranks[first] is ranks[second]:
                ranks[node] = ranks[first]
            elif node.target is getattr and second == "ndim" and isinstance(first, Node):
                self._move(node, ranks[first])

    def _move(self, asking: Node, to: Node) -> None:
        """An attribute, and what is asserted of it alone, to where another node has it."""
        asking.update_arg(0, to)
        moved = [asking]
        for comparison in asking.users:
            assertions = [user for user in comparison.users if user.all_input_nodes == [comparison]]
            if comparison.all_input_nodes == [asking] and [each.target for each in assertions] == [torch._assert]:
                moved += [comparison, *assertions]
        for node in reversed(moved):
            to.append(node)
        if not asking.users:
            self._made.graph.erase_node(asking)

    # ---------------------------------------------------------------------------------------------- patterns

    def _fuse_norm(self, norm: Node) -> None:
        members, residual, join = [norm], None, None
        addition = _only_user(norm)
        if addition is not None and self._is_addition(addition):
            first, second = addition.args
            residual = second if first is norm else first
            in_place = addition.target in _INTO_FIRST
            unmoved = norm.next is addition or (norm.op == "call_module" and self._is_own(_operand(norm)))
            if residual is not norm and unmoved and (first is norm or not in_place):
                members.append(addition)
                join = operator.iadd if in_place else operator.add
            else:
                residual = None
        activation = _only_user(members[-1])
        name = self._activation(activation)
        if activation is not None and name is not None:
            members.append(activation)
        added = (residual, join, name or "")
        at = members[join is not None]
        if norm.op == "call_module":
            self._replace(members, normalize_by, (self._get(norm, norm.target), norm.args[0], *added), at)
            return
        bound = _bound(norm, {"input": None, "running_mean": None, "running_var": None, **_NORM})
        if bound is not None:
            self._replace(members, normalize, (bound, *added), at)

    def _fuse_pooling(self, pooling: Node) -> None:
        dims = _POOLINGS[self._kind(pooling)]
        members, names = [pooling], []
        below = _operand(pooling)
        while (name := self._activation(below)) in _CLAMPS and _only_user(below) is members[0]:
            if self._is_in_place(below) and not self._is_own(_operand(below)):
                break
            members.insert(0, below)
            names.append(name)
            below = _operand(below)
        convolution = None
        if _CONVOLUTIONS.get(self._kind(below)) == dims and _only_user(below) is members[0]:
            convolution = self._convolution(below)
        if convolution is not None:
            members.insert(0, below)
        window = self._window(pooling, before=members[0])
        if window is None or (convolution is None and not names):
            return
        above = _only_user(pooling)
        while above is not None and (name := self._activation(above)) in _CLAMPS:
            members.append(above)
            names.append(name)
            above = _only_user(above)
        clamp = "" if not names else "relu6" if "relu6" in names else "relu"
        if convolution is not None:
            *operands, how = convolution
            self._replace(members, convolve_and_pool, (*operands, how, clamp, window), at=members[0])
        else:
            self._replace(members, pool_and_activate, (dims, below, clamp, window), at=members[0])

    def _fuse_chain(self, first: Node) -> list[Node]:
        """Fuses as many links as follow one another from here on, and nothing else between them; returns them."""
        members: list[Node] = []
        node: Node | None = first
        while node is not None and self._is_link(node):
            if members and (self._map(node) is not members[-1] or _behind(members[-1]) is not node):
                break
            members.append(node)
            node = _only_user(node)
        normed = [node for node in members if node.target in _NORMALIZE]
        dims = {self._dims(node) for node in members} - {None}
        if 0 < len(normed) < len(members) and len(dims) == 1:
            arguments = self._map(first), *(self._link(node) for node in members)
            self._replace(members, chained, arguments, at=members[-1])
        return members

    def _is_link(self, node: Node) -> bool:
        if node.op == "call_module" and self._kind(node) in _CONVOLUTIONS:
            return bool(self._layer(node.target).padding_mode == "zeros")
        if self._kind(node) in _CONVOLUTIONS:
            return _bound(node, _CONVOLVED) is not None
        return node.target in _NORMALIZE

    def _map(self, link: Node) -> Any:
        """The map that a link is a function of."""
        arguments: Any = link.args
        if link.target is normalize_by:
            return arguments[1]
        return arguments[0][0] if link.target is normalize else _operand(link)

    def _dims(self, link: Node) -> int | None:
        """How many axes its windows have, or its layer's maps; None if it takes any."""
        if link.target is normalize_by:
            layer: Any = link.args[0]
            return _NORMS.index(type(self._layer(layer.target))) + 1
        return _CONVOLUTIONS.get(self._kind(link))

    def _link(self, node: Node) -> chain.Convolution | Normed:
        arguments: Any = node.args
        if node.target is normalize_by:
            layer, _, *added = arguments
            return Normed(layer, *added)
        if node.target is normalize:
            norm, *added = arguments
            return Normed(norm[1:], *added)
        found = self._convolution(node)
        assert found is not None  # it is a link
        return chain.Convolution(*found[1:])

    def _replace(self, members: list[Node], function: Callable[..., Any], arguments: tuple[Any, ...], at: Node) -> None:
        graph = self._made.graph
        with graph.inserting_before(at):
            fused = graph.create_node("call_function", function, arguments)
        members[-1].replace_all_uses_with(fused)
        self._told[fused] = " + ".join(self._name(node) for node in members)
        for node in reversed(members):
            self._erase(node)

    def _erase(self, node: Node) -> None:
        if node.op == "call_module":
            self.layers[path_of(node.target)] = None
        self._told.pop(node, None)
        self._made.graph.erase_node(node)

    # ------------------------------------------------------------------------------------------ reading nodes

    def _layer(self, target: Any) -> torch.nn.Module:
        return self._module.get_submodule(target)

    def _kind(self, node: Any) -> Any:
        """The function or name of a method that a node calls, or the class of a layer; None for all others."""
        if not isinstance(node, Node) or node.op not in ("call_module", "call_function", "call_method"):
            return None
        if node.op != "call_module":
            return node.target
        return type(self._layer(node.target)) if len(node.args) == 1 and not node.kwargs else None

    def _name(self, node: Node) -> str:
        name = node.target if node.op == "call_module" else getattr(node.target, "__name__", node.target)
        return self._told.get(node, str(name))

    def _get(self, before: Node, target: Any) -> Node:
        """A node for a layer, or for an attribute of one as it is when the graph runs."""
        with self._made.graph.inserting_before(before):
            return self._made.graph.create_node("get_attr", target)

    def _require(self, node: Node, name: str, value: Any) -> bool:
        """Whether a layer's attribute has a value; it is a fact then."""
        if getattr(self._layer(node.target), name) != value:
            return False
        self._made.facts[path_of(node.target), name] = value
        return True

    def _activation(self, node: Node | None) -> str | None:
        name = _ACTIVATIONS.get(self._kind(node))
        if node is None or name is None:
            return None
        if node.op == "call_module":
            bounds = {"min_val": 0, "max_val": 6} if isinstance(self._layer(node.target), torch.nn.Hardtanh) else {}
            return name if all(self._require(node, bound, value) for bound, value in bounds.items()) else None
        return name if len(node.args) in (1, 2) and node.kwargs.keys() <= {"inplace"} else None

    def _is_addition(self, node: Node) -> bool:
        kinds = [isinstance(each, Node) for each in node.args]
        return self._kind(node) in _ADDITIONS and kinds == [True, True] and not node.kwargs

    def _is_own(self, value: Any) -> bool:
        """Whether a value is new memory, and used once: nobody else sees it."""
        return self._kind(value) in _MAKERS and _only_user(value) is not None

    def _is_in_place(self, activation: Node) -> bool:
        if activation.op == "call_module":
            return bool(self._layer(activation.target).inplace)
        name = activation.target if isinstance(activation.target, str) else activation.target.__name__
        return name.endswith("_") or len(activation.args) == 2 or bool(activation.kwargs.get("inplace"))

    def _convolution(self, node: Node) -> tuple[Any, ...] | None:
        """Input, weight, bias, and the other arguments together."""
        if node.op == "call_module":
            if not self._require(node, "padding_mode", "zeros"):
                return None
            weight = self._get(node, f"{node.target}.weight")
            has_bias = self._layer(node.target)._parameters.get("bias") is not None
            bias = self._get(node, f"{node.target}.bias") if has_bias else None
            if not has_bias:
                self._made.absent.add((path_of(node.target), "bias"))
            names = tuple(_CONVOLUTION)[1:]
            return _operand(node), weight, bias, tuple(self._get(node, f"{node.target}.{name}") for name in names)
        bound = _bound(node, _CONVOLVED)
        return None if bound is None else (*bound[:3], bound[3:])

    def _window(self, node: Node, before: Node) -> tuple[Any, ...] | None:
        """The arguments of max pooling after its input."""
        if node.op == "call_module":
            if not self._require(node, "return_indices", False):
                return None
            return tuple(self._get(before, f"{node.target}.{name}") for name in ("kernel_size", *_WINDOW))
        bound = _bound(node, {"input": None, "kernel_size": None, **_WINDOW, "return_indices": False})
        if bound is None or bound[-1] is not False or any(isinstance(each, Node) for each in bound[1:]):
            return None  # its size may not be known yet where the convolution stands
        return bound[1:-1]


def path_of(target: Any) -> Path:
    return tuple(target.split("."))


def _only_user(node: Node) -> Node | None:
    """The one node that uses a value, once."""
    users = list(node.users)
    return users[0] if len(users) == 1 and users[0].all_input_nodes.count(node) == 1 else None


def _behind(node: Node) -> Node:
    """The next node that does anything but read attributes and count batches, which no link sees."""
    node = node.next
    while node.op == "get_attr" or (node.target == "add_" and _counts_batches(node)):
        node = node.next
    return node


def _counts_batches(addition: Node) -> bool:
    counter, *others = addition.args
    name = counter.target if isinstance(counter, Node) and counter.op == "get_attr" else ""
    return str(name).endswith(".num_batches_tracked") and others == [1] and not addition.kwargs


def _operand(node: Node) -> Any:
    return node.args[0] if node.args else node.kwargs.get("input")


def _bound(node: Node, parameters: dict[str, Any]) -> tuple[Any, ...] | None:
    """A call's arguments in the order of the parameters, which come with their defaults; None if it has others."""
    named = dict(zip(parameters, node.args, strict=False))
    if len(node.args) > len(parameters) or not node.kwargs.keys() <= parameters.keys() - named.keys():
        return None
    return tuple({**parameters, **named, **node.kwargs}.values())
