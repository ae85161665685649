"""What belongs to weights travels with them, and training that begins with them begins well."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from sklearn.linear_model import LogisticRegression
from torch import nn

from cases import quick_but, slow_but
from striate import models
from striate.data import Augmentation, Batches, ImageSet, Normalization, Preprocessing, load
from striate.data.decoding import Reading
from striate.data.fitting import Fit
from striate.errors import ModelError, RunError
from striate.export import export
from striate.tasks.heads import Parts
from striate.tasks.probe import can_probe, fit_head, linear_head
from striate.training import Recipe, Run, evaluate, fit
from striate.training.fitting import prepare

HOW = Preprocessing(32, 28, Normalization((0.4,), (0.3,)), "bicubic")


def photographs(root: Path, count: int = 8, mode: str = "L") -> Path:
    """Pictures of many sizes, each class brighter at another side."""
    random = np.random.default_rng(0)
    for label, name in enumerate(("left", "right", "top")):
        for number in range(count):
            height, width = (int(side) for side in random.integers(30, 90, 2))
            ramp = np.linspace(0, 200, width)[None].repeat(height, 0)
            if label:
                ramp = ramp[:, ::-1] if label == 1 else np.linspace(0, 200, height)[:, None].repeat(width, 1)
            pixels = (ramp + random.uniform(0, 50, (height, width))).astype(np.uint8)
            path = root / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).convert(mode).save(path)
    return root


def written(path: Path, how: Preprocessing, classes: int = 10) -> Path:
    """A file of LeNet-5's weights that says how pictures reach them."""
    torch.manual_seed(1)
    about = {"model": "lenet5", "classes": list(map(str, range(classes))), "preprocessing": how.to_dict()}
    save_file(models.create("lenet5", classes).state_dict(), path, {"about": json.dumps(about)})
    return path


def train(root: Path, out: Path, **settings: Any) -> Run:
    given = {"model": "lenet5", "data": f"folder:{root}", "epochs": 1, "batch_size": 8, "threads": 1, **settings}
    return fit(Recipe(out=str(out), **given), quiet=True)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Run]:
    place = tmp_path_factory.mktemp("tuned")
    weights = written(place / "weights.safetensors", HOW)
    return photographs(place / "data"), train(place / "data", place / "run", weights=str(weights))


