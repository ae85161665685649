"""Augmentation: drawn by seed, epoch, step and place alone; images and labels mixed alike."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from striate.data import STYLES, Augmentation, Batches, ImageSet, Normalization
from striate.errors import DataError

KINDS: list[dict[str, Any]] = [
    *({"style": style} for style in STYLES),
    {"erase": 0.5},
    {"mixup": 0.4},
    {"cutmix": 1.0},
    {"style": "randaugment", "erase": 0.3, "mixup": 0.2, "cutmix": 1.0},
]


def batch(count: int = 12, channels: int = 3, size: tuple[int, int] = (12, 10)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, channels, *size), generator=generator, dtype=torch.uint8)
    return images, torch.arange(count) % 4


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("channels", [1, 3])
def test_same_step_same_bits_and_another_step_others(kind: dict[str, Any], channels: int) -> None:
    images, labels = batch(channels=channels)
    random = torch.get_rng_state()
    first, again, other = (Augmentation(**kind, seed=3)(images, labels, 4, epoch=1, step=step)[0] for step in (5, 5, 6))
    assert torch.equal(first, again)
    assert (kind == {"style": "none"}) == torch.equal(first, other)
    assert torch.equal(random, torch.get_rng_state()), "layers' random numbers go on undisturbed"
    assert first.dtype == torch.float32
    assert first.shape == images.shape
    assert first.min() >= 0
    assert first.max() <= 255


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("count", [2, 3, 5])
def test_parts_are_those_of_the_whole(kind: dict[str, Any], count: int) -> None:
    """Several processes compute what one would, each from as few images as its own part is made of."""
    pixels, labels = batch(11)
    images = ImageSet(pixels, labels, tuple("abcd"))
    make = Augmentation(**kind, seed=2)

    def epoch(part: tuple[int, int]) -> list[tuple[Tensor, Tensor]]:
        settings: dict[str, Any] = {"shuffle_seed": 1, "augmentation": make, "part": part}
        return list(Batches(images, 4, Normalization.of(images), **settings).epoch(2))

    parts = [epoch((number, count)) for number in range(count)]
    for step, (expected, targets) in enumerate(epoch((0, 1))):
        torch.testing.assert_close(torch.cat([part[step][0] for part in parts]), expected, rtol=0, atol=1e-5)
        assert torch.equal(torch.cat([part[step][1] for part in parts]), targets)


def test_an_epoch_that_was_cut_goes_on_with_the_same_images() -> None:
    pixels, labels = batch(11)
    images = ImageSet(pixels, labels, tuple("abcd"))
    batches = Batches(
        images, 4, Normalization.of(images), shuffle_seed=1, augmentation=Augmentation("digits", mixup=1.0)
    )
    rest = list(batches.epoch(3))[1:]
    for (one, first), (two, second) in zip(rest, batches.epoch(3, start=1), strict=True):
        assert torch.equal(one, two)
        assert torch.equal(first, second)


def test_nothing_asked_for_nothing_changed() -> None:
    images, labels = batch()
    same, targets = Augmentation()(images, labels, 4, epoch=0, step=0)
    torch.testing.assert_close(same, images.float())
    assert targets is labels


def test_labels_are_mixed_as_images_are() -> None:
    """Images that are their own label, one-hot: whatever share of each is seen is the probability that is told."""
    count = 6
    images = (torch.eye(count) * 255).to(torch.uint8).view(count, count, 1, 1).expand(-1, -1, 16, 16).contiguous()
    for kind in ({"mixup": 0.7}, {"cutmix": 1.0}):
        for step in range(10):
            mixed, targets = Augmentation(**kind)(images, torch.arange(count), count, epoch=0, step=step)
            torch.testing.assert_close(mixed.mean((2, 3)) / 255, targets, rtol=0, atol=1e-5)
            torch.testing.assert_close(targets.sum(1), torch.ones(count))
    with_both = [
        Augmentation(mixup=1.0, cutmix=1.0)(images, torch.arange(count), count, epoch=0, step=s)[0] for s in range(9)
    ]
    assert len({len(mixed.unique()) > 2 for mixed in with_both}) == 2, "one of the two for each batch"


def test_erasing_takes_one_rectangle_of_the_share_it_should() -> None:
    images = torch.full((400, 1, 32, 32), 255, dtype=torch.uint8)
    erased = Augmentation(erase=0.5)(images, torch.zeros(400, dtype=torch.int64), 1, epoch=0, step=0)[0][:, 0] == 0
    hit = erased.flatten(1).any(1)
    assert 0.4 < hit.float().mean() < 0.6
    area = erased[hit].float().mean((1, 2))
    assert area.min() >= 0.01
    assert area.max() <= 0.36
    rows, columns = erased[hit].any(2), erased[hit].any(1)
    assert torch.equal(erased[hit], rows.unsqueeze(2) & columns.unsqueeze(1)), "rectangles"


def test_a_flip_and_crop_moves_whole_pixels() -> None:
    images, labels = batch(32, 1, (16, 24))
    changed = Augmentation("flip-crop")(images, labels, 4, epoch=0, step=0)[0]
    padded = torch.nn.functional.pad(images.float(), (3, 3, 2, 2))
    for one, framed in zip(changed, padded, strict=True):
        crops = [
            (side.flip(2) if mirrored else side)
            for top in range(5)
            for left in range(7)
            for side in [framed[:, top : top + 16, left : left + 24]]
            for mirrored in (False, True)
        ]
        assert min(float((crop - one).abs().max()) for crop in crops) < 0.05


@pytest.mark.parametrize("wrong", [{"style": "rotate"}, {"erase": 1.5}, {"mixup": -1.0}, {"cutmix": -0.1}])
def test_what_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"^augmentation: got .*; needed"):
        Augmentation(**wrong)
