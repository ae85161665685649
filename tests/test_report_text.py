"""Names from outside: cut so that they fit and stay different, and with nothing that a terminal would obey."""

from __future__ import annotations

import os

import pytest
from rich.cells import cell_len

from striate.report.text import file_names, middle, printable, short


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("plain.png", "plain.png"),
        ("a b.png", "a b.png"),
        ("caf\udce9.png", "caf\\xe9.png"),
        ("esc\x1b[31m", "esc\\x1b[31m"),
        ("two\nlines\t", "two\\nlines\\t"),
        ("猫é", "猫é"),
    ],
)
def test_every_character_can_be_printed(name: str, shown: str) -> None:
    assert printable(name) == shown
    printable(name).encode()


@pytest.mark.parametrize(
    "name", ["breed_number_001_a_very_long_name", "猫の写真がとても長い名前のファイルです.png", "short"]
)
@pytest.mark.parametrize("width", [5, 8, 13, 20])
def test_a_short_name_fits_and_keeps_both_ends(name: str, width: int) -> None:
    cut = middle(name, width)
    assert cell_len(cut) <= width
    if cell_len(name) > width:
        head, tail = cut.split("…")
        assert name.startswith(head)
        assert name.endswith(tail)
    else:
        assert cut == name


@pytest.mark.parametrize(
    "names",
    [
        [f"breed_number_{number:03}_of_many_dogs" for number in range(20)],
        [f"a_beginning_that_is_common_{number}" for number in range(20)],
        [f"{number}_an_end_that_is_common" for number in range(20)],
        ["cat", "cats", "cat" * 20, "cat" * 21],
        ["x", "x"],
    ],
)
def test_names_that_differ_stay_different(names: list[str]) -> None:
    cut = short(names, 16)
    assert len(set(cut)) == len(set(names))
    assert all(cell_len(each) <= 16 + len("… #20") for each in cut), "about, says the docstring"


def test_files_are_called_by_what_tells_them_apart() -> None:
    assert file_names(["a/1.png", "b/2.png"], 20) == ("1.png", "2.png")
    assert file_names(["runs/a/1.png", "runs/b/1.png"], 20) == (os.path.join("a", "1.png"), os.path.join("b", "1.png"))
    assert file_names(["a/1.png", "a/1.png"], 20) == ("1.png", "1.png")
