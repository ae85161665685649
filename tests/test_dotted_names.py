"""Every dotted name that the documents and docstrings write can be reached as it is written."""

from __future__ import annotations

import ast
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import striate

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted(
    page for folder in ("", "docs", "docs/guides", "benchmarks") for page in (ROOT / folder).glob("*.md")
)
ROOMS = sorted(path.name.removesuffix(".py") for path in (ROOT / "src" / "striate").iterdir() if path.name[0] != "_")
#: A room's name, or striate's, and what comes after it; no file and no option. Roles and calls end where names do.
NAME = re.compile(rf"(?<![\w./-])(?:striate|{'|'.join(ROOMS)})(?:\.[A-Za-z_]\w*)+(?![\w/-])")


def names_in(text: str) -> set[str]:
    """The dotted names between backticks, as attributes of striate."""
    quoted = " ".join(re.findall(r"`[^`]+`", text))
    found = (name.removeprefix("striate.") for name in NAME.findall(quoted))
    return {name for name in found if not name.endswith((".py", ".md", ".toml"))}


def docstrings(path: Path) -> str:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return "\n".join(ast.get_docstring(node) or "" for node in ast.walk(tree) if isinstance(node, kinds))


def reachable(name: str) -> bool:
    """Whether it is there after imports of modules along the way."""
    found: object = striate
    path = "striate"
    for part in name.split("."):
        path += f".{part}"
        if not hasattr(found, part):
            try:
                importlib.import_module(path)
            except ImportError:
                return False
        found = getattr(found, part)
    return True


def test_names_in_docstrings_exist() -> None:
    wrong = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in (ROOT / "src").rglob("*.py")
        for name in names_in(docstrings(path))
        if not reachable(name)
    }
    assert not wrong


#: A process for each part of a name: what one name imports would be there for the others, but for those that begin
#: with it. Prints what isn't there.
WALK = """
import os, sys, torch, striate

def walk(found, path, names):
    for part in sorted({name[0] for name in names}):
        if not (child := os.fork()):
            try:
                reached = getattr(found, part)
            except AttributeError:
                print(path + part, flush=True)
            else:
                walk(reached, f"{path}{part}.", [name[1:] for name in names if name[0] == part and name[1:]])
            os._exit(0)
        if os.waitpid(child, 0)[1]:
            print(path + part, flush=True)

walk(striate, "", [name.split(".") for name in sys.argv[1:]])
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no processes to be copied here")
def test_names_in_documents_are_attributes_of_striate() -> None:
    names = sorted({name for path in DOCUMENTS for name in names_in(path.read_text(encoding="utf-8"))})
    assert len(names) > 10
    done = subprocess.run([sys.executable, "-c", WALK, *names], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_the_check_sees_a_wrong_name() -> None:
    assert names_in("`engine.explain` and `striate.ops.no_such(x)`, engine.nothing, `engine/cache.py`") == {
        "engine.explain",
        "ops.no_such",
    }
    assert reachable("engine.cache.folder")
    assert not reachable("ops.no_such")
