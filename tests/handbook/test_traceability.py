"""The table of formulas: nothing is missing from it, and it is what the marks say."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT / "docs" / "handbook"))

import traceability  # noqa: E402


def test_every_formula_has_a_function_and_a_test_and_every_number_is_known() -> None:
    assert traceability.problems() == []


def test_the_written_table_is_what_the_marks_say() -> None:
    written = traceability.TABLE.read_text("utf-8")
    assert written == traceability.table(), "run python docs/handbook/traceability.py"


def test_marked_functions_can_be_imported() -> None:
    for mark in traceability.functions():
        held = importlib.import_module(mark.dotted.removesuffix(f".{mark.name}"))
        for part in mark.name.split("."):
            held = getattr(held, part)
        assert callable(held) or isinstance(held, property), mark


def test_marked_tests_are_collected_by_pytest() -> None:
    for mark in traceability.tests():
        assert Path(mark.file).name.startswith("test_"), mark.node_id
        assert mark.name.split(".")[-1].startswith("test_"), mark.node_id


def test_a_formula_stands_in_its_own_tests_once() -> None:
    for mark in (*traceability.functions(), *traceability.tests()):
        assert len(set(mark.ids)) == len(mark.ids), mark


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small project of its own, with one formula, its function and its test."""
    handbook = tmp_path / "docs" / "handbook"
    handbook.mkdir(parents=True)
    (handbook / "formulas.toml").write_text(
        'texts = {book = "A book"}\nclaim = []\nworked = []\nexercise = []\n'
        '[[formula]]\nid = "F1"\nname = "Twice"\nlatex = "2x"\nwhere = ["book 1"]\n'
    )
    source, tests = tmp_path / "src" / "striate", tmp_path / "tests"
    (source / "studies").mkdir(parents=True)
    tests.mkdir()
    (source / "twice.py").write_text(
        'class Number:\n    def twice(self):\n        """2x.\n\n        Formula: F1.\n        """\n'
    )
    (tests / "test_twice.py").write_text('import pytest\n@pytest.mark.formula("F1")\ndef test_twice():\n    pass\n')
    monkeypatch.setattr(traceability, "ROOT", tmp_path)
    monkeypatch.setattr(traceability, "HERE", handbook)
    cached = [traceability.entries, traceability.functions, traceability.tests, traceability.studies]
    cached += [traceability.verdicts, traceability.pages, traceability._exported]
    for each in cached:
        each.cache_clear()
    yield tmp_path
    for each in cached:
        each.cache_clear()


def test_a_row_names_function_and_test(project: Path) -> None:
    assert traceability.problems() == []
    assert "`twice.py: Number.twice`<br>*held by*<br>`test_twice.py::test_twice` |" in traceability.table()


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("src/striate/twice.py", "Formula: F1.", "", "F1 (Twice) has no function"),
        ("tests/test_twice.py", '@pytest.mark.formula("F1")', "", "F1 (Twice) has no test"),
        ("src/striate/twice.py", "F1", "F1, F2", "striate.twice.Number.twice: F2 is no number"),
        ("tests/test_twice.py", '"F1"', '"F1", "F3"', "tests/test_twice.py::test_twice: F3 is no number"),
        ("docs/handbook/formulas.toml", "book 1", "other 1", "'other 1' names no text"),
        ("docs/handbook/formulas.toml", 'latex = "2x"', 'study = "none"', "there is no study 'none'"),
    ],
)
def test_what_is_missing_is_said(project: Path, file: str, old: str, new: str, said: str) -> None:
    path = project / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    assert any(said in line for line in traceability.problems())
