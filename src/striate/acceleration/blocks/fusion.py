"""Neighbouring operations as one, found in a graph of PyTorch's functions as Dynamo captures it.

    (convolution) + clamp* + max pooling + clamp*          -> conv_max_pool as one, or the pooling before the clamps
    batch norm + (addition) + (activation)                 -> normalize
    convolution + batch norm + activation + average pooling + convolution + ...
                                                           -> one operation for autograd

A map that somebody else uses too is never fused away. An activation that works in place is like any other where it
works on what a convolution or normalisation has just made. A group of operations stands where its first member stood;
where that is a normalisation and the addition comes later, the group stands at the addition, if nothing in between
reads or writes what the normalisation writes, or writes what it reads. What isn't known to write nothing isn't passed.

A pattern is a method of :class:`Fusion`, which finds its members, and a function of fused.py.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx import Graph, Node

from striate import ops
from striate.acceleration.blocks.calls import FUNCTIONS
from striate.acceleration.blocks.fused import Normed, chained, convolve_and_pool, normalize, pool_and_activate
from striate.acceleration.plans.capture import is_number
from striate.ops import chain

_CONVOLUTIONS: Final[dict[Any, int]] = {
    getattr(room, f"conv{dims}d"): dims for room in (torch, F, ops) for dims in (1, 2)
}
_POOLINGS: Final[dict[Any, int]] = {
    getattr(room, f"max_pool{dims}d"): dims for room in (torch, F, ops) for dims in (1, 2, 3)
}
_NORMS: Final = (F.batch_norm,)
#: Each with its name. ``clamp(min=0)`` is none of them: it hands gradients on at 0.
_ACTIVATIONS: Final[dict[Any, str]] = {
    **dict.fromkeys((F.relu, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_, "relu", "relu_"), "relu"),
    F.relu6: "relu6",
    F.silu: "silu",
    F.hardswish: "hardswish",
    **dict.fromkeys((torch.tanh, torch.tanh_, F.tanh, Tensor.tanh, Tensor.tanh_, "tanh", "tanh_"), "tanh"),
    **dict.fromkeys((torch.sigmoid, torch.sigmoid_, F.sigmoid, Tensor.sigmoid, "sigmoid", "sigmoid_"), "sigmoid"),
}
_CLAMPS: Final = ("relu", "relu6")
#: Additions that write to their first operand.
INTO_FIRST: Final = (operator.iadd, Tensor.add_, "add_")
_ADDITIONS: Final = (operator.add, torch.add, Tensor.add, "add", *INTO_FIRST)
_CONVOLVED: Final = {"input": None, "weight": None, "bias": None, "stride": 1, "padding": 0, "dilation": 1, "groups": 1}
_NORM: Final = {
    "input": None,
    "running_mean": None,
    "running_var": None,
    "weight": None,
    "bias": None,
    "training": False,
    "momentum": 0.1,
    "eps": 1e-5,
}
_AVERAGES: Final[dict[Any, int]] = {getattr(room, f"avg_pool{dims}d"): dims for room in (F, ops) for dims in (1, 2)}
_AVERAGED: Final = {
    "stride": None,
    "padding": 0,
    "ceil_mode": False,
    "count_include_pad": True,
    "divisor_override": None,
}
_WINDOW: Final = {"stride": None, "padding": 0, "dilation": 1, "ceil_mode": False}
#: Functions whose result is new memory.
_MAKERS: Final = (*_CONVOLUTIONS, *_POOLINGS, *_NORMS, torch.conv3d, F.linear, normalize, convolve_and_pool, chained)
#: Functions that read their operands and write nothing, where they aren't asked to work in place.
_READERS: Final = (
    *_CONVOLUTIONS,
    *_POOLINGS,
    torch.conv3d,
    *(F.linear, F.avg_pool2d, F.adaptive_avg_pool2d, F.layer_norm, F.group_norm, F.gelu, F.softmax),
    *(F.relu, F.relu6, F.silu, F.hardswish, F.hardsigmoid, F.hardtanh, F.leaky_relu, torch.sigmoid, torch.tanh),
    *(operator.add, operator.sub, operator.mul, operator.truediv, operator.neg, operator.matmul),
    *(torch.add, torch.sub, torch.mul, torch.cat, torch.flatten, torch.mean, getattr),
    *("mean", "flatten", "view", "reshape", "permute", "transpose", "contiguous", "size", "sigmoid"),
)


class Fusion:
    """Rewrites a graph; ``fused`` says what was put together, in words, each with the layers' names."""

    def __init__(self, graph: Graph) -> None:
        self._told: dict[Node, list[str]] = {}
        self._graph = graph
        self._read_numbers_first()
        # From the end: of two normalisations that are added, the later one takes the other's result.
        for node in reversed(graph.nodes):
            if node.target in _NORMS:
                self._fuse_norm(node)
        for node in reversed(graph.nodes):
            if _calls(node, _POOLINGS):
                self._fuse_pooling(node)
        met: set[Node] = set()
        for node in list(graph.nodes):
            if node not in met:
                met.update(self._fuse_chain(node))
        for node in graph.nodes:
            if _calls(node, FUNCTIONS):
                node.target = FUNCTIONS[node.target]

    @property
    def fused(self) -> list[list[str]]:
        return [self._told[node] for node in self._graph.nodes if node in self._told]

    def _read_numbers_first(self) -> None:
        """Numbers that change between calls are arguments; reading one is nothing that comes between two operations."""
        last = next((node for node in reversed(self._graph.nodes) if node.op == "placeholder"), None)
        for node in list(self._graph.nodes):
            of_number = node.op == "call_method" and node.target == "item" and node.args[0].op == "placeholder"
            if last is not None and of_number and is_number(node.args[0].meta.get("example_value")):
                last.append(node)

    # ---------------------------------------------------------------------------------------------- patterns

    def _fuse_norm(self, norm: Node) -> None:
        bound = _bound(norm, _NORM)
        if bound is None:
            return
        members, residual, join = [norm], None, ""
        addition = _only_user(norm)
        if addition is not None and _is_addition(addition) and self._may_wait(norm, addition):
            first, second = addition.args
            other = second if first is norm else first
            # Adding into the other map changes it for others, unless it is new memory that nobody else sees.
            if addition.target not in INTO_FIRST or first is norm or _is_own(other):
                members.append(addition)
                residual, join = (
                    other,
                    "radd" if first is not norm else "iadd" if addition.target in INTO_FIRST else "add",
                )
        activation = _only_user(members[-1])
        name = _activation(activation)
        if activation is not None and name is not None:
            members.append(activation)
        self._replace(members, normalize, (bound, residual, join, name or ""), at=members[join != ""])

    def _fuse_pooling(self, pooling: Node) -> None:
        dims = _POOLINGS[pooling.target]
        members, names = [pooling], []
        below = _operand(pooling)
        while (name := _activation(below)) in _CLAMPS and name is not None and _only_user(below) is members[0]:
            if _is_in_place(below) and not _is_own(_operand(below)):
                break
            members.insert(0, below)
            names.append(name)
            below = _operand(below)
        convolution = None
        if isinstance(below, Node) and _calls(below, _CONVOLUTIONS) and _only_user(below) is members[0]:
            convolution = _bound(below, _CONVOLVED) if _CONVOLUTIONS[below.target] == dims else None
        if convolution is not None:
            members.insert(0, below)
        window = _window(pooling)
        if window is None or (convolution is None and not names):
            return
        above = _only_user(pooling)
        while above is not None and (name := _activation(above)) in _CLAMPS and name is not None:
            members.append(above)
            names.append(name)
            above = _only_user(above)
        clamp = "" if not names else "relu6" if "relu6" in names else "relu"
        if convolution is not None:
            arguments: tuple[Any, ...] = (*convolution[:3], convolution[3:], clamp, window)
            self._replace(members, convolve_and_pool, arguments, at=members[0])
        else:
            self._replace(members, pool_and_activate, (dims, below, clamp, window), at=members[0])

    def _fuse_chain(self, first: Node) -> list[Node]:
        """Fuses as many links as follow one another from here on, and nothing else between them; returns them."""
        if not _calls(first, _CONVOLUTIONS) and first.target is not normalize:
            return []  # an activation that comes first would have to save what callers may overwrite
        members: list[Node] = []
        node: Node | None = first
        while node is not None and _is_link(node):
            if members and (_map(node) is not members[-1] or _behind(members[-1]) is not node):
                break
            members.append(node)
            node = _only_user(node)
        dims = {_CONVOLUTIONS.get(node.target) for node in members} - {None}
        if len(dims) == 1 and not all(_calls(node, _CONVOLUTIONS) for node in members):
            arguments = _map(first), *_links(members)
            self._replace(members, chained, arguments, at=members[-1])
        return members

    def _replace(self, members: list[Node], function: Callable[..., Any], arguments: tuple[Any, ...], at: Node) -> None:
        with self._graph.inserting_before(at):
            fused = self._graph.create_node("call_function", function, arguments)
        last = members[-1]
        fused.meta = dict(last.meta)
        last.replace_all_uses_with(fused)
        told = [name for node in members for name in self._told.pop(node, [_name(node)])]
        if len(told) > 1:
            self._told[fused] = told
        for node in reversed(members):
            self._graph.erase_node(node)

    # ------------------------------------------------------------------------------------------ what may be moved

    def _may_wait(self, norm: Node, until: Node) -> bool:
        """Whether a normalisation may as well be computed just before ``until``."""
        reads = set(norm.all_input_nodes)
        writes = _written(norm)
        node = norm.next
        while node is not until:
            written = _written(node)
            if written is None or writes is None or written & (reads | writes) or writes & set(node.all_input_nodes):
                return False
            node = node.next
        return True


