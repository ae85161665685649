from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from striate.data import SOURCES, ImageSet, load, split
from striate.data.sources import Collection, divide
from striate.errors import DataError


def numbered(labels: list[int]) -> ImageSet:
    """A set in which every image tells its own index."""
    index = torch.arange(len(labels))
    images = torch.stack([index // 256, index % 256], 1).to(torch.uint8).view(-1, 2, 1, 1)
    return ImageSet(images, torch.tensor(labels), tuple(f"c{label}" for label in range(max(labels) + 1)))


def numbers(images: ImageSet) -> list[int]:
    high, low = images.images[:, :, 0, 0].to(torch.int64).unbind(1)
    return (256 * high + low).tolist()


class TestDigits:
    def test_are_those_of_scikit_learn(self) -> None:
        from sklearn.datasets import load_digits

        loaded = load("digits", test_fraction=0.5)
        images = torch.cat([loaded.train.images, loaded.test.images])
        labels = torch.cat([loaded.train.labels, loaded.test.labels])
        got = sorted((image.flatten().tolist(), label) for image, label in zip(images, labels.tolist(), strict=True))
        digits = load_digits()
        scaled = np.rint(digits.data / 16 * 255).astype(int)
        assert got == sorted((image.tolist(), label) for image, label in zip(scaled, digits.target, strict=True))
        assert images.max() == 255
        assert loaded.train.classes == tuple("0123456789")

    def test_every_class_keeps_its_share(self) -> None:
        loaded = load("digits")
        train, test = (torch.bincount(side.labels) for side in (loaded.train, loaded.test))
        assert ((train + test) * 0.2 - test).abs().max() <= 0.5

    def test_brought_to_size_and_channels(self) -> None:
        loaded = load("digits", image_size=(32, 32), channels=3)
        assert loaded.train.images.shape[1:] == loaded.test.images.shape[1:] == (3, 32, 32)

    def test_seed_chooses(self) -> None:
        first, again, other = (load("digits", seed=seed).test for seed in (0, 0, 1))
        assert torch.equal(first.images, again.images)
        assert not torch.equal(first.labels, other.labels)


class TestSplit:
    @given(
        counts=st.lists(st.integers(2, 40), min_size=1, max_size=5),
        fraction=st.floats(0.001, 0.999),
        seed=st.integers(0, 2**70),
        order=st.randoms(use_true_random=False),
    )
    def test_divides_every_class_in_the_same_proportion(self, counts, fraction, seed, order) -> None:
        labels = [label for label, count in enumerate(counts) for _ in range(count)]
        order.shuffle(labels)
        images = numbered(labels)
        train, test = split(images, test_fraction=fraction, seed=seed)
        assert sorted(numbers(train) + numbers(test)) == list(range(len(labels)))
        for side in (train, test):
            assert numbers(side) == sorted(numbers(side))
            assert side.labels.tolist() == [labels[index] for index in numbers(side)]
            assert side.classes == images.classes
        for label, count in enumerate(counts):
            held_out = int((test.labels == label).sum())
            assert 1 <= held_out <= count - 1
            assert abs(held_out - fraction * count) <= 1

    @given(test=st.floats(0.1, 0.5), val=st.floats(0.1, 0.5), seed=st.integers(0, 1000))
    def test_validation_images_come_from_those_that_are_left_for_training(self, test, val, seed) -> None:
        images = numbered([0] * 20 + [1] * 30)
        whole = divide(Collection("x", {"": images}), test_fraction=test, val_fraction=val, seed=seed)
        plain = divide(Collection("x", {"": images}), test_fraction=test, seed=seed)
        assert whole.val is not None
        parts = [numbers(part) for part in (whole.train, whole.val, whole.test)]  # type: ignore[arg-type]
        assert sorted(parts[0] + parts[1] + parts[2]) == list(range(50))
        assert numbers(plain.test) == parts[2], "the same test images, with and without validation"
        assert abs(len(parts[1]) - val * len(plain.train)) <= 2

    def test_does_not_touch_or_heed_the_global_random_state(self) -> None:
        images = numbered([0, 1] * 50)
        torch.manual_seed(0)
        np.random.seed(0)
        before, state = torch.get_rng_state(), np.random.get_state()[1].copy()
        first = numbers(split(images, test_fraction=0.3, seed=5)[1])
        assert torch.equal(torch.get_rng_state(), before)
        assert (np.random.get_state()[1] == state).all()
        torch.manual_seed(1)
        np.random.seed(1)
        assert numbers(split(images, test_fraction=0.3, seed=5)[1]) == first
        assert numbers(split(images, test_fraction=0.3, seed=6)[1]) != first

    def test_images_are_drawn_and_not_only_counted(self) -> None:
        drawn = {
            index for seed in range(60) for index in numbers(split(numbered([0] * 10), test_fraction=0.2, seed=seed)[1])
        }
        assert drawn == set(range(10))

    def test_a_class_without_images_stays_without(self) -> None:
        train, test = split(numbered([1, 1, 3, 3]), test_fraction=0.5, seed=0)
        assert train.labels.tolist() == test.labels.tolist() == [1, 3]

    def test_a_class_with_one_image(self) -> None:
        with pytest.raises(DataError, match="split: class c2 has one image only; needed two"):
            split(numbered([0, 0, 1, 1, 2]), test_fraction=0.5, seed=0)

    @pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, float("nan"), float("inf")])
    def test_no_fraction(self, fraction: float) -> None:
        with pytest.raises(DataError, match=f"test fraction: got {fraction}; needed more than 0 and less than 1"):
            load("digits", test_fraction=fraction)

    def test_no_seed(self) -> None:
        with pytest.raises(DataError, match="seed: got -1; needed 0 or more"):
            load("digits", seed=-1)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "mnist",
            "data 'mnist': no such source; needed one of digits .*, idx:FOLDER .as in 'idx:data/mnist'., .*folder:PATH",
        ),
        ("digit", "did you mean digits"),
        ("DIGITS", "did you mean digits"),
        ("folders:x", "did you mean folder:PATH"),
        ("ixd:x", "did you mean idx:FOLDER"),
        ("", "data '': no such source"),
        (":x", "data ':x': no such source"),
        ("idx", "data 'idx': got no path; needed idx:FOLDER, as in 'idx:data/mnist'"),
        ("folder:", "data 'folder:': got no path; needed folder:PATH"),
        ("digits:x", "data 'digits:x': got a path; needed digits"),
    ],
)
def test_no_such_source(source: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        load(source)
    assert "\n" not in str(caught.value)


def test_a_bare_folder_is_told_how_to_be_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"did you mean 'folder:{tmp_path}' or 'idx:{tmp_path}'"):
        load(str(tmp_path))


def test_paths_may_start_at_home_and_hold_colons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(DataError, match=f"^{tmp_path}/a:b: No such file"):
        load("folder:~/a:b")


@pytest.mark.parametrize("options", [{"image_size": (0, 8)}, {"channels": 2}])
def test_no_size_or_channels(options) -> None:
    with pytest.raises(DataError, match="needed"):
        load("digits", **options)


def test_the_table_says_what_its_lines_are_for() -> None:
    for name, source in SOURCES.items():
        assert source.usage.partition(":")[0].rstrip("[") == source.example.partition(":")[0] == name
        assert source.description
        assert "\n" not in source.description
