from __future__ import annotations

import numpy as np
import pytest
import torch

from striate.data import AnnotatedAugmentation, AnnotatedBatches, AnnotatedSet, Fit, Normalization
from striate.data.scenes import Look, scenes
from striate.errors import DataError

SETS = {"train": scenes(Look((40, 48)), "train", 7)}


def flat(batches: AnnotatedBatches, epoch: int = 0, start: int = 0) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [
        (picture, truth.boxes)
        for pictures, truths in batches.epoch(epoch, start)
        for picture, truth in zip(pictures, truths, strict=True)
    ]


def same(first: list[tuple[torch.Tensor, torch.Tensor]], second: list[tuple[torch.Tensor, torch.Tensor]]) -> bool:
    return len(first) == len(second) and all(
        torch.equal(one, other) for a, b in zip(first, second, strict=True) for one, other in zip(a, b, strict=True)
    )


@pytest.fixture(scope="module")
def images() -> AnnotatedSet:
    return SETS["train"]


def test_pictures_come_from_0_to_1_and_stacked_where_they_have_one_size(images: AnnotatedSet) -> None:
    pictures, truths = next(AnnotatedBatches(images, 3).epoch(0))
    assert isinstance(pictures, list)
    assert torch.equal(pictures[1], images.sample(1)[0].float() / 255)
    assert torch.equal(truths[2].boxes, images.sample(2)[1].boxes)
    pictures, truths = next(AnnotatedBatches(images, 3, Fit((64, 64))).epoch(0))
    assert isinstance(pictures, torch.Tensor)
    assert pictures.shape == (3, 3, 64, 64)
    assert [truth.size for truth in truths] == [(64, 64)] * 3
    normal, _ = next(
        AnnotatedBatches(images, 3, Fit((64, 64)), normalization=Normalization((0.5,) * 3, (0.5,) * 3)).epoch(0)
    )
    assert isinstance(normal, torch.Tensor)
    torch.testing.assert_close(normal, (pictures - 0.5) / 0.5)


@pytest.mark.parametrize("style", ["none", "flip+scale+mosaic+paste+colour"])
def test_goes_on_in_parts_and_with_workers_to_the_same_bits(images: AnnotatedSet, style: str) -> None:
    settings = {"shuffle_seed": 3, "augmentation": AnnotatedAugmentation(style, 1)}
    batches = AnnotatedBatches(images, 2, Fit((32, 32)), **settings)  # type: ignore[arg-type]
    whole = flat(batches, 1)
    assert len(batches) == 4
    assert same(whole, flat(batches, 1))
    assert same(whole[4:], flat(batches, 1, 2))
    assert not same(whole, flat(batches, 0))
    with_workers = AnnotatedBatches(images, 2, Fit((32, 32)), workers=1, **settings)  # type: ignore[arg-type]
    assert same(whole, flat(with_workers, 1))
    parts = [flat(AnnotatedBatches(images, 2, Fit((32, 32)), part=(n, 2), **settings), 1) for n in (0, 1)]  # type: ignore[arg-type]
    assert same(whole[0::2], parts[0])
    assert same(whole[1::2], parts[1])
    drawn = torch.get_rng_state()
    flat(with_workers, 0)
    assert torch.equal(drawn, torch.get_rng_state())


def test_a_part_without_pictures_is_empty(images: AnnotatedSet) -> None:
    *_, (pictures, truths) = AnnotatedBatches(images, 2, Fit((32, 32)), part=(1, 2)).epoch(0)
    assert len(pictures) == len(truths) == 0


def test_an_order_of_ones_own(images: AnnotatedSet) -> None:
    batches = AnnotatedBatches(images, 7, order=lambda epoch: torch.from_numpy(np.arange(7)[::-1].copy()))
    pictures, _ = next(batches.epoch(0))
    assert torch.equal(pictures[0], images.sample(6)[0].float() / 255)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda images: AnnotatedBatches(images, 0), "got batch size 0"),
        (lambda images: AnnotatedBatches(images, 1, shuffle_seed=-1), "got shuffle seed -1"),
        (lambda images: AnnotatedBatches(images, 2).epoch(0, 5), "got epoch 0, start 5"),
        (lambda images: AnnotatedAugmentation("flip+blur"), "got 'blur'"),
        (lambda images: AnnotatedAugmentation("flip", -1), "got seed -1"),
    ],
)
def test_refusals(images: AnnotatedSet, call, told: str) -> None:
    with pytest.raises(DataError, match=told):
        call(images)
