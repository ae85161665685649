"""Markdown with foreign texts: names are escaped, and absolute paths are shortened."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

#: All that begins something in Markdown (CommonMark and GitHub's), within a line.
_SPECIAL: Final = re.compile(r"[\\`*_{}\[\]<>|~#&$]|:(?=//)|(?<=www)\.")
#: At the beginning of a line also what makes lists and quotes.
_FIRST: Final = re.compile(r"^(?:[-+=](?=[-=\s]|$)|\d+(?=[.)](?:\s|$)))")
#: An absolute path, alone or within quotes; the last part is what is shown of it.
_PATH: Final = r"(?:~|[A-Za-z]:)?[\\/](?![\\/])"
_QUOTED: Final = re.compile(rf"(['\"]){_PATH}([^'\"]*)\1")
_PLAIN: Final = re.compile(rf"(?<![\w.\\/]){_PATH}([^\s'\"]+)")
_WHOLE: Final = re.compile(rf"^((?:[a-z]{{2,}}:)?){_PATH}(.+)$", re.DOTALL)


def escaped(text: object) -> str:
    """Escapes a text so that Markdown shows it literally, on one line; characters that can't be shown become U+FFFD.

    >>> print(escaped("a|b <c> `d`"))
    a\\|b \\<c\\> \\`d\\`
    """
    line = " ".join(str(text).split())
    shown = "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in line)
    return _FIRST.sub(lambda found: _guarded(found[0]), _SPECIAL.sub(r"\\\g<0>", shown))


def _guarded(begin: str) -> str:
    return f"{begin}\\" if begin.isdigit() else f"\\{begin}"


def nameless(value: object) -> str:
    """A value as text; of an absolute path, only the last part is shown, because the rest is private.

    >>> nameless("folder:/home/ann/my photos"), nameless("folder:photos/new"), nameless(0.5)
    ('folder:my photos', 'folder:photos/new', '0.5')
    """
    whole = _WHOLE.match(str(value))
    return whole[1] + _last(whole[2]) if whole else without_folders(str(value))


def without_folders(text: str) -> str:
    """A text in which absolute paths are cut to their last part.

    >>> without_folders("striate predict ~/runs/first '/home/ann/my photos/a.png' and/or https://example.org/x")
    "striate predict first 'a.png' and/or https://example.org/x"
    """
    text = _QUOTED.sub(lambda found: found[1] + _last(found[2]) + found[1], text)
    return _PLAIN.sub(lambda found: _last(found[1]), text)


def _last(path: str) -> str:
    return re.split(r"[\\/]", path.rstrip("\\/"))[-1]


def table(header: Sequence[str], rows: Iterable[Sequence[object]], numbers: int = 1) -> str:
    """A table; columns from ``numbers`` on are set to the right, and all cells are escaped."""
    rules = ["---" if place < numbers else "--:" for place in range(len(header))]
    lines = [header, rules, *([escaped(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def code(lines: Iterable[str], language: str = "") -> str:
    """A block of code, a line each, whatever backticks are in it."""
    shown = [" ".join(line.split()) for line in lines]
    longest = max((len(run) for line in shown for run in re.findall("`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    return "\n".join([fence + language, *shown, fence])


def folded(summary: str, content: str) -> str:
    """Content that a click unfolds; ``summary`` is plain words."""
    return f"<details>\n<summary>{summary}</summary>\n\n{content}\n\n</details>"