def _written(node: Node) -> set[Node] | None:
    """The nodes whose memory a node writes to; None where that isn't known."""
    if node.op in ("placeholder", "get_attr"):
        return set()
    if node.target in _NORMS or node.target is normalize:
        bound: Any = node.args[0] if node.target is normalize else _bound(node, _NORM)
        if bound is None:
            return None
        _, mean, variance, _, _, training, *_ = bound
        return {each for each in (mean, variance) if isinstance(each, Node)} if training else set()
    if counts_batches(node):
        return {node.args[0]} if isinstance(node.args[0], Node) else None
    quiet = node.op in ("call_function", "call_method") and node.target in _READERS
    return set() if quiet and not _is_in_place(node) and "out" not in node.kwargs else None


# ---------------------------------------------------------------------------------------------- reading nodes


def _calls(node: Node, functions: dict[Any, Any]) -> bool:
    return node.op == "call_function" and node.target in functions


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Node) and isinstance(value.meta.get("example_value"), Tensor)


def _name(node: Node) -> str:
    """The layer that a node was called in, else its function."""
    held = list((node.meta.get("nn_module_stack") or {}).values())
    path, kind = held[-1] if held else ("", object)
    function = str(getattr(node.target, "__name__", node.target))
    if kind.__module__.startswith(("torch.nn.", "striate.nn")) and not issubclass(kind, _HOLDERS):
        return plain_path(path)
    return f"{plain_path(path)}.{function}".strip(".")


