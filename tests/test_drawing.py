"""Results are drawn by their type, from outside: no result imports what draws it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure

import striate
from striate import explain, report
from striate.data import Annotation, Detections
from striate.drawing import Pictured
from striate.report import drawing
from striate.tasks.pictures import Shown


def kinds(of: type[Pictured]) -> set[type[Pictured]]:
    return {
        kind for each in of.__subclasses__() for kind in (each, *kinds(each)) if kind.__module__.startswith("striate.")
    }


def test_every_result_that_can_be_drawn_has_its_picture() -> None:
    assert {explain.Explanation, explain.Check, explain.Dream} <= kinds(Pictured)
    for kind in kinds(Pictured):
        assert drawing.draw.dispatch(kind) is not drawing.draw.dispatch(object), kind


def test_a_result_is_drawn_by_its_method_and_by_report(tmp_path: Path) -> None:
    found = explain.filters(torch.nn.Conv2d(3, 4, 3))
    assert isinstance(found.figure(), Figure)
    assert isinstance(report.draw(found), Figure)
    assert found.save(tmp_path / "a.png") == tmp_path / "a.png"
    assert striate.report.save(found, str(tmp_path / "b.png")) == tmp_path / "b.png"
    assert report.save(found.figure(), tmp_path / "c.png") == tmp_path / "c.png"
    contents = {(tmp_path / f"{name}.png").read_bytes() for name in "abc"}
    assert len(contents) == 1


def test_an_annotated_picture_is_drawn_beside_what_was_found() -> None:
    picture, class_map = torch.zeros(3, 20, 30, dtype=torch.uint8), torch.zeros(20, 30, dtype=torch.uint8)
    nothing = Detections((20, 30), torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0))
    panels = {
        2: Shown(picture, Annotation((20, 30)), nothing, ("cat",), "a.png", 0),
        3: Shown(picture, Annotation((20, 30), class_map=class_map), class_map, ("background", "cat"), "a.png", 0),
        1: Shown(picture, Annotation((20, 30)), class_map, ("background", "cat"), "a.png", 0),
    }
    for count, shown in panels.items():
        assert len(report.draw(shown).axes) == count


def test_what_nobody_draws_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="nobody draws results of type int"):
        report.save(3, tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_explaining_loads_no_pictures() -> None:
    code = "import sys, striate; striate.explain.filters; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]
