"""Which images are held out is known by their content, whatever becomes of the folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from striate.data import load
from striate.data.decoding import Reading
from striate.data.fitting import Fit
from striate.data.sources import Collection, gather
from striate.data.streamed import Wanted
from striate.errors import DataError, RunError
from striate.training.record import Changes, Record


def noise(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 6), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def folder(root: Path, count: int = 6) -> Path:
    for label, name in enumerate(("cat", "dog")):
        for number in range(count):
            noise(root / name / f"{number:02}.png", 100 * label + number)
    return root


def collected(root: Path) -> Collection:
    return gather(f"folder:{root}", Wanted(Reading(Fit((6, 6)), 1), skip_broken=True))


def recorded(root: Path) -> Record:
    return Record.of(load(f"folder:{root}", image_size=(6, 6), val_fraction=0.25))


def test_it_comes_back_from_its_file(tmp_path: Path) -> None:
    root = folder(tmp_path / "data")
    (root / "cat" / 'a,\n"b".txt').write_text("")
    record = recorded(root)
    record.save(tmp_path)
    assert Record.load(tmp_path) == record
    assert record.parts == ("train", "val", "test")
    assert {name: sum(parts.values()) for name, parts in record.counts().items()} == {"cat": 6, "dog": 6}
    assert Record.load(root) is None


def test_nothing_has_changed(tmp_path: Path) -> None:
    root = folder(tmp_path / "data")
    split = load(f"folder:{root}", image_size=(6, 6), val_fraction=0.25)
    again, changes = Record.of(split).restored(collected(root))
    assert changes == Changes()
    for part, images in split.parts.items():
        assert torch.equal(
            images.gather(torch.arange(len(images))), again.parts[part].gather(torch.arange(len(images)))
        )
        assert torch.equal(images.labels, again.parts[part].labels)


def test_images_that_are_added_are_new_and_held_out_ones_stay_held_out(tmp_path: Path) -> None:
    root = folder(tmp_path / "data")
    record = recorded(root)
    noise(root / "cat" / "!first.png", 500)
    noise(root / "dog" / "zlast.png", 501)
    found, changes = record.find(collected(root))
    assert sorted(changes.new) == ["cat/!first.png", "dog/zlast.png"]
    assert {each.digest for each in found["test"].identities()} == record.digests("test")


def test_what_is_gone_edited_and_moved_is_told(tmp_path: Path) -> None:
    root = folder(tmp_path / "data")
    record = recorded(root)
    gone, edited, moved = [entry for entry in record.entries if entry.part == "train"][:3]
    (root / gone.name).unlink()
    noise(root / edited.name, 999)
    (root / moved.name).rename(root / moved.category / "renamed.png")
    found, changes = record.find(collected(root))
    assert changes == Changes((), {"train": (gone.name,)}, {"train": (edited.name,)}, 1)
    assert len(found["train"]) == sum(entry.part == "train" for entry in record.entries) - 2
    assert changes.told() == [
        f"1 of train is gone: {gone.name}",
        f"1 of train is edited: {edited.name}",
        "1 has another path, and the same content",
    ]
    with pytest.raises(DataError, match="isn't what the run began with: 1 of train is gone"):
        record.restored(collected(root))


def test_a_folder_that_was_moved_is_the_same(tmp_path: Path) -> None:
    record = recorded(folder(tmp_path / "data"))
    shutil.move(tmp_path / "data", tmp_path / "elsewhere")
    split, changes = record.restored(collected(tmp_path / "elsewhere"))
    assert changes == Changes()
    assert Record.of(split).entries == record.entries


def test_an_image_under_another_class_is_another_image(tmp_path: Path) -> None:
    root = folder(tmp_path / "data")
    record = recorded(root)
    entry = next(entry for entry in record.entries if entry.part == "test" and entry.category == "cat")
    (root / entry.name).rename(root / "dog" / "was-a-cat.png")
    _, changes = record.find(collected(root))
    assert changes.gone == {"test": (entry.name,)}
    assert changes.new == ("dog/was-a-cat.png",)


def test_copies_of_one_image_keep_their_parts(tmp_path: Path) -> None:
    root = folder(tmp_path / "data")
    for number in range(6, 12):
        shutil.copy(root / "cat" / "00.png", root / "cat" / f"{number:02}.png")
    record = recorded(root)
    found, changes = record.find(collected(root))
    assert changes == Changes()
    assert {part: len(images) for part, images in found.items()} == {
        part: sum(entry.part == part for entry in record.entries) for part in record.parts
    }


def test_test_images_that_are_learnt_too_are_counted(tmp_path: Path) -> None:
    root = folder(tmp_path / "train")
    shutil.copytree(root, tmp_path / "data" / "train")
    noise(tmp_path / "data" / "test" / "dog" / "own.png", 700)
    shutil.copy(root / "cat" / "03.png", tmp_path / "data" / "test" / "dog" / "seen.png")
    assert Record.of(load(f"folder:{tmp_path / 'data'}", image_size=(6, 6))).overlap() == 1


@pytest.mark.parametrize(
    "content", ["", "a,b\n", "part,class,image,digest\nx,y,z,w\n", "part,class,image,digest\ntest,a\n"]
)
def test_a_file_of_something_else(content: str, tmp_path: Path) -> None:
    (tmp_path / "images.csv").write_text(content)
    with pytest.raises(RunError, match=r"images\.csv"):
        Record.load(tmp_path)


@given(
    changes=st.lists(st.tuples(st.sampled_from(["add", "remove", "edit", "rename"]), st.integers(0, 11)), max_size=8)
)
def test_held_out_images_are_never_learnt_ones(changes, tmp_path_factory: pytest.TempPathFactory) -> None:
    root = folder(tmp_path_factory.mktemp("data"))
    record = recorded(root)
    for number, (what, which) in enumerate(changes):
        path = root / ("cat", "dog")[which % 2] / f"{which // 2:02}.png"
        if what == "add":
            noise(path.with_name(f"new{number}.png"), 1000 + number)
        elif path.exists() and len(list(path.parent.iterdir())) > 2:
            {
                "remove": path.unlink,
                "edit": lambda path=path, number=number: noise(path, 2000 + number),
                "rename": lambda path=path, number=number: path.rename(path.with_name(f"z{number}.png")),
            }[what]()
    found, _ = record.find(collected(root))
    for part, images in found.items():
        assert {each.digest for each in images.identities()} <= record.digests(part)