_HOLDERS: Final = (torch.nn.Sequential, torch.nn.ModuleList, torch.nn.ModuleDict)


def plain_path(source: str) -> str:
    """The path of a module, from Dynamo's words for it: ``L['module']._modules['a'].b.0`` is ``a.b.0``."""
    for root in ("L['module']", "L['self']", "L['fn'].__self__", "L['fn']", "L.fn", "L.module", "L.self"):
        source = source.removeprefix(root)
    source = source.replace("._modules['", ".").replace("']", "").replace("['", ".")
    return source.strip(".")


def _activation(node: Any) -> str | None:
    """An activation by the name that normalisation knows it by; None if a node is none."""
    if not isinstance(node, Node) or node.op not in ("call_function", "call_method"):
        return None
    if node.target in _SET:
        bound = _bound(node, _SET[node.target])
        return None if bound is None else _named(node.target, bound[1:])
    name = _ACTIVATIONS.get(node.target)
    if name is None or len(node.args) not in (1, 2) or not node.kwargs.keys() <= {"inplace"}:
        return None
    return name


def _named(function: Any, settings: tuple[Any, ...]) -> str | None:
    """The name of an activation with these settings."""
    if function is F.gelu:
        return "gelu" if settings == ("none",) else None
    if not all(isinstance(number, (int, float)) and math.isfinite(number) for number in settings):
        return None
    if function is F.hardtanh:
        return "relu6" if settings[:2] == (0, 6) else None
    return f"{function.__name__}:{float(settings[0])}"


#: Activations with settings, and these.
_SET: Final[dict[Any, dict[str, Any]]] = {
    F.hardtanh: {"input": None, "min_val": -1.0, "max_val": 1.0, "inplace": False},
    F.leaky_relu: {"input": None, "negative_slope": 0.01, "inplace": False},
    F.elu: {"input": None, "alpha": 1.0, "inplace": False},
    F.gelu: {"input": None, "approximate": "none"},
}


def _is_in_place(node: Node) -> bool:
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    if "inplace" in _SET.get(node.target, {}):
        bound = _bound(node, _SET[node.target])
        return bound is None or bool(bound[-1])
    in_place = node.kwargs.get("inplace", len(node.args) > 1 and node.target in _ACTIVATIONS and node.args[1])
    return name.endswith("_") or bool(in_place) or node.target in INTO_FIRST


