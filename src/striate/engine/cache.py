"""What striate keeps on disk between processes, and how: for the user alone, written whole or not at all.

Nothing kept here is needed: a folder that can't be read or written costs finding things out again, and nothing else.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from pathlib import Path
from typing import Final


def folder() -> Path | None:
    """Where it is: ``STRIATE_CACHE_DIR``, or a folder in the user's cache directory; None for who has neither."""
    said = os.environ.get("STRIATE_CACHE_DIR")
    if said:
        return Path(said)
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", ""))
    elif sys.platform == "darwin":
        base = Path()
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not base.is_absolute():  # not said, or somewhere below wherever the process was started, which is no place
        try:
            base = Path.home() / _AT_HOME.get(sys.platform, ".cache")
        except RuntimeError:  # no HOME, and no entry in the list of users either
            return None
    return base / "striate"


_AT_HOME: Final = {"win32": "", "darwin": "Library/Caches"}


def read(name: str) -> bytes | None:
    """What was written under a name, or None; also None for what somebody else wrote or may write.

    Machine code lies here: in a folder that others can write to, theirs must not be run.
    """
    if (place := folder()) is None:
        return None
    try:
        with open(place / name, "rb") as file:
            about = os.fstat(file.fileno())
            if hasattr(os, "geteuid") and (about.st_uid != os.geteuid() or about.st_mode & 0o022):
                return None
            return file.read()
    except OSError:
        return None  # not there, or not ours to read


def write(name: str, content: bytes) -> None:
    """Keeps content under a name; another process finds all of it or none."""
    if (place := folder()) is None:
        return
    entry = place / name
    # A cache that can't be written must not stop a computation that needs none.
    with contextlib.suppress(OSError):
        entry.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # mkstemp's files are the user's alone to read and write.
        handle, partial = tempfile.mkstemp(dir=entry.parent, prefix=entry.stem[:8], suffix=".partial")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            os.replace(partial, entry)
        except OSError:
            os.unlink(partial)
            raise


def append(name: str, line: str) -> None:
    """Adds a line to a file of lines. One call of the system, so lines of several processes don't mix."""
    if (place := folder()) is None:
        return
    entry = place / name
    with contextlib.suppress(OSError):
        entry.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(entry, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(handle, f"{line}\n".encode())
        finally:
            os.close(handle)
