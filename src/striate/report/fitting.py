"""Tables for terminals of every width: columns are left out before names or numbers would break."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

_GAP = 2
_NARROWEST = 8  # of a column that folds


@dataclass(frozen=True)
class Column:
    """One column.

    Args:
        name: its head.
        spare: 0 stays; of the others the highest is left out first.
        folds: whether its text may run over several lines, as names and notes do and numbers don't.
        right: whether it stands to the right.
    """

    name: str
    spare: int = 0
    folds: bool = False
    right: bool = True


@dataclass
class Fitted:
    """A table without lines that shows as many columns as there is room for, and names those it leaves out.

    Args:
        columns: from left to right.
        rows: a text for each column.
    """

    columns: Sequence[Column]
    rows: list[tuple[str, ...]] = field(default_factory=list)

    def add(self, *texts: str) -> None:
        """One more row."""
        assert len(texts) == len(self.columns)
        self.rows.append(texts)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        widths, left_out = self._widths(options.max_width)
        table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="dim")
        for place, width in widths.items():
            column = self.columns[place]
            justify = "right" if column.right else "left"
            table.add_column(column.name, justify=justify, no_wrap=not column.folds, overflow="fold", width=width)  # type: ignore[arg-type]
        for row in self.rows:
            table.add_row(*(Text(row[place]) for place in widths))
        yield table
        if left_out:
            yield Text(f"no room for {', '.join(left_out)}", style="dim")

    def _widths(self, room: int) -> tuple[dict[int, int], list[str]]:
        """The width of each column that is shown, by its number, and the names of those that there is no room for."""
        natural = {
            place: max([cell_len(column.name), *(cell_len(row[place]) for row in self.rows)])
            for place, column in enumerate(self.columns)
            # A column that says nothing takes no room from the others.
            if not column.spare or any(row[place] for row in self.rows)
        }
        least = {place: self._least(place, width, room) for place, width in natural.items()}
        left_out = []
        while sum(least.values()) + _GAP * len(least) > room:
            spare = [place for place in least if self.columns[place].spare]
            if not spare:
                break
            gone = max(spare, key=lambda place: self.columns[place].spare)
            left_out.append(self.columns[gone].name)
            del least[gone]
        while sum(least.values()) + _GAP * len(least) > room:
            folds = [place for place in least if self.columns[place].folds and least[place] > _NARROWEST]
            if not folds:
                break
            least[max(folds, key=lambda place: least[place])] -= 1
        # What is left goes to columns that fold, from left to right.
        rest = max(room - sum(least.values()) - _GAP * len(least), 0)
        widths = {}
        for place, width in least.items():
            more = min(natural[place] - width, rest)
            widths[place], rest = width + more, rest - more
        return widths, left_out

    def _least(self, place: int, width: int, room: int) -> int:
        """Columns that fold are content with less than they would like: names with half, others with a quarter."""
        if not self.columns[place].folds:
            return width
        return min(width, max(room // (2 if place == 0 else 4), _NARROWEST))


@dataclass(frozen=True)
class Labelled:
    """Lines of text, each with a label; long ones go on under themselves, and nothing pads their ends."""

    lines: Iterable[tuple[str, str]]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = list(self.lines)
        indent = max((cell_len(label) for label, _ in lines), default=0) + _GAP
        for label, text in lines:
            for number, part in enumerate(_wrapped(console, text, max(options.max_width - indent, 20))):
                yield Text.assemble((f"{label if number == 0 else '':{indent}}", "dim"), part)


def _wrapped(console: Console, text: str, width: int) -> Iterator[Text]:
    for line in Text(text).wrap(console, width, overflow="fold"):
        line.rstrip()
        yield line
