"""What users see: one line, whatever names are in it; and what is no fault of a call is told as what it is."""

from __future__ import annotations

import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from striate import analysis, explain
from striate.errors import StriateError, is_out_of_memory, readable


@given(st.text(st.characters(codec=None), max_size=20))
def test_every_name_is_one_line_that_can_be_encoded(name: str) -> None:
    shown = readable(name)
    shown.encode()
    assert len(shown.splitlines()) <= 1
    message = str(StriateError(name, f"got {name}"))
    message.encode()
    assert len(message.splitlines()) <= 1


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("naïve 猫 👩‍🔬", "naïve 猫 👩‍🔬"),
        ("caf\udce9", r"caf\xe9"),
        ("a\nb\tc\x1b[31m", r"a\nb\tc\x1b[31m"),
        ("\u202eltr", r"\u202eltr"),
        ("\ud800", r"\ud800"),
    ],
)
def test_what_has_no_shape_is_spelt_out(name: str, shown: str) -> None:
    assert readable(name) == shown


def test_errors_keep_their_parts_between_processes() -> None:
    error = StriateError("here", "got 1", "needed 2", "ask")
    assert str(pickle.loads(pickle.dumps(error))) == str(error) == "here: got 1; needed 2; ask"


class Hungry(nn.Module):
    """Asks for more memory than there is."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, 2, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.device.type == "meta" or isinstance(x, torch._subclasses.FakeTensor):
            return self.layer(x).mean((2, 3))
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes.")


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("x"), RuntimeError("CUDA out of memory.")])
def test_errors_of_memory_are_known(error: Exception) -> None:
    assert is_out_of_memory(error)
    assert not is_out_of_memory(RuntimeError("size mismatch"))


def test_running_out_of_memory_is_no_mistake_of_the_image() -> None:
    for call in (
        lambda: explain.grad_cam(Hungry(), torch.zeros(1, 1, 8, 8), 0),
        lambda: analysis.robustness(Hungry(), torch.rand(2, 1, 8, 8), torch.tensor([0, 1])),
    ):
        with pytest.raises(RuntimeError, match="DefaultCPUAllocator"):
            call()
