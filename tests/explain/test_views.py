"""Views by name: each is asked, told and drawn; and the command line's words for what it can't do."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import torch
from rich.console import Console
from tangled import Tangled, untouched

from cases import quick_but
from striate.errors import ExplainError
from striate.explain.methods import METHODS, describe, method_named
from striate.explain.views import VIEWS, Question, view
from striate.report import views as report


def asked(**options: object) -> Question:
    return Question(Tangled(), torch.rand(1, 1, 12, 12), lambda pixels: 2 * pixels - 1, **options)  # type: ignore[arg-type]


NEEDED = {"top_patches": {"channel": 1}, "maximize": {"target": 2}}


@pytest.mark.parametrize(
    "name", quick_but(sorted(set(VIEWS) - {"smallest_perturbation"}), ["filters", "hierarchy", "invert", "maximize"])
)
def test_every_view(name: str, tmp_path: Path) -> None:
    question = asked(**NEEDED.get(name, {}))
    with untouched(question.model):
        found = view(name, question)
    json.dumps(found.to_dict(), allow_nan=False)
    path = found.save(tmp_path / "view.png")
    text = io.StringIO()
    Console(file=text, width=200).print(report.told(found, path))
    assert str(path) in text.getvalue()
    assert len(text.getvalue().splitlines()) > 2


def test_names_are_those_of_both_tables() -> None:
    assert not set(METHODS) & set(VIEWS)
    assert method_named("Deep-Dream") is VIEWS["deep_dream"]
    assert all(describe(name).endswith(".") for name in VIEWS)
    with pytest.raises(ExplainError, match="did you mean hierarchy"):
        method_named("hierachy")


def test_layers_are_taken_one_by_one() -> None:
    found = view("invert", asked(layer="stem,again"))
    assert [row["layer"] for row in found.to_dict()["rows"]] == ["stem", "again"]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("hierarchy", {"channel": 1}, "got a channel; needed none"),
        ("filters", {"target": 1}, "got a target; needed none"),
        ("smallest_perturbation", {"layer": "stem"}, "got a layer; needed none"),
        ("top_patches", {}, "got no channel"),
        ("invert", {"layer": "stem,stam"}, "near: stem"),
    ],
)
def test_mistakes(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(ExplainError, match=message):
        view(name, asked(**options))


def test_one_picture_for_most() -> None:
    question = Question(Tangled(), torch.rand(2, 1, 12, 12), lambda pixels: pixels, channel=0)
    assert len(view("top_patches", question).to_dict()["patches"]) == 2
    with pytest.raises(ExplainError, match="got 2 images; needed one"):
        view("maximize", question)
