"""Samples: a fair choice and the worst mistakes, and images that come back as they were."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from striate.data import Fit, ImageSet, Normalization, Preprocessing
from striate.data.decoding import Reading
from striate.data.sources import gather
from striate.data.streamed import Wanted
from striate.errors import RunError
from striate.tasks import samples


def framed(channels: int) -> Preprocessing:
    half = (0.5,) * channels
    return Preprocessing(None, (5, 7), Normalization(half, half), mode="frame")


def image_set(count: int, channels: int) -> ImageSet:
    pixels = torch.randint(256, (count, channels, 5, 7), dtype=torch.uint8)
    return ImageSet(pixels, torch.arange(count) % 2, ("a/b", "c"))


def test_some_of_every_class_then_the_surest_mistakes() -> None:
    images = image_set(100, 1)  # even ones are of class 0, odd ones of class 1
    predicted = images.labels.clone()
    probability = torch.full((100,), 0.5)
    for index, sure in ((11, 0.6), (37, 0.9), (50, 0.8), (99, 0.7)):
        predicted[index] = 1 - predicted[index]
        probability[index] = sure
    chosen = samples.choose(images, predicted, probability, even=4, mistakes=3)
    expected = [0, 1, 50, 51, 37, 99]  # of the mistakes 37, 50 (there already), then the next of class 1
    assert all(
        torch.equal(example.image, images.images[index]) for example, index in zip(chosen, expected, strict=True)
    )
    assert [example.right for example in chosen] == [True, True, False, True, False, False]
    assert (chosen[2].actual, chosen[2].predicted) == ("a/b", "c")


@pytest.mark.parametrize(
    ("classes", "even", "expected"),
    [
        (5, 5, [0, 1, 2, 3, 4]),
        (5, 8, [0, 1, 2, 3, 4, 0, 1, 2]),
        (40, 8, [0, 5, 10, 15, 20, 25, 30, 35]),
        (1, 3, [0, 0, 0]),
    ],
)
def test_classes_take_turns_however_the_images_are_sorted(classes: int, even: int, expected: list[int]) -> None:
    for labels in (torch.arange(classes).repeat(6), torch.arange(classes).repeat_interleave(6)):
        pixels = torch.zeros(len(labels), 1, 2, 2, dtype=torch.uint8)
        images = ImageSet(pixels, labels, tuple(map(str, range(classes))))
        chosen = samples.choose(images, labels, torch.ones(len(labels)), even=even, mistakes=8)
        assert [int(example.actual) for example in chosen] == expected


def test_mistakes_are_not_of_one_class_alone() -> None:
    labels = torch.tensor([0] * 10 + [1, 2])
    images = ImageSet(torch.zeros(12, 1, 2, 2, dtype=torch.uint8), labels, ("a", "b", "c"))
    sure = torch.linspace(0.99, 0.3, 12)
    chosen = samples.choose(images, (labels + 1) % 3, sure, even=0, mistakes=4)
    assert [example.actual for example in chosen] == ["a", "b", "c", "a"]


def test_of_few_images_all() -> None:
    images = image_set(3, 1)
    assert len(samples.choose(images, images.labels, torch.ones(3), even=16, mistakes=8)) == 3


@pytest.mark.parametrize("channels", [1, 3])
def test_they_come_back_as_they_were(channels: int, tmp_path: Path) -> None:
    images = image_set(12, channels)
    chosen = samples.choose(images, 1 - images.labels, torch.rand(12), even=12, mistakes=0)
    samples.write(tmp_path, chosen, copies=True)
    back = samples.read(tmp_path, framed(channels), "idx:nowhere")
    for one, other in zip(chosen, back, strict=True):
        assert torch.equal(one.image, other.image)
        assert (one.actual, one.predicted, one.probability) == (other.actual, other.predicted, other.probability)
        assert (one.name, one.digest) == (other.name, other.digest)
    assert sorted(path.name for path in tmp_path.glob("*.png"))[:2] == ["01-a-b.png", "02-c.png"]


def test_an_index_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "index.json").write_text(json.dumps({"x.png": {"actual": "a"}}))
    with pytest.raises(RunError, match="no index of examples"):
        samples.read(tmp_path, framed(1), "digits")


def test_without_copies_only_what_is_where_it_was_comes_back(tmp_path: Path) -> None:
    for index in range(8):
        path = tmp_path / "data" / "ab"[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((5, 7), 10 * index, dtype=np.uint8)).save(path)
    source = f"folder:{tmp_path / 'data'}"
    images = gather(source, Wanted(Reading(Fit((5, 7)), 1))).parts[""]
    chosen = samples.choose(images, images.labels, torch.ones(8), even=8, mistakes=0)
    out = tmp_path / "samples"
    samples.write(out, chosen, copies=False)
    assert [path.name for path in out.iterdir()] == ["index.json"]
    assert len(samples.read(out, framed(1), source)) == 8
    (tmp_path / "data" / "a" / "0.png").unlink()
    Image.fromarray(np.zeros((5, 7), dtype=np.uint8)).save(tmp_path / "data" / "b" / "1.png")
    back = samples.read(out, framed(1), source)
    assert {example.name for example in back} == {example.name for example in chosen} - {"a/0.png", "b/1.png"}
    assert all(bool((example.image == 10 * int(example.name[2])).all()) for example in back)
    assert samples.read(out, framed(1), "folder:" + str(tmp_path / "gone")) == []


def test_the_index_of_an_older_version_is_read(tmp_path: Path) -> None:
    Image.fromarray(np.full((5, 7), 3, dtype=np.uint8)).save(tmp_path / "01-a.png")
    said = {"actual": "a", "predicted": "c", "probability": 0.5}
    (tmp_path / "index.json").write_text(json.dumps({"01-a.png": said}))
    (example,) = samples.read(tmp_path, framed(1), "digits")
    assert (example.actual, example.predicted, example.name) == ("a", "c", "01-a.png")
