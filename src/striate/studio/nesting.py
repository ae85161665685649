"""Places the nodes of a graph with open boxes: each box is laid out separately, and is an item in the box around it.

A tensor that enters or leaves a box crosses its edge at a port. Ports take part in the layout inside the box, so links
don't run over nodes; links outside the box end at its ports.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Final

from striate.studio.graph import ROOT, Edge, GraphView
from striate.studio.layout import Item, Layout, Link, place

#: The space in a box around its contents, and above them for its name.
PADDING: Final = 16.0
TITLE: Final = 26.0
#: The height of a port.
_PORT: Final = 8.0


@dataclass(frozen=True)
class Placed:
    """A placed graph, in pixels from the top left corner.

    Args:
        nodes: (left, top, width, height) by node.
        boxes: the same by open box, the outer ones first.
        edges: the points of each edge, in the order of the view's edges.
        width, height: of the whole graph.
    """

    nodes: Mapping[str, tuple[float, float, float, float]]
    boxes: Mapping[str, tuple[float, float, float, float]]
    edges: tuple[tuple[tuple[float, float], ...], ...]
    width: float
    height: float


#: A port, where a tensor crosses the left or right edge of a box: the side, and the tensor's node and number.
_Port = tuple[str, str, int]


@dataclass(eq=False)
class _Laid:
    """A box whose contents are laid out."""

    layout: Layout
    inner: dict[str, _Laid]
    sizes: dict[str, tuple[float, float]]
    links: list[tuple[str, str, Hashable]]
    width: float
    height: float
    ports: dict[str, float]


def arrange(view: GraphView, size: Callable[[str], tuple[float, float]], width: float = 1400.0) -> Placed:
    """Places a view's nodes, whose width and height ``size`` returns, in rows up to ``width`` if possible."""
    return _Arranging(view, size).placed(width)


