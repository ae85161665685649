"""Samples: a fair choice and the worst mistakes, and images that come back as they were."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from striate.data import ImageSet
from striate.errors import RunError
from striate.training import samples


def image_set(count: int, channels: int) -> ImageSet:
    pixels = torch.randint(256, (count, channels, 5, 7), dtype=torch.uint8)
    return ImageSet(pixels, torch.arange(count) % 2, ("a/b", "c"))


def test_some_over_the_whole_set_then_the_surest_mistakes() -> None:
    images = image_set(100, 1)
    predicted = images.labels.clone()
    probability = torch.full((100,), 0.5)
    for index, sure in ((11, 0.6), (37, 0.9), (50, 0.8), (99, 0.7)):
        predicted[index] = 1 - predicted[index]
        probability[index] = sure
    chosen = samples.choose(images, predicted, probability, even=4, mistakes=3)
    expected = [0, 25, 50, 75, 37, 99]  # 50 is there already, 11 is the least sure
    assert all(
        torch.equal(example.image, images.images[index]) for example, index in zip(chosen, expected, strict=True)
    )
    assert [example.right for example in chosen] == [True, True, False, True, False, False]
    assert (chosen[2].actual, chosen[2].predicted) == ("a/b", "c")


def test_of_few_images_all() -> None:
    images = image_set(3, 1)
    assert len(samples.choose(images, images.labels, torch.ones(3), even=16, mistakes=8)) == 3


@pytest.mark.parametrize("channels", [1, 3])
def test_they_come_back_as_they_were(channels: int, tmp_path: Path) -> None:
    images = image_set(12, channels)
    chosen = samples.choose(images, 1 - images.labels, torch.rand(12), even=12, mistakes=0)
    samples.write(tmp_path, chosen)
    back = samples.read(tmp_path, channels=channels, image_size=(5, 7))
    for one, other in zip(chosen, back, strict=True):
        assert torch.equal(one.image, other.image)
        assert (one.actual, one.predicted, one.probability) == (other.actual, other.predicted, other.probability)
    assert sorted(path.name for path in tmp_path.glob("*.png"))[:2] == ["01-a-b.png", "02-c.png"]


def test_an_index_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "index.json").write_text(json.dumps({"x.png": {"actual": "a"}}))
    with pytest.raises(RunError, match="no index of examples"):
        samples.read(tmp_path, channels=1, image_size=(5, 7))
