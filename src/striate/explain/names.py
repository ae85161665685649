"""Looks up names that users type: classes, layers, methods."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from typing import Final

from striate.errors import ExplainError


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _folded(name: str) -> str:
    return _composed(_composed(name).casefold())


def _plain(name: str) -> str:
    return " ".join(_folded(name).replace("-", " ").replace("_", " ").split())


#: Kinds of matches, strictest first: equal; equal after Unicode composition (macOS decomposes the names of files);
#: equal up to case; equal up to the characters between words.
_LIKENESS: Final[tuple[Callable[[str], str], ...]] = (str, _composed, _folded, _plain)


def find(text: str, known: Sequence[str], what: str) -> int | None:
    """The index of a name among the known ones; None if there is no such name.

    An equal name has priority over one that differs in Unicode composition, this over one that differs in case, and
    this over one whose words are joined by another of ``-``, ``_`` and space.

    Args:
        text: as it was typed.
        known: the names.
        what: is named, for messages: ``"target"``.

    Raises:
        ExplainError: several names that are equally alike.

    >>> find("golden-retriever", ["Tabby", "Golden Retriever"], "target"), find("cat", ["Cat", "cat"], "target")
    (1, 1)
    """
    for alike in _LIKENESS:
        wanted = alike(text)
        places = [place for place, name in enumerate(known) if alike(name) == wanted]
        if len({known[place] for place in places}) > 1:
            names = ", ".join(repr(known[place]) for place in places)
            raise ExplainError(what, f"got {text!r}", f"needed one of {names}, which differ in spelling only")
        if places:
            return places[0]
    return None
