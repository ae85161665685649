"""The environment of a run: device, threads, random generators, Ctrl-C."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING

import numpy as np
import torch

from striate import engine
from striate.engine import tuning
from striate.errors import RunError, is_out_of_memory

if TYPE_CHECKING:
    from striate.training.recipe import Recipe
    from striate.training.run import Settings


def find_device(name: str) -> torch.device:
    """The device of a name; ``"auto"`` is the accelerator, if there is one, else the CPU.

    Raises:
        RunError: no such device here.
    """
    if name == "auto":
        name = str(torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise RunError(
            "device", f"{name!r} can't be used ({reason})", "needed auto, cpu or a GPU of this machine"
        ) from error


@contextlib.contextmanager
def reproducible(seed: int, threads: int, device: torch.device, backend: str = "auto") -> Iterator[None]:
    """A context with seeded generators, a fixed number of threads and deterministic kernels.

    The previous state is restored at the end. The engine uses the named backend, or chooses as usual if none is named.
    PyTorch warns if an operation has no deterministic kernel on the device.
    """
    # cuBLAS reads this at its start; without it, results depend on the buffer that it happens to use.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.get_num_threads(), torch.get_deterministic_debug_mode(), torch.backends.cudnn.benchmark
    on_cpu = device.type == "cpu"
    with (
        torch.random.fork_rng([] if on_cpu else [device], device_type="cuda" if on_cpu else device.type),
        # Backends sum in different orders, so the choice of a backend must not depend on a clock.
        tuning.fixed(),
        contextlib.nullcontext() if backend == "auto" else engine.use(backend),
    ):
        torch.manual_seed(seed)
        torch.set_num_threads(threads)
        torch.set_deterministic_debug_mode("warn")
        _set_cudnn_benchmark(False)
        try:
            yield
        finally:
            torch.set_num_threads(before[0])
            torch.set_deterministic_debug_mode(before[1])
            _set_cudnn_benchmark(before[2])


@contextlib.contextmanager
def enough_memory(recipe: Recipe, settings: Settings) -> Iterator[None]:
    """A context for training and testing.

    Raises:
        RunError: out of memory; the message says what was tried, and which settings need less.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        size = "x".join(map(str, (settings.channels, *settings.image_size)))
        wanted = re.search(r"allocate ([\d.]+ ?[KMGT]?i?B|\d+ bytes)", str(error))
        remedies = [f"--accumulate {2 * recipe.accumulate}" if recipe.batch_size > recipe.accumulate else ""]
        remedies += ["" if recipe.checkpoint_activations else "--checkpoint-activations"]
        remedies += [f"--batch-size {recipe.batch_size // 2}" if recipe.batch_size > 1 else "smaller images"]
        raise RunError(
            settings.device,
            f"ran out of memory training {recipe.model} ({settings.parameters:,} parameters) with {recipe.batch_size} "
            f"images of {size} a step, {recipe.accumulate} part{'s' * (recipe.accumulate > 1)} each"
            + (f", when it asked for {wanted[1]}" if wanted else ""),
            "needed less",
            "try " + ", or ".join(filter(None, remedies)),
        ) from error


def _set_cudnn_benchmark(on: bool) -> None:
    """Whether cuDNN may pick kernels by their time, so that two runs differ.

    This calls the function behind the property ``torch.backends.cudnn.benchmark``. The property itself can't be set any
    more once some code has called ``torch.backends.disable_global_flags()``.
    """
    torch._C._set_cudnn_benchmark(on)


def seed_step(seed: int, epoch: int, step: int, process: int) -> None:
    """Seeds the generators that layers draw from, for one step, so that a resumed run needs no state of generators."""
    words = np.random.SeedSequence(seed, spawn_key=(epoch, step, process)).generate_state(1, np.uint64)
    torch.manual_seed(int(words[0]))


class Stop:
    """Handles Ctrl-C as a request: within a ``with`` block, the first one sets ``asked``, the second one interrupts.

    A KeyboardInterrupt may occur between two parameters of an optimizer's step. A request can wait until the step is
    complete.
    """

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> Stop:
        # Only the main thread may handle signals. A handler that other code has installed is kept.
        ours = threading.current_thread() is threading.main_thread()
        self._installed = ours and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if self._installed:
            signal.signal(signal.SIGINT, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        if self._installed:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
