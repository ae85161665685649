"""Somebody's own images: what is tested is what was held out, whatever happens to the folder; and what a run keeps."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cases import quick_but
from striate.data import load
from striate.errors import DataError, RunError
from striate.export import export
from striate.tasks.predictions import read_predictions
from striate.training import Recipe, Run, evaluate, fit
from striate.training.assess import assess_run, images_to_test
from striate.training.cross_validation import cross_validate
from striate.training.finder import find_learning_rate
from striate.training.fitting import prepare
from striate.training.record import Record
from striate.training.results import best_epoch


def draw(path: Path, seed: int) -> Path:
    """Noise, so that a network can know an image only by having learnt it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 12), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def folder(root: Path, count: int = 20, classes: tuple[str, ...] = ("ant", "bee")) -> Path:
    for label, name in enumerate(classes):
        for number in range(count):
            draw(root / name / f"{number:03}.png", 1000 * label + number)
    return root


def train(root: Path, out: Path, **settings: Any) -> Run:
    given = {"model": "lenet5", "data": f"folder:{root}", "epochs": 1, "batch_size": 8, "threads": 1, **settings}
    return fit(Recipe(out=str(out), **given), quiet=True)


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Run]:
    """A folder of noise, and a run that knows its training images by heart."""
    place = tmp_path_factory.mktemp("learnt")
    root = folder(place / "data")
    run = train(root, place / "run", epochs=60, learning_rate=0.03, label_smoothing=0.0)
    assert run.history[-1].train_accuracy == 1
    return root, run


def copied(learnt: tuple[Path, Run], tmp_path: Path) -> tuple[Path, Run]:
    """The folder and the run again, to be spoilt."""
    root, run = learnt
    shutil.copytree(root, tmp_path / "data")
    shutil.copytree(run.path, tmp_path / "run")
    settings = json.loads((tmp_path / "run" / "settings.json").read_text())
    settings["source"] = f"folder:{tmp_path / 'data'}"
    (tmp_path / "run" / "settings.json").write_text(json.dumps(settings))
    return tmp_path / "data", Run.open(tmp_path / "run")


class TestHeldOut:
    @pytest.mark.slow
    def test_images_that_were_added_are_neither_tested_nor_in_the_way(self, learnt, tmp_path: Path) -> None:
        root, run = copied(learnt, tmp_path)
        before = assess_run(run)
        assert before.changes is not None
        assert before.notes == ()
        for number, name in enumerate(("ant", "bee")):
            draw(root / name / "!first.png", 5000 + number)
        after = assess_run(run)
        assert after.evaluation == before.evaluation == run.evaluation
        assert after.scores.names == before.scores.names
        assert after.notes == ("2 images are new: ant/!first.png, bee/!first.png",)

    def test_what_is_gone_is_told_and_the_rest_is_tested(self, learnt, tmp_path: Path) -> None:
        root, run = copied(learnt, tmp_path)
        record = run.record()
        assert record is not None
        gone, edited, *_ = [entry.name for entry in record.entries if entry.part == "test"]
        (root / gone).unlink()
        draw(root / edited, 7000)
        tested = assess_run(run)
        assert tested.evaluation.n == run.evaluation.n - 2
        assert tested.notes == (f"1 of test is gone: {gone}", f"1 of test is edited: {edited}")

    def test_a_broken_file_among_them_is_told(self, learnt, tmp_path: Path) -> None:
        root, run = copied(learnt, tmp_path)
        record = run.record()
        assert record is not None
        broken = next(entry.name for entry in record.entries if entry.part == "test")
        (root / broken).write_bytes(b"")
        tested = assess_run(run)
        assert tested.notes == (f"1 of test is edited: {broken}",)

    def test_nothing_of_it_is_left(self, learnt, tmp_path: Path) -> None:
        root, run = copied(learnt, tmp_path)
        shutil.rmtree(root)
        folder(root, 3, ("ant", "bee"))
        for number in range(3):
            for name in ("ant", "bee"):
                draw(root / name / f"{number:03}.png", 9000 + number)
        with pytest.raises(DataError, match=r"has none of the images that the run held out; .*--data"):
            evaluate(run)

    def test_runs_of_older_versions_say_that_they_have_no_record(self, learnt, tmp_path: Path) -> None:
        _, run = copied(learnt, tmp_path)
        (run.path / "images.csv").unlink()
        tested = assess_run(run)
        assert tested.evaluation == run.evaluation
        assert "no record" in tested.notes[0]


