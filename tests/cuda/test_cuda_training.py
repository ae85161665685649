"""Training on the GPU: the losses of the CPU, the same bits when it goes on after a stop, and files for any device."""

from __future__ import annotations

import copy
import dataclasses
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from striate import models
from striate.data import Augmentation, Batches, ImageSet, Normalization
from striate.data.augmentation import STYLES
from striate.export import Subject, export
from striate.training import Interrupted, Recipe, Run, evaluate, fit
from striate.training.loop import Training
from striate.training.update import Updates


def recipe(out: Path, data: str, device: object, **settings: Any) -> Recipe:
    plain = {"model": "lenet5", "epochs": 2, "batch_size": 16, "threads": 1, "learning_rate": 0.01}
    return Recipe(**{**plain, "data": data, "out": str(out), "device": str(device), **settings})


@contextmanager
def losses_of_steps() -> Iterator[list[float]]:
    """The loss of every step that is made meanwhile."""
    found: list[float] = []
    whole = Updates.step

    def step(self: Updates, *arguments: Any, **named: Any) -> Any:
        measured = whole(self, *arguments, **named)
        found.append(float(measured["loss"]))
        return measured

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Updates, "step", step)
        yield found


def interrupt_after(patch: pytest.MonkeyPatch, steps: int) -> None:
    """Ctrl-C within a step."""
    whole = Training._step
    taken = 0

    def step(self: Training, *arguments: Any) -> None:
        nonlocal taken
        taken += 1
        if taken == steps:
            signal.raise_signal(signal.SIGINT)
        whole(self, *arguments)

    patch.setattr(Training, "_step", step)


SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "grey": {"channels": 1},
    "adamw": {"optimizer": "adamw", "learning_rate": 1e-3, "clip_norm": 0.5},
    "class weights": {"class_weights": "effective", "balanced_sampling": True},
    "moving average": {"ema": 0.9, "accumulate": 2},
    "less memory": {"checkpoint_activations": True},
    "resized crops": {"augment": "resized-crop"},
    "digits": {"augment": "digits", "erase": 0.5},
    "photo": {"augment": "photo", "mixup": 0.4, "cutmix": 0.4},
    "batch norm": {"model": "simple_cnn"},
    "own loss": {"model": "lenet5_1998", "channels": 1, "learning_rate": None},
    "best epoch": {"keep": "best", "val_fraction": 0.2},
}


class Normed(torch.nn.Sequential):
    """Batch normalisation and nothing random: a GPU draws other numbers for dropout."""

    input_size = (28, 28)

    def __init__(self, num_classes: int) -> None:
        super().__init__(
            torch.nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False),
            torch.nn.BatchNorm2d(8),
            torch.nn.ReLU(),
            torch.nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False),
            torch.nn.BatchNorm2d(16),
            torch.nn.ReLU(),
            torch.nn.AdaptiveAvgPool2d(1),
            torch.nn.Flatten(),
            torch.nn.Linear(16, num_classes),
        )


@pytest.mark.parametrize("name", SETTINGS)
def test_losses_are_those_of_the_cpu(
    name: str, few: str, device: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "batch norm":
        monkeypatch.setattr(models, "create", lambda name, num_classes=10, *_, **__: Normed(num_classes))
    runs, losses = [], []
    for where in ("cpu", device):
        with losses_of_steps() as found:
            runs.append(fit(recipe(tmp_path / f"{where}-{len(runs)}", few, where, **SETTINGS[name]), quiet=True))
        losses.append(found)
    here, there = runs
    assert there.settings.device == str(device)
    assert len(losses[1]) == there.recipe.epochs * -(-there.settings.train_images // there.recipe.batch_size)
    assert losses[1] == pytest.approx(losses[0], rel=5e-3)
    assert there.evaluation.loss == pytest.approx(here.evaluation.loss, rel=2e-2)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"optimizer": "adamw", "learning_rate": 1e-3, "ema": 0.9, "class_weights": "balanced"},
        {"precision": "bf16", "augment": "resized-crop", "mixup": 0.2},
        {"precision": "fp16", "clip_norm": 1.0, "accumulate": 2},
    ],
    ids=["plain", "adamw, average, weights", "bf16, crops, mixup", "fp16, clipped"],
)
def test_stopped_and_resumed_on_a_device_is_as_never_stopped(
    settings: dict[str, Any], few: str, device: torch.device, tmp_path: Path
) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    fit(recipe(whole, few, device, **settings), quiet=True)
    for steps in (1, 3, 5):
        with pytest.MonkeyPatch.context() as patch:
            interrupt_after(patch, steps)
            with pytest.raises(Interrupted):
                fit(recipe(stopped, few, device, **settings), resume=True, quiet=True)
    fit(recipe(stopped, few, device, **settings), resume=True, quiet=True)
    for file in ("weights.safetensors", "evaluation.json", "predictions.csv"):
        assert (whole / file).read_bytes() == (stopped / file).read_bytes()


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_learns_and_keeps_weights_in_float32(
    precision: str, device: torch.device, tmp_path: Path
) -> None:
    plan = recipe(tmp_path / "exact", "digits", device, epochs=1, batch_size=32, learning_rate=0.05)
    with losses_of_steps() as exact:
        fit(plan, quiet=True)
    with losses_of_steps() as found:
        run = fit(dataclasses.replace(plan, out=str(tmp_path / "mixed"), precision=precision), quiet=True)
    assert found[0] == pytest.approx(exact[0], rel=2e-2)
    assert sum(found[-5:]) < 0.7 * sum(found[:5])
    assert {each.dtype for each in load_file(run.path / "weights.safetensors").values()} == {torch.float32}


