"""Freed memory stays with the process: the next tensor finds its pages there."""

from __future__ import annotations

import subprocess
import sys

import pytest

_FAULTS = """
import resource, sys, torch
from striate.engine.memory import keep_freed_memory
kept = keep_freed_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(12 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(kept, faults())
"""


def _faults(monkeypatch: pytest.MonkeyPatch, wanted: str) -> tuple[int, int]:
    monkeypatch.setenv("STRIATE_KEEP_MEMORY", wanted)
    done = subprocess.run([sys.executable, "-c", _FAULTS], capture_output=True, text=True, check=True)
    kept, faults = map(int, done.stdout.split())
    return kept, faults


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts the faults that Linux reports")
def test_no_page_is_faulted_in_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    kept, faults = _faults(monkeypatch, "1")
    if kept == 0:
        pytest.skip("the C library takes no advice")
    # Ten times 48 MiB are 122,880 pages of 4 KiB, or 240 of 2 MiB. Up to 32 MiB the
    # C library keeps blocks by itself.
    assert faults < 20


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts the faults that Linux reports")
def test_without_it_every_page_is(monkeypatch: pytest.MonkeyPatch) -> None:
    asked_not_to, before = _faults(monkeypatch, "0")
    assert asked_not_to == 0
    assert before >= 240
