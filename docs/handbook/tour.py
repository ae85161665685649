"""What the pages of docs/tour draw: the rooms of striate, and the functions that a call goes through.

Both are read off the code. :func:`rooms` parses the imports; :func:`calls` records the functions of striate that run
while a Python function runs. :func:`steps` keeps those that a page explains and fails if one of them didn't run, so a
page can't describe a function that no longer takes part.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

SOURCES = Path(__file__).resolve().parent.parent.parent / "src" / "striate"

#: One colour for each room that a call may enter; any other room is grey.
COLOURS = {"geometry": "#8fbf8f", "ops": "#e8b04a", "engine": "#7fa6d6", "acceleration": "#d98c8c", "nn": "#b9a3d3"}


@cache
def rooms() -> dict[str, frozenset[str]]:
    """For each room (a folder of src/striate) the rooms that its files import, inside functions too."""
    folders = sorted(path.name for path in SOURCES.iterdir() if (path / "__init__.py").exists())
    return {room: frozenset(_imported(SOURCES / room) & set(folders) - {room}) for room in folders}


def _imported(folder: Path) -> set[str]:
    found = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            else:
                continue
            found |= {name.split(".")[1] for name in names if name.startswith("striate.")}
    return found


def lines(room: str) -> int:
    """Lines of Python in a room."""
    return sum(len(path.read_text("utf-8").splitlines()) for path in (SOURCES / room).rglob("*.py"))


def levels(graph: Mapping[str, frozenset[str]]) -> dict[str, int]:
    """A room's level: 0 if it imports no room, else one more than the highest level that it imports.

    Raises:
        ValueError: rooms import each other in a circle.

    >>> levels({"a": frozenset(), "b": frozenset({"a"}), "c": frozenset({"a", "b"})})
    {'a': 0, 'b': 1, 'c': 2}
    """
    found: dict[str, int] = {}

    def level(room: str, above: tuple[str, ...]) -> int:
        if room in above:
            raise ValueError(f"rooms import each other: {' -> '.join([*above, room])}")
        if room not in found:
            found[room] = 1 + max((level(each, (*above, room)) for each in graph[room]), default=-1)
        return found[room]

    for room in graph:
        level(room, ())
    return found


def direct(graph: Mapping[str, frozenset[str]]) -> dict[str, frozenset[str]]:
    """The imports that a picture needs: one that follows from others is left out.

    >>> direct({"a": frozenset(), "b": frozenset({"a"}), "c": frozenset({"a", "b"})})["c"]
    frozenset({'b'})
    """

    def reached(room: str) -> set[str]:
        return set(graph[room]).union(*(reached(each) for each in graph[room]))

    return {room: used - set().union(*(reached(each) for each in used)) for room, used in graph.items()}


#: Columns on which rooms are drawn, and the half of a box's width in columns.
_COLUMNS, _HALF = 9, 0.75


def columns(used: Mapping[str, frozenset[str]], height: Mapping[str, int]) -> dict[str, float]:
    """A column for each room, so that no arrow runs through a box and arrows are short: the best of a local search."""
    place: dict[str, float] = dict.fromkeys(used, _COLUMNS / 2)

    def cost() -> float:
        total = 0.0
        for room, others in used.items():
            for other in others:
                across, down = place[other] - place[room], height[room] - height[other]
                total += across**2 / down + 0.1 * abs(across)
                for box in used:
                    if height[other] < height[box] < height[room]:
                        passes = place[room] + across * (height[room] - height[box]) / down
                        total += 30 * max(0.0, _HALF + 0.35 - abs(passes - place[box]))
        for room in used:
            for box in used:
                if room < box and height[room] == height[box]:
                    total += 100 * max(0.0, 2 * _HALF + 0.2 - abs(place[room] - place[box]))
        return total

    before: dict[str, float] = {}
    while before != place:
        before = dict(place)
        for room in used:
            tried = []
            for column in range(2 * _COLUMNS + 1):
                place[room] = column / 2
                tried.append((cost(), abs(column / 2 - before[room]), column / 2))
            place[room] = min(tried)[2]
    return place


def draw_rooms() -> Any:
    """A matplotlib figure of all rooms, a level a row, with an arrow from each room to the rooms that it builds on."""
    from matplotlib import pyplot as plt

    used, height = direct(rooms()), levels(rooms())
    across = columns(used, height)
    place = {room: (across[room], 1.5 * height[room]) for room in used}
    top = max(height.values())
    figure, axis = plt.subplots(figsize=(9, 0.8 * top + 1.2), layout="constrained")
    for room, builds_on in used.items():
        for other in builds_on:
            (x, y), (to_x, to_y) = place[room], place[other]
            line = {"arrowstyle": "-|>", "color": "#666666", "lw": 1}
            axis.annotate("", (to_x, to_y + 0.42), (x, y - 0.42), arrowprops=line)
    for room, (x, y) in place.items():
        box = {"boxstyle": "round,pad=0.35", "facecolor": COLOURS.get(room, "#e4e4e4"), "edgecolor": "#444444"}
        axis.text(x, y, f"{room}\n{lines(room):,} lines", ha="center", va="center", fontsize=9, bbox=box)
    axis.set(xlim=(min(across.values()) - 1, max(across.values()) + 1), ylim=(-0.7, 1.5 * top + 0.7))
    axis.axis("off")
    return figure


@dataclass(frozen=True)
class Called:
    """A function of striate that ran: its file relative to src/striate, its qualified name, how deep in the call."""

    file: str
    name: str
    depth: int

    @property
    def room(self) -> str:
        return self.file.split("/")[0]


def calls(function: Callable[[], object]) -> list[Called]:
    """The functions of striate that run while ``function`` runs, in order. Only the calling thread is recorded."""
    found: list[Called] = []
    depth = 0
    home = str(SOURCES) + "/"

    def record(frame: FrameType, event: str, _: object) -> None:
        nonlocal depth
        file = frame.f_code.co_filename
        if event in ("call", "return") and file.startswith(home):
            if event == "return":
                depth -= 1
                return
            found.append(Called(file.removeprefix(home), frame.f_code.co_qualname, depth))
            depth += 1

    sys.setprofile(record)
    try:
        function()
    finally:
        sys.setprofile(None)
    return found


def steps(recorded: Sequence[Called], wanted: Sequence[str]) -> list[Called]:
    """The first call of each wanted function, in the order in which they ran.

    Args:
        wanted: ``file.py:name`` of each, in the order in which a page explains them.

    Raises:
        LookupError: a wanted function didn't run, or not in this order.
    """
    found, start = [], 0
    for one in wanted:
        file, name = one.split(":")
        at = next(
            (at for at in range(start, len(recorded)) if (recorded[at].file, recorded[at].name) == (file, name)), None
        )
        if at is None:
            ran = any((each.file, each.name) == (file, name) for each in recorded)
            raise LookupError(f"{one}: {'ran earlier than the page says' if ran else 'did not run'}")
        found.append(recorded[at])
        start = at + 1
    return found


def draw_path(paths: Mapping[str, tuple[Sequence[Called], Mapping[str, str]]]) -> Any:
    """A matplotlib figure of recorded calls, one panel each: its steps as boxes, indented by depth, with a remark.

    Args:
        paths: for each title what :func:`calls` recorded, and for each wanted step (see :func:`steps`) the remark.
    """
    from matplotlib import pyplot as plt

    kept = {title: (steps(recorded, list(remarks)), remarks) for title, (recorded, remarks) in paths.items()}
    rows = [len(found) for found, _ in kept.values()]
    figure, axes = plt.subplots(
        len(kept), 1, figsize=(9, 0.42 * sum(rows) + 0.5 * len(rows)), height_ratios=rows, layout="constrained",
        squeeze=False,
    )  # fmt: skip
    for axis, (title, (found, remarks)) in zip(axes[:, 0], kept.items(), strict=True):
        depths = sorted({each.depth for each in found})
        for row, (each, remark) in enumerate(zip(found, remarks.values(), strict=True)):
            left = 0.22 * depths.index(each.depth)
            box = {"boxstyle": "round,pad=0.3", "facecolor": COLOURS.get(each.room, "#e4e4e4"), "edgecolor": "#444444"}
            axis.text(left, -row, f"{each.file}  {each.name}", va="center", fontsize=8, family="monospace", bbox=box)
            axis.text(6.0, -row, remark, va="center", fontsize=8.5)
        axis.set(xlim=(-0.1, 10), ylim=(-len(found) + 0.4, 0.6))
        axis.set_title(title, loc="left", fontsize=10)
        axis.axis("off")
    return figure
