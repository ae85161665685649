"""What follows when images move or change, as a user gets it: tables, pictures and commands."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from rich.console import Console
from torch import nn

from striate import analysis, cli
from striate.report import figures, invariance


def text(shown: object, width: int = 110) -> str:
    console = Console(width=width, highlight=False)
    with console.capture() as captured:
        console.print(shown)
    return captured.get()


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    )


def test_a_row_a_layer_tells_rounding_from_errors() -> None:
    found = analysis.equivariance(network(), (1, 16, 16), [1, 2, (0, 3)])
    lines = text(invariance.equivariance(found)).splitlines()
    assert "circular borders" in lines[0]
    assert lines[1].split()[:6] == ["layer", "kind", "stride", "1", "2", "0,3"]
    conv, pool = lines[2].split(), lines[3].split()
    assert conv[:6] == ["0", "Conv2d", "1", "0", "0", "0"]
    assert pool[:3] == ["1", "MaxPool2d", "2"]
    assert float(pool[3]) > 0.1 > float(pool[4]) == 0
    assert "invariance" in lines[4]
    assert max(map(len, lines)) <= 110


def test_curves_and_attacks_are_told_in_percent() -> None:
    images, labels = torch.rand(8, 1, 12, 12), torch.arange(8) % 3
    found = analysis.robustness(network(), images, labels, ["rotation", "noise"])
    told = text(invariance.robustness(found))
    assert "8 images" in told
    assert "degrees, counter-clockwise" in told
    assert told.count("100%") >= 2
    moved = analysis.shift_consistency(network(), images, 1, borders="zeros")
    assert invariance.consistency(moved).startswith(f"consistency: {moved.value:.2%} that two of 9 shifts")
    drawn = analysis.shift_consistency(network(), images, 1, pairs=4)
    assert "standard error, 4 pairs" in invariance.consistency(drawn)
    attacked = analysis.adversarial(network(), images, labels, [0, 0.1], steps=2)
    assert text(invariance.adversarial(attacked)).splitlines()[2].split()[:2] == ["0", "0.0"]


def test_checkerboards_are_told() -> None:
    up = nn.Sequential(nn.ConvTranspose2d(1, 1, 3, 2), nn.ConvTranspose2d(1, 1, (2, 5), 3))
    lines = text(invariance.checkerboards(analysis.checkerboard(up, (1, 6, 6)))).splitlines()
    assert lines[1].split()[:8] == ["0", "transposed", "convolution", "output", "3", "2", "2-1", "0.436"]
    assert "1-1-0 x 2-2-1" in lines[2]
    assert "33%" in lines[2]


def test_pictures_are_drawn_whatever_there_is_to_draw(tmp_path: Path) -> None:
    images, labels = torch.rand(8, 1, 12, 12), torch.arange(8) % 3
    blind = nn.Sequential(nn.Flatten(), nn.Linear(144, 3))
    drawn = (
        invariance.heat_map(analysis.equivariance(network(), images, [0.5, 1])),
        invariance.heat_map(analysis.equivariance(blind, images, [1], borders="zeros")),
        invariance.curves(analysis.robustness(network(), images, labels), images),
        invariance.curves(analysis.robustness(network(), images, labels, {"blur": [1]}), images),
        invariance.attacks(analysis.adversarial(network(), images, labels, [0, 0.1], steps=2)),
        invariance.coverages(analysis.checkerboard(network(), (1, 12, 12))),
        invariance.coverages(analysis.checkerboard(blind, images)),
    )
    for figure in drawn:
        assert figures.png(figure).startswith(b"\x89PNG")
    titles = [axes.get_title() for axes in drawn[2].findobj(lambda each: hasattr(each, "get_title"))]
    assert set(analysis.DISTURBANCES) <= set(titles)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, without_drawing: Callable[[], AbstractContextManager[None]]) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "short"
    with without_drawing(), pytest.raises(SystemExit) as left:
        cli.main(["train", "lenet5", "--data", "digits", "--out", str(folder), "--epochs", "1", "--device", "cpu"])
    assert left.value.code == 0
    return folder


def called(*arguments: object) -> int:
    with pytest.raises(SystemExit) as left:
        cli.main([str(each) for each in arguments])
    return int(left.value.code or 0)


def test_equivariance_of_a_named_network_is_the_same_every_time(capsys: pytest.CaptureFixture[str]) -> None:
    told = []
    for _ in range(2):
        assert called("equivariance", "lenet5", "--shifts", "1,2", "--json") == 0
        told.append(json.loads(capsys.readouterr().out))
    assert told[0] == told[1]
    rows = {row["name"]: row for row in told[0]["rows"]}
    assert rows["c1"]["error"][0] < 1e-5 < 0.1 < rows["s2"]["error"][0]


@pytest.mark.slow
def test_commands_on_a_run(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    digit = tmp_path / "digit.png"
    Image.new("L", (28, 28), 100).save(digit)
    out = tmp_path / "out.png"
    assert called("equivariance", run, "--image", digit, "--borders", "zeros", "--out", out) == 0
    assert "borders of zeros" in capsys.readouterr().out
    assert out.read_bytes().startswith(b"\x89PNG")
    assert called("checkerboard", run) == 0
    assert "input gradient" in capsys.readouterr().out
    arguments = ("robustness", run, "--images", 30, "--only", "rotation, blur", "--attack")
    assert called(*arguments, "--out", tmp_path / "curves.png") == 0
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("rotation", "blur", "consistency:", "PGD"))
    assert called(*arguments, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["robustness"]["images"] == 30
    assert found["adversarial"]["fgsm"][0] == found["robustness"]["accuracy"]


@pytest.fixture
def scans(run: Path, tmp_path: Path) -> Path:
    """Other data: seven images of two of the run's ten classes, which are its classes 3 and 7."""
    settings = json.loads((run / "settings.json").read_text())
    assert "7" in json.dumps(settings)
    folder = tmp_path / "scans"
    for name, count in (("7", 4), ("3", 3)):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            Image.new("L", (28, 28), 20 * number).save(folder / name / f"{number}.png")
    return folder


