"""Every test starts from the same seed, with fresh memory full of NaN and one thread."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

# What is kept on disk must not come from, or go to, the user's own cache; and tests don't hang on a clock.
_cache = tempfile.TemporaryDirectory(prefix="striate-test-cache-")  # gone with the process
os.environ["STRIATE_CACHE_DIR"] = _cache.name
os.environ["STRIATE_TUNE"] = "0"

# Tests of every folder share the table of cases.
sys.path.insert(0, str(Path(__file__).parent))

# One process a core runs the suite; each keeps to one thread.
torch.set_num_threads(1)

settings.register_profile("suite", deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
settings.load_profile("suite")


@pytest.fixture(autouse=True)
def _clean_slate() -> Iterator[None]:
    """A kernel that leaves part of its output unwritten, or a test that leans on another's random state, shows."""
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)
