"""Rows of predictions: names of every kind come back, spreadsheets run nothing, and a file is whole or not there."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from striate.errors import RunError
from striate.tasks.predictions import Prediction, PredictionWriter, read_predictions, rows_of, write_predictions
from striate.tasks.scores import Scores

BOTH = pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
#: What is hard about names: separators, quotes, ends of lines of every kind, formulas, what only looks like one.
NAMES = (
    "plain.png",
    "a,b.png",
    'say "x".png',
    "two\nlines.png",
    "\r.png",
    "a\r\nb.png",
    "\u2028\x85\x0b.png",
    "=1+1.png",
    "+x",
    "-x",
    "@SUM(A1)",
    "\tx",
    "'=x",
    "''=x",
    "'x",
    "-1",
    "+12.5",
    "'-1",
    "-1\n",
    "-1+cmd",
    "",
    " padded ",
    "käfer/ß.png",
    "🦆",
    "\x00",
    "true",
    "C:\\photos\\x.png",
)


def scores(names: tuple[str, ...], classes: tuple[str, ...] = ("cat", "-1", "=x")) -> Scores:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(len(classes), (len(names),), generator=generator)
    return Scores(labels, torch.randn(len(names), len(classes), generator=generator).softmax(1), names, classes)


def rounded(row: Prediction) -> Prediction:
    return Prediction(row.image, tuple((name, float(f"{share:.6g}")) for name, share in row.ranked), row.true)


@BOTH
def test_they_come_back(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"predictions{suffix}"
    write_predictions(path, scores(NAMES), top=2)
    assert read_predictions(path) == [rounded(row) for row in rows_of(scores(NAMES), 2)]
    assert os.listdir(tmp_path) == [path.name]


@BOTH
@given(name=st.text(), other=st.text())
def test_every_text_comes_back(suffix: str, name: str, other: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / f"texts{suffix}"
    name, other = (text.encode("utf-8", "ignore").decode() for text in (name, other))  # without lone surrogates
    row = Prediction(name, ((other, 1.0), (name, 0.0)), other)
    with PredictionWriter(path, top=2, truth=True) as writer:
        writer.write(row)
    assert read_predictions(path) == [row]


def test_the_columns(tmp_path: Path) -> None:
    rows = torch.tensor([[0.123456789, 0.2, 0.676543211], [1.0, 0, 0]])
    found = Scores(torch.tensor([2, 1]), rows, ("a/1.png", "b.png"), ("x", "y", "z"))
    write_predictions(tmp_path / "p.csv", found)
    assert (tmp_path / "p.csv").read_text().splitlines() == [
        "image,true,predicted,probability,correct,class_2,probability_2,class_3,probability_3",
        "a/1.png,z,z,0.676543,1,y,0.2,x,0.123457",
        "b.png,y,x,1,0,y,0,z,0",
    ]
    write_predictions(tmp_path / "p.jsonl", found, top=1)
    first = json.loads((tmp_path / "p.jsonl").read_text().splitlines()[0])
    assert first == {
        "image": "a/1.png",
        "true": "z",
        "predicted": "z",
        "probability": 0.676543,
        "correct": True,
        "top": [{"class": "z", "probability": 0.676543}],
    }


@BOTH
def test_without_the_truth(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"p{suffix}"
    row = Prediction("a.png", (("x", 0.75), ("y", 0.25)))
    with PredictionWriter(path, top=2, truth=False) as writer:
        writer.write(row)
    text = path.read_text()
    assert "true" not in text
    assert "correct" not in text
    assert read_predictions(path) == [row]
    assert row.correct is None


@pytest.mark.parametrize("name", NAMES)
def test_a_spreadsheet_runs_nothing(name: str, tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    with PredictionWriter(path, top=1, truth=True) as writer:
        writer.write(Prediction(name, ((name, 1.0),), name))
    with open(path, newline="", encoding="utf-8") as file:
        _, cells = csv.reader(file)
    for cell in (cells[0], cells[1], cells[2]):
        number = cell.lstrip("+-").replace(".", "", 1).isdecimal()
        assert number or not cell.startswith(("=", "+", "-", "@", "\t", "\r"))


@BOTH
def test_bytes_that_are_no_text_are_written_out(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"p{suffix}"
    with PredictionWriter(path, top=1, truth=False) as writer:
        writer.write(Prediction(os.fsdecode(b"caf\xe9.png"), (("x", 1.0),)))
    path.read_bytes().decode()  # UTF-8
    assert read_predictions(path)[0].image == r"caf\udce9.png"


def test_of_equals_the_predicted_class_comes_first() -> None:
    rows = torch.full((1, 40), 1 / 40)
    found = Scores(torch.tensor([3]), rows, ("x",), tuple(map(str, range(40))))
    (row,) = rows_of(found, 5)
    assert row.predicted == "0" == found.classes[int(found.predicted[0])]
    assert len({name for name, _ in row.ranked}) == 5


@BOTH
def test_rows_are_written_as_they_come_and_the_file_at_the_end(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"p{suffix}"
    path.write_bytes(b"before")
    with PredictionWriter(path, top=1, truth=False) as writer:
        for number in range(2000):
            writer.write(Prediction(f"image {number}", (("x", 1.0),)))
        assert path.read_bytes() == b"before"
        assert (tmp_path / f"p{suffix}.partial").stat().st_size > 8192
    assert len(read_predictions(path)) == 2000
    assert os.listdir(tmp_path) == [path.name]


def test_after_an_error_all_is_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_bytes(b"before")

    def write() -> None:
        with PredictionWriter(path, top=1, truth=False) as writer:
            writer.write(Prediction("x", (("x", 1.0),)))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert path.read_bytes() == b"before"
    assert os.listdir(tmp_path) == ["p.csv"]


def test_no_folder_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "none" / "p.csv"
    with pytest.raises(OSError, match=r"none/p\.csv'$"), PredictionWriter(path, top=1, truth=False):
        pass


def test_an_error_of_the_block_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="photo"), PredictionWriter(tmp_path / "p.csv", top=1, truth=False):
        open("photo.png").close()


@pytest.mark.parametrize(
    ("top", "truth", "row", "message"),
    [
        (2, False, Prediction("i", (("x", 1.0),)), "^i: got 1 classes, no true one; needed 2 classes, no true one"),
        (1, True, Prediction("i", (("x", 1.0),)), "needed 1 classes, the true one"),
        (1, False, Prediction("i", (("x", 1.0),), "x"), "got 1 classes, the true one"),
    ],
)
def test_rows_of_another_kind(top: int, truth: bool, row: Prediction, message: str, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=message), PredictionWriter(tmp_path / "p.csv", top=top, truth=truth) as writer:
        writer.write(row)
    assert not os.listdir(tmp_path)


def test_another_suffix_and_no_class(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"got the suffix '\.xlsx'; needed \.csv or \.jsonl"):
        PredictionWriter(tmp_path / "p.xlsx", top=1, truth=False)
    with pytest.raises(RunError, match="got the 0 likeliest classes"):
        PredictionWriter(tmp_path / "p.csv", top=0, truth=False)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.csv", b"", "after 0 of them"),
        ("p.csv", b"image,label\nx,y\n", "the columns 'image, label'"),
        ("p.csv", b"image,predicted,probability\nx,y\n", "2 cells for 3 columns"),
        ("p.csv", b"image,predicted,probability\nx,y,0.5\nx,y,much\n", r"after 1 of them \(could not convert"),
        ("p.csv", b'image,predicted,probability\n"x,y,0.5\n', "unexpected end"),
        ("p.csv", b"image,predicted,probability\n\xff,y,0.5\n", "is no UTF-8"),
        ("p.jsonl", b'{"image": "x"}\n', "after 0 of them"),
        ("p.jsonl", b'{"image": "x", "top": []}\n', "no classes"),
        ("p.jsonl", b'{"image": "x", "top": [{"class": "y", "proba', "after 0 of them"),
        ("p.jsonl", b"[1]\n", "after 0 of them"),
    ],
)
def test_a_file_of_something_else(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RunError, match=message):
        read_predictions(tmp_path / name)


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="No such file"):
        read_predictions(tmp_path / "p.csv")


def test_other_readers_read_the_same(tmp_path: Path) -> None:
    write_predictions(tmp_path / "p.csv", scores(("x\ry", "a\nb", 'q"')), top=1)
    content = (tmp_path / "p.csv").read_bytes().decode()
    assert [row["image"] for row in csv.DictReader(io.StringIO(content, newline=""))] == ["x\ry", "a\nb", 'q"']
