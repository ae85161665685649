"""A recording as a graph: operators in boxes, which are calls of layers, with tensors as edges.

Boxes can be opened and closed. The contents of a closed box are one node. Operators that don't depend on an input (such
as the transposition of a weight) aren't shown; their costs belong to the operator that uses their result.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import torch

from striate.analysis.counting import work
from striate.analysis.operators import Call, Operation, Value
from striate.studio.naming import describe, family, output_names
from striate.studio.recording import Recording

#: The name of the network itself among the boxes.
ROOT: Final = ""

#: The initial view has at least FEW nodes, if boxes can be opened for it, and at most MOST.
FEW: Final = 8
MOST: Final = 44
#: The most nodes of the initial view if it opens boxes whose contents branch.
BRANCHED: Final = 64

#: The family of a layer with operators of several families, by precedence.
_LEADING: Final = ("conv", "pool", "attention", "norm", "dense")


@dataclass(frozen=True)
class GraphNode:
    """A node of the graph: an operator, a closed box, an input or an output.

    Args:
        id: ``"op:12"``, a box's name, ``"input:x"``, ``"output:0"``.
        kind: ``"operator"``, ``"box"``, ``"input"`` or ``"output"``.
        name: the name on the page: the layer's path relative to the box around it, or the operator's name.
        type: the layer's class or the operator.
        family: the result of :func:`family`; for a box the common family of its operators, or ``"box"``.
        values: the numbers of its results, the main one first.
        shape: the shape of the main result.
        opens: whether it is a box that can be opened.
        parameters: number of learnt parameters, each counted at the first node that reads it.
        macs, flops: the costs of its operators.
        bytes: new memory that its operators write.
        operators: number of operators that it contains.
        about: kernel, stride and the like, as short text.
        parts: the layers inside, most frequent first.
    """

    id: str
    kind: str
    name: str
    type: str
    family: str
    values: tuple[int, ...]
    shape: tuple[int, ...]
    opens: bool = False
    parameters: int = 0
    macs: int = 0
    flops: int = 0
    bytes: int = 0
    operators: int = 1
    about: str = ""
    parts: str = ""


@dataclass(frozen=True)
class Edge:
    """An edge: a tensor from one node to another."""

    source: str
    target: str
    value: int
    shape: tuple[int, ...]


@dataclass(frozen=True)
class GraphBox:
    """An open box, with the names of the nodes and boxes in it, in the order of computation."""

    id: str
    name: str
    type: str
    contents: tuple[str, ...]
    parameters: int = 0
    macs: int = 0


@dataclass(frozen=True)
class GraphView:
    """The graph for a set of open boxes; ``boxes`` also has the network itself, under ``""``."""

    nodes: dict[str, GraphNode]
    boxes: dict[str, GraphBox]
    edges: tuple[Edge, ...]


@dataclass(eq=False)
class _Member:
    """A call of a layer as a box, with its contents in the order of computation: operator indices and call numbers."""

    call: Call
    name: str
    inside: list[tuple[str, int]] = field(default_factory=list)
    operations: list[int] = field(default_factory=list)


class Network:
    """The graph of a recording.

    Args:
        recording: the recording whose operators are shown.
    """

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self._operations = recording.trace.operations
        self._flowing = self._flows()
        self._members = self._gathered()
        self._named = {member.name: number for number, member in self._members.items()}
        self._counts = self._counted()
        #: A cache of results that views compute from the graph, by request.
        self.made: dict[Any, Any] = {}

    # ------------------------------------------------------------------ once for a recording

    def _flows(self) -> set[Value]:
        """The values that depend on an input."""
        trace = self.recording.trace
        found = set(trace.inputs.values())
        for operation in self._operations:
            if any(value in found for value in operation.inputs):
                found.update(operation.outputs)
                found.update(new for _, new in operation.written)
        if not any(value in found for value in trace.outputs):  # the network's output doesn't depend on an input
            found.update(value for operation in self._operations for value in operation.outputs)
        return found

    def _is_shown(self, operation: Operation) -> bool:
        return any(value in self._flowing for value in operation.outputs) or any(
            new in self._flowing for _, new in operation.written
        )

    def _gathered(self) -> dict[int, _Member]:
        """The calls that compute on an input, by number."""
        calls = self.recording.trace.calls
        names: dict[str, int] = {}
        members: dict[int, _Member] = {}
        for number, call in enumerate(calls):
            names[call.path] = names.get(call.path, 0) + 1
            count = names[call.path]
            members[number] = _Member(call, call.path if count == 1 else f"{call.path}@{count}")
        if not members:
            members[0] = _Member(Call("", torch.nn.Module(), -1), ROOT)
        for place, operation in enumerate(self._operations):
            if self._is_shown(operation):
                number = max(operation.call, 0)
                members[number].inside.append(("op", place))
                while number >= 0:
                    members[number].operations.append(place)
                    number = members[number].call.parent
        for number in sorted(members, reverse=True):
            member = members[number]
            if number and not member.operations:
                del members[number]
            elif number:
                members[member.call.parent].inside.append(("call", number))
        for member in members.values():
            member.inside.sort(key=lambda each: each[1] if each[0] == "op" else members[each[1]].operations[0])
        return members

    def _counted(self) -> list[tuple[int, int, int, int]]:
        """Parameters, MACs, FLOPs and bytes of each operation; hidden operations count at the next shown one."""
        trace = self.recording.trace
        own: dict[int, int] = {}
        for value in dict.fromkeys(trace.parameters.values()):
            own[value.storage] = own.get(value.storage, 0) + value.numel
        known = {value.storage for value in trace.inputs.values()}
        counts, waiting = [], [0, 0, 0, 0]
        for operation in self._operations:
            done = work(operation)
            new = {each.storage: each.bytes for each in operation.outputs if each.kind == "activation"}
            new = {storage: size for storage, size in new.items() if storage not in known}
            known |= new.keys()
            learnt = sum(own.pop(value.storage, 0) for value in operation.inputs)
            found = [learnt, done.macs if done else 0, done.flops if done else 0, sum(new.values())]
            waiting = [mine + theirs for mine, theirs in zip(waiting, found, strict=True)]
            if self._is_shown(operation):
                counts.append((waiting[0], waiting[1], waiting[2], waiting[3]))
                waiting = [0, 0, 0, 0]
            else:
                counts.append((0, 0, 0, 0))
        return counts

    # ------------------------------------------------------------------ which boxes there are

    def opens(self, number: int) -> bool:
        """Whether a call's box can be opened."""
        return len(self._members[number].operations) > 1

    def known(self, names: Collection[str]) -> frozenset[str]:
        """The given names that are boxes which can be opened."""
        return frozenset(name for name in names if name in self._named and self.opens(self._named[name]))

    def first(self) -> frozenset[str]:
        """The boxes that are open in the initial view: as many as stay readable, boxes with branches included."""
        open_: set[int] = set()
        shown = self._visible(open_)
        while len(shown) < FEW:
            inside = [each for each in self._boxes(shown) if len(shown) - 1 + self._size(each) <= MOST]
            if not inside:
                break
            largest = max(inside, key=lambda each: len(self._members[each].operations))
            open_.add(largest)
            shown = self._visible(open_)
        kinds: set[type] = set()
        branching = [each for each in self._boxes(shown) if self._branches(each)]
        total = len(shown) + sum(self._size(each) - 1 for each in branching)
        for each in branching:
            kind = type(self._members[each].call.layer)
            one = kind not in kinds and len(self._visible(open_)) - 1 + self._size(each) <= MOST
            if total <= BRANCHED or one:
                open_.add(each)
            kinds.add(kind)
        return frozenset(self._members[each].name for each in open_)

    def _boxes(self, shown: list[tuple[str, int]]) -> list[int]:
        """The shown boxes that contain other layers."""
        return [n for kind, n in shown if kind == "call" and self.opens(n) and not self._members[n].call.leaf]

    def _size(self, number: int) -> int:
        return len(self._members[number].inside)

    def _visible(self, open_: Collection[int], number: int = 0) -> list[tuple[str, int]]:
        found: list[tuple[str, int]] = []
        for kind, each in self._members[number].inside:
            found += self._visible(open_, each) if kind == "call" and each in open_ else [(kind, each)]
        return found

    def _branches(self, number: int) -> bool:
        """Whether a box has three or more parallel branches, and isn't too full."""
        view = self.view(frozenset({self._members[number].name}), within=number)
        if not 4 <= len(view.nodes) <= 24:
            return False
        depth: dict[str, int] = dict.fromkeys(view.nodes, 0)
        for edge in view.edges:
            if edge.source in depth and edge.target in depth:
                depth[edge.target] = max(depth[edge.target], depth[edge.source] + 1)
        return max((list(depth.values()).count(each) for each in depth.values()), default=0) >= 3

    # ------------------------------------------------------------------ a view

    def view(self, open_: Collection[str], *, within: int = 0) -> GraphView:
        """Nodes, boxes and edges for these open boxes; with ``within`` of one call, without inputs and outputs."""
        opened = {self._named[name] for name in self.known(open_)} | {within}
        nodes: dict[str, GraphNode] = {}
        boxes: dict[str, GraphBox] = {}
        owner: dict[int, str] = {}
        self._fill(within, opened, nodes, boxes, owner)
        edges = self._edges(owner, nodes, whole=within == 0)
        if within == 0:
            self._ends(nodes, boxes, edges)
        return GraphView(nodes, boxes, tuple(edges))

    def _fill(
        self,
        number: int,
        opened: Collection[int],
        nodes: dict[str, GraphNode],
        boxes: dict[str, GraphBox],
        owner: dict[int, str],
    ) -> None:
        member = self._members[number]
        contents = []
        for kind, each in member.inside:
            if kind == "op":
                node = self._operator(each)
            elif each in opened:
                self._fill(each, opened, nodes, boxes, owner)
                contents.append(self._members[each].name)
                continue
            else:
                node = self._closed(each, member.call.path)
            nodes[node.id] = node
            contents.append(node.id)
            owner.update(dict.fromkeys([each] if kind == "op" else self._members[each].operations, node.id))
        total = self._total(member.operations)
        layer = type(member.call.layer).__name__
        boxes[member.name] = GraphBox(member.name, member.call.path, layer, tuple(contents), total[0], total[1])

    def _total(self, operations: Collection[int]) -> tuple[int, ...]:
        return tuple(map(sum, zip(*(self._counts[each] for each in operations), strict=True))) or (0, 0, 0, 0)

    def _operator(self, place: int) -> GraphNode:
        operation = self._operations[place]
        outputs = operation.outputs or tuple(new for _, new in operation.written[:1])
        values = tuple(self.recording.number_of(each) for each in outputs)
        name = operation.name.rpartition(".")[2].strip("_") or operation.name
        parameters, macs, flops, size = self._counts[place]
        return GraphNode(
            f"op:{place}", "operator", name, operation.name, family(operation), values, outputs[0].shape,
            False, parameters, macs, flops, size, 1, describe(operation),
        )  # fmt: skip

    def _closed(self, number: int, within: str) -> GraphNode:
        member = self._members[number]
        call = member.call
        last = self._operations[member.operations[-1]]
        outputs = [each for each in call.outputs if each in self._flowing] or list(last.outputs)
        values = tuple(self.recording.number_of(each) for each in dict.fromkeys(outputs))
        families = {family(self._operations[each]) for each in member.operations} - {"move"}
        if call.leaf:
            kind = next((each for each in _LEADING if each in families), min(families, default="move"))
        else:
            kind = "box"
        name = member.name.removeprefix(f"{within}.") if within else member.name
        parameters, macs, flops, size = self._total(member.operations)
        return GraphNode(
            member.name, "box", name, type(call.layer).__name__, kind, values, outputs[0].shape if outputs else (),
            self.opens(number), parameters, macs, flops, size, len(member.operations), self._about(member),
            "" if call.leaf else self._parts(number),
        )  # fmt: skip

    def _about(self, member: _Member) -> str:
        told = [describe(self._operations[each]) for each in member.operations] if member.call.leaf else []
        return next((each for each in told if each), "")

    def _parts(self, number: int) -> str:
        """The layers in a box, counted by class: ``"3 Bottleneck"``."""
        counts: dict[str, int] = {}
        for kind, each in self._members[number].inside:
            if kind == "call":
                layer = type(self._members[each].call.layer).__name__
                counts[layer] = counts.get(layer, 0) + 1
        listed = sorted(counts.items(), key=lambda each: -each[1])
        return ", ".join(f"{count} {name}" if count > 1 else name for name, count in listed[:3])

    def _edges(self, owner: dict[int, str], nodes: dict[str, GraphNode], *, whole: bool) -> list[Edge]:
        makers: dict[Value, str] = {}
        if whole:
            for name, value in self.recording.trace.inputs.items():
                makers[value] = f"input:{name}"
        edges: dict[tuple[str, str, int], Edge] = {}
        for place, operation in enumerate(self._operations):
            target = owner.get(place)
            if target is None:
                continue
            for value in dict.fromkeys(operation.inputs):
                source = makers.get(value)
                if source is not None and source != target:
                    number = self.recording.number_of(value)
                    edges[source, target, number] = Edge(source, target, number, value.shape)
            for _, new in operation.written:
                makers[new] = target
            for value in operation.outputs:
                makers[value] = target
        if whole:
            for rank, value in enumerate(dict.fromkeys(self.recording.trace.outputs)):
                if (source := makers.get(value)) is not None:
                    number = self.recording.number_of(value)
                    edges[source, f"output:{rank}", number] = Edge(source, f"output:{rank}", number, value.shape)
        return list(edges.values())

    def _ends(self, nodes: dict[str, GraphNode], boxes: dict[str, GraphBox], edges: list[Edge]) -> None:
        """Adds the network's inputs and outputs as nodes."""
        trace, number_of = self.recording.trace, self.recording.number_of
        before, after = {}, {}
        for name, value in trace.inputs.items():
            before[f"input:{name}"] = GraphNode(
                f"input:{name}", "input", name, "input", "input", (number_of(value),), value.shape, operators=0
            )
        labels = output_names(self.recording)
        used = {edge.target for edge in edges}
        for rank, value in enumerate(dict.fromkeys(trace.outputs)):
            if (node := f"output:{rank}") in used:
                name = labels.get(number_of(value), "output")
                after[node] = GraphNode(
                    node, "output", name, "output", "output", (number_of(value),), value.shape, operators=0
                )
        inner = dict(nodes)
        nodes.clear()
        nodes.update({**before, **inner, **after})
        root = boxes[ROOT]
        contents = (*before, *root.contents, *after)
        boxes[ROOT] = GraphBox(root.id, root.name, root.type, contents, root.parameters, root.macs)

    # ------------------------------------------------------------------ search

    def search(self, words: str, most: int = 50) -> Iterator[tuple[str, str, list[str]]]:
        """Layers and operators whose name or type contains the words: id, displayed name, and the boxes to open."""
        needle = words.lower()
        found = 0
        for number, member in self._members.items():
            layer = type(member.call.layer).__name__
            if number and (needle in member.name.lower() or needle in layer.lower()):
                yield member.name, f"{member.name} · {layer}", self._above(member.call.parent)
                found += 1
            if found >= most:
                return
        for place, operation in enumerate(self._operations):
            if needle in operation.name.lower() and self._is_shown(operation):
                inside = self._members[max(operation.call, 0)]
                chain = self._above(operation.call)
                if len(inside.operations) == 1 and inside.name:
                    yield inside.name, f"{inside.name} · {operation.name}", self._above(inside.call.parent)
                else:
                    yield f"op:{place}", f"{inside.name or 'network'} · {operation.name}", chain
                found += 1
                if found >= most:
                    return

    def node_of(self, value: int) -> dict[str, Any] | None:
        """The node that computes a value if all boxes around it are open, and these boxes; None for constants."""
        found = self.recording.origins.get(value)
        if found is None:
            names = [
                name for name, each in self.recording.trace.inputs.items() if self.recording.number_of(each) == value
            ]
            return {"id": f"input:{names[0]}", "open": []} if names else None
        operation = self._operations[found[0]]
        if not self._is_shown(operation):
            return None
        member = self._members[max(operation.call, 0)]
        if member.name and (len(member.operations) == 1 or member.call.leaf):
            return {"id": member.name, "open": self._above(member.call.parent)}
        return {"id": f"op:{found[0]}", "open": self._above(operation.call)}

    def _above(self, number: int) -> list[str]:
        """The boxes around a call, the outermost first, without the network itself."""
        chain = []
        while number > 0:
            chain.append(self._members[number].name)
            number = self._members[number].call.parent
        return chain[::-1]


def network_of(recording: Recording) -> Network:
    """The graph of a recording, computed once and stored with it, so that both are freed together."""
    found: Network | None = vars(recording).get(_GRAPH)
    if found is None:
        found = vars(recording)[_GRAPH] = Network(recording)
    return found


def release(recording: Recording) -> None:
    """Removes the graph from a recording, because the reference cycle would keep both until garbage collection."""
    vars(recording).pop(_GRAPH, None)


_GRAPH: Final = "_graph"
