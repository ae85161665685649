from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from striate.data import ImageSet, Split, as_channels, fit_image
from striate.errors import DataError


def some(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def image_set(count: int = 6, classes: int = 3, channels: int = 1, size: int = 4) -> ImageSet:
    return ImageSet(
        some(count, channels, size, size), torch.arange(count) % classes, tuple(f"c{index}" for index in range(classes))
    )


class TestImageSet:
    def test_tells_its_shape(self) -> None:
        images = ImageSet(some(2, 3, 4, 5), torch.tensor([1, 0]), ("a", "b"))
        assert (len(images), images.channels, images.image_size) == (2, 3, (4, 5))

    @pytest.mark.parametrize(
        ("images", "labels", "classes", "message"),
        [
            (some(2, 1, 4, 4).float(), [0, 1], "ab", r"got images of float32 \(2, 1, 4, 4\); needed uint8"),
            (some(2, 4, 4), [0, 1], "ab", r"got images of uint8 \(2, 4, 4\)"),
            (some(0, 1, 4, 4), [], "ab", r"got images of uint8 \(0, 1, 4, 4\)"),
            (some(2, 4, 4, 3).permute(0, 3, 1, 2), [0, 1], "ab", r"aren't contiguous; pass images.contiguous\(\)"),
            (some(2, 1, 4, 4), [0], "ab", r"got labels of int64 \(1,\); needed int64 \(2,\)"),
            (some(2, 1, 4, 4), [[0], [1]], "ab", r"got labels of int64 \(2, 1\)"),
            (some(2, 1, 4, 4), [0.0, 1.0], "ab", r"got labels of float32"),
            (some(2, 1, 4, 4), [0, 2], "ab", "got label 2 at index 1; needed 0 to 1"),
            (some(2, 1, 4, 4), [-1, 0], "ab", "got label -1 at index 0"),
            (some(2, 1, 4, 4), [0, 1], "aa", "needed names that differ"),
        ],
    )
    def test_refuses_parts_that_do_not_fit(self, images, labels, classes: str, message: str) -> None:
        with pytest.raises(DataError, match=message):
            ImageSet(images, torch.tensor(labels), tuple(classes))

    @pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
    def test_subset_keeps_the_order_asked_for(self, kind) -> None:
        whole = image_set()
        part = whole.subset(kind([4, 0, 4]))
        assert torch.equal(part.images, torch.stack([whole.images[4], whole.images[0], whole.images[4]]))
        assert part.labels.tolist() == [1, 0, 1]
        assert part.classes == whole.classes

    @pytest.mark.parametrize("indices", [[], [6], [-1], [0.0], [True, False, True, False, True, False], [[0]]])
    def test_subset_refuses_what_is_no_index(self, indices) -> None:
        with pytest.raises(DataError, match="subset: got indices"):
            image_set().subset(indices)


@pytest.mark.parametrize(
    ("test", "message"),
    [
        (image_set(classes=2), "digits: classes .* in train, .* in test"),
        (image_set(channels=3), "digits: channels 1 in train, 3 in test"),
        (image_set(size=5), r"digits: image size \(4, 4\) in train, \(5, 5\) in test"),
    ],
)
def test_split_refuses_sets_that_differ(test: ImageSet, message: str) -> None:
    assert len(Split(image_set(), image_set(9), "digits").test) == 9
    with pytest.raises(DataError, match=message):
        Split(image_set(), test, "digits")


class TestFitImage:
    @pytest.mark.parametrize(
        ("given", "target", "inner"),
        [
            ((28, 28), (32, 32), (28, 28)),
            ((8, 8), (28, 28), (24, 24)),
            ((8, 8), (32, 32), (32, 32)),
            ((8, 8), (13, 15), (8, 8)),
            ((4, 8), (16, 17), (8, 16)),
        ],
    )
    def test_a_smaller_image_is_enlarged_by_a_whole_factor_and_framed(self, given, target, inner) -> None:
        images = some(3, 2, *given) | 1  # nowhere zero
        fitted = fit_image(images, target)
        expected = images if inner == given else F.interpolate(images.double(), inner, mode="bilinear")
        margins = [(target[axis] - inner[axis]) for axis in (1, 0)]
        frame = [side for margin in margins for side in (margin // 2, margin - margin // 2)]
        difference = fitted.double() - F.pad(expected.double(), frame)
        assert fitted.shape == (3, 2, *target)
        assert fitted.dtype == torch.uint8
        assert difference.abs().max() <= 0.5 + 1e-4
        assert torch.equal(fitted == 0, F.pad(torch.zeros(3, 2, *inner), frame, value=1) == 1)

    @pytest.mark.parametrize(
        ("given", "target"), [((32, 32), (28, 28)), ((100, 37), (28, 28)), ((20, 40), (28, 28)), ((9, 9), (1, 1))]
    )
    def test_a_larger_image_is_resized_as_pillow_does(self, given, target) -> None:
        image = some(1, *given)
        resized = Image.fromarray(image[0].numpy()).resize(target[::-1], Image.Resampling.BILINEAR)
        difference = fit_image(image, target).int() - torch.from_numpy(np.array(resized)).int()
        assert difference.abs().max() <= 1  # Pillow rounds between the axes

    def test_one_that_fits_is_not_copied(self) -> None:
        images = some(2, 1, 4, 4)
        assert fit_image(images, (4, 4)) is images

    def test_any_leading_axes_and_any_layout(self) -> None:
        images = some(2, 3, 3, 12, 10)
        every = torch.stack([torch.stack([fit_image(image, (7, 7)) for image in row]) for row in images])
        assert torch.equal(fit_image(images, (7, 7)), every)
        turned = images.transpose(0, 1)
        assert torch.equal(fit_image(turned, (20, 20)), fit_image(turned.contiguous(), (20, 20)))
        assert fit_image(images[:0], (7, 7)).shape == (0, 3, 3, 7, 7)

    @pytest.mark.parametrize("target", [(9, 9), (50, 50)])
    def test_chunks_do_not_show(self, target, monkeypatch: pytest.MonkeyPatch) -> None:
        images = some(7, 3, 20, 20)
        whole = fit_image(images, target)
        monkeypatch.setattr("striate.data.fitting._CHUNK", 20 * 20 * 4)
        assert torch.equal(fit_image(images, target), whole)

    def test_white_stays_white(self) -> None:
        assert (fit_image(torch.full((1, 37, 41), 255, dtype=torch.uint8), (28, 28)) == 255).all()

    @pytest.mark.parametrize("target", [(0, 4), (4,), (4, 4, 4), (4.0, 4), (-1, 4), ("4", "4")])
    def test_refuses_no_size(self, target) -> None:
        with pytest.raises(DataError, match=r"fit_image: got image size .*needed \(height, width\)"):
            fit_image(some(1, 8, 8), target)

    @pytest.mark.parametrize("images", [some(8, 8), some(1, 8, 8).float(), some(1, 0, 8)])
    def test_refuses_no_images(self, images: torch.Tensor) -> None:
        with pytest.raises(DataError, match=r"fit_image: got images of .*needed uint8"):
            fit_image(images, (4, 4))


class TestAsChannels:
    def test_grey_is_pillows_to_the_bit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("striate.data.fitting._CHUNK", 1000)
        images = some(4, 3, 40, 50)
        pillow = [np.array(Image.fromarray(image.permute(1, 2, 0).numpy()).convert("L")) for image in images]
        assert np.array_equal(as_channels(images, 1)[:, 0].numpy(), np.stack(pillow))

    def test_there_and_back_is_the_same(self) -> None:
        images = some(2, 5, 1, 4, 6)
        colour = as_channels(images, 3)
        assert colour.is_contiguous()
        assert torch.equal(colour, images.repeat(1, 1, 3, 1, 1))
        assert torch.equal(as_channels(colour, 1), images)
        assert as_channels(images, 1) is images

    @pytest.mark.parametrize(("given", "channels"), [(2, 1), (1, 2), (4, 3), (3, 0)])
    def test_refuses_other_counts(self, given: int, channels: int) -> None:
        with pytest.raises(DataError, match=f"got images of {given} channels to be {channels}; needed 1 and 3"):
            as_channels(some(given, 4, 4), channels)
