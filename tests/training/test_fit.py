"""Fitting: exact to the bit, also after Ctrl-C; careful with what lies in a folder; honest about infinities."""

from __future__ import annotations

import dataclasses
import errno
import json
import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from cases import slow_but
from striate import models
from striate.errors import DataError, ModelError, RunError
from striate.training import Interrupted, Recipe, Run, Settings, evaluate, fit
from striate.training.checkpoint import Checkpoint
from striate.training.folder import locked
from striate.training.loop import Training
from striate.training.recipe import OPTIMIZERS
from striate.training.update import peak as peak_of

FILES = {
    "settings.json",
    "weights.safetensors",
    "metrics.jsonl",
    "evaluation.json",
    "images.csv",
    "predictions.csv",
    "samples",
}


def recipe(out: Path, **settings: Any) -> Recipe:
    return Recipe(**{"model": "lenet5", "out": str(out), "epochs": 1, "batch_size": 128, "threads": 1, **settings})


def numbers(path: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without times."""
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if "second" not in key} for row in rows]


def assert_same_run(first: Path, second: Path) -> None:
    assert (first / "weights.safetensors").read_bytes() == (second / "weights.safetensors").read_bytes()
    assert numbers(first) == numbers(second)
    assert (first / "evaluation.json").read_bytes() == (second / "evaluation.json").read_bytes()


def interrupt_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Sends SIGINT in the middle of step number ``steps``."""
    whole_step = Training._step
    taken = 0

    def step(self: Training, *arguments: Any) -> None:
        nonlocal taken
        taken += 1
        if taken == steps:
            signal.raise_signal(signal.SIGINT)
        whole_step(self, *arguments)

    monkeypatch.setattr(Training, "_step", step)


class Noisy(torch.nn.Sequential):
    """Draws random numbers and keeps running means, which a checkpoint must not forget."""

    input_size = (8, 8)

    def __init__(self, num_classes: int) -> None:
        super().__init__(
            torch.nn.Flatten(),
            torch.nn.Linear(64, 32),
            torch.nn.BatchNorm1d(32),
            torch.nn.Dropout(),
            torch.nn.Linear(32, num_classes),
        )


@pytest.fixture
def noisy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "create", lambda name, num_classes=10, *_, **__: Noisy(num_classes))


