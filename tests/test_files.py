"""Files are there whole or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from striate.errors import RunError
from striate.files import read_json, write_json, write_whole


def test_a_failed_write_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_whole(path, b"before")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, b"after")
    assert path.read_bytes() == b"before"
    assert os.listdir(tmp_path) == ["file"]


def test_what_a_killed_writer_left_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "file.partial").write_bytes(b"half of somethi")
    write_whole(tmp_path / "file", b"all")
    assert (tmp_path / "file").read_bytes() == b"all"
    assert os.listdir(tmp_path) == ["file"]


def test_json_comes_back_and_nonsense_does_not(tmp_path: Path) -> None:
    path = tmp_path / "facts.json"
    write_json(path, {"a": [1, 0.1]})
    assert read_json(path) == {"a": [1, 0.1]}
    for content in (b'{"a": [1', b"[1]", b"\xff\xfe"):
        path.write_bytes(content)
        with pytest.raises(RunError, match=r"facts\.json"):
            read_json(path)
    with pytest.raises(RunError, match="No such file"):
        read_json(tmp_path / "none.json")
