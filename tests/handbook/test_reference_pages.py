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
