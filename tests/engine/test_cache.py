"""Where things are kept on disk, and what happens where there is no such place."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from striate.engine import cache


def homeless() -> Path:
    raise RuntimeError("Could not determine home directory.")


@pytest.mark.parametrize(
    ("system", "variables", "expected"),
    [
        ("linux", {}, "/home/me/.cache/striate"),
        ("linux", {"XDG_CACHE_HOME": "/var/cache/me"}, "/var/cache/me/striate"),
        ("linux", {"XDG_CACHE_HOME": "below"}, "/home/me/.cache/striate"),
        ("linux", {"LOCALAPPDATA": "/elsewhere"}, "/home/me/.cache/striate"),
        ("linux", {"STRIATE_CACHE_DIR": "here", "XDG_CACHE_HOME": "/var"}, "here"),
        ("darwin", {"XDG_CACHE_HOME": "/var"}, "/home/me/Library/Caches/striate"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/striate"),
        ("win32", {}, "/home/me/striate"),
    ],
)
def test_the_folder(system: str, variables: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("STRIATE_CACHE_DIR", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(Path, "home", lambda: Path("/home/me"))
    assert cache.folder() == Path(expected)
    if variables:  # who says where it is needs no home
        monkeypatch.setattr(Path, "home", homeless)
        assert cache.folder() in (Path(expected), None)


def test_without_a_home_nothing_is_kept_and_nothing_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("STRIATE_CACHE_DIR", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    monkeypatch.chdir(tmp_path)
    assert cache.folder() is None
    cache.write("name.o", b"content")
    cache.append("lines", "one")
    assert cache.read("name.o") is None
    assert [*tmp_path.iterdir()] == []


def test_a_folder_that_is_a_file_is_done_without(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("STRIATE_CACHE_DIR", str(tmp_path / "file" / "below"))
    cache.write("name.o", b"content")
    cache.append("lines", "one")
    assert cache.read("name.o") is None
