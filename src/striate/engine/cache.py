"""Files that striate caches on disk between processes: private to the user, and written atomically.

The cache is optional. If its folder can't be read or written, results are computed again.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from pathlib import Path
from typing import Final


def folder() -> Path | None:
    """The cache folder: ``STRIATE_CACHE_DIR``, or a folder in the user's cache directory; None if there is neither."""
    said = os.environ.get("STRIATE_CACHE_DIR")
    if said:
        return Path(said)
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", ""))
    elif sys.platform == "darwin":
        base = Path()
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not base.is_absolute():  # not set, or relative to the working directory
        try:
            base = Path.home() / _AT_HOME.get(sys.platform, ".cache")
        except RuntimeError:  # no HOME, and no entry in the user database
            return None
    return base / "striate"


_AT_HOME: Final = {"win32": "", "darwin": "Library/Caches"}


def read(name: str) -> bytes | None:
    """The content written under a name; None if there is none, or if another user owns or may write the file.

    The cache holds machine code, so a file that another user could have written must not be run.
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
        return None  # missing, or not readable


def write(name: str, content: bytes) -> None:
    """Stores content under a name, atomically: another process sees all of it or none."""
    if (place := folder()) is None:
        return
    entry = place / name
    # A cache that can't be written must not stop a computation that needs none.
    with contextlib.suppress(OSError):
        entry.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Only the user can read and write the files that mkstemp creates.
        handle, partial = tempfile.mkstemp(dir=entry.parent, prefix=entry.stem[:8], suffix=".partial")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            os.replace(partial, entry)
        except OSError:
            os.unlink(partial)
            raise


def append(name: str, line: str) -> None:
    """Appends a line to a file, by one system call, so that lines of several processes don't mix."""
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
