from __future__ import annotations

import io
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from striate.data import load
from striate.data.folder import read_class_folder
from striate.data.streamed import Wanted
from striate.errors import DataError


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
    images, test = read_class_folder(tmp_path)
    assert test is None
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
    assert read_class_folder(tmp_path)[0].classes == names


def test_what_is_hidden_or_no_image_is_left_out(tmp_path: Path) -> None:
    pets(tmp_path)
    draw(tmp_path / ".ipynb_checkpoints" / "a.png", 1)
    draw(tmp_path / "loose.png", 1)
    (tmp_path / "cat" / ".hidden.png").write_bytes(b"")
    (tmp_path / "cat" / "notes.txt").write_text("")
    images, _ = read_class_folder(tmp_path)
    assert images.classes == ("cat", "dog")
    assert len(images) == 8


@pytest.mark.parametrize("name", ["a.PNG", "a.jpg", "a.JPEG", "a.bmp", "a.webp"])
def test_suffixes(name: str, tmp_path: Path) -> None:
    draw(pets(tmp_path) / "dog" / name, 60)
    images, _ = read_class_folder(tmp_path, Wanted(channels=1))
    assert len(images) == 9
    assert abs(values(images.images)[8] - 60) <= 1


class TestChannels:
    def test_one_colour_file_makes_all_colour(self, tmp_path: Path) -> None:
        draw(pets(tmp_path) / "dog" / "9.png", 50, mode="RGB")
        images, _ = read_class_folder(tmp_path)
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
        images, _ = read_class_folder(tmp_path, Wanted(channels=channels))
        assert images.channels == channels
        assert values(images.images)[-1] == 50


class TestImageSize:
    def test_different_sizes_need_one(self, tmp_path: Path) -> None:
        odd = draw(pets(tmp_path) / "dog" / "9.png", 50, size=(9, 4))
        message = (
            f"^{odd}: an image of 9x4, where {tmp_path / 'cat' / '0.png'} has 4x5; needed one size; give an image size"
        )
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
        with pytest.raises(DataError, match=f"^{tmp_path}: one class folder, cat; needed at least two"):
            load(f"folder:{tmp_path}")

    @pytest.mark.parametrize("file", [".hidden.png", "notes.txt", "a.gif", None])
    def test_a_class_without_images(self, file: str | None, tmp_path: Path) -> None:
        (pets(tmp_path) / "emu").mkdir()
        if file:
            (tmp_path / "emu" / file).touch()
        with pytest.raises(
            DataError, match=f"^{tmp_path / 'emu'}: no images in this class folder; needed .* .png, .jpg"
        ):
            load(f"folder:{tmp_path}")

    def test_folders_in_a_class(self, tmp_path: Path) -> None:
        draw(pets(tmp_path) / "cat" / "indoors" / "a.png", 1)
        with pytest.raises(DataError, match=f"^{tmp_path / 'cat'}: folder indoors in a class folder"):
            load(f"folder:{tmp_path}")

    def test_train_and_test_of_different_classes(self, tmp_path: Path) -> None:
        pets(tmp_path / "train")
        draw(pets(tmp_path / "test") / "emu" / "a.png", 1)
        with pytest.raises(
            DataError, match=f"^{tmp_path}: class emu is in test, not in train; needed the same classes"
        ):
            load(f"folder:{tmp_path}")
        draw(tmp_path / "train" / "emu" / "a.png", 1)
        draw(tmp_path / "train" / "ant" / "a.png", 1)
        with pytest.raises(DataError, match=f"^{tmp_path}: class ant is in train, not in test"):
            load(f"folder:{tmp_path}")

    def test_train_and_test_and_more(self, tmp_path: Path) -> None:
        for side in ("test", "train", "val"):
            pets(tmp_path / side)
        with pytest.raises(DataError, match=f"^{tmp_path}: got the folders test, train, val; needed train and one of"):
            load(f"folder:{tmp_path}")

    @pytest.mark.parametrize("content", [b"", b"text", "cut"])
    def test_an_image_that_is_none(self, content: bytes | str, tmp_path: Path) -> None:
        buffer = io.BytesIO()
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (4, 5), dtype=np.uint8)).save(buffer, "PNG")
        broken = pets(tmp_path) / "cat" / "2.png"
        broken.write_bytes(buffer.getvalue()[:60] if content == "cut" else content)
        (tmp_path / "dog" / "1.png").write_bytes(b"")  # the first in order is named, whichever thread is faster
        with pytest.raises(DataError, match=f"^{broken}: "):
            load(f"folder:{tmp_path}")

    @pytest.mark.parametrize("spoilt", ["size", "file"])
    def test_an_error_does_not_wait_for_what_is_left(self, spoilt: str, tmp_path: Path, monkeypatch) -> None:
        pets(tmp_path, 400)
        decoded = []

        def slow(path: Path, **options: object) -> torch.Tensor:
            decoded.append(path)
            time.sleep(0.002)
            if path.name == "1.png" and spoilt == "file":
                raise DataError(str(path), "spoilt")
            return torch.zeros(1, 4, 5 if path.name == "0.png" else 6, dtype=torch.uint8)

        monkeypatch.setattr("striate.data.streamed.load_image", slow)
        with pytest.raises(DataError, match=r"cat/1\.png"):
            read_class_folder(tmp_path)
        assert len(decoded) < 600

    def test_a_link_to_nowhere(self, tmp_path: Path) -> None:
        link = pets(tmp_path) / "cat" / "2a.png"
        link.symlink_to(tmp_path / "gone.png")
        with pytest.raises(DataError, match=f"^{link}: No such file"):
            load(f"folder:{tmp_path}")


class TestProgress:
    def test_none_without_a_terminal(self, tmp_path: Path, monkeypatch, capfd: pytest.CaptureFixture[str]) -> None:
        monkeypatch.setattr("striate.data.progress._PATIENCE", 0.0)
        read_class_folder(pets(tmp_path))
        assert capfd.readouterr() == ("", "")

    @pytest.mark.parametrize(("patience", "shown"), [(0.0, True), (60.0, False)])
    def test_on_a_terminal_when_it_takes_long(
        self, patience: float, shown: bool, tmp_path: Path, monkeypatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr("striate.data.progress._PATIENCE", patience)
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("TERM", "xterm")
        assert len(read_class_folder(pets(tmp_path))[0]) == 8
        out, err = capfd.readouterr()
        assert out == ""
        assert ("decoding images" in err) == shown
        assert bool(err) == shown
