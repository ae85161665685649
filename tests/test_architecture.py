"""Who may import whom, read off the syntax trees."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "striate"

# A room may import itself, and the rooms named here. The order is the one way in which imports go.
MAY_IMPORT = {
    "errors": set(),
    "variables": set(),
    "drawing": set(),
    "geometry": {"errors"},
    "engine": {"errors", "geometry"},
    "ops": {"errors", "geometry", "engine"},
    "nn": {"errors", "geometry", "engine", "ops"},
    "acceleration": {"errors", "geometry", "engine", "nn", "ops"},
    "models": {"errors", "geometry", "nn", "ops", "data"},
    "data": {"errors"},
    "files": {"errors"},
    "tasks": {"errors", "files", "acceleration", "ops", "nn", "models", "data"},
    "training": {"errors", "files", "engine", "acceleration", "data", "models", "tasks"},
    "analysis": {"errors", "geometry", "engine"},
    "explain": {"errors", "drawing", "geometry", "ops", "analysis"},
    "export": {"errors", "files", "ops", "data", "models", "tasks", "training"},
    "studies": {
        "errors",
        "geometry",
        "engine",
        "ops",
        "nn",
        "models",
        "data",
        "tasks",
        "training",
        "analysis",
        "explain",
    },
    "report": {
        "errors",
        "drawing",
        "files",
        "engine",
        "data",
        "tasks",
        "training",
        "analysis",
        "explain",
        "export",
        "studies",
    },
    # nothing but the command line imports it
    "studio": {
        "errors",
        "drawing",
        "files",
        "geometry",
        "engine",
        "ops",
        "models",
        "data",
        "tasks",
        "training",
        "analysis",
        "explain",
    },
}
ANYTHING = {"cli", "__main__", "__init__"}


def files() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def room_of(path: Path) -> str:
    first = path.relative_to(SOURCE).parts[0]
    return first.removesuffix(".py")


def imports_of(path: Path) -> set[str]:
    """Every module that a file imports, at the top or inside a function, in full."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are written in full"
            module = node.module or ""
            found |= {f"{module}.{alias.name}" for alias in node.names} if module == "striate" else {module}
    return found


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_go_one_way(path: Path) -> None:
    room = room_of(path)
    rooms = {name.split(".")[1] for name in imports_of(path) if name.startswith("striate.")}
    if room in ANYTHING:
        return
    assert room in MAY_IMPORT, f"{room} is a new room: say above what it may import"
    allowed = MAY_IMPORT[room] | {room}
    # the program's version is no room
    assert rooms - {"__version__"} <= allowed, f"{path} imports {sorted(rooms - allowed)}"


def test_geometry_knows_no_tensors() -> None:
    for path in files():
        if room_of(path) in ("geometry", "errors"):
            assert not {name.split(".")[0] for name in imports_of(path)} & {"torch", "numpy"}


def test_nobody_imports_the_command_line() -> None:
    for path in files():
        if room_of(path) not in ("__main__", "cli"):
            assert not any(name.startswith("striate.cli") for name in imports_of(path))


def test_the_check_sees_a_wrong_import(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.py"
    wrong.write_text(
        "def f():\n    from striate.models import create\n    import striate.cli\n    from striate import nn\n"
    )
    assert imports_of(wrong) == {"striate.models", "striate.cli", "striate.nn"}
