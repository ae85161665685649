"""Bars on a terminal: one within the other, and none left behind."""

from __future__ import annotations

import pytest

from striate.explain import progress
from striate.explain.progress import watched


@pytest.mark.parametrize("terminal", [True, False])
def test_the_same_things_come_out_at_any_depth(
    terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
    else:
        monkeypatch.delenv("FORCE_COLOR", raising=False)
    found = [(outer, inner) for outer in watched("ab", "outer [red]") for inner in watched(range(2), "inner")]
    assert found == [("a", 0), ("a", 1), ("b", 0), ("b", 1)]
    assert not progress._shown
    output, errors = capsys.readouterr()
    assert output == ""
    assert bool(errors) == terminal
    if terminal:
        assert "outer [red]" in errors


def test_a_bar_goes_when_nobody_takes_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    things = watched(range(5), "five")
    assert next(iter(things)) == 0
    things.close()  # type: ignore[attr-defined]
    assert not progress._shown
