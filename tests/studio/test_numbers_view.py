"""What the server sends of tensors: the recorded numbers, to the last bit, cut to what was asked for."""

from __future__ import annotations

import json
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from striate.studio.recording import record
from striate.studio.subject import find


@pytest.fixture(scope="module")
def small(start: Any) -> tuple[Any, Any]:
    model = nn.Sequential(nn.Conv2d(3, 70, 3), nn.ReLU(), nn.Flatten(), nn.Linear(70 * 36, 5)).eval()
    inputs = torch.randn(2, 3, 8, 8)
    return start(model, inputs), record(model, inputs)


def test_maps_are_the_recorded_numbers(small: tuple[Any, Any]) -> None:
    client, recording = small
    for value, tensor in recording.numbers.items():
        header, numbers = client.numbers(
            f"/api/tensor/{value}", channels="0-99", form="maps" if tensor.dim() == 4 else ""
        )
        assert header["full"] == list(tensor.shape)
        if tensor.dim() == 4:
            np.testing.assert_array_equal(numbers, tensor[0].numpy())


def test_samples_channels_and_windows_are_cut(small: tuple[Any, Any]) -> None:
    client, recording = small
    value = recording.number_of(recording.trace.operations[0].outputs[0])
    tensor = recording.numbers[value].numpy()
    header, numbers = client.numbers(f"/api/tensor/{value}", sample=1, channels="3-5")
    np.testing.assert_array_equal(numbers, tensor[1, 3:6])
    assert header["first"] == 3
    assert header["channels"] == [[float(each.min()), float(each.max())] for each in tensor[1, 3:6]]
    _, numbers = client.numbers(f"/api/tensor/{value}", at="4,2,1,3,2")
    np.testing.assert_array_equal(numbers, tensor[0, 4:5, 2:5, 1:3])
    header, numbers = client.numbers(f"/api/tensor/{value}")
    assert numbers.shape[0] == 64
    assert header["form"]["channels"] == 70


def test_reduced_maps_say_so(small: tuple[Any, Any]) -> None:
    client, recording = small
    value = recording.number_of(recording.trace.operations[0].outputs[0])
    header, numbers = client.numbers(f"/api/tensor/{value}", size=3)
    assert (header["factor"], numbers.shape) == (2, (64, 3, 3))
    np.testing.assert_allclose(numbers[0, 0, 0], recording.numbers[value][0, 0, :2, :2].mean(), rtol=1e-6)


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("/api/tensor/9999", {}),
        ("/api/tensor/-1", {}),
        ("/api/tensor/x", {}),
        ("/api/tensor/0", {"channels": "5-1"}),
        ("/api/tensor/0", {"channels": "a"}),
        ("/api/tensor/0", {"form": "tokens"}),
        ("/api/tensor/0", {"sample": "2"}),
        ("/api/tensor/0", {"picture": "none"}),
        ("/api/tensor/0", {"at": "0,0,0"}),
        ("/api/tensor/0", {"at": "0,99,0,1,1"}),
        ("/api/tensor/0", {"size": "-3"}),
        ("/api/tensor/0", {"training": "yes"}),
        ("/api/network", {"width": "0"}),
        ("/api/network/thumbnails", {"values": "1,x"}),
        ("/api/network/thumbnails", {"values": "99999"}),
        ("/api/pixels/none", {}),
        ("/api/pixels/p0", {"what": "all"}),
    ],
)
def test_what_there_isn_t_is_told_in_one_line(small: tuple[Any, Any], path: str, query: dict[str, str]) -> None:
    status, content = small[0].ask(path, **query)
    assert 400 <= status < 500
    assert "; needed" in json.loads(content)["error"]


def test_the_call_that_is_shown_gives_the_numbers(start: Any) -> None:
    client = start(find("lenet5"))
    header, numbers = client.numbers("/api/tensor/15", picture="p4", channels="0-15")
    space: dict[str, Any] = {}
    *lines, last = header["call"].splitlines()
    exec("\n".join(lines), space)
    found = eval(last, space)
    np.testing.assert_array_equal(found[0].numpy(), numbers)


def test_numbers_that_aren_t_finite_arrive(start: Any) -> None:
    class Odd(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x - 0.5) / torch.zeros(())

    client = start(Odd(), torch.tensor([0.0, 0.5, 1.0]).view(1, 1, 1, 3))
    value = client.json("/api/tensors")["outputs"][0]
    header, numbers = client.numbers(f"/api/tensor/{value}")
    assert numbers.tolist() == [[[-np.inf, pytest.approx(np.nan, nan_ok=True), np.inf]]]
    assert header["statistics"]["not_finite"] == 3


def test_a_network_that_fails_is_a_line_and_the_server_goes_on(start: Any) -> None:
    class Fails(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ torch.zeros(7, 7)

    client = start(Fails(), torch.rand(1, 1, 4, 4))
    status, content = client.ask("/api/network")
    assert status == 422
    assert "doesn't go through" in json.loads(content)["error"]
    assert client.json("/api/subject")["name"] == "Fails"


def test_training_s_numbers_are_another_recording(start: Any) -> None:
    client = start(nn.Sequential(nn.Dropout(0.5)), torch.ones(1, 1, 8, 8))
    value = client.json("/api/tensors")["outputs"][0]
    _, plain = client.numbers(f"/api/tensor/{value}")
    assert (plain == 1).all()
    status, content = client.ask("/api/tensor/1", training=1)
    assert status == 200
    assert b"bernoulli" in content or b"dropout" in content or b"empty" in content


def test_recordings_are_kept_up_to_their_bytes(start: Any) -> None:
    client = start("lenet5", kept=200_000)
    workspace = client.studio.workspace
    gone = weakref.ref(workspace.recording("p0"))
    for picture in workspace.pictures():
        client.json("/api/network", picture=picture.id)
    kept = workspace._recordings.values()
    assert 1 <= len(kept) < len(workspace.pictures())
    assert sum(each.bytes for each in kept) <= 200_000
    assert gone() is None  # nothing else holds on to it
