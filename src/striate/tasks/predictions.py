"""A row for each image with a network's prediction and, if known, the truth: ``predictions.csv``, or JSON lines.

The columns of a CSV file are ``image``, ``true``, ``predicted``, ``probability`` (of the predicted class, 6 significant
digits), ``correct`` (1 or 0, so that the column's mean is the accuracy), and then the next likeliest classes,
``class_2``, ``probability_2`` to ``class_k``, ``probability_k``. Without the truth there is no ``true`` and no
``correct``. A line of JSON has the same names, ``correct`` as true or false, and all k classes in ``top``, a list of
objects with ``class`` and ``probability``.

Files are UTF-8, with a line feed after each row. Python represents bytes of a file name that aren't UTF-8 as
surrogates. They are written as text, ``\\udce9``, so a reader can't distinguish them from a name with a backslash.

Spreadsheets run a text that begins with = + - @ as a formula, and a stranger may have chosen the image's name. So in
CSV such a text, unless it is a number such as -1, gets an apostrophe in front, which marks text in spreadsheets. A text
with apostrophes before such a sign gets one more, so that :func:`read_predictions` can remove the first one and restore
every name. In JSON lines, names aren't changed.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from striate.errors import RunError
from striate.files import whole_file
from striate.tasks.scores import TOP, Scores

#: Files in a run's folder: the network's predictions for each held-out image, and for the other images.
PREDICTIONS: Final = "predictions.csv"
VALIDATION: Final = "validation.csv"

_SUFFIXES: Final = (".csv", ".jsonl")
_FORMULA: Final = re.compile(r"'*([=@\t\r]|[+-](?![0-9]+(\.[0-9]+)?\Z))")


@dataclass(frozen=True)
class Prediction:
    """One row.

    Args:
        image: the image's name.
        ranked: the likeliest classes, one or more, with their probabilities, in descending order.
        true: the true class; None if it isn't known.
        named: how many of the classes are likely enough to be written; None for all. The others are empty in a file.
    """

    image: str
    ranked: tuple[tuple[str, float], ...]
    true: str | None = None
    named: int | None = None

    @property
    def predicted(self) -> str:
        """The likeliest class; empty if none is likely enough."""
        return "" if self.named == 0 else self.ranked[0][0]

    @property
    def probability(self) -> float:
        """The probability of the likeliest class."""
        return self.ranked[0][1]

    @property
    def correct(self) -> bool | None:
        """Whether the likeliest class is the true one; None if the true class isn't known."""
        return None if self.true is None else self.predicted == self.true


def rows_of(scores: Scores, top: int = TOP) -> Iterator[Prediction]:
    """The rows of all images, in their order, with the ``top`` likeliest classes, or all K if that is fewer."""
    best = scores.probabilities.topk(min(top, len(scores.classes)))
    for name, label, likeliest, shares, first in zip(
        scores.names,
        scores.labels.tolist(),
        best.indices.tolist(),
        best.values.tolist(),
        scores.predicted.tolist(),
        strict=True,
    ):
        # topk may order equal values in any way, but the predicted class is the first of them.
        others = [(index, share) for index, share in zip(likeliest, shares, strict=True) if index != first]
        ranked = [(first, shares[0]), *others][: len(likeliest)]
        yield Prediction(name, tuple((scores.classes[index], share) for index, share in ranked), scores.classes[label])