@pytest.mark.parametrize("style", STYLES)
def test_images_are_changed_as_on_the_cpu(style: str, device: torch.device) -> None:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (12, 3, 28, 28), dtype=torch.uint8, generator=generator)
    images = ImageSet(pixels, torch.arange(12) % 3, tuple("abc"))
    changed = Augmentation(style, erase=0.3, mixup=0.5, cutmix=0.5)
    here, there = (
        list(Batches(images, 5, Normalization.of(images), device=where, shuffle_seed=0, augmentation=changed).epoch(1))
        for where in ("cpu", device)
    )
    for ours, expected in zip(there, here, strict=True):
        assert {each.device for each in ours} == {device}
        # RandAugment rounds to fewer levels, where a rounding error may decide.
        near = [(one.cpu() - other).abs() < 1e-3 for one, other in zip(ours, expected, strict=True)]
        assert float(torch.cat([each.flatten() for each in near]).float().mean()) > 0.999


def test_a_run_of_the_device_is_opened_on_the_cpu(run: Run, device: torch.device) -> None:
    assert run.settings.device == str(device)
    assert run.evaluation.accuracy > 0.5
    assert {each.device.type for each in run.model().state_dict().values()} == {"cpu"}
    for where in ("cpu", str(device)):
        found = evaluate(Run.open(run.path), device=where)
        assert found.n == run.evaluation.n
        assert found.accuracy == pytest.approx(run.evaluation.accuracy, abs=0.01)
        assert found.loss == pytest.approx(run.evaluation.loss, rel=1e-2)


def test_weights_are_gone_on_from(run: Run, few: str, device: torch.device, tmp_path: Path) -> None:
    """A new head is fitted to features that the device computes."""
    found = fit(
        recipe(
            tmp_path / "a",
            few,
            device,
            channels=1,
            weights=str(run.path / "weights.safetensors"),
            freeze="backbone",
            head="probe",
        ),
        quiet=True,
    )
    before, after = run.model(), found.model()
    assert torch.equal(before.get_parameter("c1.weight"), after.get_parameter("c1.weight"))
    assert not torch.equal(before.get_parameter("output.weight"), after.get_parameter("output.weight"))


@pytest.mark.parametrize("format", ["onnx", "torch-export", "safetensors"])
def test_what_was_trained_on_the_device_is_exported(
    format: str, run: Run, device: torch.device, tmp_path: Path
) -> None:
    if format == "onnx":
        pytest.importorskip("onnxscript")
        pytest.importorskip("onnxruntime")
    written = export(run, format, tmp_path / "of-a-run")
    assert written.max_difference <= written.tolerance
    subject = Subject.of_run(run)
    moved = Subject(
        copy.deepcopy(subject.model).to(device),
        "moved",
        subject.classes,
        subject.preprocessing,
        subject.images.to(device),
    )
    again = export(moved, format, tmp_path / "of-a-network")
    assert again.max_difference <= again.tolerance
    assert next(moved.model.parameters()).device == device
