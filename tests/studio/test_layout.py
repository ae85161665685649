"""Layouts: nothing over anything, links that lead forward, rows that end where they may, and large graphs in time."""

from __future__ import annotations

import itertools
import random
import time

import pytest

from striate.studio.layout import Item, Layout, Link, _apart, place


def graph(count: int, seed: int) -> tuple[list[Item], list[Link]]:
    chance = random.Random(seed)
    items = [Item(str(each), chance.choice([40.0, 120.0]), chance.choice([20.0, 60.0])) for each in range(count)]
    links = [Link(str(chance.randrange(each)), str(each), chance.randrange(2)) for each in range(1, count)]
    links += [Link(str(a), str(b), 0) for a, b in (sorted(chance.sample(range(count), 2)) for _ in range(count // 2))]
    return items, list(dict.fromkeys(links))


def overlapping(layout: Layout, items: list[Item]) -> list[tuple[str, str]]:
    boxes = {item.name: (*layout.places[item.name], item.width, item.height) for item in items}
    return [
        (a, b)
        for (a, (x, y, w, h)), (b, (u, v, m, n)) in itertools.combinations(boxes.items(), 2)
        if x < u + m and u < x + w and y < v + n and v < y + h
    ]


@pytest.mark.parametrize("seed", range(40))
def test_nothing_lies_over_anything(seed: int) -> None:
    items, links = graph(5 + seed, seed)
    layout = place(items, links, width=600)
    assert overlapping(layout, items) == []
    for item in items:
        x, y = layout.places[item.name]
        assert -0.01 <= x <= layout.width - item.width + 0.01
        assert -0.01 <= y <= layout.height - item.height + 0.01


@pytest.mark.parametrize("seed", range(20))
def test_links_lead_from_edge_to_edge(seed: int) -> None:
    items, links = graph(20, seed)
    sizes = {item.name: item for item in items}
    layout = place(items, links, width=1e9)
    for link, way in zip(links, layout.ways, strict=True):
        x, y = layout.places[link.source]
        assert way[0] == (x + sizes[link.source].width, y + sizes[link.source].height / 2)
        x, y = layout.places[link.target]
        assert way[-1] == (x, y + sizes[link.target].height / 2)
        assert all(a[0] <= b[0] for a, b in itertools.pairwise(way))


@pytest.mark.parametrize("seed", range(20))
def test_links_pass_beside_items(seed: int) -> None:
    """Within columns, where links are level, none runs through an item that isn't its own."""
    items, links = graph(20, seed)
    layout = place(items, links, width=1e9)
    for link, way in zip(links, layout.ways, strict=True):
        for (fromx, fromy), (tox, toy) in itertools.pairwise(way):
            if fromy != toy:
                continue
            for item in items:
                x, y = layout.places[item.name]
                inside = x < tox and fromx < x + item.width and y + 0.01 < fromy < y + item.height - 0.01
                assert item.name in (link.source, link.target) or not inside


def test_a_chain_is_level_and_goes_on_in_rows() -> None:
    items = [Item(str(each), 100, 40) for each in range(20)]
    layout = place(items, [Link(str(each), str(each + 1), 0) for each in range(19)], width=700)
    rows = {round(layout.places[str(each)][1]) for each in range(20)}
    assert len(rows) == 4
    assert layout.width <= 700
    assert layout.places["0"][1] == pytest.approx(layout.places["4"][1])


def test_skips_aren_t_folded() -> None:
    """A U with three skips stays in one row, as long as it isn't far too long."""
    items = [Item(str(each), 100, 40) for each in range(8)]
    links = [Link(str(each), str(each + 1), each) for each in range(7)] + [
        Link("0", "7", 0),
        Link("1", "6", 1),
        Link("2", "5", 2),
    ]
    layout = place(items, links, width=700)
    assert layout.width > 700
    assert max(y for _, y in layout.places.values()) < 200


def test_branches_stand_beside_each_other_in_order() -> None:
    items = [Item(name, 50, 30) for name in "abcde"]
    layout = place(items, [Link("a", each, 0) for each in "bcd"] + [Link(each, "e", each) for each in "bcd"])
    assert len({layout.places[each][0] for each in "bcd"}) == 1
    assert layout.places["b"][1] < layout.places["c"][1] < layout.places["d"][1]
    assert layout.places["a"][1] == pytest.approx(layout.places["c"][1], abs=1)


def test_a_source_stands_before_its_first_use() -> None:
    items = [Item(name, 10, 10) for name in ("a", "b", "c", "late", "d")]
    links = [Link("a", "b", 0), Link("b", "c", 0), Link("c", "d", 0), Link("late", "d", 0)]
    layout = place(items, links)
    assert layout.places["late"][0] == layout.places["c"][0]


def test_places_of_least_squares() -> None:
    """Against a search over all orders of a few heights: the pooled ones are no farther from what is wanted."""
    found = _apart([0.0, 5.0, 4.0, 100.0], [1.0, 1.0, 1.0, 1.0], [10.0, 10.0, 10.0, 10.0])
    assert all(b - a >= 24 - 1e-9 for a, b in itertools.pairwise(found))
    assert sum(found[:3]) / 3 == pytest.approx(3.0)
    assert found[3] == pytest.approx(100.0)


@pytest.mark.parametrize(
    ("count", "skip"),
    [(2000, 0), *(pytest.param(*each, marks=pytest.mark.slow) for each in ((2000, 400), (10_000, 0), (10_000, 400)))],
)
def test_ten_thousand_items_take_seconds(count: int, skip: int) -> None:
    items = [Item(str(each), 180, 80) for each in range(count)]
    links = [Link(str(each), str(each + 1), each) for each in range(count - 1)]
    chance = random.Random(0)
    for _ in range(count // 5 if skip else 0):
        at = chance.randrange(count - skip)
        links.append(Link(str(at), str(at + chance.randrange(2, skip)), at))
    begin = time.process_time()
    layout = place(items, list(dict.fromkeys(links)))
    assert time.process_time() - begin < count / 200
    assert len(layout.places) == count
