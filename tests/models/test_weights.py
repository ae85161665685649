"""Weights from files and from the hub: what loads, what is refused, and that nothing is executed."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from striate import models
from striate.errors import ModelError, WeightsWarning


def state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(model: torch.nn.Module, expected: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())


SAVES: dict[str, Callable[[dict[str, torch.Tensor], Path], None]] = {
    "w.safetensors": save_file,
    "w.pth": torch.save,
    "w.pt": lambda tensors, path: torch.save({"state_dict": tensors, "epoch": 3}, path),
    "w.bin": lambda tensors, path: torch.save({"model": tensors}, path, _use_new_zipfile_serialization=False),
}


@pytest.mark.parametrize("name", SAVES)
def test_every_kind_of_file_comes_back(name: str, tmp_path: Path) -> None:
    expected = state(models.create("simple_cnn"))
    SAVES[name](expected, tmp_path / name)
    assert same(models.create("simple_cnn", weights=tmp_path / name), expected)
    assert models.read_weights(str(tmp_path / name)).keys() == expected.keys()


def test_a_head_for_other_classes_stays_random_with_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    whole = models.create("resnet18", num_classes=7, small_input=True)
    save_file(whole.state_dict(), path)
    with pytest.warns(WeightsWarning, match="fc is for 7 classes, this network's for 10, and stays random"):
        model = models.create("resnet18", num_classes=10, weights=path, small_input=True)
    assert torch.equal(model.conv1.weight, whole.conv1.weight)
    assert torch.equal(model.layer4[1].bn2.running_var, whole.layer4[1].bn2.running_var)
    assert model.fc.weight.shape == (10, 512)
    # unless it is asked for, no head is left out
    with pytest.raises(ModelError, match=r"another model: fc\.bias"):
        models.load_weights(models.create("resnet18", num_classes=10, small_input=True), path)


def test_counters_of_batches_may_be_missing(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    expected = state(models.create("mobilenet_v2"))
    save_file({n: t for n, t in expected.items() if not n.endswith("num_batches_tracked")}, path)
    assert same(models.create("mobilenet_v2", weights=path), expected)


WRONG: dict[str, tuple[Callable[[dict[str, torch.Tensor]], object], str]] = {
    "missing": (lambda w: w.pop("conv1.bias"), r"conv1.bias missing instead of \(32,\)"),
    "unexpected": (lambda w: w.update(extra=torch.zeros(2)), r"extra \(2,\) instead of none"),
    "shape": (lambda w: w.update({"conv2.weight": torch.zeros(64, 32, 5, 5)}), r"conv2.weight \(64, 32, 5, 5\)"),
    "channels": (lambda w: w.update({"conv1.weight": torch.zeros(32, 3, 3, 3)}), "in_channels=3, --channels 3"),
    "head of other features": (
        lambda w: w.update({"output.weight": torch.zeros(10, 5), "output.bias": torch.zeros(10)}),
        "output.weight",
    ),
    "all": (lambda w: [w.pop(name) for name in list(w)], "and 3 more"),
}


@pytest.mark.parametrize("what", WRONG)
def test_all_else_that_does_not_fit_is_listed_and_changes_nothing(what: str, tmp_path: Path) -> None:
    change, message = WRONG[what]
    weights = {name: tensor + 1 for name, tensor in models.create("simple_cnn").state_dict().items()}
    change(weights)
    torch.save(weights, tmp_path / "w.pth")
    model = models.create("simple_cnn")
    before = state(model)
    with pytest.raises(ModelError, match=message) as caught:
        models.load_weights(model, tmp_path / "w.pth", new_head=True)
    assert "\n" not in str(caught.value)
    assert same(model, before)


class Runs:
    """Runs a command when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_pickle_never_runs(zipped: bool, tmp_path: Path) -> None:
    weights = {"conv1.weight": torch.zeros(2), "extra": Runs(tmp_path / "ran")}
    torch.save(weights, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ModelError, match="holds more than tensors, and reading that could run code"):
        models.read_weights(tmp_path / "w.pth")
    assert not (tmp_path / "ran").exists()
    torch.load(tmp_path / "w.pth", weights_only=False)
    assert (tmp_path / "ran").exists(), "the file is as bad as it is meant to be"


def test_what_holds_no_weights_is_one_line(tmp_path: Path) -> None:
    torch.save(models.create("simple_cnn"), tmp_path / "model.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({1: torch.zeros(2)}, tmp_path / "numbers.pth")
    torch.save(state(models.create("simple_cnn")), tmp_path / "whole.pth")
    whole = (tmp_path / "whole.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "text.pth").write_bytes(b"no weights at all")
    (tmp_path / "other.zip").write_bytes(whole)
    for name, message in {
        "model.pth": "more than tensors",
        "list.pth": "something else than named tensors",
        "numbers.pth": "something else than named tensors",
        "cut.pth": "no readable weights",
        "empty.pth": "no readable weights",
        "text.pth": "no readable weights",
        "none.pth": "no readable weights",
        "other.zip": "needed one that ends in .safetensors",
    }.items():
        with pytest.raises(ModelError, match=message) as caught:
            models.read_weights(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_damaged_bytes_are_refused_or_read(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    for zipped in (True, False):
        torch.save({"a": torch.zeros(3)}, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
        whole = (tmp_path / "w.pth").read_bytes()
        for _ in range(200):
            broken = bytearray(whole)
            for place in torch.randint(len(whole), (5,), generator=generator).tolist():
                broken[place] ^= 1 << (place % 8)
            (tmp_path / "broken.pth").write_bytes(broken)
            with contextlib.suppress(ModelError), warnings.catch_warnings(action="ignore"):
                models.read_weights(tmp_path / "broken.pth")


def in_the_cache(folder: Path, name: str) -> Path:
    """Where the hub's client keeps the file ``name`` of owner/net at revision ``main``."""
    repository = folder / "models--owner--net"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    return snapshot / name


@pytest.mark.slow
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_the_hubs_cache_is_enough(name: str, tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    expected = state(models.create("simple_cnn"))
    (save_file if name.endswith("safetensors") else torch.save)(expected, in_the_cache(tmp_path, name))
    # the client reads its settings when it is imported
    program = (
        "from striate import models\n"
        "for source in ('hf-hub:owner/net', 'hf-hub:owner/net@main'):\n"
        "    print(models.create('simple_cnn', weights=source).output.bias.sum().item())\n"
        "for source in ('hf-hub:owner/none', 'hf-hub:owner/net@v2', 'hf-hub:a/b/c', 'hf-hub:'):\n"
        "    try:\n"
        "        models.create('simple_cnn', weights=source)\n"
        "    except models.registry.ModelError as error:\n"
        "        print(error)\n"
    )
    settings = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], env=settings, capture_output=True, text=True, check=True)
    first, second, *refused = done.stdout.splitlines()
    assert float(first) == float(second) == pytest.approx(expected["output.bias"].sum().item())
    assert len(refused) == 4
    assert all(line.startswith("hf-hub:") and "can't be had" in line for line in refused)


def test_without_the_hubs_client_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ModelError, match=r"pip install 'striate\[pretrained\]'"):
        models.create("simple_cnn", weights="hf-hub:owner/net")