class _Arranging:
    def __init__(self, view: GraphView, size: Callable[[str], tuple[float, float]]) -> None:
        self._view, self._size = view, size
        self._parent: dict[str, str] = {}
        for name, box in view.boxes.items():
            for each in box.contents:
                self._parent[each] = name
        self._steps = [self._through(edge) for edge in view.edges]
        self._inside: dict[str, list[tuple[str, str, Hashable]]] = {name: [] for name in view.boxes}
        self._known: dict[str, set[tuple[str, str, Hashable]]] = {name: set() for name in view.boxes}
        for steps in self._steps:
            for inside, source, target, tensor in steps:
                link = (source, target, tensor)
                if link not in self._known[inside]:
                    self._known[inside].add(link)
                    self._inside[inside].append(link)

    def _chain(self, name: str) -> list[str]:
        """The boxes around a node, the innermost first, and the network itself at the end."""
        chain = []
        while name != ROOT:
            name = self._parent[name]
            chain.append(name)
        return chain

    def _through(self, edge: Edge) -> list[tuple[str, str, str, Hashable]]:
        """Splits an edge into links within boxes: (box, from, to, tensor); a port's name has the side of the box."""
        tensor = (edge.source, edge.value)
        outward, inward = self._chain(edge.source), self._chain(edge.target)
        shared = next(each for each in outward if each in set(inward))
        steps: list[tuple[str, str, str, Hashable]] = []
        at = edge.source
        for box in outward[: outward.index(shared)]:
            steps.append((box, at, _port(">", tensor), tensor))
            at = box
        down = inward[: inward.index(shared)][::-1]
        for box, to in zip([shared, *down], [*down, edge.target], strict=True):
            source = at if box == shared else _port("<", tensor)
            steps.append((box, source, to, tensor))
        return steps

    def placed(self, width: float) -> Placed:
        laid = self._lay(ROOT, width)
        nodes: dict[str, tuple[float, float, float, float]] = {}
        boxes: dict[str, tuple[float, float, float, float]] = {ROOT: (0.0, 0.0, laid.width, laid.height)}
        ways: dict[tuple[str, str, str, Hashable], list[tuple[float, float]]] = {}
        self._spread(ROOT, laid, 0.0, 0.0, nodes, boxes, ways)
        edges = tuple(
            tuple(point for number, step in enumerate(steps) for point in ways[step][number > 0 :])
            for steps in self._steps
        )
        return Placed(nodes, boxes, edges, laid.width, laid.height)

    def _lay(self, box: str, width: float) -> _Laid:
        """Lays out a box's contents, inner boxes first."""
        inner: dict[str, _Laid] = {}
        sizes: dict[str, tuple[float, float]] = {}
        items: list[Item] = []
        links = self._inside[box]
        entering = dict.fromkeys(source for source, _, _ in links if source.startswith("<"))
        items += [Item(port, 0.0, _PORT, pinned="first") for port in entering]
        for each in self._view.boxes[box].contents:
            if each in self._view.boxes:
                laid = inner[each] = self._lay(each, max(width - 2 * PADDING, 300.0))
                entries = {key[1]: y for key, y in _split(laid.ports, "<")}
                exits = {key[1]: y for key, y in _split(laid.ports, ">")}
                sizes[each] = (laid.width, laid.height)
                items.append(Item(each, laid.width, laid.height, _by_tensor(links, entries), _by_tensor(links, exits)))
            else:
                sizes[each] = self._size(each)
                items.append(Item(each, *sizes[each]))
        leaving = dict.fromkeys(target for _, target, _ in links if target.startswith(">"))
        items += [Item(port, 0.0, _PORT, pinned="last") for port in leaving]
        layout = place(items, [Link(*link) for link in links], width)
        left, top = (0.0, 0.0) if box == ROOT else (PADDING, TITLE)
        ports = {item.name: layout.places[item.name][1] + _PORT / 2 + top for item in items if item.pinned}
        least = 0.0 if box == ROOT else 9.0 * len(self._view.boxes[box].type) + 40
        return _Laid(
            layout, inner, sizes, links, max(layout.width + 2 * left, least),
            layout.height + top + (PADDING if top else 0.0), ports,
        )  # fmt: skip

    def _spread(
        self,
        box: str,
        laid: _Laid,
        left: float,
        top: float,
        nodes: dict[str, tuple[float, float, float, float]],
        boxes: dict[str, tuple[float, float, float, float]],
        ways: dict[tuple[str, str, str, Hashable], list[tuple[float, float]]],
    ) -> None:
        """Converts places within boxes to places on the page."""
        inset, down = (0.0, 0.0) if box == ROOT else (PADDING, TITLE)
        for each, (width, height) in laid.sizes.items():
            x, y = laid.layout.places[each]
            spot = (left + inset + x, top + down + y, width, height)
            if each in laid.inner:
                boxes[each] = spot
                self._spread(each, laid.inner[each], spot[0], spot[1], nodes, boxes, ways)
            else:
                nodes[each] = spot
        for (source, target, tensor), way in zip(laid.links, laid.layout.ways, strict=True):
            points = [(left + inset + x, top + down + y) for x, y in way]
            if source.startswith("<"):
                points.insert(0, (left, points[0][1]))
            if target.startswith(">"):
                points.append((left + laid.width, points[-1][1]))
            ways[box, source, target, tensor] = points


def _port(side: str, tensor: Hashable) -> str:
    return f"{side}{tensor}"


def _split(ports: Mapping[str, float], side: str) -> list[tuple[tuple[str, str], float]]:
    return [((side, name[1:]), y) for name, y in ports.items() if name.startswith(side)]


def _by_tensor(links: list[tuple[str, str, Hashable]], named: Mapping[str, float]) -> dict[Hashable, float]:
    """The heights of ports, by the tensor that crosses them."""
    return {tensor: named[str(tensor)] for _, _, tensor in links if str(tensor) in named}