@pytest.mark.usefixtures("noisy")
@pytest.mark.parametrize(
    "settings",
    slow_but(
        [{}, {"momentum": 0.0}, *({"optimizer": name, "learning_rate": 1e-3} for name in ("adamw", "muon"))], [{}]
    ),
)
def test_stopped_and_resumed_is_as_never_stopped(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    fit(recipe(whole, epochs=3, clip_norm=1.0, **settings), quiet=True)
    plan = recipe(stopped, epochs=3, clip_norm=1.0, **settings)
    for steps in (1, 5, 9, 12):
        with monkeypatch.context() as patch:
            interrupt_after(patch, steps)
            with pytest.raises(Interrupted, match=f"striate train --resume --out {stopped}"):
                fit(plan, resume=True, quiet=True)
    fit(plan, resume=True, quiet=True)
    assert_same_run(whole, stopped)


@pytest.mark.slow
@pytest.mark.usefixtures("noisy")
def test_ctrl_c_while_testing_keeps_the_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    fit(recipe(whole, epochs=2), quiet=True)
    whole_test = Training._test
    with monkeypatch.context() as patch:

        def test(self: Training, *arguments: Any) -> Any:
            signal.raise_signal(signal.SIGINT)
            return whole_test(self, *arguments)

        patch.setattr(Training, "_test", test)
        with pytest.raises(Interrupted, match="after 0 of 2 epochs and 12 steps"):
            fit(recipe(stopped, epochs=2), quiet=True)
    fit(recipe(stopped, epochs=2), resume=True, quiet=True)
    assert_same_run(whole, stopped)


def test_same_seed_same_numbers_and_another_seed_others(tmp_path: Path) -> None:
    random = torch.get_rng_state()
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        fit(recipe(tmp_path / name, seed=seed, test_fraction=0.8), quiet=True)
    assert torch.equal(torch.get_rng_state(), random), "the caller's random numbers go on undisturbed"
    assert_same_run(tmp_path / "a", tmp_path / "b")
    a, c = (load_file(tmp_path / name / "weights.safetensors") for name in "ac")
    assert not torch.equal(a["c1.weight"], c["c1.weight"])


def test_a_run_has_its_files_and_reads_back(tmp_path: Path) -> None:
    run = fit(recipe(tmp_path, epochs=2), quiet=True)
    assert {path.name for path in tmp_path.iterdir()} - {".lock"} == FILES
    again = Run.open(tmp_path)
    assert again == run
    assert [row.epoch for row in again.history] == [1, 2]
    assert again.history[-1].test_accuracy == again.evaluation.accuracy
    assert again.settings.parameters == 61706
    assert evaluate(again) == run.evaluation


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    fit(recipe(tmp_path), quiet=True)
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    with pytest.raises(RunError, match="holds a finished run"):
        fit(recipe(tmp_path), quiet=True)
    with pytest.raises(RunError, match="begun otherwise: now epochs 2, not 1, seed 5, not 0"):
        fit(recipe(tmp_path, epochs=2, seed=5), resume=True, quiet=True)
    assert fit(recipe(tmp_path), resume=True, quiet=True) == Run.open(tmp_path)
    assert before == {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}


@pytest.mark.slow
def test_resuming_a_finished_run_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(recipe(tmp_path), quiet=True)
    assert capsys.readouterr().err == ""
    fit(recipe(tmp_path), resume=True)
    assert "finished: nothing to do" in capsys.readouterr().err


def test_places_that_are_no_runs(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear ...")
    for resume in (False, True):
        with pytest.raises(RunError, match=r"holds other files \(letter.txt\)"):
            fit(recipe(tmp_path), resume=resume, quiet=True)
        with pytest.raises(RunError, match="is a file"):
            fit(recipe(tmp_path / "letter.txt"), resume=resume, quiet=True)
    assert {path.name for path in tmp_path.iterdir()} == {"letter.txt"}
    with pytest.raises(RunError, match=r"^resume: got no folder"):
        fit(Recipe("lenet5"), resume=True, quiet=True)


def test_an_unfinished_run_is_gone_on_with_or_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        interrupt_after(patch, 3)
        with pytest.raises(Interrupted):
            fit(recipe(tmp_path), quiet=True)
    with pytest.raises(RunError, match=f"isn't finished; .* striate train --resume --out {tmp_path}"):
        fit(recipe(tmp_path), quiet=True)
    with pytest.raises(RunError, match="the run isn't finished"):
        Run.open(tmp_path)


def test_a_wrong_recipe_leaves_no_folder(tmp_path: Path) -> None:
    out = tmp_path / "out"
    wrong: list[tuple[type[Exception], dict[str, Any]]] = [
        (ModelError, {"model": "lenet6"}),
        (DataError, {"data": "digts"}),
        (RunError, {"device": "cuda:99"}),
        (RunError, {"image_size": (4, 4)}),
        (RunError, {"model": "lenet5_1998", "label_smoothing": 0.1}),
    ]
    for error, settings in wrong:
        with pytest.raises(error):
            fit(recipe(out, **settings), quiet=True)
        assert not out.exists()


def test_a_model_with_its_own_loss_and_more_pixels(tmp_path: Path) -> None:
    run = fit(recipe(tmp_path, model="lenet5_1998", channels=3, test_fraction=0.8), quiet=True)
    assert run.settings.image_size == (32, 32)
    assert run.predict(torch.zeros(2, 1, 8, 8, dtype=torch.uint8)).shape == (2, 10)


@pytest.fixture
def watchful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks at the losses, and at the clock for checkpoints, after every step."""
    monkeypatch.setattr("striate.training.loop._GLANCE", -1.0)


def after_step(monkeypatch: pytest.MonkeyPatch, number: int, then: Callable[[Training], None]) -> None:
    whole_step = Training._step

    def step(self: Training, *arguments: Any) -> None:
        whole_step(self, *arguments)
        if self.done == number:
            then(self)

    monkeypatch.setattr(Training, "_step", step)


@pytest.mark.usefixtures("watchful")
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_infinity_is_named_and_the_last_good_checkpoint_stays(optimizer: str, tmp_path: Path) -> None:
    plan = recipe(tmp_path, optimizer=optimizer, learning_rate=1e30, checkpoint_every=0.0, epochs=3)
    with pytest.raises(RunError, match=r"^epoch 1: .*step \d+.*lower learning rate.*stays: .*checkpoint") as caught:
        fit(plan, quiet=True)
    kept = Checkpoint.load(Path(str(caught.value).rpartition(": ")[2]))
    assert all(tensor.isfinite().all() for tensor in kept.model.values())
    assert not (tmp_path / "weights.safetensors").exists()


@pytest.mark.usefixtures("watchful")
def test_infinity_ends_the_run_within_the_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    after_step(monkeypatch, 8, lambda training: pytest.fail("goes on from nothing"))
    with pytest.raises(RunError, match=r"^epoch 1: the loss of step \d is (nan|inf)"):
        fit(recipe(tmp_path, learning_rate=1e30), quiet=True)


@pytest.mark.usefixtures("watchful")
def test_infinite_weights_are_never_kept_even_while_the_loss_is_finite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(training: Training) -> None:
        training.model.get_parameter("f6.weight").data[0, 0] = math.inf

    after_step(monkeypatch, 3, spoil)
    with pytest.raises(RunError, match=r"^epoch 1: step 3 made f6\.weight infinite"):
        fit(recipe(tmp_path, checkpoint_every=0.0), quiet=True)
    assert Checkpoint.load(tmp_path / "checkpoint.safetensors").done == 2


@pytest.mark.usefixtures("watchful")
@pytest.mark.parametrize(("seconds", "kept"), [(0.0, 4), (1000.0, 0)])
def test_checkpoints_within_an_epoch_go_by_the_clock(
    seconds: float, kept: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(training: Training) -> None:
        raise ZeroDivisionError

    after_step(monkeypatch, 5, crash)
    with pytest.raises(ZeroDivisionError):
        fit(recipe(tmp_path, checkpoint_every=seconds), quiet=True)
    assert Checkpoint.load(tmp_path / "checkpoint.safetensors").done == kept


def test_metrics_have_a_line_for_each_finished_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for steps in (30, 1):  # in the third epoch; again right after going on
        with monkeypatch.context() as patch:
            interrupt_after(patch, steps)
            with pytest.raises(Interrupted):
                fit(recipe(tmp_path, epochs=4), resume=True, quiet=True)
        assert [row["epoch"] for row in numbers(tmp_path)] == [1, 2]
        with open(tmp_path / "metrics.jsonl", "a") as file:
            file.write('{"epoch": 3, "train_lo')  # as a kill may leave it


def test_damaged_and_foreign_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        interrupt_after(patch, 3)
        with pytest.raises(Interrupted):
            fit(recipe(tmp_path), quiet=True)
    path = tmp_path / "checkpoint.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1000])
    with pytest.raises(RunError, match="no whole safetensors file"):
        fit(recipe(tmp_path), resume=True, quiet=True)
    assert path.read_bytes() == whole[:-1000]
    path.write_bytes(whole)
    good = Checkpoint.load(path)
    dataclasses.replace(good, recipe=dataclasses.replace(good.recipe, model="simple_cnn", seed=9)).save(path)
    with pytest.raises(RunError, match="another run: now model 'lenet5', not 'simple_cnn', seed 0, not 9"):
        fit(recipe(tmp_path), resume=True, quiet=True)
    dataclasses.replace(good, model=models.create("simple_cnn").state_dict()).save(path)
    with pytest.raises(RunError, match="weights of another network"):
        fit(recipe(tmp_path), resume=True, quiet=True)


def test_changed_data_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        interrupt_after(patch, 3)
        with pytest.raises(Interrupted):
            fit(recipe(tmp_path), quiet=True)
    settings = json.loads((tmp_path / "settings.json").read_text())
    settings["train_images"] -= 1
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    with pytest.raises(RunError, match=r"now train_images \d+, not \d+"):
        fit(recipe(tmp_path), resume=True, quiet=True)


def test_one_process_a_folder(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(RunError, match="another process is training in there"):
        fit(recipe(tmp_path), quiet=True)
    assert not (tmp_path / "settings.json").exists()
    fit(recipe(tmp_path), quiet=True)


def test_fresh_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = {"epochs": 1, "batch_size": 512, "threads": 1, "test_fraction": 0.8}
    paths = [fit(Recipe("lenet5", **settings), quiet=True).path for _ in range(2)]
    assert [str(path) for path in paths] == ["runs/lenet5-digits-1", "runs/lenet5-digits-2"]


@pytest.mark.slow
def test_biases_do_not_decay(tmp_path: Path) -> None:
    """With gradients of nothing, weights shrink and the rest stays."""
    before = fit(recipe(tmp_path / "none", learning_rate=1e-12, weight_decay=0.0), quiet=True).model().state_dict()
    run = fit(recipe(tmp_path / "much", learning_rate=1e-12, weight_decay=1e11), quiet=True)
    for name, tensor in run.model().state_dict().items():
        if tensor.dim() > 1:
            assert tensor.norm() < 0.9 * before[name].norm()
        else:
            torch.testing.assert_close(tensor, before[name], rtol=1e-3, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_the_default_recipe_reads_digits(seed: int, tmp_path: Path) -> None:
    run = fit(Recipe("lenet5", out=str(tmp_path), seed=seed), quiet=True)
    assert run.evaluation.accuracy >= 0.985


@pytest.mark.parametrize(
    ("model", "settings", "peak"),
    [
        ("lenet5", {}, 0.05),
        ("lenet5", {"optimizer": "adamw"}, 0.001),
        ("lenet5_1998", {"optimizer": "muon"}, 0.001),
        ("lenet5_1998", {}, 0.001),
        ("lenet5_1998", {"learning_rate": 0.002}, 0.002),
    ],
)
def test_the_peak_rate_suits_optimizer_and_network(model: str, settings: dict[str, Any], peak: float) -> None:
    assert peak_of(models.create(model), Recipe(model, **settings)) == peak


def test_settings_that_name_no_optimizer_are_read(tmp_path: Path) -> None:
    fit(recipe(tmp_path, epochs=1, test_fraction=0.8), quiet=True)
    for given, name in (({}, "sgd"), ({"weights": "w.safetensors"}, "adamw"), ({"optimizer": "adamw"}, "adamw")):
        older = json.loads((tmp_path / "settings.json").read_text())
        older.pop("optimizer", None)
        older["recipe"] |= given
        assert Settings.from_dict(older).optimizer == name


@pytest.mark.slow
def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fit(recipe(tmp_path / "whole"), quiet=True).path
    path = tmp_path / "full"
    monkeypatch.setattr("striate.training.loop._GLANCE", -1.0)
    sync, written = os.fsync, 0

    def full(descriptor: int) -> None:
        nonlocal written
        written += 1
        if written > 10:  # two a file
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(
            RunError, match=r"can't be saved \(No space left on device\); the last good one stays; make room"
        ):
            fit(recipe(path, checkpoint_every=0.0), quiet=True)
    assert Checkpoint.load(path / "checkpoint.safetensors").done > 0
    assert not list(path.glob("*.partial"))
    fit(recipe(path), resume=True, quiet=True)
    assert_same_run(whole, path)


@pytest.mark.slow
@pytest.mark.usefixtures("noisy")
def test_augmentation_averages_and_scales_go_on_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"augment": "digits", "mixup": 0.3, "ema": 0.9, "precision": "fp16", "accumulate": 2, "epochs": 2}
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    fit(recipe(whole, **settings), quiet=True)
    for steps in (3, 11):
        with monkeypatch.context() as patch:
            interrupt_after(patch, steps)
            with pytest.raises(Interrupted):
                fit(recipe(stopped, **settings), resume=True, quiet=True)
    fit(recipe(stopped, **settings), resume=True, quiet=True)
    assert_same_run(whole, stopped)


def test_the_average_is_what_is_tested_and_saved(tmp_path: Path) -> None:
    plain, averaged = (fit(recipe(tmp_path / str(ema), ema=ema, test_fraction=0.8), quiet=True) for ema in (None, 0.99))
    assert evaluate(averaged) == averaged.evaluation != plain.evaluation


@pytest.mark.slow
def test_a_picture_of_what_was_changed_and_events(tmp_path: Path) -> None:
    fit(recipe(tmp_path, augment="digits", tensorboard=True, epochs=2), quiet=True)
    with Image.open(tmp_path / "augmented.png") as picture:
        assert picture.size == (12 * 30, 10 * 30)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    told = [(event.step, event.value) for event in events.Scalars("accuracy/test")]
    assert told == [(epoch.epoch, pytest.approx(epoch.test_accuracy)) for epoch in Run.open(tmp_path).history]


def test_images_to_mix_need_a_loss_that_takes_them(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"^mixup, cutmix: got images to mix; needed none"):
        fit(recipe(tmp_path / "out", model="lenet5_1998", mixup=0.2), quiet=True)


@pytest.mark.slow
def test_another_recipe_than_the_begun_one_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        interrupt_after(patch, 3)
        with pytest.raises(Interrupted):
            fit(recipe(tmp_path, augment="digits"), quiet=True)
    with pytest.raises(RunError, match=r"begun otherwise: now augment None, not 'digits', ema 0.9, not None"):
        fit(recipe(tmp_path, ema=0.9), resume=True, quiet=True)
    fit(recipe(tmp_path, augment="digits", workers=1, checkpoint_activations=True), resume=True, quiet=True)