class TestPreprocessing:
    def test_is_the_weights_own_from_training_on(self, tuned: tuple[Path, Run]) -> None:
        _, run = tuned
        assert run.settings.preprocessing == HOW
        assert Run.open(run.path).preprocessing == HOW
        assert (run.settings.augment, run.settings.new_head, run.settings.learning_rate) == ("resized-crop", True, 1e-4)

    def test_is_the_same_in_evaluation_and_prediction(self, tuned: tuple[Path, Run]) -> None:
        """Against a resize, crop and scale of Pillow's and NumPy's."""
        root, run = tuned
        record = run.record()
        assert record is not None
        held_out = [entry for entry in record.entries if entry.part == "test"]
        model, right = run.model(), 0
        for entry in held_out:
            with Image.open(root / entry.name) as opened:
                factor = 32 / min(opened.size)
                size = tuple(max(32, int(side * factor)) for side in opened.size)
                resized = opened.resize(size, Image.Resampling.BICUBIC)
            left, top = ((side - 28) // 2 for side in size)
            pixels = np.asarray(resized.crop((left, top, left + 28, top + 28)), dtype=np.float32)
            assert np.abs(run.preprocessing.reading()(root / entry.name)[0].numpy() - pixels).max() <= 1
            with torch.no_grad():
                shares = model(torch.from_numpy((pixels / 255 - 0.4) / 0.3)[None, None]).softmax(1)[0]
            right += run.classes[int(shares.argmax())] == entry.category
            (((name, share), *_),) = run.classify([root / entry.name])
            assert name == run.classes[int(shares.argmax())]
            assert share == pytest.approx(float(shares.max()), abs=0.01)
        assert evaluate(run).accuracy == right / len(held_out)

    @pytest.mark.parametrize("format", quick_but(["onnx", "torch-export", "safetensors"], ["onnx"]))
    def test_goes_into_every_export(self, format: str, tuned: tuple[Path, Run], tmp_path: Path) -> None:
        _, run = tuned
        done = export(run, format, tmp_path / "exported.safetensors")
        if format != "safetensors":
            assert json.dumps(HOW.to_dict(), separators=(", ", ": "))[1:40].encode()[:20] in done.path.read_bytes()
            return
        about = models.about_weights(done.path)
        assert (about.preprocessing, about.classes) == (HOW, run.classes)

    @pytest.mark.parametrize("kind", slow_but(["file", "folder", "export"], ["file"]))
    def test_goes_on_to_the_next_training(self, kind: str, tuned: tuple[Path, Run], tmp_path: Path) -> None:
        root, run = tuned
        exported = export(run, "safetensors", tmp_path / "exported.safetensors").path
        source = {"file": run.path / "weights.safetensors", "folder": run.path, "export": exported}[kind]
        again = train(root, tmp_path / "again", weights=str(source))
        assert again.settings.preprocessing == HOW
        assert not again.settings.new_head, "the classes are the same"

    def test_another_image_size_keeps_the_share_that_is_seen(self, tuned: tuple[Path, Run]) -> None:
        root, _ = tuned
        recipe = Recipe("mobilenet_v1", f"folder:{root}", preprocessing="imagenet", image_size=(96, 64))
        found = prepare(recipe, quiet=True).settings.preprocessing
        assert (found.image_size, found.channels, found.resize) == ((96, 64), 3, 73)

    def test_may_be_the_datas_own(self, tuned: tuple[Path, Run], tmp_path: Path) -> None:
        root, run = tuned
        found = train(root, tmp_path / "other", weights=str(run.path), preprocessing="data").settings
        assert found.preprocessing.mode == "frame"
        split = load(f"folder:{root}", image_size=(28, 28))
        assert found.preprocessing.normalization == Normalization.of(split.train)
        assert found.augment == "none"

    def test_other_channels_than_the_weights_are_refused(self, tuned: tuple[Path, Run], tmp_path: Path) -> None:
        root, run = tuned
        with pytest.raises(RunError, match="channels: got 3; needed 1, as the weights take them"):
            train(root, tmp_path / "other", weights=str(run.path), channels=3)

    def test_weights_that_do_not_say(self, tuned: tuple[Path, Run], tmp_path: Path) -> None:
        root, _ = tuned
        torch.manual_seed(0)
        save_file(models.create("lenet5").state_dict(), tmp_path / "mute.safetensors")
        found = train(root, tmp_path / "mute", weights=str(tmp_path / "mute.safetensors")).settings
        assert (found.preprocessing.mode, found.augment) == ("frame", "none")
        with pytest.raises(RunError, match=r"preprocessing: the weights don't say what it is; .*; imagenet or data"):
            train(root, tmp_path / "x", weights=str(tmp_path / "mute.safetensors"), preprocessing="weights")

    def test_weights_of_a_thousand_classes_are_imagenets(self, tmp_path: Path) -> None:
        torch.manual_seed(0)
        torch.save(models.create("mobilenet_v1", 1000).state_dict(), tmp_path / "w.pth")
        root = photographs(tmp_path / "data", 4)
        recipe = Recipe("mobilenet_v1", f"folder:{root}", weights=str(tmp_path / "w.pth"), image_size=(96, 96))
        found = prepare(recipe, quiet=True).settings
        assert found.preprocessing == models.imagenet_preprocessing("mobilenet_v1").at((96, 96))
        assert found.preprocessing.channels == 3, "grey pictures become colour, as the weights want them"

    def test_timms_configuration_lies_beside_its_weights(self, tmp_path: Path) -> None:
        save_file(models.create("lenet5").state_dict(), tmp_path / "model.safetensors")
        config = {"input_size": [1, 28, 28], "crop_pct": 0.875, "interpolation": "bicubic", "mean": [0.4], "std": [0.3]}
        (tmp_path / "config.json").write_text(json.dumps({"architecture": "lenet5", "pretrained_cfg": config}))
        assert models.about_weights(tmp_path).preprocessing == HOW
        (tmp_path / "config.json").write_text("{")
        with pytest.raises(ModelError, match="says what can't be of its preprocessing"):
            models.about_weights(tmp_path)

    def test_a_folder_without_weights(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match=r"a folder without weights; needed weights\.safetensors or"):
            models.about_weights(tmp_path)

    @pytest.mark.slow
    def test_the_run_goes_on_without_the_file_that_it_began_with(self, tuned: tuple[Path, Run], tmp_path: Path) -> None:
        root, _ = tuned
        weights = written(tmp_path / "w.safetensors", HOW)
        whole = train(root, tmp_path / "whole", weights=str(weights), epochs=2)
        recipe = whole.recipe

        class StoppedError(Exception):
            pass

        def stop(self: Any, epoch: Any) -> None:
            raise StoppedError

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("striate.training.display.Display.epoch", stop)
            with pytest.raises(StoppedError):
                train(root, tmp_path / "stopped", weights=str(weights), epochs=2)
        weights.unlink()
        again = fit(dataclasses.replace(recipe, out=str(tmp_path / "stopped")), resume=True, quiet=True)
        assert (again.path / "weights.safetensors").read_bytes() == (whole.path / "weights.safetensors").read_bytes()


class TestProbe:
    @pytest.mark.parametrize("classes", [(0, 1), (0, 1, 2), (0, 2), (3,)])
    def test_the_head_is_the_regression_on_its_inputs(self, classes: tuple[int, ...]) -> None:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 4))
        assert can_probe(model, 4)
        labels = torch.tensor([classes[n % len(classes)] for n in range(60)])
        images = torch.randint(256, (60, 1, 4, 4), dtype=torch.uint8)
        images[labels == classes[0], :, :2] //= 2
        batches = Batches(ImageSet(images, labels, tuple("abcd")), 16, Normalization((0.5,), (0.5,)))
        before = {name: value.clone() for name, value in model.state_dict().items()}
        fit_head(model, batches, 4)
        parts = Parts.of(model, 4)
        assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items() if "3" not in name)
        inputs = batches.normalization(images)
        with torch.no_grad():
            features, logits = model[:-1](inputs), model(inputs)
        if len(classes) == 1:
            assert torch.equal(parts.head.weight, before["3.weight"])
            return
        peer = LogisticRegression(max_iter=1000).fit(features.numpy(), labels.numpy())
        present = torch.tensor(sorted(classes))
        shares = logits[:, present].softmax(1)
        assert np.abs(shares.numpy() - peer.predict_proba(features.numpy())).max() < 1e-4
        assert set(logits.argmax(1).tolist()) <= set(classes), "a class without images is never the likeliest"

    @pytest.mark.slow
    def test_a_new_head_begins_well_and_a_random_one_does_not(self, tuned: tuple[Path, Run], tmp_path: Path) -> None:
        root, _ = tuned
        weights = written(tmp_path / "w.safetensors", HOW)
        probe, random = (
            train(root, tmp_path / head, weights=str(weights), head=head, augment="none")
            for head in ("probe", "random")
        )
        assert probe.history[0].train_accuracy > random.history[0].train_accuracy + 0.3

    @pytest.mark.parametrize("head", slow_but(["probe", "random"], ["probe"]))
    def test_a_head_for_other_classes_is_new_though_they_are_as_many(
        self, head: str, tuned: tuple[Path, Run], tmp_path: Path
    ) -> None:
        root, base = tuned
        shutil.copytree(root, tmp_path / "data")
        for name, other in (("left", "a"), ("right", "b"), ("top", "c")):
            (tmp_path / "data" / name).rename(tmp_path / "data" / other)
        given = {"weights": str(base.path), "head": head, "freeze": "all-but-head", "learning_rate": 1e-9}
        run = train(tmp_path / "data", tmp_path / "run", **given)
        assert run.settings.new_head
        before, after = (Parts.of(each.model(), 3).head.weight for each in (base, run))
        assert not torch.allclose(before, after, atol=1e-3)

    def test_networks_with_a_loss_of_their_own_keep_their_heads(self) -> None:
        network = models.create("lenet5_1998")
        assert linear_head(network, 10) is None
        assert not can_probe(network, 10)


