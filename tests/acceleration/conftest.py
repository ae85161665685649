"""Everything that is tested of accelerated models is tested past the guards, as soon as these have passed once."""

from __future__ import annotations

import pytest

from striate.acceleration import shortcuts


@pytest.fixture(autouse=True)
def _past_the_guards_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shortcuts, "_FIRST", 1)
    monkeypatch.setattr(shortcuts, "_LAST", 1)
