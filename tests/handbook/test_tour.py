"""The pictures of the tour are of the code: its imports, and the functions that run."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from matplotlib import pyplot as plt

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT / "docs" / "handbook"))

import tour  # noqa: E402

import striate  # noqa: E402
from test_architecture import ANYTHING, MAY_IMPORT  # noqa: E402


def test_every_room_is_drawn_and_imports_only_what_it_may() -> None:
    rooms = tour.rooms()
    assert set(rooms) >= {"geometry", "engine", "ops", "nn", "models", "training", "cli"}
    assert rooms["ops"] == {"geometry", "engine"}
    for room, used in rooms.items():
        assert room in ANYTHING or used <= MAY_IMPORT[room], room
    figure = tour.draw_rooms()
    drawn = {text.get_text().split("\n")[0] for text in figure.axes[0].texts}
    plt.close(figure)
    assert drawn - {""} == set(rooms)


def test_no_arrow_runs_through_a_room() -> None:
    used, height = tour.direct(tour.rooms()), tour.levels(tour.rooms())
    place = tour.columns(used, height)
    for room, others in used.items():
        for other in others:
            for box in used:
                if height[other] < height[box] < height[room]:
                    share = (height[room] - height[box]) / (height[room] - height[other])
                    passes = place[room] + share * (place[other] - place[room])
                    assert abs(passes - place[box]) > 0.75, (room, other, box)


def test_a_circle_of_rooms_has_no_levels() -> None:
    with pytest.raises(ValueError, match="a -> b -> a"):
        tour.levels({"a": frozenset({"b"}), "b": frozenset({"a"})})


def test_a_step_that_did_not_run_is_an_error() -> None:
    recorded = tour.calls(lambda: striate.Window(3, 2, 1).output_size(9))
    names = [f"{each.file}:{each.name}" for each in recorded]
    made, asked = "geometry/window.py:Window.__post_init__", "geometry/window.py:Window.output_size"
    assert names[0] == made
    assert asked in names
    assert [each.name for each in tour.steps(recorded, [made, asked])] == ["Window.__post_init__", "Window.output_size"]
    with pytest.raises(LookupError, match=r"Window\.taps: did not run"):
        tour.steps(recorded, [made, "geometry/window.py:Window.taps"])
    with pytest.raises(LookupError, match="ran earlier than the page says"):
        tour.steps(recorded, [asked, made])