class PredictionWriter:
    """Writes rows one by one. The complete file appears when the ``with`` block ends, and not at all after an error.

    Args:
        path: where, ``.csv`` or ``.jsonl``.
        top: the classes that each row has.
        truth: whether rows have a true class; all do, or none.

    Raises:
        RunError: another suffix, fewer than one class.
        OSError: no room, no permission, no such folder.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with PredictionWriter(f"{folder}/predictions.csv", top=1, truth=True) as writer:
    ...         writer.write(Prediction("cat/1.png", (("cat", 0.9),), "cat"))
    ...     rows = read_predictions(f"{folder}/predictions.csv")
    >>> rows[0].predicted, rows[0].correct
    ('cat', True)
    """

    def __init__(self, path: str | Path, *, top: int, truth: bool) -> None:
        self.path, self.top, self.truth = Path(path), top, truth
        self._csv = _is_csv(self.path)
        if top < 1:
            raise RunError("predictions", f"got the {top} likeliest classes", "needed 1 or more")

    def __enter__(self) -> PredictionWriter:
        self._stack = contextlib.ExitStack()
        self._file = self._stack.enter_context(whole_file(self.path))
        if self._csv:
            self._file.write(_line(_header(self.top, self.truth)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return self._stack.__exit__(kind, error, trace)

    def write(self, row: Prediction) -> None:
        """Writes one row.

        Raises:
            RunError: another number of classes than ``top``, a true class where ``truth`` has none, or the reverse.
        """
        if len(row.ranked) != self.top or (row.true is not None) != self.truth:
            got, needed = (
                f"{count} classes, {'the' if truth else 'no'} true one"
                for count, truth in ((len(row.ranked), row.true is not None), (self.top, self.truth))
            )
            raise RunError(row.image, f"got {got}", f"needed {needed}")
        self._file.write(_line(_cells(row)) if self._csv else _object(row))


def write_predictions(path: str | Path, scores: Scores, top: int = TOP) -> None:
    """Writes the rows of all images; see :class:`PredictionWriter`."""
    with PredictionWriter(path, top=min(top, len(scores.classes)), truth=True) as writer:
        for row in rows_of(scores, top):
            writer.write(row)


def read_predictions(path: str | Path) -> list[Prediction]:
    """The rows of a file that :class:`PredictionWriter` wrote; probabilities have 6 digits.

    Raises:
        RunError: another suffix, no such file, or one of something else, naming the row.
    """
    path = Path(path)
    from_text = _from_csv if _is_csv(path) else _from_jsonl
    try:
        text = path.read_bytes().decode()
    except OSError as error:
        raise RunError(str(path), f"can't be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise RunError(str(path), "is no UTF-8", "needed the file as striate wrote it") from error
    rows: list[Prediction] = []
    try:
        for row in from_text(text):
            rows.append(row)  # noqa: PERF402 - an error says how many rows were read
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        got = f"has no prediction after {len(rows)} of them ({error})"
        raise RunError(str(path), got, "needed the file as striate wrote it") from error
    return rows


def _is_csv(path: Path) -> bool:
    if path.suffix not in _SUFFIXES:
        raise RunError(str(path), f"got the suffix {path.suffix!r}", f"needed {' or '.join(_SUFFIXES)}")
    return path.suffix == ".csv"


def _printable(text: str) -> str:
    """The text without surrogates, which UTF-8 can't represent."""
    return text.encode("utf-8", "backslashreplace").decode()


def _digits(probability: float) -> float:
    return float(f"{probability:.6g}")


def _header(top: int, truth: bool) -> list[str]:
    others = [f"{name}_{place}" for place in range(2, top + 1) for name in ("class", "probability")]
    known = ["true"] if truth else []
    return ["image", *known, "predicted", "probability", *(["correct"] if truth else []), *others]


def _cells(row: Prediction) -> list[str]:
    named = len(row.ranked) if row.named is None else row.named
    cells_of = [(inert(name), f"{share:.6g}") for name, share in row.ranked]
    predicted, probability = inert(row.predicted), cells_of[0][1]
    others = [pair if place < named else ("", "") for place, pair in enumerate(cells_of)][1:]
    cells = [inert(row.image), predicted, probability, *(cell for pair in others for cell in pair)]
    if row.true is not None:
        cells.insert(1, inert(row.true))
        cells.insert(4, str(int(row.predicted == row.true)))
    return cells


def inert(text: str) -> str:
    """A text as a cell that no spreadsheet treats as a formula."""
    text = _printable(text)
    return f"'{text}" if _FORMULA.match(text) else text


def as_was(text: str) -> str:
    """The inverse of :func:`inert`."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text


def _line(cells: Sequence[str]) -> bytes:
    # The csv module quotes cells that contain characters of its line end, so it gets both; one of them is removed.
    buffer = io.StringIO(newline="")
    csv.writer(buffer, lineterminator="\r\n").writerow(cells)
    return (buffer.getvalue().removesuffix("\r\n") + "\n").encode()


def _object(row: Prediction) -> bytes:
    known = {} if row.true is None else {"true": _printable(row.true)}
    judged = {} if row.true is None else {"correct": row.correct}
    likely = row.ranked[: row.named]
    ranked = [{"class": _printable(name), "probability": _digits(share)} for name, share in likely]
    said = {"predicted": None if row.named == 0 else _printable(row.predicted), "probability": _digits(row.probability)}
    fields = {"image": _printable(row.image), **known, **said, **judged, "top": ranked}
    return (json.dumps(fields, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _from_csv(text: str) -> Iterator[Prediction]:
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    header = next(rows, [])
    truth = "true" in header
    if header != _header(top := (len(header) - (3 if truth else 1)) // 2, truth):
        raise ValueError(f"the columns {', '.join(header)[:60]!r}")
    for cells in rows:
        if len(cells) != len(header):
            raise ValueError(f"{len(cells)} cells for {len(header)} columns")
        if truth:
            del cells[4]
        true = as_was(cells.pop(1)) if truth else None
        image, *pairs = cells
        told = [(as_was(pairs[2 * n]), pairs[2 * n + 1]) for n in range(top)]
        ranked = tuple((name, float(share)) for name, share in told if share)
        named = None if len(ranked) == top else len(ranked)
        if named == 1 and not ranked[0][0]:
            named = 0
        yield Prediction(as_was(image), ranked, true, named)


def _from_jsonl(text: str) -> Iterator[Prediction]:
    for line in _lines(text):
        fields: dict[str, Any] = json.loads(line)
        ranked = tuple((str(each["class"]), float(each["probability"])) for each in fields["top"])
        named = len(ranked)
        if fields.get("predicted", "") is None:
            ranked = (("", float(fields["probability"])),)
        elif not ranked:
            raise ValueError("no classes")
        yield Prediction(str(fields["image"]), ranked, fields.get("true"), named if not named else None)


def _lines(text: str) -> Iterable[str]:
    """Splits at line feeds only: names may contain other characters at which Python's splitlines splits."""
    return text.removesuffix("\n").split("\n") if text else []
