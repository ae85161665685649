"""The way into detectors and out: sizes, padding, what becomes of boxes and masks."""

from __future__ import annotations

import pytest
import torch

from striate import nn
from striate.errors import ModelError

PLAIN = {"mean": (0.0,), "std": (1.0,)}

#: min_size, max_size, (H, W) of an image, (H, W) on its way in
SIZES = (
    (32, 48, (10, 12), (32, 38)),
    (32, 48, (10, 40), (12, 48)),
    (32, 48, (64, 64), (32, 32)),
    (800, 1333, (480, 640), (800, 1066)),
    (32, 48, (1, 400), (1, 48)),  # 0.12 rows are still one
)


@pytest.mark.parametrize(("least", "most", "given", "expected"), SIZES)
def test_images_are_scaled_by_their_shorter_or_longer_side(
    least: int, most: int, given: tuple[int, int], expected: tuple[int, int]
) -> None:
    batch, _ = nn.DetectionInput(least, most, **PLAIN)([torch.ones(1, *given)])
    assert batch.image_sizes == [expected]
    assert all(side % 32 == 0 and 0 <= side - inner < 32 for side, inner in zip(batch.size, expected, strict=True))
    inside = batch.tensors[0, 0, : expected[0], : expected[1]]
    torch.testing.assert_close(inside, torch.ones(expected))
    assert batch.tensors.count_nonzero() == inside.numel()


def test_pixels_are_normalised_by_channel() -> None:
    batch, _ = nn.DetectionInput(4, 4, (0.5, 0.25), (0.5, 0.1), size_divisible=1)([torch.full((2, 4, 4), 0.5)])
    torch.testing.assert_close(batch.tensors[0, :, 0, 0], torch.tensor([0.0, 2.5]))


def test_a_fixed_size_stretches() -> None:
    entrance = nn.DetectionInput(**PLAIN, size_divisible=1, fixed_size=(20, 30))
    target = {"boxes": torch.tensor([[1.0, 2, 3, 4]]), "masks": torch.ones(1, 10, 10, dtype=torch.uint8)}
    batch, moved = entrance([torch.zeros(1, 10, 10), torch.zeros(1, 5, 60)], [target, {"boxes": torch.zeros(0, 4)}])
    assert batch.image_sizes == [(20, 30), (20, 30)]
    assert moved is not None
    assert moved[0]["boxes"].tolist() == [[3, 4, 9, 8]]
    assert moved[0]["masks"].shape == (1, 20, 30)
    assert moved[1]["boxes"].shape == (0, 4)
    assert target["boxes"].tolist() == [[1, 2, 3, 4]], "what was given stays"


def test_sizes_are_drawn_in_training_only() -> None:
    entrance = nn.DetectionInput((16, 24, 32), 64, **PLAIN)
    torch.manual_seed(0)
    drawn = {entrance([torch.zeros(1, 10, 10)])[0].image_sizes[0] for _ in range(40)}
    assert drawn == {(16, 16), (24, 24), (32, 32)}
    assert entrance.eval()([torch.zeros(1, 10, 10)])[0].image_sizes == [(32, 32)]


@pytest.mark.parametrize("count", [0, 3])
def test_masks_and_boxes_come_back_to_their_images(count: int) -> None:
    entrance = nn.DetectionInput(40, 80, **PLAIN).eval()
    batch, _ = entrance([torch.zeros(1, 20, 30)])
    found = {"boxes": torch.tensor([[10.0, 10, 30, 20]]).expand(count, 4), "masks": torch.ones(count, 1, 28, 28)}
    (result,) = entrance.results([found], batch, [(20, 30)])
    assert result["masks"].shape == (count, 1, 20, 30)
    for box, mask in zip(result["boxes"], result["masks"], strict=True):
        assert box.tolist() == [5, 5, 15, 10]
        assert (mask[0, 5:10, 5:15] > 0.9).all()
        assert mask[0, :4].max() == mask[0, :, :4].max() == mask[0, 12:].max() == mask[0, :, 17:].max() == 0


def test_masks_that_leave_the_image_are_cut() -> None:
    boxes = torch.tensor([[-6.0, -4, 3, 4], [4, 4, 30, 30], [0, 0, 0, 0]])
    masks = nn.paste_masks(torch.ones(3, 1, 28, 28), boxes, (8, 8))
    assert masks.shape == (3, 1, 8, 8)
    assert (masks[0, 0, :3, :2] > 0.9).all()
    assert (masks[1, 0, 5:, 5:] > 0.9).all()
    assert masks[2, 0, 2:].max() == 0


def test_gradients_go_back_through_pasted_masks() -> None:
    masks = torch.rand(2, 1, 4, 4, dtype=torch.float64, requires_grad=True)
    boxes = torch.tensor([[1.0, 1.0, 6.0, 5.0], [-2.0, 3.0, 3.0, 9.0]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda each: nn.paste_masks(each, boxes, (8, 8)), masks)


WRONG = {
    "none": ([], "images: got none"),
    "batch": (torch.zeros(1, 1, 8, 8), r"image 0: got \(1, 8, 8\); needed \(3, H, W\)"),
    "channels": ([torch.zeros(3, 8, 8), torch.zeros(1, 8, 8)], r"image 1: got \(1, 8, 8\); needed \(3, H, W\)"),
    "bytes": ([torch.zeros(3, 8, 8, dtype=torch.uint8)], "image 0: got torch.uint8; needed a floating point type"),
    "no pixels": ([torch.zeros(3, 0, 8)], r"image 0: got \(3, 0, 8\)"),
    "words": (["picture.jpg"], "image 0: got str"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_no_list_of_images_is_refused(what: str) -> None:
    given, message = WRONG[what]
    with pytest.raises(ModelError, match=message):
        nn.DetectionInput()(given)


def test_another_size_is_taken_from_then_on() -> None:
    transform = nn.DetectionInput(80, 133)
    transform.resize((40, 60))
    batch, _ = transform([torch.zeros(3, 20, 25)])
    assert batch.image_sizes == [(40, 50)]
    with pytest.raises(ModelError, match="got images of 40x60; needed 32x32"):
        nn.DetectionInput(fixed_size=(32, 32)).resize((40, 60))
