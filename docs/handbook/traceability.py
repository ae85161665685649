"""The table of formulas: from each formula to its function, its tests, and the page and study that show it.

Nothing in the table is written by hand but the formulas themselves (``formulas.toml``). The rest is read off marks:

    source    a line of the docstring,                    Formula: F36, W4.
    tests     a mark of the function,                     @pytest.mark.formula("F36", "W4")
    pages     a role in chapters, exercises and guides,   {formula}`F36` in Markdown, :formula:`F36` in scripts,
              or the directive that sets the formula,     .. formula:: F36

Sources and tests are parsed, never imported, so the table takes a second and needs no PyTorch.

    python docs/handbook/traceability.py            write docs/traceability.md
    python docs/handbook/traceability.py --check    say what is missing, and fail
"""

from __future__ import annotations

import ast
import functools
import re
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TABLE = HERE.parent / "traceability.md"
KINDS = {"formula": "Formulas", "worked": "Worked examples", "claim": "Claims", "exercise": "Exercises"}

_FIELD = re.compile(r"^\s*Formula: (.+)\.$", re.MULTILINE)
_ROLE = re.compile(r"(?:\{formula\}`|:formula:`|formula:: )([\w.]+)")


@dataclass(frozen=True)
class Entry:
    """One line of ``formulas.toml``; its fields are described at the top of that file."""

    kind: str
    id: str
    name: str
    where: tuple[str, ...]
    latex: str = ""
    note: str = ""
    study: str = ""
    untested: str = ""


@dataclass(frozen=True)
class Mark:
    """A function or a test that carries numbers.

    Args:
        file: relative to the root of the project.
        name: ``Window.then`` or ``test_name``, as it is nested in the file.
        ids: the numbers.
        slow: of a test, whether it is left out of the ordinary suite.
    """

    file: str
    name: str
    ids: tuple[str, ...]
    slow: bool = False

    @property
    def dotted(self) -> str:
        """The dotted name of a function in ``src``."""
        module = self.file.removeprefix("src/").removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        return f"{module}.{self.name}"

    @property
    def public(self) -> str:
        """How the table names a function: as its package exports it, else by its file."""
        package, first = self.dotted.rsplit(f".{self.name}", 1)[0].rpartition(".")[0], self.name.split(".")[0]
        if self.file == "src/striate/ops/reference.py":
            return self.dotted
        # Packages within rooms have to be imported before they are attributes.
        if package.count(".") == 1 and first in _exported(package):
            return f"{package}.{self.name}"
        return f"{self.file.removeprefix('src/striate/')}: {self.name}"

    @property
    def node_id(self) -> str:
        """The name by which pytest runs a test."""
        return f"{self.file}::{self.name.replace('.', '::')}"


@functools.cache
def _exported(package: str) -> frozenset[str]:
    path = ROOT / "src" / Path(*package.split(".")) / "__init__.py"
    for node in ast.parse(path.read_text("utf-8")).body if path.exists() else ():
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return frozenset(str(each.value) for each in ast.walk(node.value) if isinstance(each, ast.Constant))
    return frozenset()


@functools.cache
def entries() -> dict[str, Entry]:
    """All entries by number."""
    read = tomllib.loads((HERE / "formulas.toml").read_text("utf-8"))
    made = [
        Entry(kind, **{key: tuple(value) if key == "where" else value for key, value in each.items()})
        for kind in KINDS
        for each in read[kind]
    ]
    twice = {entry.id for entry in made if sum(other.id == entry.id for other in made) > 1}
    if twice:
        raise ValueError(f"formulas.toml: {sorted(twice)} are there more than once; needed one entry a number")
    return {entry.id: entry for entry in made}


def texts() -> dict[str, str]:
    """The five texts, by the word that ``where`` begins with."""
    return dict(tomllib.loads((HERE / "formulas.toml").read_text("utf-8"))["texts"])


