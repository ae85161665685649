from __future__ import annotations

import gzip
import struct
from pathlib import Path

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from striate.data import load, read_idx
from striate.errors import DataError


def idx_bytes(array: np.ndarray, *, sizes: tuple[int, ...] | None = None, kind: int = 8) -> bytes:
    sizes = array.shape if sizes is None else sizes
    return bytes([0, 0, kind, len(sizes)]) + struct.pack(f">{len(sizes)}I", *sizes) + array.astype(np.uint8).tobytes()


def write_idx(path: Path, array: np.ndarray) -> Path:
    content = idx_bytes(array)
    path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)
    return path


IMAGES = np.arange(12 * 4 * 5, dtype=np.uint8).reshape(12, 4, 5)
LABELS = np.array([0, 1, 2] * 4)


def write_set(folder: Path, names: str = "{}-{}-idx{}-ubyte.gz", sides: tuple[str, ...] = ("train", "t10k")) -> None:
    folder.mkdir(exist_ok=True)
    for side in sides:
        write_idx(folder / names.format(side, "images", 3), IMAGES)
        write_idx(folder / names.format(side, "labels", 1), LABELS)


@given(
    array=arrays.arrays(np.uint8, arrays.array_shapes(min_dims=1, max_dims=5, max_side=4)),
    zipped=st.booleans(),
)
def test_reads_back_what_was_written(array: np.ndarray, zipped: bool, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = write_idx(tmp_path_factory.mktemp("idx") / ("some.gz" if zipped else "some"), array)
    tensor = read_idx(path)
    assert tensor.dtype == torch.uint8
    assert tensor.shape == array.shape
    assert np.array_equal(tensor.numpy(), array)


@given(cut=st.integers(0, 23 + 4 + 12))
def test_no_part_of_a_file_is_taken_for_the_whole(cut: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    content = idx_bytes(np.arange(24).reshape(2, 3, 4))
    path = tmp_path_factory.mktemp("idx") / "cut"
    path.write_bytes(content[:cut])
    with pytest.raises(DataError, match=f"{path}: .*needed|{path}: ends within its header"):
        read_idx(path)
    path.write_bytes(gzip.compress(content, mtime=0)[:cut])
    with pytest.raises(DataError, match=str(path)):
        read_idx(path)


def test_a_result_can_be_written_to_without_a_warning(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    tensor = read_idx(write_idx(tmp_path / "some", LABELS))
    tensor += 1
    assert tensor.tolist() == (LABELS + 1).tolist()
    assert not recwarn.list


@pytest.mark.parametrize("shape", [(3,), (1,) * 255, (1 << 20, 2)], ids=["1 axis", "255 axes", "2 MiB"])
def test_any_number_of_axes_and_more_than_one_chunk(shape: tuple[int, ...], tmp_path: Path) -> None:
    array = np.arange(np.prod(shape)).astype(np.uint8)
    path = tmp_path / "some"
    path.write_bytes(idx_bytes(array, sizes=shape))
    assert read_idx(path).shape == shape
    assert np.array_equal(read_idx(path).flatten().numpy(), array)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "starts with nothing"),
        (b"<html>not found</html>", "starts with 3c 68 74 6d; needed 00 00 08"),
        (idx_bytes(LABELS, kind=0x0D), "starts with 00 00 0d 01"),
        (bytes([0, 0, 8, 0]), "starts with 00 00 08 00"),
        (bytes([0, 0, 8, 3, 0, 0, 0, 1]), "ends within its header of 3 sizes"),
        (idx_bytes(LABELS)[:-1], r"got 11 bytes after the header; needed 12 \(12\); fetch it again"),
        (idx_bytes(LABELS) + b"\0", "got more bytes after the header; needed 12"),
        (idx_bytes(LABELS, sizes=(0, 2**32 - 1, 2**32 - 1)), "holds no elements: its sizes are 0x4294967295x42949"),
        (gzip.compress(idx_bytes(IMAGES), mtime=0)[:-1], "damaged gzip file"),
        (gzip.compress(idx_bytes(IMAGES), mtime=0)[:-9], "damaged gzip file"),
        (gzip.compress(idx_bytes(IMAGES), mtime=0)[:-8] + bytes(8), "damaged gzip file: CRC check failed"),
        (gzip.compress(idx_bytes(IMAGES), mtime=0)[:10] + b"\xff" * 50, "damaged gzip file: .*invalid block type"),
        (gzip.compress(idx_bytes(IMAGES), mtime=0) + b"tail", "damaged gzip file: Not a gzipped file"),
        (gzip.compress(b"", mtime=0), "starts with nothing"),
        (gzip.compress(idx_bytes(LABELS) + b"\0", mtime=0), "got more bytes after the header"),
    ],
)
def test_a_damaged_or_foreign_file(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "train-labels-idx1-ubyte"
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"^{path}: {message}") as caught:
        read_idx(path)
    assert "\n" not in str(caught.value)


