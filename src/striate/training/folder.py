"""A run's folder: its files, its state, and the lock for writing."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from striate.errors import RunError
from striate.files import PARTIAL, write_whole
from striate.tasks.predictions import PREDICTIONS, VALIDATION
from striate.training.recipe import Recipe
from striate.training.results import Epoch

#: The first file of a run.
SETTINGS: Final = "settings.json"
CHECKPOINT: Final = "checkpoint.safetensors"
METRICS: Final = "metrics.jsonl"
WEIGHTS: Final = "weights.safetensors"
#: The summary of all folds, in the folder of a cross-validation.
FOLDS: Final = "folds.json"
#: Which images are for training and which for testing.
RECORD: Final = "images.csv"
AUGMENTED: Final = "augmented.png"
EVENTS: Final = "tensorboard"
#: The last file of a run; once it is written, the checkpoint is deleted.
EVALUATION: Final = "evaluation.json"
LOCK: Final = ".lock"


#: Files that no other output may overwrite.
OWN: Final = (
    *(SETTINGS, CHECKPOINT, METRICS, WEIGHTS, RECORD, PREDICTIONS, VALIDATION, EVALUATION, AUGMENTED),
    *("card.md", "curves.png", "confusion.png", "predictions.png", "errors.png"),
    *("reliability.png", "recall.png", "rankings.png"),
)


def refuse_own(path: Path) -> None:
    """Refuses to overwrite a file of a run.

    Raises:
        RunError: the path is a file of a run.
    """
    if path.name in OWN and (path.parent / SETTINGS).is_file():
        raise RunError(str(path), "is a file of the run in that folder", "needed another name or folder")


def is_finished(path: Path) -> bool:
    return (path / EVALUATION).exists() and not (path / CHECKPOINT).exists()


def go_on(path: Path) -> str:
    """The command that resumes a run."""
    return f"striate train --resume --out {path}"


def fresh_folder(recipe: Recipe) -> Path:
    """Creates the first folder ``runs/<model>-<data>-<n>`` that doesn't exist yet."""
    source, _, place = recipe.data.partition(":")
    word = "".join(letter if letter.isalnum() else "-" for letter in Path(place).name or source)
    for number in itertools.count(1):
        path = Path("runs") / f"{recipe.model}-{word}-{number}"
        with contextlib.suppress(FileExistsError):
            path.mkdir(parents=True)
            return path
    raise AssertionError("numbers don't end")


def refuse_occupied(path: Path, *, resume: bool) -> None:
    """Refuses a place whose contents training would damage.

    Raises:
        RunError: a file, a folder with files that don't belong to a run, or a run that isn't to be resumed.
    """
    if not path.exists():
        return
    if not path.is_dir():
        raise RunError(str(path), "is a file", "needed a folder, new or empty")
    found = {entry.name for entry in path.iterdir() if not entry.name.endswith(PARTIAL)}
    # A start that was killed may leave the lock and the files that are written before the settings.
    found -= {LOCK, RECORD}
    if not found:
        return
    if SETTINGS not in found:
        raise RunError(str(path), f"holds other files ({min(found)})", "needed a folder, new or empty")
    if not resume:
        if is_finished(path):
            raise RunError(str(path), "holds a finished run", remedy="take another folder")
        raise RunError(
            str(path), "holds a run that isn't finished", remedy=f"take another folder, or resume: {go_on(path)}"
        )


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Creates and locks a folder for training. The lock ends with its process, however the process ends.

    Raises:
        RunError: another process holds the lock.
    """
    path.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path / LOCK)
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        raise RunError(str(path), "another process is training in there", remedy="wait for it, or end it") from error
    try:
        yield
    finally:
        lock.release()


def write_metrics(path: Path, history: Iterable[Epoch]) -> None:
    """Writes ``metrics.jsonl``, one line an epoch."""
    write_whole(path / METRICS, "".join(_line(epoch) for epoch in history).encode())


def append_metrics(path: Path, epoch: Epoch) -> None:
    """Adds a line to ``metrics.jsonl``. If a kill truncates it, the resumed run writes the whole file again."""
    with open(path / METRICS, "a", encoding="utf-8") as file:
        file.write(_line(epoch))


def read_metrics(path: Path) -> tuple[Epoch, ...]:
    """The epochs in ``metrics.jsonl``.

    Raises:
        RunError: no such file, or lines of another form.
    """
    try:
        lines = (path / METRICS).read_text(encoding="utf-8").splitlines()
        return tuple(Epoch.from_dict(json.loads(line)) for line in lines)
    except (OSError, ValueError) as error:
        raise RunError(str(path / METRICS), f"can't be read ({error})", "needed a JSON object a line") from error


def _line(epoch: Epoch) -> str:
    return json.dumps(epoch.to_dict(), allow_nan=False) + "\n"
