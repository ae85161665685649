from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.data import annotated_files as files

from striate.cli import main


def run(*arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        main(list(arguments))
    return int(left.value.code or 0), *capsys.readouterr()


def test_says_what_is_there_and_draws_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run("check", "scenes:64,6,3", "--out", str(tmp_path / "a.png"), capsys=capsys)
    assert code == 0
    assert "train: 6 pictures of 64x64\n" in out
    assert "no faults" in out
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_faults_end_with_2_and_have_their_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def change(data: dict[str, Any]) -> None:
        data["annotations"][0]["bbox"] = [100, 100, 5, 5]

    source = files.coco(tmp_path, change)
    code, out, _ = run("check", source, capsys=capsys)
    assert code == 2
    assert "1 fault:\n  0.png: annotation 1 has a box 100,100 to 105,105 outside of the picture" in out
    code, out, _ = run("check", source, "--json", capsys=capsys)
    assert code == 2
    assert json.loads(out)["faults"][0]["thing"] == "annotation 1"


def test_boxes_are_compared_with_the_strides_of_a_network(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run("check", "scenes:64,6,3", "--model", "lenet5", "--json", capsys=capsys)
    assert code == 0
    found = json.loads(out)["strides"]
    assert found["boxes"] > 9
    assert found["strides"][0] >= 1


def test_class_maps_are_drawn_and_labels_alone_are_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = str(tmp_path / "a.png")
    assert run("check", files.masks(tmp_path), "--out", picture, capsys=capsys)[0] == 0
    code, _, told = run("check", "digits", "--out", str(tmp_path / "b.png"), capsys=capsys)
    assert code == 2
    assert "only labels" in told