def _definitions(path: Path) -> Iterator[tuple[str, ast.FunctionDef | ast.ClassDef]]:
    def inside(node: ast.AST, prefix: str) -> Iterator[tuple[str, ast.FunctionDef | ast.ClassDef]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.ClassDef):
                yield prefix + child.name, child
                yield from inside(child, f"{prefix}{child.name}.")

    yield from inside(ast.parse(path.read_text("utf-8")), "")


def ids_in(docstring: str) -> tuple[str, ...]:
    """The numbers in the ``Formula:`` lines of a docstring."""
    return tuple(one for line in _FIELD.findall(docstring) for one in re.split(r",\s*", line))


@functools.cache
def functions() -> tuple[Mark, ...]:
    """Everything in ``src`` whose docstring has a ``Formula:`` line."""
    found = []
    for path in sorted((ROOT / "src").rglob("*.py")):
        if "Formula: " in path.read_text("utf-8"):
            for name, node in _definitions(path):
                ids = ids_in(ast.get_docstring(node) or "")
                if ids:
                    found.append(Mark(path.relative_to(ROOT).as_posix(), name, ids))
    return tuple(found)


def _marks(node: ast.FunctionDef | ast.ClassDef) -> Iterator[tuple[str, tuple[str, ...]]]:
    for decorator in node.decorator_list:
        call = decorator.func if isinstance(decorator, ast.Call) else decorator
        name = ast.unparse(call).removeprefix("pytest.mark.")
        given = decorator.args if isinstance(decorator, ast.Call) and name == "formula" else []
        yield name, tuple(ast.literal_eval(each) for each in given)


@functools.cache
def tests() -> tuple[Mark, ...]:
    """Everything in ``tests`` that is marked with ``pytest.mark.formula``."""
    found = []
    for path in sorted((ROOT / "tests").rglob("*.py")):
        if "mark.formula" in path.read_text("utf-8"):
            for name, node in _definitions(path):
                marks = dict(_marks(node))
                if "formula" in marks:
                    file = path.relative_to(ROOT).as_posix()
                    found.append(Mark(file, name, marks["formula"], "slow" in marks))
    return tuple(found)


@functools.cache
def studies() -> frozenset[str]:
    """The names under which studies are registered."""
    names = set()
    for path in (ROOT / "src" / "striate" / "studies").glob("*.py"):
        for _, node in _definitions(path):
            for decorator in node.decorator_list:
                if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "study":
                    names.add(str(ast.literal_eval(decorator.args[0])))
    return frozenset(names)


@functools.cache
def verdicts() -> dict[str, dict[str, str]]:
    """What studies found when they last ran: verdict, command and date, by name."""
    path = HERE / "verdicts.toml"
    return tomllib.loads(path.read_text("utf-8")) if path.exists() else {}


@functools.cache
def pages() -> dict[str, tuple[str, ...]]:
    """For each number the pages, relative to ``docs``, that name it."""
    found: dict[str, list[str]] = defaultdict(list)
    docs = HERE.parent
    for path in sorted([*docs.rglob("*.md"), *docs.rglob("plot_*.py")]):
        name = path.relative_to(docs).as_posix()
        if path == TABLE or name.split("/")[0] in ("gallery", "handbook"):
            continue
        for one in dict.fromkeys(_ROLE.findall(path.read_text("utf-8"))):
            found[one].append(name)
    return {one: tuple(names) for one, names in found.items()}


def of(one: str, marks: tuple[Mark, ...]) -> list[Mark]:
    """The marks that carry a number."""
    return [mark for mark in marks if one in mark.ids]


