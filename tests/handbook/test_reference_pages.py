"""The reference of the handbook: all public modules have a page, all public names a docstring."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path

import pytest

REFERENCE = Path(__file__).parent.parent.parent / "docs" / "reference"
MODULES = sorted(
    re.findall(r"automodule:: ([\w.]+)", "\n".join(path.read_text("utf-8") for path in REFERENCE.glob("*.rst")))
)


def test_every_public_room_has_a_page() -> None:
    rooms = {name.removeprefix("striate.").split(".")[0] for name in MODULES}
    public = set(importlib.import_module("striate").__all__) | {"geometry", "tasks"}
    assert {name for name in public if name.islower() and name != "accelerate"} <= rooms


@pytest.mark.parametrize("name", MODULES)
def test_no_public_name_is_undocumented(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__doc__
    for public in getattr(module, "__all__", []):
        held = getattr(module, public)
        if inspect.isclass(held):
            assert vars(held).get("__doc__"), f"{name}.{public}"
        elif inspect.isroutine(held):
            assert held.__doc__, f"{name}.{public}"


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/guides/extend.md", "docs/DESIGN.md"])
def test_files_that_a_page_names_exist(page: str) -> None:
    root = REFERENCE.parent.parent
    homes = (root, root / "src" / "striate", root / "src" / "striate" / "engine", root / "src" / "striate" / "studio")
    homes += (root / "docs", root / "src")
    named = set(re.findall(r"`((?:[\w.]+/)+\w+\.(?:py|md|toml))`", (root / page).read_text("utf-8")))
    assert len(named) > 5
    # examples of files that a reader is to write
    named = {name for name in named if "keypoints" not in name and "NAME" not in name}
    assert [name for name in sorted(named) if not any((home / name).is_file() for home in homes)] == []


def test_files_that_design_lists_for_a_room_are_in_it() -> None:
    root = REFERENCE.parent.parent
    _, _, text = (root / "docs" / "DESIGN.md").read_text("utf-8").partition("## Rooms\n\n```\n")
    rooms = re.split(r"(?m)^  (?=\S)", text.partition("```")[0])[1:]
    assert len(rooms) > 15
    for room in rooms:
        name, _, told = room.partition(" ")
        home = root / "src" / "striate" / name
        assert home.exists(), name
        missing = [file for file in re.findall(r"(?<![\w*.])\w[\w*]*\.py", told) if not any(home.rglob(file))]
        assert missing == [], name


@pytest.mark.parametrize("name", MODULES)
def test_every_method_of_a_public_class_is_documented(name: str) -> None:
    """Methods of striate's own that the reference shows; those that repeat PyTorch's are documented there."""
    module = importlib.import_module(name)
    bare = []
    for public in getattr(module, "__all__", []):
        held = getattr(module, public)
        if not inspect.isclass(held) or not held.__module__.startswith("striate"):
            continue
        for method, value in vars(held).items():
            shown = inspect.isfunction(value) or isinstance(value, property | classmethod | staticmethod)
            if shown and not method.startswith("_") and not inspect.getdoc(getattr(held, method)):
                bare.append(f"{public}.{method}")
    assert bare == []
