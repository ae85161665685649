"""The environment variables that the sources read are those that the help and the README tell of."""

from __future__ import annotations

import ast
from pathlib import Path

from striate.variables import VARIABLES

ROOT = Path(__file__).parent.parent


def _is_environment(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv")


def read_in(tree: ast.AST) -> set[str]:
    """The names that a source reads from, or writes to, the environment; "?" where that isn't written down."""
    found = set()
    names = {
        id(inner): name
        for node in ast.walk(tree)
        if isinstance(node, ast.GeneratorExp | ast.ListComp | ast.SetComp)
        for each in node.generators
        if isinstance(each.target, ast.Name)
        for inner in ast.walk(node.elt)
        if isinstance(inner, ast.Name) and inner.id == each.target.id
        for name in [each.iter]
    }
    for node in ast.walk(tree):
        key: ast.AST | None = None
        if isinstance(node, ast.Call) and node.args:
            called = node.func
            if _is_environment(called) or (isinstance(called, ast.Attribute) and _is_environment(called.value)):
                key = node.args[0]
        elif isinstance(node, ast.Subscript) and _is_environment(node.value):
            key = node.slice
        elif isinstance(node, ast.Compare) and any(map(_is_environment, node.comparators)):
            key = node.left
        if key is not None:
            key = names.get(id(key), key)
            parts = key.elts if isinstance(key, ast.Tuple) else [key]
            found |= {part.value if isinstance(part, ast.Constant) else "?" for part in parts}
    return found


def test_every_variable_that_is_read_is_told() -> None:
    read = set()
    for path in (ROOT / "src").rglob("*.py"):
        read |= read_in(ast.parse(path.read_text(encoding="utf-8")))
    assert read == VARIABLES.keys()


def test_the_search_finds_every_way_of_reading() -> None:
    source = (
        "import os\n"
        "os.environ.get('A'), os.environ['B'], os.getenv('C', ''), 'D' in os.environ, os.environ.setdefault('E', '')\n"
        "[os.environ.get(name) for name in ('F', 'G')]\n"
        "os.environ.get(what)\n"
    )
    assert read_in(ast.parse(source)) == {*"ABCDEFG", "?"}


def test_the_readme_tells_them_in_the_same_words() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = [line for line in readme.splitlines() if line.startswith(("| `STRIATE_", *(f"| `{n}`" for n in VARIABLES)))]
    assert rows == [f"| `{name}` | {text} |" for name, text in VARIABLES.items()]