def problems() -> list[str]:
    """Everything that keeps the table from being whole, a line each."""
    known, found = entries(), []
    for mark in (*functions(), *tests()):
        where = mark.node_id if mark.file.startswith("tests") else mark.dotted
        found += [f"{where}: {one} is no number of formulas.toml" for one in mark.ids if one not in known]
    found += [
        f"docs/{names[0]}: {one} is no number of formulas.toml" for one, names in pages().items() if one not in known
    ]
    words = texts()
    for entry in known.values():
        found += [
            f"{entry.id}: {each!r} names no text" for each in entry.where if re.split(r"[ :]", each)[0] not in words
        ]
        if entry.study and entry.study not in studies():
            found.append(f"{entry.id}: there is no study {entry.study!r}")
        has_function, has_test = bool(of(entry.id, functions())), bool(of(entry.id, tests()))
        if entry.kind in ("formula", "worked"):
            found += (
                []
                if has_function
                else [f"{entry.id} ({entry.name}) has no function: mark one with Formula: {entry.id}."]
            )
            found += [] if has_test else [f"{entry.id} ({entry.name}) has no test: mark one with pytest.mark.formula"]
        elif entry.kind == "claim" and not (entry.study or has_test or entry.untested):
            found.append(f"{entry.id} ({entry.name}) has no study, no test and no reason why")
        elif entry.kind == "exercise" and not any(name.startswith("exercises/") for name in pages().get(entry.id, ())):
            found.append(f"{entry.id} ({entry.name}) has no script in docs/exercises that answers it")
    return found


def table() -> str:
    """The page, in Markdown."""
    lines = [
        "<!-- Written by docs/handbook/traceability.py; change formulas.toml or the marks instead. -->",
        "",
        "# Formulas and claims, traced",
        "",
        "Every formula, worked example, claim and exercise of the five texts, with the function that computes it, the",
        "tests that fail if it is wrong, and the page or study that shows it. A slow test plants errors in each",
        "function and requires its tests to notice. Where a text is imprecise, a note says what holds. The paths of",
        "tests begin in `tests/`. To run the tests of one formula, give pytest its paths.",
        "",
        "The texts:",
        "",
        *(f"- *{word}*: {title}" for word, title in texts().items()),
    ]
    for kind, title in KINDS.items():
        lines += ["", f"## {title}", ""]
        lines += ["| No. | Statement | Function, and the tests that hold it | Page, study |", "|---|---|---|---|"]
        lines += [_row(entry) for entry in entries().values() if entry.kind == kind]
    return "\n".join(lines) + "\n"


def _row(entry: Entry) -> str:
    statement = [entry.name if entry.name.endswith((".", "?")) else f"{entry.name}."]
    if entry.latex:
        statement.append(f"${entry.latex.replace('|', chr(92) + 'vert ')}$.")
    if entry.note:
        statement.append(f"*{entry.note}*")
    statement.append(f"({'; '.join(entry.where)})")
    called = [f"`{mark.public}`" for mark in of(entry.id, functions())]
    held = [f"`{mark.node_id.removeprefix('tests/')}`" for mark in of(entry.id, tests())]
    held = ["*held by*", *held] if held else []
    shown = [f"[{_title(name)}]({name})" for name in pages().get(entry.id, ())]
    if entry.study:
        shown.append(f"study `{entry.study}`: {verdicts().get(entry.study, {}).get('verdict', 'no recorded run')}")
    if entry.untested:
        shown.append(f"*Not measured: {entry.untested}*")
    cells = (entry.id, " ".join(statement), "<br>".join(called + held) or "-", "<br>".join(shown) or "-")
    return f'| <a id="{entry.id}"></a>' + " | ".join(cells) + " |"


def _title(name: str) -> str:
    text = (HERE.parent / name).read_text("utf-8")
    lines = text.splitlines()
    if name.endswith(".md"):
        return next(line.lstrip("# ") for line in lines if line.startswith("# "))
    # The docstring of a script begins with its title.
    return (ast.get_docstring(ast.parse(text)) or name).splitlines()[0]


def main() -> int:
    missing = problems()
    if "--check" in sys.argv[1:]:
        print("\n".join(missing) or f"{len(entries())} numbers, nothing missing")
        return bool(missing)
    TABLE.write_text(table(), "utf-8")
    print(f"{TABLE.relative_to(ROOT)}: {len(entries())} numbers, {len(missing)} things missing")
    return 0


if __name__ == "__main__":
    sys.exit(main())