def test_one_byte_too_many_after_whole_chunks(tmp_path: Path) -> None:
    path = tmp_path / "some"
    path.write_bytes(idx_bytes(np.zeros(1 << 20)) + b"\0")
    with pytest.raises(DataError, match="got more bytes after the header; needed 1048576"):
        read_idx(path)


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_sizes_alone_take_no_memory(compress, tmp_path: Path) -> None:
    path = tmp_path / "some"
    path.write_bytes(compress(idx_bytes(LABELS, sizes=(2**32 - 1,) * 40)))
    with pytest.raises(DataError, match="got 12 bytes after the header"):
        read_idx(path)


def test_no_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"^{tmp_path / 'none'}: No such file or directory; needed an IDX file"):
        read_idx(tmp_path / "none")
    with pytest.raises(DataError, match=f"^{tmp_path}: Is a directory"):
        read_idx(tmp_path)


@pytest.mark.parametrize(
    "names",
    [
        "{}-{}-idx{}-ubyte.gz",
        "{}-{}-idx{}-ubyte",
        "{}-{}.idx{}-ubyte",
        "emnist-letters-{}-{}-idx{}-ubyte.gz",
    ],
)
@pytest.mark.parametrize("test", ["t10k", "test"])
def test_finds_the_files_by_their_published_names(names: str, test: str, tmp_path: Path) -> None:
    write_set(tmp_path, names, ("train", test))
    (tmp_path / "README").write_text("something else")
    loaded = load(f"idx:{tmp_path}")
    assert loaded.source == f"idx:{tmp_path}"
    for side in (loaded.train, loaded.test):
        assert np.array_equal(side.images.numpy()[:, 0], IMAGES)
        assert side.labels.tolist() == LABELS.tolist()
        assert side.classes == ("0", "1", "2")


def test_a_file_with_its_gzipped_twin_is_read_plain(tmp_path: Path) -> None:
    write_set(tmp_path, "{}-{}-idx{}-ubyte")
    for file in list(tmp_path.iterdir()):
        file.with_name(file.name + ".gz").write_bytes(b"never read")
    assert len(load(f"idx:{tmp_path}").train) == 12


def test_training_files_alone_are_split(tmp_path: Path) -> None:
    write_set(tmp_path, sides=("train",))
    loaded = load(f"idx:{tmp_path}", test_fraction=0.25)
    assert sorted(loaded.test.labels.tolist()) == [0, 1, 2]
    assert len(loaded.train) == 9


@pytest.mark.parametrize(
    ("sets", "both"),
    [
        (
            [
                ("emnist-letters-{}-{}-idx{}-ubyte", ("train", "test")),
                ("emnist-digits-{}-{}-idx{}-ubyte", ("train", "test")),
            ],
            "emnist-digits-test-images-idx3-ubyte and emnist-letters-test-images-idx3-ubyte",
        ),
        (
            [("emnist-letters-{}-{}-idx{}-ubyte", ("train",)), ("emnist-digits-{}-{}-idx{}-ubyte", ("test",))],
            "emnist-digits-test-images-idx3-ubyte and emnist-letters-train-images-idx3-ubyte",
        ),
        (
            [("{}-{}-idx{}-ubyte", ("train", "t10k", "test"))],
            "t10k-images-idx3-ubyte and test-images-idx3-ubyte",
        ),
    ],
    ids=["two whole sets", "two halves", "two test sets"],
)
def test_two_sets_in_a_folder(sets: list[tuple[str, tuple[str, ...]]], both: str, tmp_path: Path) -> None:
    for names, sides in sets:
        write_set(tmp_path, names, sides)
    with pytest.raises(
        DataError, match=f"^{tmp_path}: {both} are of different sets; needed the files of one; put each"
    ):
        load(f"idx:{tmp_path}")


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("train-images-idx3-ubyte.gz", "no train images: looked for train-images-idx3-ubyte"),
        ("train-labels-idx1-ubyte.gz", "no train labels: looked for train-labels-idx1-ubyte"),
        ("t10k-labels-idx1-ubyte.gz", "no test labels: looked for t10k-labels-idx1-ubyte.* or test-labels-idx1-ubyte"),
        ("t10k-images-idx3-ubyte.gz", "no test images"),
    ],
)
def test_a_missing_file_is_named_with_what_lies_there(missing: str, message: str, tmp_path: Path) -> None:
    write_set(tmp_path)
    (tmp_path / missing).rename(tmp_path / "other.gz")
    with pytest.raises(DataError, match=f"^{tmp_path}: {message}.*the folder holds other.gz, t"):
        load(f"idx:{tmp_path}")


