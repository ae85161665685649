"""Names from outside on terminals and pictures: cut to a width, without what would be read as commands."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final

from rich.cells import cell_len, set_cell_size

_CUT: Final = "…"


def printable(name: str) -> str:
    """A name whose every character can be printed: bytes that aren't UTF-8, and control characters, are spelt out.

    >>> printable("caf\\udce9.png"), printable("two\\nlines"), printable("日本.png")
    ('caf\\\\xe9.png', 'two\\\\nlines', '日本.png')
    """
    whole = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in whole)


def short(name: str, width: int) -> str:
    """A printable name, cut in the middle if it takes more than so many columns; wide characters take two.

    >>> short("breed_number_001_golden_retriever", 20)
    'breed_numb…retriever'
    """
    name = printable(name)
    if cell_len(name) <= width:
        return name
    tail = (width - 1) // 2
    head = width - 1 - tail
    return set_cell_size(name, head).rstrip() + _CUT + _last(name, tail).lstrip()


def _last(name: str, width: int) -> str:
    end = len(name)
    start = end
    while start and cell_len(name[start - 1 : end]) <= width:
        start -= 1
    return name[start:end]


def apart(names: Sequence[str], width: int) -> tuple[str, ...]:
    """Names cut so that those which differ stay different, where the middle is what tells them apart.

    >>> apart(["a_long_beginning_1_a_long_end", "a_long_beginning_2_a_long_end"], 12)
    ('a_lo…1_a_lo…', 'a_lo…2_a_lo…')
    """
    cut = {name: short(name, width) for name in names}
    for shown in set(cut.values()):
        alike = [printable(name) for name, each in cut.items() if each == shown]
        if len(alike) > 1:
            differing = (at for at, letters in enumerate(zip(*alike, strict=False)) if len(set(letters)) > 1)
            begin = next(differing, min(map(len, alike)))
            for name in [name for name, each in cut.items() if each == shown]:
                head = set_cell_size(printable(name), width // 3).rstrip() + _CUT
                rest = printable(name)[begin:]
                room = width - cell_len(head)
                cut[name] = head + (rest if cell_len(rest) <= room else set_cell_size(rest, room - 1) + _CUT)
    return tuple(cut[name] for name in names)


def file_names(paths: Sequence[str], width: int) -> tuple[str, ...]:
    """Files, each by what its path has beyond the folder that all of them lie in, cut to a width."""
    if len(set(map(os.path.basename, paths))) == len(set(paths)):
        names = [os.path.basename(path) for path in paths]
    else:
        folder = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths])
        names = [os.path.relpath(os.path.abspath(path), folder) for path in paths]
    return apart(names, width)
