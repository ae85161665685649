"""Every test starts from the same seed, with fresh memory full of NaN and one thread."""

from __future__ import annotations

import gc
import importlib
import math
import os
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings

# What is kept on disk must not come from, or go to, the user's own cache; and tests don't hang on a clock.
# The processes of one run share a folder, so that a kernel is compiled once: whoever starts them makes it, and its end
# is the folder's. A test that needs an empty one sets STRIATE_CACHE_DIR itself.
_SHARED = "STRIATE_TEST_CACHE"
if "PYTEST_XDIST_WORKER" not in os.environ or _SHARED not in os.environ:
    _cache = tempfile.TemporaryDirectory(prefix="striate-test-cache-")
    os.environ[_SHARED] = _cache.name
os.environ["STRIATE_CACHE_DIR"] = os.environ[_SHARED]
os.environ["STRIATE_TUNE"] = "0"

# Tests of every folder share the table of cases.
sys.path.insert(0, str(Path(__file__).parent))

# One process a core runs the suite; each keeps to one thread.
torch.set_num_threads(1)

settings.register_profile("suite", deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
settings.load_profile("suite")


def pytest_collection_finish() -> None:
    """What is imported by now is no garbage: tests that collect it, as some do often, need not look at all of it."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _clean_slate() -> Iterator[None]:
    """A kernel that leaves part of its output unwritten, or a test that leans on another's random state, shows."""
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def _past_the_guards_at_once(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Accelerated models are tested past Dynamo's guards, as soon as these have passed once."""
    if request.path.parent.name == "acceleration" and request.path.name.startswith("test_"):
        from striate.acceleration.guards import shortcuts

        monkeypatch.setattr(shortcuts, "_FIRST", 1)
        monkeypatch.setattr(shortcuts, "_LAST", 1)


@pytest.fixture(params=["avx2", pytest.param("x86-64", marks=pytest.mark.slow)])
def narrower(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Everything is computed by an instruction set that this machine has besides its best one."""
    from striate.engine.llvm.codegen import isa

    best = isa.host()
    named = [each.name for each in isa.ISAS if best and each.triple == best.triple and each.lanes < best.lanes]
    if request.param not in named:
        pytest.skip(f"{request.param} isn't below what this machine computes with")
    _forget()
    monkeypatch.setenv("STRIATE_ISA", request.param)
    yield
    monkeypatch.undo()
    _forget()


def _forget() -> None:
    """What was prepared for one instruction set is none for another."""
    for name, module in list(sys.modules.items()):
        if name.startswith("striate."):
            holders = [module, *(each for each in vars(module).values() if isinstance(each, type))]
            for each in [value for holder in holders for value in vars(holder).values()]:
                getattr(getattr(each, "__func__", each), "cache_clear", lambda: None)()
    importlib.import_module("striate.engine.backends").forget()


@contextmanager
def _without_drawing() -> Iterator[None]:
    from striate.files import write_whole
    from striate.report import figures

    def save_each(folder: Path, makers: dict[str, Callable[[], object]]) -> None:
        for name in makers:
            write_whole(folder / f"{name}.png", b"")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "save_each", save_each)
        yield


@pytest.fixture(scope="session")
def without_drawing() -> Callable[[], AbstractContextManager[None]]:
    """What ``undrawn`` does, for fixtures that live longer than a test."""
    return _without_drawing


@pytest.fixture
def undrawn() -> Iterator[None]:
    """The pictures of a run are empty files: to draw them takes longer than to train a small network."""
    with _without_drawing():
        yield


@pytest.fixture(scope="session")
def cnn_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of ``simple_cnn``, without pictures, to read only."""
    from striate.cli import main

    path = tmp_path_factory.mktemp("runs") / "simple_cnn"
    with _without_drawing(), pytest.raises(SystemExit) as left:
        main(["train", "simple_cnn", "--out", str(path), "--epochs", "1", "--threads", "1", "--quiet"])
    assert left.value.code == 0
    return path


@pytest.fixture
def peer(monkeypatch: pytest.MonkeyPatch) -> Callable[..., torch.nn.Module]:
    """From ``"torchvision:resnet18"`` or ``"timm:..."`` to that network with random weights."""
    register = torch.library.register_fake

    def lenient(operator: Any, *arguments: Any, **named: Any) -> Any:
        # Without its compiled part torchvision has no operators to register a shape for.
        if isinstance(operator, str) and operator.startswith("torchvision::"):
            return lambda function: function
        return register(operator, *arguments, **named)

    monkeypatch.setattr(torch.library, "register_fake", lenient)

    def make(name: str, **options: Any) -> torch.nn.Module:
        library, _, model = name.partition(":")
        pytest.importorskip(library)
        if library == "timm":
            return importlib.import_module("timm").create_model(model, **options)  # type: ignore[no-any-return]
        return getattr(importlib.import_module("torchvision.models"), model)(**options)  # type: ignore[no-any-return]

    return make


@pytest.fixture
def measuring(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Problems are measured. What others have measured isn't known, and nobody else comes to know what is."""
    from striate.engine import tuning  # only now: the environment above must be set first

    monkeypatch.setattr(tuning, "_enabled", True)
    monkeypatch.setattr(tuning, "_ALLOWANCE", math.inf)
    own = f"choices-{uuid.uuid4().hex}.jsonl"
    monkeypatch.setattr(tuning, "_name", lambda: own)
    tuning.forget()
    yield
    tuning.forget()


@pytest.fixture
def planning(measuring: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plans are made, and found to be faster, whatever the clock says."""
    from striate.engine import tuning

    def in_turns(candidates: dict[str, Callable[[], object]], *_: float) -> dict[str, float]:
        for run in candidates.values():
            run()
        return {name: 1.0 if name in ("", "aten") else 1e-3 for name in candidates}

    monkeypatch.setattr(tuning, "in_turns", in_turns)