def test_a_folder_that_is_empty_or_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"^{tmp_path}: no train images.*the folder holds nothing"):
        load(f"idx:{tmp_path}")
    with pytest.raises(DataError, match="No such file or directory; needed a folder of IDX files"):
        load(f"idx:{tmp_path / 'none'}")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="Not a directory"):
        load(f"idx:{tmp_path / 'file'}")


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("train-labels-idx1", LABELS[:-1], "train-images-idx3-ubyte.gz: got 12 images, but 11 labels in train-labels"),
        ("t10k-images-idx3", IMAGES[1:], "t10k-images-idx3-ubyte.gz: got 11 images, but 12 labels"),
        ("t10k-labels-idx1", np.where(np.arange(12) == 7, 3, LABELS), "got label 3 at index 7; needed .* 0 to 2"),
        ("train-images-idx3", IMAGES[:, 0], r"train-images-idx3-ubyte.gz: got 2 dimensions \(12x5\); needed 3"),
        ("t10k-images-idx3", IMAGES[..., None], r"got 4 dimensions \(12x4x5x1\); needed 3"),
        ("train-labels-idx1", IMAGES, "train-labels-idx1-ubyte.gz: got 3 dimensions .*; needed 1"),
        ("t10k-images-idx3", IMAGES[:, 1:], r"image size \(4, 5\) in train, \(3, 5\) in test"),
    ],
)
def test_files_that_do_not_belong_together(name: str, array: np.ndarray, message: str, tmp_path: Path) -> None:
    write_set(tmp_path)
    write_idx(tmp_path / f"{name}-ubyte.gz", array)
    with pytest.raises(DataError, match=message):
        load(f"idx:{tmp_path}")


def test_labels_up_to_the_largest_byte(tmp_path: Path) -> None:
    every = np.arange(256, dtype=np.uint8)
    for side in ("train", "t10k"):
        write_idx(tmp_path / f"{side}-images-idx3-ubyte.gz", np.zeros((256, 2, 2), dtype=np.uint8))
        write_idx(tmp_path / f"{side}-labels-idx1-ubyte.gz", every)
    assert len(load(f"idx:{tmp_path}").train.classes) == 256


def test_labels_may_start_at_one_but_none_may_lie_far_above_the_rest(tmp_path: Path) -> None:
    write_set(tmp_path)
    write_idx(tmp_path / "train-labels-idx1-ubyte.gz", LABELS + 1)
    assert load(f"idx:{tmp_path}").train.classes == ("0", "1", "2", "3")
    write_idx(tmp_path / "train-labels-idx1-ubyte.gz", np.where(np.arange(12) == 7, 99, LABELS))
    with pytest.raises(DataError, match="got label 99 at index 7, where only 4 labels are in use"):
        load(f"idx:{tmp_path}")


def test_a_test_set_may_lack_classes(tmp_path: Path) -> None:
    write_set(tmp_path)
    write_idx(tmp_path / "t10k-labels-idx1-ubyte.gz", LABELS * 0)
    assert load(f"idx:{tmp_path}").test.classes == ("0", "1", "2")


def test_fitting_comes_after_reading(tmp_path: Path) -> None:
    write_set(tmp_path)
    loaded = load(f"idx:{tmp_path}", image_size=(6, 7), channels=3)
    assert loaded.train.images.shape == loaded.test.images.shape == (12, 3, 6, 7)
    assert np.array_equal(loaded.test.images[:, 2, 1:5, 1:6].numpy(), IMAGES)