def _is_addition(node: Node) -> bool:
    alike = len(node.args) == 2 and all(map(_is_tensor, node.args)) and not node.kwargs
    return alike and node.op in ("call_function", "call_method") and node.target in _ADDITIONS


def _is_own(value: Any) -> bool:
    """Whether a value is new memory, and used once: nobody else sees it."""
    made = isinstance(value, Node) and value.op == "call_function" and value.target in _MAKERS
    return made and _only_user(value) is not None


def _only_user(node: Node) -> Node | None:
    """The one node that uses a value, once."""
    users = list(node.users)
    return users[0] if len(users) == 1 and _uses(users[0], node) == 1 else None


def _uses(user: Node, node: Node) -> int:
    """How often a node stands among another's arguments."""
    count = 0

    def look(each: Node) -> Node:
        nonlocal count
        count += each is node
        return each

    torch.fx.map_arg((user.args, user.kwargs), look)
    return count


def _behind(node: Node) -> Node:
    """The next node that does anything but count batches, which no link sees."""
    node = node.next
    while node.op == "get_attr" or counts_batches(node):
        node = node.next
    return node


def counts_batches(node: Node) -> bool:
    if node.op != "call_method" or node.target != "add_" or node.kwargs or node.users:
        return False
    counter, *others = node.args
    value = counter.meta.get("example_value") if isinstance(counter, Node) and counter.op == "placeholder" else None
    return others == [1] and isinstance(value, Tensor) and value.dtype is torch.int64


def _operand(node: Node) -> Any:
    return node.args[0] if node.args else node.kwargs.get("input")


def _bound(node: Node, parameters: dict[str, Any]) -> tuple[Any, ...] | None:
    """A call's arguments in the order of the parameters, which come with their defaults; None if it has others."""
    named = dict(zip(parameters, node.args, strict=False))
    if len(node.args) > len(parameters) or not node.kwargs.keys() <= parameters.keys() - named.keys():
        return None
    return tuple({**parameters, **named, **node.kwargs}.values())


def _window(node: Node) -> tuple[Any, ...] | None:
    """The arguments of max pooling after its input."""
    bound = _bound(node, {"input": None, "kernel_size": None, **_WINDOW, "return_indices": False})
    if bound is None or bound[-1] is not False:
        return None
    numbers: list[Node] = []
    torch.fx.map_arg(bound[1:], lambda each: numbers.append(each))
    return None if numbers else bound[1:-1]  # a computed size may not be known yet where the convolution stands


def _is_link(node: Node) -> bool:
    if _calls(node, _CONVOLUTIONS):
        return _bound(node, _CONVOLVED) is not None
    return node.target is normalize or _activation(node) is not None or _average(node) is not None


def _map(link: Node) -> Any:
    """The map that a link is a function of."""
    arguments: Any = link.args
    return arguments[0][0] if link.target is normalize else _operand(link)


def _average(node: Node) -> tuple[Any, ...] | None:
    """The window of average pooling as a link of a chain has it; None if a node is no such pooling."""
    if not _calls(node, _AVERAGES):
        return None
    bound = _bound(node, {"input": None, "kernel_size": None, **_AVERAGED})
    numbers: list[Node] = []
    torch.fx.map_arg(() if bound is None else bound[1:], lambda each: numbers.append(each))
    return None if bound is None or bound[-1] is not None or numbers else bound[1:-1]


def _links(members: list[Node]) -> list[chain.Convolution | chain.Activated | Normed]:
    """The links of a chain; average pooling belongs to the activation before it."""
    links: list[chain.Convolution | chain.Activated | Normed] = []
    for node in members:
        window = _average(node)
        if window is None:
            name = _activation(node)
            links.append(_link(node) if name is None else chain.Activated(name))
        elif links and isinstance(last := links[-1], chain.Activated) and last.window is None:
            links[-1] = chain.Activated(last.name, window)
        else:
            links.append(chain.Activated("", window))
    return links


def _link(node: Node) -> chain.Convolution | Normed:
    arguments: Any = node.args
    if node.target is normalize:
        norm, *added = arguments
        return Normed(norm[1:], *added)
    found = _bound(node, _CONVOLVED)
    assert found is not None  # it is a link
    _, weight, bias, *how = found
    return chain.Convolution(weight, bias, tuple(how))
