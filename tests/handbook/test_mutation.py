"""Errors that are planted in the functions of formulas turn the formulas' tests red."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT / "docs" / "handbook"))

import mutation  # noqa: E402
import traceability  # noqa: E402


def noticed(*numbers: str) -> str:
    """What the program says of these formulas; its processes run pytest, and must not take this one's settings."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST", "STRIATE_TEST"))}
    kept["PYTHONPATH"] = str(ROOT / "src")
    command = [sys.executable, str(ROOT / "docs" / "handbook" / "mutation.py"), *numbers]
    done = subprocess.run(command, env=kept, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_an_effective_kernel_that_is_wrong_is_noticed() -> None:
    assert noticed("F26") == "F26: 3 of 3 noticed\n"


@pytest.mark.slow
@pytest.mark.parametrize("one", mutation.numbers())
def test_planted_errors_are_noticed(one: str) -> None:
    said = noticed(one)
    assert f"{one}: 0 of 0" not in said


def test_each_error_is_one_change_of_the_function() -> None:
    mark = next(each for each in traceability.functions() if each.name == "Window.effective_kernel")
    (function,) = mutation.targets(mark)
    changes = [error.change for error in mutation.errors_in(function)]
    assert "self.dilation * (self.kernel - 1) + 1 -> self.dilation * (self.kernel - 1) - 1" in changes
    assert "self.kernel - 1 -> self.kernel + 1" in changes
    assert len(changes) == 6
    for error in mutation.errors_in(function):
        assert error.code.co_code != function.__code__.co_code or error.code.co_consts != function.__code__.co_consts
        assert error.code.co_qualname == function.__code__.co_qualname


def test_a_test_that_fails_by_itself_is_an_error_and_not_a_success(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mutation, "_run", lambda node_ids: 1)
    with pytest.raises(RuntimeError, match="needed tests that pass"):
        mutation.chosen("F26")
