"""The register, weights from files, and that every network in it works."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from striate import models
from striate.errors import ModelError

#: Those that other tests of the zoo don't cover.
FOR_DIGITS = ("lenet5", "lenet5_1998", "simple_cnn")


@pytest.mark.parametrize("name", FOR_DIGITS)
def test_a_network_trains_a_step_on_its_own_input(name: str) -> None:
    model = models.create(name, in_channels=2)
    x = torch.randn(3, 2, *model.input_size)
    output = model(x)
    assert output.shape == (3, 10)
    labels = torch.tensor([0, 5, 9])
    loss = model.loss(output, labels) if hasattr(model, "loss") else torch.nn.functional.cross_entropy(output, labels)
    loss.backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        assert parameter.grad.any(), key
    assert models.describe(name)


@pytest.mark.parametrize(("name", "parameters"), [("lenet5", 61_706), ("lenet5_1998", 60_000), ("simple_cnn", 50_186)])
def test_parameter_counts(name: str, parameters: int) -> None:
    assert sum(parameter.numel() for parameter in models.create(name).parameters()) == parameters


def test_unknown_names_and_sizes_are_refused() -> None:
    with pytest.raises(ModelError, match="did you mean lenet5"):
        models.create("lenet")
    with pytest.raises(ModelError, match="num_classes is 0"):
        models.create("lenet5", num_classes=0)
    with pytest.raises(ModelError, match="needed 10"):
        models.create("lenet5_1998", num_classes=7)
    assert models.create("simple_cnn", num_classes=7)(torch.zeros(1, 1, 28, 28)).shape == (1, 7)


def test_a_name_can_be_taken_once() -> None:
    def lenet5() -> torch.nn.Module:
        raise NotImplementedError

    with pytest.raises(ModelError, match="exists"):
        models.register(lenet5)


@pytest.mark.parametrize("name", [*FOR_DIGITS, "resnet18", "mobilenet_v2"])
def test_weights_come_back_from_a_file(name: str, tmp_path: Path) -> None:
    model = models.create(name)
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    again = models.create(name, weights=tmp_path / "weights.safetensors")
    x = torch.randn(1, *models.input_shape(name))
    assert torch.equal(again.eval()(x), model.eval()(x))


def test_weights_of_another_model_or_no_weights_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file(models.create("simple_cnn").state_dict(), path)
    with pytest.raises(ModelError, match="another model") as caught:
        models.create("lenet5", weights=path)
    assert "c1.bias missing instead of (6,)" in str(caught.value)
    whole = path.read_bytes()
    for broken in (whole[: len(whole) // 2], whole[:5], b"", b"not weights"):
        path.write_bytes(broken)
        with pytest.raises(ModelError, match="no readable weights") as caught:
            models.create("simple_cnn", weights=path)
        assert "\n" not in str(caught.value)
    with pytest.raises(ModelError, match="no readable weights"):
        models.create("simple_cnn", weights=tmp_path / "nowhere.safetensors")
