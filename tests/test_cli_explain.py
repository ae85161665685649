"""The command that explains: what it prints and writes, and one clear line for each mistake."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from striate.cli import main
from striate.explain.methods import METHODS
from striate.explain.views import VIEWS


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "first"
    with pytest.raises(SystemExit):
        main(["train", "simple_cnn", "--out", str(path), "--epochs", "1", "--threads", "1", "--quiet"])
    return path


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


@pytest.mark.parametrize("method", METHODS)
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
        (["IMAGE", "--model", "RUN", "--layer", "conv1", "--method", "rise"], "--layer: rise looks at the input only"),
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
