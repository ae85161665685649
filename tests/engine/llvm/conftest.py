"""Tests of generated kernels share their random problems, and keep machine code in a folder of their own."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    before = os.environ.get("STRIATE_CACHE_DIR")
    os.environ["STRIATE_CACHE_DIR"] = str(tmp_path_factory.mktemp("kernels"))
    yield
    if before is None:
        del os.environ["STRIATE_CACHE_DIR"]
    else:
        os.environ["STRIATE_CACHE_DIR"] = before