class TestRandomCrops:
    def batches(self, root: Path, part: tuple[int, int] = (0, 1), *, kept: bool = False, **changes: Any) -> Batches:
        images = load(f"folder:{root}", fit=Fit((20, 20), "crop", (24, 24)), channels=1).train
        assert isinstance(images, ImageSet)
        pictures = images.origin
        assert pictures is not None
        changed = Augmentation("resized-crop", seed=3, **changes)
        chosen = pictures.in_memory(40) if kept else pictures
        return Batches(chosen, 5, Normalization((0.5,), (0.5,)), shuffle_seed=1, augmentation=changed, part=part)

    @pytest.mark.parametrize("changes", [{}, {"mixup": 0.4, "erase": 0.5}])
    def test_parts_of_a_batch_are_those_of_the_whole(self, changes: dict[str, float], tuned: tuple[Path, Run]) -> None:
        root, _ = tuned
        whole = list(self.batches(root, **changes).epoch(2))
        sides = [list(self.batches(root, (number, 2), **changes).epoch(2)) for number in (0, 1)]
        for (images, targets), *parts in zip(whole, *sides, strict=True):
            assert torch.equal(images, torch.cat([part[0] for part in parts]))
            assert torch.equal(targets, torch.cat([part[1] for part in parts]))

    def test_an_epoch_goes_on_where_it_was(self, tuned: tuple[Path, Run]) -> None:
        root, _ = tuned
        whole, rest = list(self.batches(root).epoch(1)), list(self.batches(root).epoch(1, start=2))
        assert all(torch.equal(a[0], b[0]) for a, b in zip(whole[2:], rest, strict=True))

    def test_every_epoch_sees_other_parts(self, tuned: tuple[Path, Run]) -> None:
        root, _ = tuned
        batches = self.batches(root)
        assert not torch.equal(next(batches.epoch(0))[0], next(batches.epoch(1))[0])

    def test_pictures_kept_in_memory_give_about_the_same(self, tuned: tuple[Path, Run]) -> None:
        root, _ = tuned
        for (first, _), (second, _) in zip(
            self.batches(root).epoch(0), self.batches(root, kept=True).epoch(0), strict=True
        ):
            assert (first - second).abs().mean() < 0.06  # of a range of 2: they are scaled down first

    def test_images_of_one_size_are_cropped_as_well(self) -> None:
        images = ImageSet(torch.randint(256, (6, 3, 16, 16), dtype=torch.uint8), torch.arange(6) % 2, ("a", "b"))
        batches = Batches(images, 6, Normalization.of(images), augmentation=Augmentation("resized-crop"))
        changed, _ = next(batches.epoch(0))
        assert changed.shape == (6, 3, 16, 16)
        assert not torch.equal(changed, batches.normalization(images.images))


def test_a_reading_is_the_same_whatever_holds_the_picture(tmp_path: Path) -> None:
    path = photographs(tmp_path, 1) / "left" / "0.png"
    read = Reading(Fit((20, 24), "crop", (25, 30)), 3)
    with open(path, "rb") as file:
        assert torch.equal(read(path), read(file))
    assert torch.equal(read(path), read(Reading()(path)))
    shutil.rmtree(tmp_path / "left")