class TestOtherData:
    def test_every_image_is_tested(self, learnt, tmp_path: Path) -> None:
        _, run = learnt
        folder(tmp_path / "other", 7)
        for label, name in enumerate(("ant", "bee")):
            for number in range(7):
                draw(tmp_path / "other" / name / f"{number:03}.png", 30_000 + 100 * label + number)
        tested = assess_run(run, f"folder:{tmp_path / 'other'}")
        assert tested.evaluation.n == 14
        assert tested.notes == ()

    def test_classes_may_be_missing_and_in_another_order(self, tmp_path: Path) -> None:
        run = train(folder(tmp_path / "data", 6, ("ant", "bee", "cow")), tmp_path / "run")
        for number in range(4):
            draw(tmp_path / "other" / "cow" / f"{number}.png", 40_000 + number)
            draw(tmp_path / "other" / "ant" / f"{number}.png", 50_000 + number)
        tested = assess_run(run, f"folder:{tmp_path / 'other'}")
        assert tested.evaluation.classes == ("ant", "bee", "cow")
        assert tested.evaluation.support == (4, 0, 4)
        shutil.rmtree(tmp_path / "other" / "ant")
        assert assess_run(run, f"folder:{tmp_path / 'other'}").evaluation.support == (0, 0, 4)
        draw(tmp_path / "other" / "dodo" / "0.png", 1)
        with pytest.raises(DataError, match="got dodo; needed those of ant, bee, cow"):
            assess_run(run, f"folder:{tmp_path / 'other'}")

    def test_a_test_set_of_its_own_is_taken(self, learnt, tmp_path: Path) -> None:
        _, run = learnt
        folder(tmp_path / "other" / "train", 3)
        folder(tmp_path / "other" / "test", 2)
        images, notes, _ = images_to_test(run, f"folder:{tmp_path / 'other'}")
        assert len(images) == 4
        assert notes[0] == "tests the 4 images of test, not the 6 of train"

    def test_images_that_were_learnt_are_told(self, learnt) -> None:
        root, run = learnt
        tested = assess_run(run, f"folder:{root}")
        assert tested.evaluation.n == 40
        assert tested.notes == (
            "32 of the 40 images are ones that the run has learnt from or was chosen by; they will look easier",
        )