def test_all_of_other_data_is_tested_by_the_names_of_its_classes(
    run: Path, scans: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    true = analysis.robustness

    def watching(model: nn.Module, pixels: torch.Tensor, labels: torch.Tensor, *rest: Any, **more: Any) -> Any:
        seen.append((pixels, labels))
        return true(model, pixels, labels, *rest, **more)

    monkeypatch.setattr(analysis, "robustness", watching)
    command = ("robustness", run, "--only", "Blur", "--json", "--data", f"folder:{scans}")
    assert called(*command) == 0
    assert json.loads(capsys.readouterr().out)["robustness"]["images"] == 7
    pixels, labels = seen[0]
    assert pixels.shape == (7, 1, 28, 28)
    assert sorted(labels.tolist()) == [3, 3, 3, 7, 7, 7, 7]
    assert sorted((pixels[labels == 3].amax((1, 2, 3)) * 255).round().tolist()) == [0, 20, 40]
    assert called(*command, "--images", 3) == 0
    assert len(seen[1][1]) == 3
    assert len(set(seen[1][1].tolist())) == 2  # not the first three, which are of one class
    (scans / "3").rename(scans / "three")
    assert called(*command) == 2
    assert "classes: got three; needed those of 0, 1, 2, 3, 4" in capsys.readouterr().err


@pytest.mark.slow
def test_of_its_own_data_a_run_is_asked_what_it_has_not_seen(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert called("robustness", run, "--only", "blur", "--json", "--images", 400) == 0
    assert json.loads(capsys.readouterr().out)["robustness"]["images"] == 359  # a fifth of the digits
    assert called("robustness", run, "--only", "blur", "--json", "--images", 400, "--data", "digits") == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["robustness"]["images"] == 400
    assert "1,438 of the 1,797 images are ones that the run has learnt from" in told.err


def test_devices(run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked = []

    def found(name: str) -> torch.device:
        asked.append(name)
        return torch.device("cpu")

    monkeypatch.setattr("striate.training.environment.find_device", found)
    assert called("robustness", run, "--only", "blur", "--images", 9, "--device", "cuda:1") == 0
    assert called("equivariance", "lenet5", "--shifts", "1") == 0
    assert asked == ["cuda:1", "auto"]
    monkeypatch.undo()
    for command in (("robustness", run), ("equivariance", "lenet5")):
        assert called(*command, "--device", "abacus") == 2
        assert "'abacus' can't be used" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("equivariance", "lenet5", "--shifts", "one"), "--shifts: got 'one'; needed numbers with commas between"),
        (("equivariance", "lenet5", "--shifts", "28"), "shift: got (28.0, 28.0)"),
        (("equivariance", "lenet5", "--borders", "soft"), "borders: got 'soft'"),
        (("equivariance", "lenet5", "--size", "1x8x8"), "lenet5 takes height and width of 28 to 31"),
        (("equivariance", "lenet9"), "did you mean lenet5"),
        (("robustness", "nowhere"), "nowhere: "),
        (("checkerboard", "lenet5", "--size", "3"), "--size: got '3'"),
    ],
)
def test_mistakes_are_one_line(arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert called(*arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_an_unknown_disturbance_is_told(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert called("robustness", run, "--only", "rotatoin") == 2
    assert "did you mean rotation?" in capsys.readouterr().err
