"""What tests of accelerated models share."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from striate.engine import tuning


@pytest.fixture
def planning(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Plans are made, and found to be faster, whatever the clock says."""

    def interleaved(candidates: dict[str, Callable[[], object]], *_: float) -> dict[str, float]:
        for run in candidates.values():
            run()
        return {name: 1.0 if name in ("", "aten") else 1e-3 for name in candidates}

    monkeypatch.setattr(tuning, "_enabled", True)
    monkeypatch.setattr(tuning, "interleaved", interleaved)
    tuning.forget()
    yield
    tuning.forget()
