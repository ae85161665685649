"""CIFAR in all its forms, small; and pickles that are programs."""

from __future__ import annotations

import contextlib
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from striate.data import load
from striate.errors import DataError

NAMES = [f"class {n}".replace(" ", "_") for n in range(10)]


def rows(count: int, seed: int) -> tuple[np.ndarray, list[int]]:
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (count, 3072), dtype=np.uint8), random.integers(0, 10, count).tolist()


def python10(folder: Path, keys: type = str, protocol: int = 2) -> None:
    def key(word: str) -> object:
        return word.encode() if keys is bytes else word

    for seed, name in enumerate([f"data_batch_{n}" for n in range(1, 6)] + ["test_batch"]):
        pixels, labels = rows(4, seed)
        content = {key("data"): pixels, key("labels"): labels, key("batch_label"): b"some"}
        (folder / name).write_bytes(pickle.dumps(content, protocol))
    (folder / "batches.meta").write_bytes(pickle.dumps({key("label_names"): NAMES, key("num_vis"): 3072}, protocol))


def python100(folder: Path) -> None:
    for seed, name in enumerate(("train", "test")):
        pixels, labels = rows(4, seed)
        content = {"data": pixels, "fine_labels": labels, "coarse_labels": [0] * 4, "filenames": ["a.png"] * 4}
        (folder / name).write_bytes(pickle.dumps(content, 2))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": NAMES, "coarse_label_names": ["x"]}, 2))


def binary(folder: Path, train: list[str], test: str, names: str, lead: bytes) -> None:
    for seed, name in enumerate([*train, test]):
        pixels, labels = rows(4, seed)
        (folder / name).write_bytes(
            b"".join(lead + bytes([k]) + p.tobytes() for p, k in zip(pixels, labels, strict=True))
        )
    (folder / names).write_text("\n".join(NAMES) + "\n\n")


def binary10(folder: Path) -> None:
    binary(folder, [f"data_batch_{n}.bin" for n in range(1, 6)], "test_batch.bin", "batches.meta.txt", b"")


def binary100(folder: Path) -> None:
    binary(folder, ["train.bin"], "test.bin", "fine_label_names.txt", b"\x07")


@pytest.mark.parametrize(
    ("write", "parts"),
    [(python10, 5), (lambda f: python10(f, bytes, 0), 5), (python100, 1), (binary10, 5), (binary100, 1)],
)
@pytest.mark.parametrize("inner", ["", "cifar-x"])
def test_every_form_is_read(write, parts: int, inner: str, tmp_path: Path) -> None:
    (tmp_path / inner).mkdir(exist_ok=True)
    write(tmp_path / inner)
    found = load(f"cifar:{tmp_path}")
    assert found.train.classes == tuple(NAMES)
    for images, seeds in ((found.train, range(parts)), (found.test, [parts])):
        expected = [rows(4, seed) for seed in seeds]
        pixels = torch.from_numpy(np.concatenate([pixels for pixels, _ in expected])).view(-1, 3, 32, 32)
        assert torch.equal(images.images, pixels)
        assert images.labels.tolist() == [label for _, labels in expected for label in labels]


class Program:
    def __init__(self, *call: object) -> None:
        self.call = call

    def __reduce__(self) -> tuple[object, ...]:
        return self.call[0], tuple(self.call[1:])


def test_a_pickle_is_not_executed(tmp_path: Path) -> None:
    python10(tmp_path)
    mark = tmp_path / "executed"
    for call in ((os.system, f"touch {mark}"), (eval, f"open({str(mark)!r}, 'w')"), (getattr, "a", "join")):
        (tmp_path / "test_batch").write_bytes(pickle.dumps({"data": Program(*call), "labels": []}))
        with pytest.raises(DataError, match=r"test_batch: can't be read as a pickle of arrays \(it wants .*\); needed"):
            load(f"cifar:{tmp_path}")
    assert not mark.exists()


@pytest.mark.parametrize("content", [b"", b"\x80\x04", b"words", pickle.dumps([1, 2]), pickle.dumps({"data": "no"})])
def test_damaged_pickles(content: bytes, tmp_path: Path) -> None:
    python10(tmp_path)
    (tmp_path / "data_batch_3").write_bytes(content)
    with pytest.raises(DataError, match="data_batch_3: ") as caught:
        load(f"cifar:{tmp_path}")
    assert "\n" not in str(caught.value)


def test_a_pickle_cut_or_changed_anywhere(tmp_path: Path) -> None:
    """It gives an error of ours or other numbers, never another exception."""
    python10(tmp_path)
    path = tmp_path / "data_batch_1"
    whole = path.read_bytes()
    random = np.random.default_rng(0)
    for _ in range(300):
        changed = bytearray(whole)
        changed[random.integers(160)] = random.integers(256)
        path.write_bytes(changed[: random.integers(1, len(changed))] if random.random() < 0.3 else changed)
        with contextlib.suppress(DataError):
            load(f"cifar:{tmp_path}")


def test_wrong_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no files of CIFAR-10 or CIFAR-100; needed data_batch_1"):
        load(f"cifar:{tmp_path}")
    binary10(tmp_path)
    (tmp_path / "data_batch_2.bin").unlink()
    with pytest.raises(DataError, match=r"no data_batch_2\.bin; needed all files"):
        load(f"cifar:{tmp_path}")
    (tmp_path / "data_batch_2.bin").write_bytes(b"\0" * 3000)
    with pytest.raises(DataError, match=r"data_batch_2\.bin: 3,000 bytes; needed records of 3073 bytes"):
        load(f"cifar:{tmp_path}")
