"""The command that explains: what it prints and writes, and one clear line for each mistake."""

from __future__ import annotations

import json
import os
import re
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from PIL import Image

from cases import slow_but
from striate.cli import main
from striate.explain.methods import METHODS
from striate.explain.views import VIEWS
from striate.report.text import printable


@pytest.fixture
def run(cnn_run: Path) -> Path:
    return cnn_run


@pytest.fixture
def digit(run: Path) -> Path:
    return sorted((run / "samples").glob("*.png"))[0]


def said(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        main(["explain", *map(str, arguments)])
    output, errors = capsys.readouterr()
    assert isinstance(left.value.code, int)
    return left.value.code, output, errors


def test_says_what_was_explained_and_draws_it(
    run: Path, digit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "why.png"
    code, output, errors = said(capsys, digit, "--model", run, "--out", out)
    assert (code, errors) == (0, "")
    for word in ("predicted", "%", "target", "grad_cam", "pool2, 7x7 places", str(out)):
        assert word in output
    with Image.open(out) as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 300


@pytest.mark.slow
def test_several_images_a_target_by_name_and_the_check(
    run: Path, digit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "why.png"
    arguments = [digit, digit, "--model", run, "--out", out, "--method", "layer-cam", "--layer", "relu1", "--check"]
    code, output, errors = said(capsys, *arguments, "--target", "3")
    assert (code, errors) == (0, "")
    for word in ("relu1, 28x28 places", "deletion AUC", "insertion AUC", "faithfulness", "random down to conv1"):
        assert word in output
    code, output, errors = said(capsys, *arguments, "--target", "3", "--json")
    assert (code, errors) == (0, "")
    told = json.loads(output)
    assert told["classes"] == [3, 3]
    assert told["target"] == ["3", "3"]
    assert [len(told["map"]), len(told["map"][0]), len(told["map"][0][0])] == [2, 28, 28]
    assert set(told["check"]) == {"curves", "chance", "faithfulness", "randomisation"}


@pytest.mark.parametrize(
    "method", slow_but(METHODS, ["cam", "grad_cam", "score_cam", "smooth_grad", "integrated_gradients", "occlusion"])
)
def test_every_method_draws(
    method: str, run: Path, digit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "why.png"
    code, output, errors = said(capsys, digit, "--model", run, "--method", method, "--out", out)
    if method == "cam":
        assert (code, output) == (2, "")
        assert "needed global average pooling" in errors
    else:
        assert (code, errors) == (0, "")
        assert out.exists()


def test_the_list_of_methods(capsys: pytest.CaptureFixture[str]) -> None:
    code, output, _ = said(capsys, "--method", "list")
    assert code == 0
    assert all(name in output for name in (*METHODS, *VIEWS))
    code, output, _ = said(capsys, "--method", "list", "--json")
    assert list(json.loads(output)) == [*METHODS, *VIEWS]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "explain: got no image"),
        (["IMAGE"], "--model: got none"),
        (["IMAGE", "--model", "RUN", "--method", "gradcam"], "method: got 'gradcam'; needed one of cam, grad_cam, "),
        (
            ["IMAGE", "--model", "RUN", "--layer", "conv3"],
            "layer: got 'conv3'; needed a layer of Sequential; near: conv",
        ),
        (["IMAGE", "--model", "RUN", "--layer", "output"], "output: its output has no places"),
        (["IMAGE", "--model", "RUN", "--layer", "conv1", "--method", "rise"], "--layer: rise uses the input only"),
        (["IMAGE", "--model", "RUN", "--target", "10"], "target: got class 10; needed 0 to 9"),
        (["IMAGE", "--model", "RUN", "--target", "cat"], "--target: got 'cat'; needed a class's name or 0 to 9"),
        (["IMAGE", "--model", "RUN", "--weights", "x"], "--weights: got 'x' for"),
        (["IMAGE", "--model", "nowhere"], "nowhere: no such folder"),
        (["IMAGE", "--model", "RUN", "--out", "/nowhere/x.png"], "/nowhere/x.png"),
        (["lost.png", "--model", "RUN"], "lost.png: No such file or directory"),
        (["SETTINGS", "--model", "RUN"], "settings.json: holds no image that can be read"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], message: str, run: Path, digit: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = {"IMAGE": digit, "RUN": run, "SETTINGS": run / "settings.json"}
    code, output, errors = said(capsys, *(words.get(word, word) for word in arguments))
    assert (code, output) == (2, "")
    assert errors.count("\n") == 1
    assert message in errors


def test_a_mistyped_network_is_told_from_a_folder(capsys: pytest.CaptureFixture[str]) -> None:
    _, _, errors = said(capsys, "photo.png", "--model", "efficientnt_lite0")
    assert "did you mean efficientnet_lite0?" in errors
    _, _, errors = said(capsys, "photo.png", "--model", "runs/none")
    assert "no such folder" in errors


@pytest.fixture
def photos(run: Path, tmp_path: Path) -> Path:
    """A folder with two digits, one deeper down, a broken image, a hidden one and a text."""
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    samples = sorted((run / "samples").glob("*.png"))
    (folder / "b.png").write_bytes(samples[0].read_bytes())
    (folder / "deep" / "A.PNG").write_bytes(samples[1].read_bytes())
    (folder / "c.jpg").write_bytes(b"no image")
    (folder / ".hidden.png").write_bytes(samples[2].read_bytes())
    (folder / "notes.txt").write_text("not an image")
    return folder


def test_a_folder_is_explained_and_what_is_broken_told(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "why.png"
    code, output, errors = said(capsys, photos, "--model", run, "--out", out)
    assert code == 1
    assert errors.count("\n") == 1
    assert "c.jpg: holds no image that can be read" in errors
    assert output.index("b.png") < output.index("A.PNG")
    assert ".hidden" not in output
    code, output, _ = said(capsys, photos, "--model", run, "--out", out, "--json")
    assert code == 1
    told = json.loads(output)
    assert told["images"] == [str(photos / "b.png"), str(photos / "deep" / "A.PNG")]
    assert [each["image"] for each in told["errors"]] == [str(photos / "c.jpg")]
    assert [len(told[key]) for key in ("target", "classes", "scores", "predictions", "map")] == [2] * 5


def test_none_that_can_be_read(run: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (photos / "none").mkdir()
    given = [photos / "c.jpg", photos / "none", "https://host/a.png", photos / "lost.png"]
    code, output, errors = said(capsys, *given, "--model", run, "--json")
    assert (code, output) == (2, "")
    for line, message in zip(
        errors.splitlines(),
        (
            "holds no image that",
            "none: no images in this folder",
            "a.png: is a URL; .*download it first",
            "No such file",
        ),
        strict=True,
    ):
        assert re.search(message, line)


@pytest.mark.slow
def test_a_map_does_not_hang_on_the_other_images(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    samples = sorted((run / "samples").glob("*.png"))[:3]
    options = ["--model", run, "--method", "smooth_grad", "--out", tmp_path / "why.png", "--json"]
    _, together, _ = said(capsys, *samples, *options)
    for place, sample in enumerate(samples):
        _, alone, _ = said(capsys, sample, *options)
        assert json.loads(alone)["map"][0] == json.loads(together)["map"][place]


@pytest.mark.slow
def test_many_images_are_several_pictures(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    samples = sorted((run / "samples").glob("*.png"))[:14]
    out = tmp_path / "why.png"
    code, output, _ = said(capsys, *samples, "--model", run, "--out", out, "--json")
    told = json.loads(output)
    assert code == 0
    assert told["pictures"] == [str(out), str(tmp_path / "why-2.png")]
    assert all(Path(picture).exists() for picture in told["pictures"])
    assert told["errors"] == []


@pytest.mark.parametrize(
    "name", slow_but([b"caf\xe9.png", "猫.png".encode(), b"$5 $6.png", b"[bold]x.png", b"a\nb.png"], [b"caf\xe9.png"])
)
def test_files_of_every_name(
    name: bytes, run: Path, digit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = os.fsdecode(os.path.join(os.fsencode(tmp_path), name))
    try:
        shutil.copy(digit, file)
    except OSError:
        pytest.skip("this file system has no such names")
    out = tmp_path / "why.png"
    for options in (["--method", "saliency"], ["--method", "top_patches", "--layer", "conv1", "--channel", "0"]):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph")
            code, output, _ = said(capsys, file, digit, "--model", run, "--out", out, *options)
        assert code == 0
        output.encode()
        assert printable(os.path.basename(file)) in output
        _, told, _ = said(capsys, file, "--model", run, "--out", out, "--json", *options)
        assert json.loads(told)["images"] == [file]


def test_a_name_like_an_option(
    run: Path, digit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(digit, "-photo.png")
    for arguments in (("-photo.png", "--model", run), ("--model", run, "--", "-photo.png")):
        code, output, _ = said(capsys, *arguments)
        assert code == 0
        assert "-photo.png" in output


def test_where_it_is_computed(
    run: Path, digit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []

    def found(name: str) -> torch.device:
        asked.append(name)
        return torch.device("cpu")

    monkeypatch.setattr("striate.training.environment.find_device", found)
    said(capsys, digit, "--model", run, "--out", tmp_path / "a.png")
    said(capsys, digit, "--model", run, "--out", tmp_path / "a.png", "--device", "cuda:1")
    assert asked == ["auto", "cuda:1"]
    monkeypatch.undo()
    code, _, errors = said(capsys, digit, "--model", run, "--device", "abacus")
    assert code == 2
    assert "'abacus' can't be used" in errors


def test_a_class_whose_name_is_another_ones_number(
    run: Path, digit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "run"
    shutil.copytree(run, other)
    settings = json.loads((other / "settings.json").read_text())
    text = json.dumps(settings).replace(json.dumps(list("0123456789")), json.dumps(list("1023456789")))
    (other / "settings.json").write_text(text)
    code, output, errors = said(
        capsys, digit, "--model", other, "--target", "1", "--json", "--out", tmp_path / "why.png"
    )
    assert code == 0
    assert json.loads(output)["classes"] == [0]
    assert errors == "note: --target '1': took the class of that name, number 0; number 1 is '0'\n"
