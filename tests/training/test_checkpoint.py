"""Checkpoints come back bit for bit, or not at all."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from striate.errors import RunError
from striate.training import Epoch, Recipe
from striate.training.checkpoint import Checkpoint


@pytest.fixture
def checkpoint() -> Checkpoint:
    shared = torch.randn(3, 2)
    return Checkpoint(
        recipe=Recipe("lenet5", image_size=(28, 28)),
        versions={"torch": "2"},
        history=(
            Epoch(1, {"loss": 0.1 + 0.2, "accuracy": 0.5}, {"loss": 1 / 3, "accuracy": 0.25}, "test", 1e-3, 1.5, 99.0),
        ),
        seconds=0.1,
        done=2,
        measured={"loss": torch.tensor([1.0, 2.0, 0.0]), "accuracy": torch.tensor([3, 4, 0])},
        model={"a.weight": shared, "tied.weight": shared, "a.steps": torch.tensor(7), "b": torch.randn(4, 5).T},
        # The second as of a bias for a single class: one number with a stride of 0.
        optimizer={
            0: {"momentum_buffer": torch.randn(3, 2)},
            1: {"momentum_buffer": torch.ones(()).expand(1)},
            10: {"step": torch.tensor(3.0)},
        },
        average={"a.weight": torch.randn(3, 2)},
        scaler={"scale": 65536.0, "_growth_tracker": 3},
        best={"a.weight": torch.randn(3, 2)},
    )


def same(first: object, second: object) -> bool:
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return first.dtype == second.dtype and torch.equal(first, second)
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    return first == second


def test_everything_comes_back(checkpoint: Checkpoint, tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "c")
    loaded = Checkpoint.load(tmp_path / "c")
    for field in dataclasses.fields(Checkpoint):
        assert same(getattr(checkpoint, field.name), getattr(loaded, field.name)), field.name


def test_a_cut_file_is_refused_wherever_it_is_cut(checkpoint: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / "c"
    checkpoint.save(path)
    whole = path.read_bytes()
    for length in (0, 4, 8, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(RunError, match="no whole safetensors file") as caught:
            Checkpoint.load(path)
        assert "\n" not in str(caught.value)
        assert path.read_bytes() == whole[:length]


def test_a_flipped_bit_is_seen(checkpoint: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / "c"
    checkpoint.save(path)
    whole = path.read_bytes()
    for where in (len(whole) - 5, whole.index(b"lenet5")):
        flipped = bytearray(whole)
        flipped[where] ^= 1
        path.write_bytes(flipped)
        with pytest.raises(RunError, match="damaged"):
            Checkpoint.load(path)


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "c"
    path.write_bytes(b"PK\x03\x04 this is an archive of something else entirely, and long enough to look into")
    with pytest.raises(RunError, match="no whole safetensors file"):
        Checkpoint.load(path)
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(RunError, match="format is None"):
        Checkpoint.load(path)
    with pytest.raises(RunError, match="can't be read"):
        Checkpoint.load(tmp_path / "none")
