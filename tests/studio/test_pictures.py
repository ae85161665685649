"""Pictures that come in and pictures that are moved."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from striate.analysis.shifts import shifted
from striate.data import Normalization, Preprocessing
from striate.errors import DataError, StudioError
from striate.studio.following import follow, likeliest, places
from striate.studio.gallery import gallery_of
from striate.studio.pictures import MOST_PIXELS, Moves, drawn, moved, pixels_code, preprocessing_code, uploaded
from striate.studio.recording import record
from striate.studio.samples import pictures_of
from striate.studio.subject import Subject, find, of_module
from striate.studio.workspace import Workspace


def subject_of(model: nn.Module, channels: int = 1, size: int = 16) -> Subject:
    scale = Normalization((0.0,) * channels, (1.0,) * channels)
    how = Preprocessing(None, (size, size), scale, mode="frame" if channels == 1 else "crop")
    return of_module(model.eval(), preprocessing=how, classes=("cat", "dog"))


@pytest.fixture(scope="module")
def subject() -> Subject:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(3, 4, 3), nn.Flatten()]
    return subject_of(nn.Sequential(*layers, nn.Linear(4 * 36, 2)))


def file_of(pixels: np.ndarray[Any, Any], kind: str = "PNG", **more: Any) -> bytes:
    kept = io.BytesIO()
    Image.fromarray(pixels).save(kept, kind, **more)
    return kept.getvalue()


# ---------------------------------------------------------------------------------------------------------- uploads


def test_an_upload_is_what_the_network_would_see_of_the_file(subject: Subject) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    picture = uploaded(file_of(pixels), "photo.png", subject, "u1")
    assert picture.source is not None
    assert picture.source.shape == (1, 40, 30)
    assert subject.preprocessing is not None
    assert torch.equal(picture.inputs, subject.preprocessing(picture.source[None]))
    assert picture.name == "photo.png"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_uploads_stand_upright(orientation: int) -> None:
    upright = np.zeros((8, 12, 3), np.uint8)
    upright[:3, :4] = (200, 100, 50)  # the upper left corner
    stored = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1], 5: upright.transpose(1, 0, 2),
        6: np.rot90(upright), 7: upright[::-1, ::-1].transpose(1, 0, 2), 8: np.rot90(upright, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[274] = orientation
    content = file_of(np.ascontiguousarray(stored), exif=exif)
    picture = uploaded(content, "photo", subject_of(nn.Conv2d(3, 1, 3), 3, 8), "u")
    assert picture.source is not None
    assert torch.equal(picture.source, torch.from_numpy(upright.copy()).permute(2, 0, 1))


def test_large_uploads_are_made_smaller(subject: Subject) -> None:
    picture = uploaded(file_of(np.full((30, 3000), 7, np.uint8)), "wide", subject, "u")
    assert picture.source is not None
    assert picture.source.shape == (1, 10, 1024)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "cat.png: is empty"),
        (b"not a picture at all", "cat.png: holds no image that can be read"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 40, "cat.png: "),
        (file_of(np.eye(90, dtype=np.uint8))[:60], "cat.png: "),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "cat.png: holds no image"),
    ],
)
def test_what_is_no_picture_gets_a_line(subject: Subject, content: bytes, said: str) -> None:
    with pytest.raises(DataError, match=said):
        uploaded(content, "cat.png", subject, "u")


def test_too_many_pixels_are_refused_before_they_are_decoded(subject: Subject) -> None:
    bomb = Image.new("1", (MOST_PIXELS // 5000 + 1, 5000))
    kept = io.BytesIO()
    bomb.save(kept, "PNG")
    with pytest.raises(DataError, match="pixels"):
        uploaded(kept.getvalue(), "bomb", subject, "u")


def test_names_of_files_cant_break_the_line(subject: Subject) -> None:
    with pytest.raises(DataError) as caught:
        uploaded(b"x", "a\n\x1b[31m" + "b" * 500, subject, "u")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


# --------------------------------------------------------------------------------------------------------- drawings


def test_a_drawing_has_the_bytes_that_were_drawn() -> None:
    subject = subject_of(nn.Conv2d(1, 2, 3), 1, 28)
    content = bytes(np.random.default_rng(1).integers(0, 256, 28 * 28, dtype=np.uint8))
    picture = drawn(content, 1, 28, 28, subject, "d")
    assert picture.pixels is not None
    assert bytes(picture.pixels.numpy().tobytes()) == content
    colour = drawn(bytes(range(192)), 3, 8, 8, subject_of(nn.Conv2d(3, 1, 3), 3, 8), "d")
    assert colour.pixels is not None
    assert bytes(colour.pixels.numpy().tobytes()) == bytes(range(192))


@pytest.mark.parametrize("sizes", [(1, 28, 27), (2, 28, 28), (1, 0, 28), (1, 1000, 1)])
def test_bad_drawings_get_a_line(subject: Subject, sizes: tuple[int, int, int]) -> None:
    with pytest.raises(DataError, match="drawing: got"):
        drawn(b"\0" * 28 * 28, *sizes, subject, "d")


# ------------------------------------------------------------------------------------------------------------ moves


def test_moves_come_back_from_their_text() -> None:
    for moves in (
        Moves(),
        Moves(turn=-12.5, across=3, down=-2),
        Moves(noise=0.25, seed=7),
        Moves(cover=(1, 2, 3, 4)),
        Moves(90, 1.5, 0, 0.1, 0, (0, 0, 5, 5)),
    ):
        assert Moves.parse(str(moves)) == moves


@pytest.mark.parametrize(
    "text", ["x", "x1e9", "r999", "n3", "z1", "y2x1", "x1" * 80, "c1.2.3", "x\u0661", "c9999.0.1.1", "x1\n"]
)
def test_bad_moves_get_a_line(text: str) -> None:
    with pytest.raises(StudioError):
        Moves.parse(text)


def test_whole_shifts_are_exact_and_black_comes_in() -> None:
    pixels = torch.randint(0, 256, (1, 9, 9), dtype=torch.uint8)
    made = Moves(across=2, down=-3)(pixels)
    assert torch.equal(made[:, :6, 2:], pixels[:, 3:, :7])
    assert not made[:, 6:].any()
    assert not made[:, :, :2].any()
    assert torch.equal(Moves()(pixels), pixels)


def test_turning_covering_and_noise() -> None:
    pixels = torch.randint(0, 256, (3, 8, 8), dtype=torch.uint8)
    turned = Moves(turn=90)(pixels).int()
    assert (turned - torch.rot90(pixels, 1, (1, 2)).int()).abs().max() <= 1
    covered = Moves(cover=(2, 3, 4, 2))(pixels)
    assert not covered[:, 2:6, 3:5].any()
    assert torch.equal(covered[:, :2], pixels[:, :2])
    grey = torch.full((1, 64, 64), 128, dtype=torch.uint8)
    noisy = Moves(noise=0.1)(grey).float() / 255
    assert noisy.std().item() == pytest.approx(0.1, rel=0.1)
    assert torch.equal(Moves(noise=0.1)(grey), Moves(noise=0.1)(grey))
    assert not torch.equal(Moves(noise=0.1)(grey), Moves(noise=0.1, seed=1)(grey))


def test_a_moved_picture_is_found_by_its_id(subject: Subject) -> None:
    pixels = torch.randint(0, 256, (1, 16, 16), dtype=torch.uint8)
    workspace = Workspace(subject, [subject.picture(pixels, "one", id="p0", label=1)])
    found = workspace.picture("p0~x2y1")
    assert found.pixels is not None
    assert torch.equal(found.pixels, Moves(across=2, down=1)(pixels))
    assert (found.id, found.label) == ("p0~x2y1", 1)
    assert workspace.picture("p0~x2y1") is found
    assert [each.id for each in workspace.pictures()] == ["p0"]
    for number in range(40):
        workspace.picture(f"p0~n0.1s{number}")
    assert torch.equal(workspace.picture("p0~x2y1").inputs, found.inputs)
    with pytest.raises(StudioError, match="needed one of the pictures"):
        workspace.picture("p9~x2")
    with pytest.raises(StudioError, match="got the moves"):
        workspace.picture("p0~../../etc/passwd")


def test_inputs_that_are_no_pictures_cant_be_moved() -> None:
    subject = of_module(nn.Linear(3, 2))
    with pytest.raises(StudioError, match="no picture that can be moved"):
        moved(subject.given(torch.rand(1, 3), "numbers", id="p0"), Moves(across=1), subject)


# -------------------------------------------------------------------------------------------------------- following


def test_convolutions_follow_and_pooling_only_by_whole_strides(subject: Subject) -> None:
    torch.manual_seed(1)
    pixels = torch.zeros(1, 16, 16, dtype=torch.uint8)
    pixels[:, 6:10, 6:10] = torch.randint(50, 256, (4, 4))
    picture = subject.picture(pixels, "blob", id="p")
    before = record(subject.model, picture.inputs)
    found = {place.name: place for place in places(before)}
    assert [found[name].strides for name in ("0", "2", "3")] == [(1, 1), (2, 2), (2, 2)]
    errors = {}
    for across in (1, 2):
        moves = Moves(across=across)
        after = record(subject.model, moved(picture, moves, subject).inputs)
        for name in ("0", "2"):
            errors[name, across] = follow(before, after, found[name], moves, (16, 16)).error
    assert errors["0", 1] is not None
    assert errors["0", 1] < 1e-6  # only the border's zeros differ, and the blob is far from them
    assert errors["2", 1] is not None
    assert errors["2", 1] > 1e-2
    assert errors["2", 2] is not None
    assert errors["2", 2] < 1e-6


def test_what_is_compared_are_the_recorded_maps(subject: Subject) -> None:
    picture = subject.picture(torch.randint(0, 256, (1, 16, 16), dtype=torch.uint8), "noise", id="p")
    moves = Moves(across=2, down=-1)
    before, after = (record(subject.model, each.inputs) for each in (picture, moved(picture, moves, subject)))
    place = next(each for each in places(before) if each.name == "3")
    found = follow(before, after, place, moves, (16, 16), most=2)
    maps = before.numbers[place.number][0]
    assert found.channels == tuple(maps.abs().mean((1, 2)).topk(2).indices.sort().values.tolist())
    assert torch.equal(found.before, maps[list(found.channels)])
    assert torch.equal(found.along, shifted(maps[None], (-0.5, 1))[0][list(found.channels)])
    assert torch.equal(found.after, after.numbers[place.number][0][list(found.channels)])


def test_the_likeliest_classes_are_the_softmax_of_the_output(subject: Subject) -> None:
    inputs = torch.rand(1, 1, 16, 16)
    said = likeliest(record(subject.model, inputs), subject.classes)
    shares = subject.model(inputs).softmax(1)[0]
    best = int(shares.argmax())
    assert said[0]["name"] == ("cat", "dog")[best]
    assert said[0]["probability"] == pytest.approx(shares[best].item())
    assert sum(each["probability"] for each in said) == pytest.approx(1)
    assert likeliest(record(nn.Conv2d(1, 1, 3), inputs), ()) == []


# ---------------------------------------------------------------------------------------------------------- gallery


def test_galleries_are_digits_a_runs_data_or_crops(subject: Subject) -> None:
    digits = gallery_of(subject, [])
    assert digits.images.shape == (600, 1, 16, 16)
    assert len(digits.labels) == 600
    assert gallery_of(subject, []) is digits
    colour = subject_of(nn.Conv2d(3, 2, 3), 3, 12)
    pictures = [colour.picture(torch.randint(0, 256, (3, 40, 50), dtype=torch.uint8), "one", id="p0")]
    crops = gallery_of(colour, pictures)
    assert crops.images.shape == (49, 3, 12, 12)
    assert torch.equal(crops.images, gallery_of(colour, pictures).images)
    with pytest.raises(StudioError, match="needed pictures to look through"):
        gallery_of(colour, [])
    with pytest.raises(StudioError, match="takes something else"):
        gallery_of(of_module(nn.Linear(2, 2)), [])


def test_the_code_of_a_moved_picture_makes_its_inputs() -> None:
    subject = find("lenet5")
    picture = pictures_of(subject)[3]
    made = moved(picture, Moves(across=2, turn=10), subject)
    names: dict[str, Any] = {}
    exec(made.code, names)
    assert torch.equal(names["inputs"], made.inputs)
    exec(pixels_code(picture), names)
    assert torch.equal(names["pixels"], picture.pixels)
    exec(preprocessing_code(subject), names)
    assert torch.equal(names["preprocessing"].normalization(names["pixels"][None]), picture.inputs)
    assert "..." in pixels_code(replace(picture, code="inputs = something"))
