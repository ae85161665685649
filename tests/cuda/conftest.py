"""What the rest of the suite holds on the CPU, repeated on a GPU; skipped where there is none.

``STRIATE_TEST_DEVICE`` names another device than ``cuda``. With ``cpu`` the same tests run without a GPU: they compare
the CPU with itself then, which shows that nothing but the device can make them fail.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

# cuBLAS reads it when it is first used, maybe before a training sets it.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from striate.training import Recipe, Run, fit

DEVICE = os.environ.get("STRIATE_TEST_DEVICE", "cuda")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.cuda)


@pytest.fixture(scope="session")
def device() -> torch.device:
    """The device on which the tests are repeated."""
    if DEVICE.startswith("cuda") and not torch.cuda.is_available():
        pytest.skip("there is no GPU that CUDA can use")
    return torch.empty(0, device=DEVICE).device


@pytest.fixture(autouse=True)
def _all_digits_of_float32() -> Iterator[None]:
    """cuDNN convolves with 10 bits of each number (TF32) unless it is told not to, which hides small mistakes."""
    before = torch._C._get_cudnn_allow_tf32()
    torch._C._set_cudnn_allow_tf32(False)
    yield
    torch._C._set_cudnn_allow_tf32(before)


@pytest.fixture(scope="session")
def few(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A source of 100 digits as colour images of 28x28 in ten folders, of which some are for training and some not."""
    folder = tmp_path_factory.mktemp("digits")
    digits = load_digits()
    for number, (pixels, label) in enumerate(zip(digits.images[:100], digits.target[:100], strict=True)):
        path = folder / str(label) / f"{number:03}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray((pixels * 15.9).astype(np.uint8)).resize((28, 28)).convert("RGB").save(path)
    return f"folder:{folder}"


@pytest.fixture(scope="session")
def run(device: torch.device, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that was trained on the device: LeNet-5 on the digits that come with striate."""
    out = tmp_path_factory.mktemp("runs") / "digits"
    return fit(Recipe("lenet5", out=str(out), epochs=2, threads=1, device=str(device)), quiet=True)


@pytest.fixture
def image(run: Run) -> Path:
    """A held-out image of that run."""
    return min((run.path / "samples").glob("*.png"))
