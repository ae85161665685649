"""Files that are there whole or not at all, whatever happens while they are written."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

from striate.errors import RunError

#: Ends the name of a file that is being written. One name a file: what a killed process left is written over.
PARTIAL: Final = ".partial"


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file beside its place, makes the disk keep it, and moves it there; on failure nothing has changed.

    Raises:
        OSError: no room, no permission.
    """
    partial = path.with_name(path.name + PARTIAL)
    try:
        with open(partial, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error
    sync_folder(path.parent)


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write into, beside its place, which is moved there when the block is left without an error.

    Raises:
        OSError: no room, no permission, no such folder.
    """
    partial = path.with_name(path.name + PARTIAL)
    try:
        with open(partial, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename in (None, str(partial)):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Makes the disk keep the names in a folder; where folders can't be opened (Windows) they need no such care."""
    if os.name != "nt":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_json(path: Path, value: Any) -> None:
    """Writes JSON that people can read; numbers that JSON hasn't (NaN) are our own bug."""
    write_whole(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        RunError: no such file, no JSON, or another kind of value.
    """
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise RunError(str(path), f"can't be read ({error.strerror})") from error
    except ValueError as error:
        raise RunError(str(path), f"is no JSON ({error})", "needed the file as training wrote it") from error
    if not isinstance(value, dict):
        raise RunError(str(path), "is no JSON object", "needed the file as training wrote it")
    return value
