from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from striate.data import image_files, load
from striate.data.decoding import Reading
from striate.data.sources import gather
from striate.data.streamed import BrokenImagesError, LabelledImages, Wanted
from striate.errors import DataError


def read(path: Path, channels: int | None = None, part: str = "") -> LabelledImages:
    """The images of a part of a folder, at their own size."""
    return gather(f"folder:{path}", Wanted(Reading(channels=channels))).parts[part]


def draw(path: Path, value: int, size: tuple[int, int] = (4, 5), mode: str = "L") -> Path:
    """An image of one value, as (height, width)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size[::-1], value if mode == "L" else (value,) * len(mode)).save(path)
    return path


def pets(root: Path, count: int = 4) -> Path:
    for index in range(count):
        draw(root / "dog" / f"{index}.png", 100 + index)
        draw(root / "cat" / f"{index}.png", 200 + index)
    return root


def values(images: torch.Tensor) -> list[int]:
    return images[:, 0, 0, 0].tolist()


def test_classes_and_files_are_in_the_order_of_their_names(tmp_path: Path) -> None:
    pets(tmp_path, 12)
    images = read(tmp_path)
    assert images.classes == ("cat", "dog")
    assert images.labels.tolist() == [0] * 12 + [1] * 12
    assert images.images.shape == (24, 1, 4, 5)
    names = sorted(range(12), key=str)
    assert values(images.images) == [200 + name for name in names] + [100 + name for name in names]


def test_loaded_it_is_split(tmp_path: Path) -> None:
    loaded = load(f"folder:{pets(tmp_path)}", test_fraction=0.5, seed=1)
    assert loaded.source == f"folder:{tmp_path}"
    assert loaded.train.labels.tolist() == loaded.test.labels.tolist() == [0, 0, 1, 1]
    assert sorted(values(torch.cat([loaded.train.images, loaded.test.images]))) == [*range(100, 104), *range(200, 204)]


@pytest.mark.parametrize("held_out", ["test", "val"])
def test_train_and_test_folders_are_the_split(held_out: str, tmp_path: Path) -> None:
    pets(tmp_path / "train", 3)
    draw(tmp_path / held_out / "dog" / "a.png", 7)
    draw(tmp_path / held_out / "cat" / "a.png", 8)
    loaded = load(f"folder:{tmp_path}")
    assert (len(loaded.train), len(loaded.test)) == (6, 2)
    assert values(loaded.test.images) == [8, 7]
    assert loaded.test.labels.tolist() == [0, 1]
    assert values(loaded.train.images) == [200, 201, 202, 100, 101, 102]


@pytest.mark.parametrize("names", [("car", "train"), ("test", "val")])
def test_classes_may_be_called_train_or_test(names: tuple[str, ...], tmp_path: Path) -> None:
    for name in names:
        draw(tmp_path / name / "a.png", 1)
    assert read(tmp_path).classes == names


def test_what_is_hidden_or_no_image_is_left_out(tmp_path: Path) -> None:
    pets(tmp_path)
    draw(tmp_path / ".ipynb_checkpoints" / "a.png", 1)
    draw(tmp_path / "loose.png", 1)
    (tmp_path / "cat" / ".hidden.png").write_bytes(b"")
    (tmp_path / "cat" / "notes.txt").write_text("")
    images = read(tmp_path)
    assert images.classes == ("cat", "dog")
    assert len(images) == 8


@pytest.mark.parametrize(
    "name", ["a.PNG", "a.jpg", "a.JPEG", "a.bmp", "a.webp", "a.gif", "a.TIF", "a.tiff", "a.jfif", "a.jpe"]
)
def test_suffixes(name: str, tmp_path: Path) -> None:
    draw(pets(tmp_path) / "dog" / name, 60)
    images = read(tmp_path, channels=1)
    assert len(images) == 9
    assert abs(values(images.images)[8] - 60) <= 1


class TestChannels:
    def test_one_colour_file_makes_all_colour(self, tmp_path: Path) -> None:
        draw(pets(tmp_path) / "dog" / "9.png", 50, mode="RGB")
        images = read(tmp_path)
        assert images.channels == 3
        assert images.images[:, :, 0, 0].tolist() == [[value] * 3 for value in (*range(200, 204), *range(100, 104), 50)]

    def test_also_when_it_is_in_the_test_set(self, tmp_path: Path) -> None:
        pets(tmp_path / "train")
        draw(pets(tmp_path / "test") / "dog" / "9.png", 50, mode="RGB")
        loaded = load(f"folder:{tmp_path}")
        assert (loaded.train.channels, loaded.test.channels) == (3, 3)

    @pytest.mark.parametrize("channels", [1, 3])
    def test_as_asked_for(self, channels: int, tmp_path: Path) -> None:
        draw(pets(tmp_path) / "dog" / "9.png", 50, mode="RGB")
        images = read(tmp_path, channels=channels)
        assert images.channels == channels
        assert values(images.images)[-1] == 50


class TestImageSize:
    def test_different_sizes_need_one(self, tmp_path: Path) -> None:
        draw(pets(tmp_path) / "dog" / "9.png", 50, size=(9, 4))
        message = "^dog/9.png: an image of 9x4, where cat/0.png has 4x5; needed one size; give an image size"
        with pytest.raises(DataError, match=message):
            load(f"folder:{tmp_path}")

    def test_all_are_brought_to_the_one_asked_for(self, tmp_path: Path) -> None:
        draw(pets(tmp_path) / "dog" / "9.png", 50, size=(9, 4))
        loaded = load(f"folder:{tmp_path}", image_size=(8, 8))
        assert loaded.train.image_size == loaded.test.image_size == (8, 8)


class TestRefuses:
    def test_no_folder(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=f"^{tmp_path / 'none'}: No such file or directory; needed a folder"):
            load(f"folder:{tmp_path / 'none'}")
        file = draw(tmp_path / "a.png", 1)
        with pytest.raises(DataError, match=f"^{file}: Not a directory"):
            load(f"folder:{file}")

    def test_no_classes_or_one(self, tmp_path: Path) -> None:
        draw(tmp_path / "loose.png", 1)
        with pytest.raises(DataError, match=f"^{tmp_path}: no class folders; needed at least two"):
            load(f"folder:{tmp_path}")
        draw(tmp_path / "cat" / "a.png", 1)
        with pytest.raises(DataError, match="one class only, cat; needed at least two"):
            load(f"folder:{tmp_path}")

    @pytest.mark.parametrize("file", [".hidden.png", "notes.txt", "a.psd", None])
    def test_a_class_without_images(self, file: str | None, tmp_path: Path) -> None:
        (pets(tmp_path) / "emu").mkdir()
        if file:
            (tmp_path / "emu" / file).touch()
        with pytest.raises(
            DataError, match=f"^{tmp_path / 'emu'}: no images in this class folder.*; needed .*.png, .jpg"
        ):
            load(f"folder:{tmp_path}")

    def test_train_and_test_of_different_classes(self, tmp_path: Path) -> None:
        pets(tmp_path / "train")
        draw(pets(tmp_path / "test") / "emu" / "a.png", 1)
        with pytest.raises(
            DataError, match=f"^{tmp_path}: class emu is in test, not in train; needed the classes of train"
        ):
            load(f"folder:{tmp_path}")

    @pytest.mark.parametrize("content", [b"", b"text", "cut"])
    def test_an_image_that_is_none(self, content: bytes | str, tmp_path: Path) -> None:
        buffer = io.BytesIO()
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (4, 5), dtype=np.uint8)).save(buffer, "PNG")
        (pets(tmp_path) / "cat" / "2.png").write_bytes(buffer.getvalue()[:60] if content == "cut" else content)
        (tmp_path / "dog" / "1.png").write_bytes(b"")
        with pytest.raises(
            BrokenImagesError, match=r"^2 of 8 images: can't be read: cat/2.png: .* \| dog/1.png: "
        ) as caught:
            load(f"folder:{tmp_path}")
        assert [line.partition(":")[0] for line in caught.value.files] == ["cat/2.png", "dog/1.png"]
        assert "--skip-broken" in str(caught.value)
        loaded = load(f"folder:{tmp_path}", skip_broken=True, test_fraction=0.5)
        assert (len(loaded.train), len(loaded.test)) == (2, 4)
        assert [name for name, _ in loaded.skipped] == ["cat/2.png", "dog/1.png"]

    def test_of_many_broken_files_an_error_says_how_many(self, tmp_path: Path) -> None:
        for index in range(30):
            (pets(tmp_path) / "cat" / f"b{index:02}.png").write_bytes(b"")
        with pytest.raises(BrokenImagesError, match=r"30 of 38 images: .*b09.png: .* and 20 more;") as caught:
            load(f"folder:{tmp_path}")
        assert len(caught.value.files) == 30
        assert "\n" not in str(caught.value)

    def test_nothing_but_broken_files(self, tmp_path: Path) -> None:
        for name in ("cat", "dog"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "a.png").write_bytes(b"text")
        with pytest.raises(BrokenImagesError, match="2 of 2 images"):
            load(f"folder:{tmp_path}", skip_broken=True)

    def test_a_link_to_nowhere(self, tmp_path: Path) -> None:
        link = pets(tmp_path) / "cat" / "2a.png"
        link.symlink_to(tmp_path / "gone.png")
        with pytest.raises(DataError, match=r"cat/2a\.png: No such file"):
            load(f"folder:{tmp_path}")

    def test_a_link_to_a_folder_that_it_lies_in(self, tmp_path: Path) -> None:
        (pets(tmp_path) / "cat" / "again").symlink_to(tmp_path / "cat")
        loaded = load(f"folder:{tmp_path}")
        assert len(loaded.train) + len(loaded.test) == 8
        assert loaded.skipped == (("cat/again", "a link to a folder that it lies in"),)


class TestLayouts:
    """Parts are taken as what they are called, and told."""

    @pytest.mark.parametrize("train", ["train", "Train", "training"])
    @pytest.mark.parametrize("val", ["val", "valid", "validation"])
    @pytest.mark.parametrize("test", ["test", "testing"])
    def test_three_parts(self, train: str, val: str, test: str, tmp_path: Path) -> None:
        for count, side in ((4, train), (3, val), (2, test)):
            pets(tmp_path / side, count)
        loaded = load(f"folder:{tmp_path}")
        assert loaded.val is not None
        assert [len(each) for each in (loaded.train, loaded.val, loaded.test)] == [8, 6, 4]
        assert f"uses {train}/ for training, {val}/ for validation, {test}/ for testing" in loaded.notes
        assert loaded.train.known[0].name == f"{train}/cat/0.png"

    def test_folders_in_a_class_belong_to_it(self, tmp_path: Path) -> None:
        draw(pets(tmp_path) / "cat" / "indoors" / "sofa" / "a.png", 1)
        images = read(tmp_path)
        assert images.labels.tolist() == [0] * 5 + [1] * 4
        assert images.known[4].name == "cat/indoors/sofa/a.png"

    def test_what_lies_beside_the_parts_is_left_out_and_told(self, tmp_path: Path) -> None:
        for side in ("train", "test"):
            pets(tmp_path / side)
        pets(tmp_path / "unlabelled")
        loaded = load(f"folder:{tmp_path}")
        assert (len(loaded.train), len(loaded.test), loaded.val) == (8, 8, None)
        assert ("unlabelled", "a folder beside test, train") in loaded.skipped

    def test_a_held_out_part_may_lack_a_class(self, tmp_path: Path) -> None:
        pets(tmp_path / "train")
        draw(tmp_path / "test" / "dog" / "a.png", 7)
        loaded = load(f"folder:{tmp_path}")
        assert loaded.test.classes == ("cat", "dog")
        assert loaded.test.labels.tolist() == [1]

    def test_a_class_may_be_called_test_and_have_folders(self, tmp_path: Path) -> None:
        draw(tmp_path / "test" / "old" / "a.png", 1)
        draw(tmp_path / "beans" / "a.png", 1)
        assert read(tmp_path).classes == ("beans", "test")

    def test_two_folders_for_one_part(self, tmp_path: Path) -> None:
        for side in ("train", "val", "valid"):
            pets(tmp_path / side)
        with pytest.raises(DataError, match="got val and valid, both for val"):
            load(f"folder:{tmp_path}")

    def test_nothing_to_learn_from(self, tmp_path: Path) -> None:
        pets(tmp_path / "test")
        with pytest.raises(DataError, match="has test, no train; needed images to learn from"):
            load(f"folder:{tmp_path}")


class TestSkipped:
    def test_every_file_that_is_no_image_is_told_with_the_reason(self, tmp_path: Path) -> None:
        pets(tmp_path)
        for name in ("notes.txt", "film.mp4", "README", "Thumbs.db"):
            (tmp_path / "cat" / name).write_bytes(b"")
        draw(tmp_path / "loose.png", 1)
        assert load(f"folder:{tmp_path}").skipped == (
            ("loose.png", "beside the class folders, not in one"),
            ("cat/README", "no image file (a name without a suffix)"),
            ("cat/film.mp4", "no image file (.mp4)"),
            ("cat/notes.txt", "no image file (.txt)"),
        )

    def test_names_that_are_not_utf_8(self, tmp_path: Path) -> None:
        pets(tmp_path)
        odd = tmp_path / os.fsdecode(b"caf\xe9")
        draw(odd / "a.png", 1)
        (odd / os.fsdecode(b"b\xff.txt")).write_bytes(b"")
        loaded = load(f"folder:{tmp_path}", test_fraction=0.5) if (draw(odd / "c.png", 2)) else None
        assert loaded is not None
        assert loaded.train.classes == ("caf\\xe9", "cat", "dog")
        assert loaded.skipped == (("caf\\xe9/b\\xff.txt", "no image file (.txt)"),)
        "".join((*loaded.train.classes, *(each.name for each in loaded.train.known))).encode()

    def test_what_systems_and_runs_leave_in_a_folder(self, tmp_path: Path) -> None:
        pets(tmp_path)
        (tmp_path / "__MACOSX" / "cat").mkdir(parents=True)
        os.mkfifo(tmp_path / "cat" / "pipe.png")
        for name in ("settings.json", "images.csv"):
            (tmp_path / "run").mkdir(exist_ok=True)
            (tmp_path / "run" / name).write_text("")
        draw(tmp_path / "run" / "confusion.png", 1)
        loaded = load(f"folder:{tmp_path}")
        assert loaded.train.classes == ("cat", "dog")
        assert set(loaded.skipped) == {("run", "the folder of a run"), ("cat/pipe.png", "no regular file")}


class TestImageFiles:
    def test_folders_are_searched_and_files_taken_as_they_are(self, tmp_path: Path) -> None:
        pets(tmp_path, 1)
        (tmp_path / "cat" / "notes.txt").write_text("")
        files, skipped = image_files([tmp_path, tmp_path / "cat" / "notes.txt"])
        assert files == [tmp_path / "cat" / "0.png", tmp_path / "dog" / "0.png", tmp_path / "cat" / "notes.txt"]
        assert skipped == [("cat/notes.txt", "no image file (.txt)")]

    @pytest.mark.parametrize("url", ["https://example.org/cat.jpg", "http://x/y", "s3://bucket/key", "file:///a.png"])
    def test_a_url_is_refused_by_that_name(self, url: str) -> None:
        with pytest.raises(DataError, match=r"is a URL; .*download it first"):
            image_files([url])

    def test_a_folder_without_images(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="no images in this folder"):
            image_files([tmp_path])


class TestProgress:
    def test_none_without_a_terminal(self, tmp_path: Path, monkeypatch, capfd: pytest.CaptureFixture[str]) -> None:
        monkeypatch.setattr("striate.data.progress._PATIENCE", 0.0)
        read(pets(tmp_path))
        assert capfd.readouterr() == ("", "")

    @pytest.mark.parametrize(("patience", "shown"), [(0.0, True), (60.0, False)])
    def test_on_a_terminal_when_it_takes_long(
        self, patience: float, shown: bool, tmp_path: Path, monkeypatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr("striate.data.progress._PATIENCE", patience)
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
        monkeypatch.setenv("TERM", "xterm")
        assert len(read(pets(tmp_path))) == 8
        out, err = capfd.readouterr()
        assert out == ""
        assert ("reading images" in err) == shown
        assert bool(err) == shown
