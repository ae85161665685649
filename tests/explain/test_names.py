"""Names as people type them."""

from __future__ import annotations

import unicodedata

import pytest

from striate.errors import ExplainError
from striate.explain.names import find


@pytest.mark.parametrize(
    ("typed", "known", "taken"),
    [
        ("cat", ["Cat", "cat"], "cat"),
        ("Cat", ["Cat", "cat"], "Cat"),
        ("CAT", ["dog", "Cat"], "Cat"),
        ("golden-retriever", ["golden_retriever", "tabby"], "golden_retriever"),
        ("Golden retriever", ["golden_retriever", "Golden-Retriever", "Golden retriever"], "Golden retriever"),
        ("straße", ["STRASSE"], "STRASSE"),
        (unicodedata.normalize("NFD", "Bär"), ["Bar", unicodedata.normalize("NFC", "Bär")], "Bär"),
        (unicodedata.normalize("NFC", "bär"), [unicodedata.normalize("NFD", "Bär")], "Bär"),
        ("cat", ["dog"], None),
        ("ca", ["cat"], None),
        ("", ["cat"], None),
        ("cat", [], None),
    ],
)
def test_the_most_alike_is_taken(typed: str, known: list[str], taken: str | None) -> None:
    place = find(typed, known, "target")
    if taken is None:
        assert place is None
    else:
        assert place is not None
        assert unicodedata.normalize("NFC", known[place]) == taken


@pytest.mark.parametrize(
    ("typed", "known"), [("CAT", ["Cat", "cat"]), ("a b", ["a-b", "a_b"]), ("BÄR", ["bär", "Bär"])]
)
def test_several_that_are_as_alike_are_told(typed: str, known: list[str]) -> None:
    with pytest.raises(ExplainError, match=f"target: got '{typed}'; needed one of '{known[0]}', '{known[1]}'"):
        find(typed, known, "target")