class TestLearntBefore:
    def test_images_that_the_weights_knew_are_told_and_never_forgotten(
        self, learnt, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        root, base = learnt
        folder(tmp_path / "more", 4, ("ant", "bee"))
        for number in range(4):
            for label, name in enumerate(("ant", "bee")):
                draw(tmp_path / "more" / name / f"{number:03}.png", 70_000 + 10 * label + number)
        record = base.record()
        assert record is not None
        known = [entry for entry in record.entries if entry.part == "train"]
        for entry in known:
            shutil.copy(root / entry.name, tmp_path / "more" / entry.category / f"known-{Path(entry.name).name}")
        given = {"epochs": 1, "model": "lenet5", "data": f"folder:{tmp_path / 'more'}", "threads": 1}
        first = fit(Recipe(out=str(tmp_path / "first"), weights=str(base.path), **given))
        counted = first.record()
        assert counted is not None
        assert counted.overlap() > 0
        told = f"{counted.overlap()} of test have the same content as images to learn from, or of images"
        assert told in capsys.readouterr().err
        assert any(told in note for note in assess_run(first).notes)
        given["data"] = f"folder:{root}"
        second = fit(Recipe(out=str(tmp_path / "second"), weights=str(first.path), **given), quiet=True).record()
        assert second is not None
        assert second.earlier >= record.digests("train"), "what the first weights knew, the third know too"

    @pytest.mark.slow
    def test_the_same_image_in_both_parts_is_told_in_evaluation_too(self, tmp_path: Path) -> None:
        folder(tmp_path / "data" / "train", 6)
        folder(tmp_path / "data" / "test", 3)
        run = train(tmp_path / "data", tmp_path / "run")
        assert assess_run(run).notes == (
            "6 of test have the same content as images to learn from and will look easier",
        )


class TestResume:
    def begun(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> Recipe:
        """A run that was stopped in its first epoch."""
        folder(tmp_path / "data", 10)
        recipe = Recipe(
            "lenet5",
            f"folder:{tmp_path / 'data'}",
            str(tmp_path / "run"),
            epochs=2,
            batch_size=4,
            threads=1,
            **settings,
        )

        def stop(*_: Any, **__: Any) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr("striate.training.update.Updates.step", stop)
            with pytest.raises(KeyboardInterrupt):
                fit(recipe, quiet=True)
        return recipe

    @pytest.mark.slow
    def test_from_another_place_with_the_data_elsewhere(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        recipe = self.begun(tmp_path, monkeypatch)
        whole = fit(dataclasses.replace(recipe, out=str(tmp_path / "whole")), quiet=True)
        shutil.move(tmp_path / "data", tmp_path / "moved")
        with pytest.raises(DataError, match=r"No such file .*say where they are now: --data folder:PLACE"):
            fit(recipe, resume=True, quiet=True)
        run = fit(dataclasses.replace(recipe, data=f"folder:{tmp_path / 'moved'}"), resume=True, quiet=True)
        assert run.evaluation == whole.evaluation
        assert evaluate(Run.open(run.path)) == run.evaluation, "it knows where they lie now"

    @pytest.mark.slow
    def test_with_images_added_it_ends_with_the_same_numbers(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        recipe = self.begun(tmp_path, monkeypatch)
        whole = fit(dataclasses.replace(recipe, out=str(tmp_path / "whole")), quiet=True)
        draw(tmp_path / "data" / "ant" / "!first.png", 77)
        run = fit(recipe, resume=True)
        assert run.evaluation == whole.evaluation
        assert "since the run began: 1 image is new: ant/!first.png" in capsys.readouterr().err

    def test_with_images_gone_it_does_not_go_on(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        recipe = self.begun(tmp_path, monkeypatch)
        record = Record.load(tmp_path / "run")
        assert record is not None
        (tmp_path / "data" / record.entries[0].name).unlink()
        with pytest.raises(DataError, match=f"1 of train is gone: {record.entries[0].name}"):
            fit(recipe, resume=True, quiet=True)

    def test_a_relative_place_means_the_same_from_everywhere(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder(tmp_path / "data", 6)
        monkeypatch.chdir(tmp_path)
        run = fit(Recipe("lenet5", "folder:data", "run", epochs=1, threads=1), quiet=True)
        assert run.settings.source == f"folder:{tmp_path / 'data'}"
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        assert evaluate(Run.open(tmp_path / "run")) == run.evaluation

    @pytest.mark.slow
    def test_a_finished_run_learns_where_its_images_lie_now(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        root = folder(tmp_path / "data", 8)
        run = train(root, tmp_path / "run")
        shutil.move(root, tmp_path / "moved")
        with pytest.raises(DataError, match=r"if they were moved: striate train --resume --out .* --data folder:PLACE"):
            evaluate(run)
        recipe = dataclasses.replace(run.recipe, data=f"folder:{tmp_path / 'moved'}")
        again = fit(recipe, resume=True)
        assert "its images lie in folder:" in capsys.readouterr().err
        assert evaluate(again) == run.evaluation
        folder(tmp_path / "other", 4)
        for number in range(4):
            for name in ("ant", "bee"):
                draw(tmp_path / "other" / name / f"{number:03}.png", 90_000 + number)
        with pytest.raises(DataError, match="has none of the images that the run held out"):
            fit(dataclasses.replace(recipe, data=f"folder:{tmp_path / 'other'}"), resume=True, quiet=True)
        record = run.record()
        assert record is not None
        gone = next(entry.name for entry in record.entries if entry.part == "train")
        shutil.copytree(tmp_path / "moved", tmp_path / "third")
        (tmp_path / "third" / gone).unlink()
        fit(dataclasses.replace(recipe, data=f"folder:{tmp_path / 'third'}"), resume=True)
        assert f"1 of train is gone: {gone}" in capsys.readouterr().err
        assert evaluate(Run.open(run.path)) == run.evaluation


class TestPrivacy:
    """No file of a run or of an export has an image of the user's, unless that was asked for."""

    @pytest.fixture(scope="class")
    def bright(self, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Run]:
        place = tmp_path_factory.mktemp("bright")
        return place, train(folder(place / "data", 8), place / "run", tensorboard=True)

    def needles(self, place: Path) -> list[bytes]:
        """What would be found if an image were stored: a row of its pixels, as bytes and as the network's input."""
        split = load(f"folder:{place / 'data'}", image_size=(28, 28))
        rows = [each.images[:, 0, 14, 6:22] for each in (split.train, split.test)]
        pixels = torch.cat([row for row in rows if isinstance(row, torch.Tensor)])
        run = Run.open(place / "run")
        inputs = run.settings.normalization(pixels[:, None, None])[:, 0, 0]
        return [row.numpy().tobytes() for row in pixels] + [row.numpy().tobytes() for row in inputs]

    def test_the_needles_would_be_found(self, bright: tuple[Path, Run]) -> None:
        place, _ = bright
        image = load(f"folder:{place / 'data'}", image_size=(28, 28)).test.gather(torch.tensor([0]))
        assert any(needle in image.numpy().tobytes() for needle in self.needles(place))

    @pytest.mark.parametrize("format", quick_but(["onnx", "torch-export", "safetensors"], ["onnx"]))
    def test_an_export_has_none(self, format: str, bright: tuple[Path, Run], tmp_path: Path) -> None:
        place, run = bright
        done = export(run, format, tmp_path / "exported")
        content = done.path.read_bytes()
        assert done.images > 1
        assert not done.synthetic
        assert not any(needle in content for needle in self.needles(place))

    def test_a_runs_folder_has_none(self, bright: tuple[Path, Run]) -> None:
        place, run = bright
        files = [path for path in run.path.rglob("*") if path.is_file()]
        assert not [path for path in files if path.suffix == ".png"]
        needles = self.needles(place)
        assert not any(needle in path.read_bytes() for path in files for needle in needles)

    def test_an_export_is_verified_by_noise_where_the_images_are_gone(self, bright, tmp_path: Path) -> None:
        _, run = bright
        settings = dataclasses.replace(run.settings, source=f"folder:{tmp_path / 'gone'}")
        opened = dataclasses.replace(Run.open(run.path), settings=settings)
        done = export(opened, "safetensors", tmp_path / "exported")
        assert (done.synthetic, done.images) == (True, 8)

    def test_copies_are_kept_where_that_is_asked_for(self, tmp_path: Path) -> None:
        run = train(folder(tmp_path / "data", 8), tmp_path / "run", keep_images="copies")
        assert len(list((run.path / "samples").glob("*.png"))) == len(run.examples())


class TestChoosing:
    def test_the_best_epoch_by_validation_is_kept(self, tmp_path: Path) -> None:
        # Long enough to learn noise by heart, which makes the validation loss rise.
        settings = {"epochs": 14, "batch_size": 4, "val_fraction": 0.25, "learning_rate": 0.05, "schedule": "constant"}
        root = folder(tmp_path / "data", 12)
        run = train(root, tmp_path / "best", keep="best", label_smoothing=0.0, **settings)
        assert all(epoch.test_loss is None and epoch.val_loss is not None for epoch in run.history)
        chosen = best_epoch(run.history, run.task.goal)
        validation = load(f"folder:{root}", image_size=(28, 28), val_fraction=0.25).val
        assert validation is not None
        shares = run.predict(validation.gather(torch.arange(len(validation))))
        loss = -shares[torch.arange(len(validation)), validation.labels].log().mean().item()
        assert loss == pytest.approx(run.history[chosen - 1].val_loss, rel=1e-3)
        assert run.history[-1].val_loss > 1.5 * run.history[chosen - 1].val_loss, "or any weights would be right"
        assert (run.path / "validation.csv").is_file()

    def test_training_ends_when_validation_gets_no_better(self, tmp_path: Path) -> None:
        root = folder(tmp_path / "data", 12)
        settings = {"val_fraction": 0.25, "learning_rate": 0.05, "schedule": "constant"}
        run = train(root, tmp_path / "run", epochs=30, early_stopping=2, **settings)
        assert len(run.history) == best_epoch(run.history, run.task.goal) + 2 < 30

    def test_nothing_is_chosen_by_the_test_set(self, tmp_path: Path) -> None:
        for setting in ({"keep": "best"}, {"early_stopping": 1}):
            with pytest.raises(RunError, match="got no validation images; needed some; give val_fraction"):
                Recipe("lenet5", **setting)
        folder(tmp_path / "whole", 8)
        for settings in ({"keep": "best"}, {"early_stopping": 1}):
            with pytest.raises(RunError, match=r"got no validation images; .*nothing is chosen by the test images"):
                train(tmp_path / "whole", tmp_path / "none", **settings)
        folder(tmp_path / "data" / "train", 8)
        folder(tmp_path / "data" / "val", 3, ("ant", "bee"))
        run = train(tmp_path / "data", tmp_path / "run", keep="best")
        assert (run.settings.train_images, run.settings.val_images, run.settings.test_images) == (12, 6, 4)
        plain = train(tmp_path / "data", tmp_path / "plain")
        assert (plain.settings.train_images, plain.settings.val_images, plain.settings.test_images) == (16, 0, 6)

    def test_folds_test_every_image_once(self, tmp_path: Path) -> None:
        root = folder(tmp_path / "data", 9)
        recipe = Recipe("lenet5", f"folder:{root}", str(tmp_path / "cv"), epochs=1, threads=1)
        found = cross_validate(recipe, 3, quiet=True)
        names = [name for run in found.runs for name in assess_run(run).scores.names]
        assert sorted(names) == sorted({*names})
        assert len(names) == 18
        summary = json.loads((tmp_path / "cv" / "folds.json").read_text())
        accuracies = [run.evaluation.accuracy for run in found.runs]
        assert summary["accuracy"]["mean"] == pytest.approx(sum(accuracies) / 3)
        rows = read_predictions(tmp_path / "cv" / "predictions.csv")
        assert sorted(row.image for row in rows) == sorted(names)
        with pytest.raises(RunError, match=r"holds the folds of a cross-validation; needed one; .*fold-1"):
            Run.open(tmp_path / "cv")
        again = cross_validate(recipe, 3, resume=True, quiet=True)
        assert [run.evaluation for run in again.runs] == [run.evaluation for run in found.runs]


@pytest.mark.slow
def test_classes_of_different_sizes_can_count_alike(tmp_path: Path) -> None:
    root = folder(tmp_path / "data", 30, ("ant",))
    for number in range(6):
        draw(root / "bee" / f"{number}.png", 60_000 + number)
    plain, weighted, balanced = (
        train(root, tmp_path / str(number), epochs=2, **settings)
        for number, settings in enumerate(({}, {"class_weights": "balanced"}, {"balanced_sampling": True}))
    )
    losses = {run.history[0].train_loss for run in (plain, weighted, balanced)}
    assert len(losses) == 3
    with pytest.raises(RunError, match="class_weights: got some; needed none: the model brings a loss of its own"):
        fit(Recipe("lenet5_1998", out=str(tmp_path / "own"), class_weights="balanced"), quiet=True)


def test_a_learning_rate_is_suggested_between_too_small_and_too_large() -> None:
    recipe = Recipe("simple_cnn", image_size=(28, 28), threads=1)
    found = find_learning_rate(recipe, lowest=1e-4, highest=3.0, quiet=True)
    assert list(found.rates) == sorted(found.rates)
    assert 1e-3 < found.suggestion < 1
    assert min(found.smoothed) < 0.7 * found.smoothed[0]


def test_broken_files_are_left_out_where_that_is_asked_for_and_recorded(tmp_path: Path) -> None:
    root = folder(tmp_path / "data", 8)
    for name in ("ant/000.png", "bee/003.png"):
        (root / name).write_bytes(b"")
    with pytest.raises(DataError, match=r"2 of 16 images: .*ant/000.png.* \| bee/003.png.*--skip-broken"):
        train(root, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    run = train(root, tmp_path / "run", skip_broken=True)
    record = run.record()
    assert record is not None
    assert [name for name, _ in record.left_out] == ["ant/000.png", "bee/003.png"]
    assert run.settings.train_images + run.settings.test_images == 14


def test_memory_that_runs_out_is_one_line_with_what_was_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def starve(*_: Any, **__: Any) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: "
                           "you tried to allocate 123456 bytes. Error code 12 (Cannot allocate memory)")  # fmt: skip

    monkeypatch.setattr("striate.training.update.Updates.step", starve)
    with pytest.raises(RunError) as caught:
        train(folder(tmp_path / "data", 8), tmp_path / "run")
    said = str(caught.value)
    assert said.startswith("cpu: ran out of memory training lenet5 (61,026 parameters) with 8 images of 1x28x28 a step")
    assert "when it asked for 123456 bytes" in said
    assert "try --accumulate 2, or --checkpoint-activations, or --batch-size 4" in said


def test_what_the_form_for_small_images_costs_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    prepare(Recipe("resnet18", image_size=(32, 32), threads=1))
    told = capsys.readouterr().err
    # All of its maps have 64 times the positions of 224x224's at a 49th of the pixels, but for the pooling left out.
    assert "resnet18 in its form for images up to 64 pixels" in told
    assert "million MACs an image, 13." in told or "million MACs an image, 15." in told
    prepare(Recipe("resnet18", image_size=(65, 65), threads=1))
    assert "in its form for" not in capsys.readouterr().err


def test_names_that_no_encoding_has_end_nothing(tmp_path: Path) -> None:
    root = folder(tmp_path / "data", 6, ("猫", os.fsdecode(b"caf\xe9"), "$x_$"))
    run = train(root, tmp_path / "run")
    assert run.settings.classes == ("$x_$", "caf\\xe9", "猫")
    assert evaluate(Run.open(run.path)) == run.evaluation
