"""Makes names of classes, files and layers printable; they come from outside and may contain anything."""

from __future__ import annotations

import os
import string
from collections import Counter
from collections.abc import Sequence
from typing import Final

from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from striate.errors import readable

#: What a table that is too wide gives up, step by step: spaces between columns, and how long a word stays whole.
_CONCESSIONS: Final = (*((2, word) for word in (40, 28, 20, 16)), *((1, word) for word in range(16, 7, -1)))
_ALPHANUMERIC: Final = string.ascii_letters + string.digits


def printable(text: str, encoding: str = "utf-8") -> str:
    r"""The text on one line: characters that are invisible, control a terminal or can't be encoded are escaped.

    Bytes of a file's name that are no text, which Python holds as halves of characters, are shown as bytes.

    >>> print(printable("cat\n\x1b[31m \udcff"), printable("naïve 猫", "latin-1"))
    cat\n\x1b[31m \xff naïve \u732b
    """
    return readable(text).encode(encoding, "backslashreplace").decode(encoding)


def short(names: Sequence[str], width: int) -> tuple[str, ...]:
    """Names in at most ``width`` columns each, about, and still as many different ones.

    The common beginning of all names is removed first, since it distinguishes nothing; then the middle of long names.
    If names are equal after that, the parts in which they differ are kept, or else their numbers are shown.

    >>> short(["breed_number_001", "breed_number_002"], 9)
    ('…001', '…002')
    >>> short(["convolution.weight", "bias", "convolution.height"], 10)
    ('…weight', 'bias', '…height')
    """
    once = tuple(dict.fromkeys(names))
    shown = [printable(name) for name in once]
    if len(shown) > 1 and max(map(cell_len, shown)) > width:
        common = _common(shown)
        # A number or a word is easier to read whole.
        shown = _without(common.rstrip(_ALPHANUMERIC) or common, shown)
    shown = _distinct(shown, width)
    counted = Counter(shown)
    for number, text in enumerate(shown):
        if counted[text] > 1:
            while (text := f"{text} #{number}") in counted:
                pass
            shown[number] = text
    found = dict(zip(once, shown, strict=True))
    return tuple(found[name] for name in names)


def _distinct(texts: Sequence[str], width: int) -> list[str]:
    """Each text cut in its middle; of those that become the same, what they begin with is left out before."""
    cut = [_cut(text, width) for text in texts]
    for same in {text for text, count in Counter(cut).items() if count > 1}:
        places = [place for place, text in enumerate(cut) if text == same]
        whole = [texts[place] for place in places]
        if len(common := _common(whole)) > 1:
            for place, text in zip(places, _distinct(_without(common, whole), width), strict=True):
                cut[place] = text
    return cut


def _common(texts: Sequence[str]) -> str:
    """What all texts begin with, as far as each has something after it."""
    first, last = min(texts), max(texts)
    length = 0
    while length < len(first) - 1 and first[length] == last[length]:
        length += 1
    return first[:length] if first != last else ""


def _without(common: str, texts: Sequence[str]) -> list[str]:
    """The texts with "…" instead of what they begin with, where that is shorter."""
    return [f"…{text[len(common) :]}" for text in texts] if len(common) > 1 else list(texts)


def _cut(text: str, width: int) -> str:
    if cell_len(text) <= width:
        return text
    head, tail = "", ""
    while True:
        longer = (head + text[len(head)], tail) if len(head) <= len(tail) else (head, text[-len(tail) - 1] + tail)
        if cell_len("".join(longer)) > width - 1:
            return f"{head}…{tail}"
        head, tail = longer


class Shown:
    """A text for rich that is never markup, and holds nothing but what the console can show."""

    def __init__(self, text: str | Text) -> None:
        self._text = Text(text) if isinstance(text, str) else text

    def _on(self, options: ConsoleOptions) -> Text:
        text = self._text.copy()
        if (plain := printable(text.plain, options.encoding)) != text.plain:
            text.plain = plain
        return text

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self._on(options)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement.get(console, options, self._on(options))


class PlainTable(Table):
    """A table without lines, whose cells are texts, names among them.

    If it is too wide, its widest columns shrink: texts wrap, if necessary in the middle of a word, but numbers are
    never broken.
    """

    def __init__(self, title: str | Text | None = None, *, show_header: bool = True) -> None:
        heading = None if title is None else Shown(title)
        super().__init__(
            box=None,
            title=heading,  # type: ignore[arg-type]
            title_justify="left",
            show_header=show_header,
            pad_edge=False,
            header_style="dim",
        )

    def add_row(self, *cells: str | Text) -> None:  # type: ignore[override]
        """Adds a row of texts."""
        super().add_row(*map(Shown, cells))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        widths, least, texts = [], [], []
        for column in self.columns:
            column.overflow, column.width = "fold", None
            header = Text(str(column.header) if self.show_header else "")
            free = options.update(width=10_000)
            measured = [Measurement.get(console, free, cell) for cell in (header, *column.cells)]
            widths.append(max(*(each.maximum for each in measured), column.min_width or 0))
            least.append(max(each.minimum for each in measured))
            texts.append(column.justify != "right")
        for gap, word in _CONCESSIONS:
            least = [min(each, word) if text else each for each, text in zip(least, texts, strict=True)]
            room = options.max_width - gap * (len(widths) - 1)
            if sum(least) <= room:
                break
        self.padding = (0, 1, 0, gap - 1)
        while sum(widths) > room and (spare := [n for n, width in enumerate(widths) if width > least[n]]):
            widths[max(spare, key=widths.__getitem__)] -= 1
        for column, width in zip(self.columns, widths, strict=True):
            column.width = width
        yield from super().__rich_console__(console, options)


def middle(name: str, width: int) -> str:
    """A printable name, cut in the middle if it takes more than so many columns; wide characters take two.

    >>> middle("breed_number_001_golden_retriever", 20)
    'breed_numb…retriever'
    """
    name = printable(name)
    if cell_len(name) <= width:
        return name
    tail = (width - 1) // 2
    head = width - 1 - tail
    return set_cell_size(name, head).rstrip() + "…" + _last(name, tail).lstrip()


def _last(name: str, width: int) -> str:
    end = len(name)
    start = end
    while start and cell_len(name[start - 1 : end]) <= width:
        start -= 1
    return name[start:end]


def file_names(paths: Sequence[str], width: int) -> tuple[str, ...]:
    """Files, each by what its path has beyond the folder that all of them lie in, cut to a width."""
    if len(set(map(os.path.basename, paths))) == len(set(paths)):
        names = [os.path.basename(path) for path in paths]
    else:
        folder = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths])
        names = [os.path.relpath(os.path.abspath(path), folder) for path in paths]
    return short(names, width)
