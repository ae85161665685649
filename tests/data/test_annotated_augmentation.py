from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from striate.data import IGNORED, AnnotatedAugmentation, Annotation, Fit
from striate.data.annotated import object_map
from striate.data.annotated_augmentation import CHANGES, pasted
from striate.data.moving import boxes_of
from striate.data.scenes import Look, scenes

SCENES = scenes(Look((48, 64)), "train", 5)
STYLES = ["none", *CHANGES, "flip+scale", "+".join(CHANGES)]


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("frame", [None, (40, 40), (64, 96)])
def test_annotations_still_agree_with_one_another(style: str, frame: tuple[int, int] | None) -> None:
    augmentation = AnnotatedAugmentation(style, seed=1)
    for epoch in range(4):
        for index in range(5):
            picture, truth = augmentation.sample(SCENES, index, epoch, None if frame is None else Fit(frame))
            assert tuple(picture.shape) == (3, *truth.size) == (3, *(frame or (48, 64)))
            assert truth.masks is not None
            assert truth.class_map is not None
            assert truth.masks.sum(0).max() <= 1 if len(truth) else True
            # Masks and maps are moved by the same pixels; scraps of digits that were left out are in the map alone.
            drawn = object_map(truth)
            assert torch.equal(truth.class_map[drawn != 0], drawn[drawn != 0])
            if len(truth):
                # A shrunken mask takes one of several pixels, and may lose a tip; it gains nothing.
                grown = (boxes_of(truth.masks) - truth.boxes) * torch.tensor([-1, -1, 1, 1])
                assert grown.max() < 1
                assert truth.boxes.min() >= 0
                assert (truth.boxes[:, 2:] <= torch.tensor([truth.size[1], truth.size[0]])).all()


def test_what_is_drawn_hangs_on_seed_epoch_and_index_alone() -> None:
    augmentation = AnnotatedAugmentation("flip+scale+mosaic+paste+colour", seed=1)
    first, again = (augmentation.sample(SCENES, 2, 7)[0] for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, augmentation.sample(SCENES, 2, 8)[0])
    assert not torch.equal(first, AnnotatedAugmentation(augmentation.style, 2).sample(SCENES, 2, 7)[0])


@settings(max_examples=50)
@given(st.integers(0, 10_000), st.integers(0, 3), st.integers(0, 3))
def test_pasting_hides_what_lies_under_it(seed: int, below: int, above: int) -> None:
    import numpy as np

    random = np.random.default_rng(seed)

    def drawn(count: int) -> Annotation:
        masks = torch.zeros(count, 12, 12, dtype=torch.bool)
        for mask in masks:
            top, left = random.integers(0, 8, 2)
            mask[top : top + random.integers(1, 5), left : left + random.integers(1, 5)] = True
        labels = torch.from_numpy(random.integers(0, 3, count))
        truth = Annotation((12, 12), boxes_of(masks), labels, masks=masks)
        return Annotation((12, 12), truth.boxes, labels, masks=masks, class_map=object_map(truth))

    under, over = drawn(below), drawn(above)
    dark, light = torch.zeros(1, 12, 12, dtype=torch.uint8), torch.full((1, 12, 12), 9, dtype=torch.uint8)
    picture, truth = pasted((dark, under), (light, over), random)
    on_top = picture[0] == 9
    assert truth.masks is not None
    assert truth.class_map is not None
    assert under.class_map is not None
    assert over.class_map is not None
    assert torch.equal(truth.class_map, torch.where(on_top, over.class_map, under.class_map))
    assert bool(on_top.any()) == bool(above)
    if len(truth):
        assert torch.equal(boxes_of(truth.masks), truth.boxes)
    for mask, label in zip(truth.masks, truth.labels, strict=True):
        values = truth.class_map[mask]
        assert ((values == label + 1) | (values == IGNORED)).all()


def test_nothing_is_pasted_where_there_are_no_masks() -> None:
    boxes = SCENES.holding(["boxes"])
    for index in range(5):
        _, truth = AnnotatedAugmentation("paste+mosaic+scale").sample(boxes, index, 0)
        assert truth.masks is None
        assert truth.class_map is None
