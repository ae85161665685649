"""Places the items of a graph in columns from left to right, and in rows like lines of text.

This is a layered layout (Sugiyama, Tagawa & Toda, 1981). An item is in the column after its last predecessor. A link
that crosses columns has a bend in each; links of one tensor share their bends. Within columns, items are sorted by the
mean places of their neighbours, in sweeps. Heights then minimise the squared distance to the linked items, exactly for
each column (pool adjacent violators). A full row ends at a column from which few enough links continue that they can be
routed around, and the next row begins below.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

#: The gaps between columns, between items of a column, and between rows.
COLUMN_GAP: Final = 34.0
ITEM_GAP: Final = 14.0
ROW_GAP: Final = 34.0
#: The height of a bend, which keeps links apart from items and from one another.
_BEND: Final = 7.0
#: The most tensors that are routed around to the next row; more are allowed in a row that is several times too long.
_AROUND: Final = 1
_AROUND_LONG: Final = 3
_LONG: Final = 2.2
#: The most bends of a layout; links that would need more are routed below the row.
_MOST_BENDS: Final = 30_000
#: With more items and bends, fewer sweeps are made for order and heights.
_MANY: Final = 1500
_FEW: Final = 300


@dataclass(frozen=True)
class Item:
    """Something with a size.

    Args:
        name: a unique name.
        width, height: in pixels.
        entries, exits: the heights at which links of a tensor arrive and leave, from the top; the middle by default.
        pinned: ``"first"`` or ``"last"`` for items on the left or right edge; or empty.
    """

    name: str
    width: float
    height: float
    entries: Mapping[Hashable, float] = field(default_factory=dict)
    exits: Mapping[Hashable, float] = field(default_factory=dict)
    pinned: str = ""


@dataclass(frozen=True)
class Link:
    """A link from one item to a later one; ``tensor`` identifies the tensor."""

    source: str
    target: str
    tensor: Hashable


@dataclass(frozen=True)
class Layout:
    """The places of items (left, top), a polyline for each link, and the size of the whole layout."""

    places: Mapping[str, tuple[float, float]]
    ways: tuple[tuple[tuple[float, float], ...], ...]
    width: float
    height: float


@dataclass(eq=False)
class _Spot:
    """An item, or a bend, while it is being placed."""

    item: Item | None
    column: int
    height: float
    y: float = 0.0
    #: Neighbours to the left and to the right: (spot, own port, its port).
    left: list[tuple[_Spot, float, float]] = field(default_factory=list)
    right: list[tuple[_Spot, float, float]] = field(default_factory=list)

    @property
    def width(self) -> float:
        return 0.0 if self.item is None else self.item.width


def place(items: Sequence[Item], links: Sequence[Link], width: float = 1400.0) -> Layout:
    """Places items; each link's source has to come before its target in the sequence.

    Args:
        items: the items, in an order in which all links go forward.
        links: the links between them.
        width: the width at which rows end, if possible.

    >>> layout = place([Item("a", 10, 10), Item("b", 10, 10)], [Link("a", "b", 0)])
    >>> layout.places["b"], layout.ways[0][0], layout.ways[0][-1]
    ((44.0, 0.0), (10.0, 5.0), (44.0, 5.0))
    """
    if not items:
        return Layout({}, (), 0.0, 0.0)
    spots = {item.name: _Spot(item, 0, item.height) for item in items}
    _layer(items, links, spots)
    chains, far = _bend(links, spots)
    columns = _columns(spots, chains)
    _order(columns)
    _settle(columns)
    _straighten(columns)
    rows = _rows(columns, width)
    return _Drawn(spots, columns, rows, links, chains, far).layout()


# ---------------------------------------------------------------- columns


def _layer(items: Sequence[Item], links: Sequence[Link], spots: Mapping[str, _Spot]) -> None:
    """Assigns columns: an item comes after its predecessors; one without predecessors right before its first use."""
    after: dict[str, list[str]] = defaultdict(list)
    for link in links:
        after[link.source].append(link.target)
    begin = int(any(item.pinned == "first" for item in items))
    fed = {link.target for link in links if spots[link.source].item.pinned != "first"}  # type: ignore[union-attr]
    for item in items:
        spot = spots[item.name]
        if item.pinned != "first":
            spot.column = max(spot.column, begin)
        for target in after[item.name]:
            spots[target].column = max(spots[target].column, spot.column + 1)
    for item in reversed(items):
        if item.name not in fed and after[item.name] and not item.pinned:
            column = min(spots[target].column for target in after[item.name]) - 1
            entered = any(link.target == item.name for link in links) if begin else False
            if not entered:
                spots[item.name].column = max(column, begin)
    last = max(spot.column for spot in spots.values())
    if any(item.pinned == "last" for item in items):
        last = max([begin, *(spots[item.name].column for item in items if item.pinned != "last")]) + 1
    for item in items:
        if item.pinned == "last":
            spots[item.name].column = last


_Chains = dict[tuple[str, Hashable], dict[int, _Spot]]


def _bend(links: Sequence[Link], spots: Mapping[str, _Spot]) -> tuple[_Chains, set[int]]:
    """The bends of each tensor by column, and the numbers of links that are routed below the row instead."""
    reach: dict[tuple[str, Hashable], int] = {}
    far: set[int] = set()
    spans = sorted(range(len(links)), key=lambda n: spots[links[n].target].column - spots[links[n].source].column)
    bends = 0
    for number in spans:
        link = links[number]
        key = (link.source, link.tensor)
        begin = spots[link.source].column
        known = reach.get(key, begin)
        end = max(known, spots[link.target].column - 1)
        if bends + end - known > _MOST_BENDS:
            far.add(number)
            continue
        bends += end - known
        reach[key] = end
    chains: _Chains = {}
    for key, end in reach.items():
        begin = spots[key[0]].column
        chains[key] = {column: _Spot(None, column, _BEND) for column in range(begin + 1, end + 1)}
    for number, link in enumerate(links):
        source, target = spots[link.source], spots[link.target]
        if number in far:
            continue
        chain = chains[link.source, link.tensor]
        before: _Spot = chain.get(target.column - 1, source) if target.column - 1 > source.column else source
        _join(before, target, _exit(before, link), _entry(target, link))
    for (name, tensor), chain in chains.items():
        before = spots[name]
        for column in sorted(chain):
            _join(before, chain[column], _exit(before, Link(name, "", tensor)), _BEND / 2)
            before = chain[column]
    return chains, far


def _join(left: _Spot, right: _Spot, leaving: float, arriving: float) -> None:
    left.right.append((right, leaving, arriving))
    right.left.append((left, arriving, leaving))


def _exit(spot: _Spot, link: Link) -> float:
    if spot.item is None:
        return _BEND / 2
    return spot.item.exits.get(link.tensor, spot.height / 2)


def _entry(spot: _Spot, link: Link) -> float:
    if spot.item is None:
        return _BEND / 2
    return spot.item.entries.get(link.tensor, spot.height / 2)


def _columns(spots: Mapping[str, _Spot], chains: _Chains) -> list[list[_Spot]]:
    # Bends come first, so that links that skip columns pass above the items.
    every = [*(bend for chain in chains.values() for bend in chain.values()), *spots.values()]
    columns: list[list[_Spot]] = [[] for _ in range(1 + max(spot.column for spot in every))]
    for spot in every:
        columns[spot.column].append(spot)
    return columns


# ---------------------------------------------------------------- order and heights


def _order(columns: list[list[_Spot]]) -> None:
    """Sorts columns by the mean places of linked spots, to and fro; keeps the order with the fewest crossings."""
    if all(len(column) == 1 for column in columns):
        return
    many = sum(map(len, columns)) > _MANY
    best, least = [column[:] for column in columns], _crossings(columns)
    for sweep in range(3 if many else 12):
        forward = sweep % 2 == 0
        ordered = columns[1:] if forward else columns[-2::-1]
        for column in ordered:
            places = {
                id(spot): place
                for beside in {spot.column + (-1 if forward else 1) for spot in column}
                if 0 <= beside < len(columns)
                for place, spot in enumerate(columns[beside])
            }
            keys: dict[int, float] = {}
            for place, spot in enumerate(column):
                linked = [places[id(other)] for other, _, _ in (spot.left if forward else spot.right)]
                keys[id(spot)] = sum(linked) / len(linked) if linked else float(place)
            column.sort(key=lambda spot: keys[id(spot)])
        crossed = _crossings(columns)
        if crossed < least:
            best, least = [column[:] for column in columns], crossed
        if least == 0:
            break
    for column, kept in zip(columns, best, strict=True):
        column[:] = kept


def _crossings(columns: Sequence[Sequence[_Spot]]) -> int:
    """The number of crossings of links between neighbouring columns: inversions, counted with a Fenwick tree."""
    total = 0
    for left, right in itertools.pairwise(columns):
        places = {id(spot): place for place, spot in enumerate(right)}
        ends = [place for spot in left for place in sorted(places[id(other)] for other, _, _ in spot.right)]
        tree = [0] * (len(right) + 1)
        for seen, end in enumerate(ends):
            at, before = end + 1, 0
            while at:
                before += tree[at]
                at &= at - 1
            total += seen - before
            at = end + 1
            while at <= len(right):
                tree[at] += 1
                at += at & -at
    return total


def _settle(columns: Sequence[Sequence[_Spot]]) -> None:
    """Sets heights: each column in turn as near as possible to the linked spots, in both directions."""
    for column in columns:
        top = 0.0
        for spot in column:
            spot.y = top
            top += spot.height + ITEM_GAP
        for spot in column:
            spot.y -= (top - ITEM_GAP) / 2
    count = sum(map(len, columns))
    for sweep in range(4 if count > _MANY else 12 if count > _FEW else 60):
        for column in columns if sweep % 2 == 0 else reversed(columns):
            wanted, weights = [], []
            for spot in column:
                pulls = [
                    (other.y + theirs - own, _pull(spot, other)) for other, own, theirs in (*spot.left, *spot.right)
                ]
                weight = sum(each for _, each in pulls)
                wanted.append(sum(at * each for at, each in pulls) / weight if pulls else spot.y)
                weights.append(weight or 0.01)
            for spot, y in zip(column, _apart(wanted, weights, [spot.height for spot in column]), strict=True):
                spot.y = y


def _straighten(columns: Sequence[Sequence[_Spot]]) -> None:
    """Makes chains level: a spot that is the only successor of another one gets its height, if there is room."""
    for column in columns:
        wanted, weights = [], []
        for spot in column:
            other, own, theirs = spot.left[0] if spot.left else (spot, 0.0, 0.0)
            chained = len(spot.left) == 1 and (len(other.right) == 1 or spot.item is None or other.item is None)
            wanted.append(other.y + theirs - own if chained else spot.y)
            weights.append(100.0 if chained else 1.0)
        for spot, y in zip(column, _apart(wanted, weights, [spot.height for spot in column]), strict=True):
            spot.y = y


def _pull(spot: _Spot, other: _Spot) -> float:
    """The weight of making a link level; it is largest between two bends, because a long line shows every step."""
    return (4.0 if spot.item is None else 1.0) * (2.0 if other.item is None else 1.0)


def _apart(wanted: Sequence[float], weights: Sequence[float], heights: Sequence[float]) -> list[float]:
    """The heights in this order, at least a gap apart, that are nearest to the wanted ones in weighted squares."""
    offsets, offset = [], 0.0
    for height in heights:
        offsets.append(offset)
        offset += height + ITEM_GAP
    blocks: list[list[float]] = []  # mean, weight, count
    for want, weight, start in zip(wanted, weights, offsets, strict=True):
        blocks.append([want - start, weight, 1])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            mean, more, count = blocks.pop()
            last = blocks[-1]
            last[0] = (last[0] * last[1] + mean * more) / (last[1] + more)
            last[1] += more
            last[2] += count
    found = [mean for mean, _, count in blocks for _ in range(int(count))]
    return [base + start for base, start in zip(found, offsets, strict=True)]


# ---------------------------------------------------------------- rows


def _rows(columns: Sequence[Sequence[_Spot]], width: float) -> list[range]:
    """Divides columns into rows: a full row ends at the last place that few links cross and that isn't in its first
    third.
    """
    widths = [max(spot.width for spot in column) for column in columns]
    passing = [len({id(spot) for spot in column if spot.right}) for column in columns]
    rows, begin, filled = [], 0, 0.0
    for number, wide in enumerate(widths):
        filled += wide + (COLUMN_GAP if number > begin else 0.0)
        if filled <= width or number == begin:
            continue
        most = _AROUND if filled <= _LONG * width else _AROUND_LONG
        breaks = [at for at in range(begin + max(1, (number - begin) // 3), number + 1) if passing[at - 1] <= most]
        # A row doesn't begin with a column that only has bends, or an edge of a box.
        breaks = [at for at in breaks if widths[at] > 0 and sum(widths[begin:at]) > 0]
        if breaks:
            rows.append(range(begin, breaks[-1]))
            begin = breaks[-1]
            filled = sum(widths[begin : number + 1]) + COLUMN_GAP * (number - begin)
    rows.append(range(begin, len(columns)))
    return rows


class _Drawn:
    """Computes places and polylines in pixels."""

    def __init__(
        self,
        spots: Mapping[str, _Spot],
        columns: Sequence[Sequence[_Spot]],
        rows: Sequence[range],
        links: Sequence[Link],
        chains: _Chains,
        far: set[int],
    ) -> None:
        self._spots, self._links, self._chains, self._far = spots, links, chains, far
        self._row: dict[int, int] = {}
        self._x: dict[int, float] = {}
        self._wide: dict[int, float] = {}
        self._around: dict[tuple[int, str, Hashable], int] = {}
        self._tops: list[float] = []
        self._shifts: list[float] = []
        self._bottoms: list[float] = []
        self._ends: list[float] = []
        top = 0.0
        for number, row in enumerate(rows):
            x = 0.0 if number == 0 else COLUMN_GAP / 2
            for column in row:
                self._row[column], self._x[column] = number, x
                self._wide[column] = max(spot.width for spot in columns[column])
                x += self._wide[column] + COLUMN_GAP
            inside = [spot for column in row for spot in columns[column]]
            low = min(spot.y for spot in inside)
            height = max(spot.y + spot.height for spot in inside) - low
            self._tops.append(top)
            self._shifts.append(top - low)
            self._bottoms.append(top + height)
            self._ends.append(x - COLUMN_GAP)
            top += height + ROW_GAP
        self._height = self._bottoms[-1] + (12.0 if far else 0.0)
        self._width = max(self._ends) + (COLUMN_GAP / 2 if len(rows) > 1 else 0.0)

    def layout(self) -> Layout:
        places = {}
        for name, spot in self._spots.items():
            x = self._x[spot.column] + (self._wide[spot.column] - spot.width) / 2
            if spot.item is not None and spot.item.pinned:  # on the edge itself
                x = 0.0 if spot.item.pinned == "first" else self._width
            places[name] = (x, spot.y + self._shifts[self._row[spot.column]])
        ways = tuple(tuple(self._way(number, link, places)) for number, link in enumerate(self._links))
        return Layout(places, ways, self._width, self._height)

    def _way(self, number: int, link: Link, places: Mapping[str, tuple[float, float]]) -> list[tuple[float, float]]:
        source, target = self._spots[link.source], self._spots[link.target]
        x, y = places[link.source]
        begin = (x + source.width, y + _exit(source, link))
        x, y = places[link.target]
        end = (x, y + _entry(target, link))
        if number in self._far:
            below = self._height
            return [
                begin,
                (begin[0] + 9, begin[1]),
                (begin[0] + 9, below),
                (end[0] - 9, below),
                (end[0] - 9, end[1]),
                end,
            ]
        points = [begin]
        at = source.column
        chain = self._chains[link.source, link.tensor]
        for column in range(source.column + 1, target.column + 1):
            row = self._row[column]
            if row != self._row[at]:
                y = end[1] if column == target.column else self._level(chain[column], row)
                points += self._lead(
                    points[-1], at, row, link, y, end[0] if column == target.column else self._x[column]
                )
            if column < target.column:
                level = self._level(chain[column], row)
                left = self._x[column]
                points += [(left, level), (left + self._wide[column], level)]
            at = column
        return [*points, end]

    def _level(self, bend: _Spot, row: int) -> float:
        return bend.y + _BEND / 2 + self._shifts[row]

    def _lead(
        self, last: tuple[float, float], column: int, row: int, link: Link, y: float, x: float
    ) -> list[tuple[float, float]]:
        """Routes a link around the end of a row, and back below it to the start of the next; each tensor has a lane."""
        lane = self._around.setdefault((row, link.source, link.tensor), sum(key[0] == row for key in self._around))
        right = max(self._ends[row - 1], last[0]) + COLUMN_GAP * 0.25 + 6 * lane
        between = self._bottoms[row - 1] + ROW_GAP / 2 + 6 * lane - 3
        left = COLUMN_GAP * 0.12 - 6 * lane
        return [(right, last[1]), (right, between), (left, between), (left, y), (x, y)]
