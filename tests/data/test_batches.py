from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from striate.data import Batches, ImageSet, Normalization
from striate.errors import DataError


def image_set(count: int = 10, channels: int = 3) -> ImageSet:
    """Images that are told apart by their labels, of which each has its own."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, channels, 4, 5), dtype=np.uint8)
    return ImageSet(torch.from_numpy(pixels), torch.arange(count), tuple(map(str, range(count))))


PLAIN = Normalization((0.0,) * 3, (1.0,) * 3)


class TestNormalization:
    @pytest.mark.parametrize("chunk", [1, 50, 1 << 22])
    def test_of_a_set_is_its_mean_and_deviation(self, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("striate.data.batches._CHUNK", chunk)
        images = image_set(50)
        scaled = images.images.double() / 255
        found = Normalization.of(images)
        assert found.mean == pytest.approx(scaled.mean((0, 2, 3)).tolist(), rel=1e-12)
        assert found.std == pytest.approx(scaled.std((0, 2, 3), correction=0).tolist(), rel=1e-12)

    def test_afterwards_mean_is_0_and_deviation_1(self) -> None:
        images = image_set(50)
        normalized = Normalization.of(images)(images.images).double()
        assert normalized.mean((0, 2, 3)).abs().max() < 1e-6
        assert (normalized.std((0, 2, 3), correction=0) - 1).abs().max() < 1e-6

    def test_a_constant_channel_becomes_0(self) -> None:
        images = image_set()
        images.images[:, 1] = 77
        normalization = Normalization.of(images)
        assert normalization.std[1] == 1.0
        assert (normalization(images.images)[:, 1] == 0).all()

    def test_sums_beyond_32_bits_are_exact(self) -> None:
        white = torch.full((1, 1, 512, 512), 255, dtype=torch.uint8).expand(300, -1, -1, -1).contiguous()
        white[0, 0, 0, 0] = 254
        found = Normalization.of(ImageSet(white, torch.zeros(300, dtype=torch.int64), ("white",)))
        pixels = 300 * 512 * 512
        assert found.mean == ((255 * pixels - 1) / (255 * pixels),)
        assert found.std == pytest.approx((np.sqrt(1 / pixels - 1 / pixels**2) / 255,), rel=1e-12)

    def test_is_the_formula(self) -> None:
        images = image_set().images
        mean, std = (0.1, 0.5, 0.9), (0.3, 1.0, 2.0)
        expected = (images.double() / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
        got = Normalization(mean, std)(images)
        assert got.dtype == torch.float32
        torch.testing.assert_close(got.double(), expected, rtol=1e-6, atol=1e-6)

    @pytest.mark.parametrize(
        "images", [image_set(channels=1).images, image_set().images[:3, :, 0], image_set().images.float()]
    )
    def test_refuses_other_images(self, images: torch.Tensor) -> None:
        with pytest.raises(DataError, match=r"normalization: got images of .*needed uint8 \(N, 3, H, W\)"):
            PLAIN(images)

    def test_comes_back_from_json(self) -> None:
        for normalization in (Normalization.of(image_set()), Normalization((0,), (1,))):
            assert Normalization.from_dict(json.loads(json.dumps(normalization.to_dict()))) == normalization

    @pytest.mark.parametrize(
        "data",
        [
            None,
            [],
            {},
            {"mean": [0.5]},
            {"mean": [0.5], "std": [1.0], "more": [1.0]},
            {"mean": [0.5], "std": ["1"]},
            {"mean": [True], "std": [1.0]},
            {"mean": 0.5, "std": 1.0},
            {"mean": [], "std": []},
            {"mean": [0.5], "std": [1.0, 1.0]},
            {"mean": [0.5], "std": [0.0]},
            {"mean": [0.5], "std": [-1.0]},
            {"mean": [float("nan")], "std": [1.0]},
            {"mean": [0.5], "std": [float("inf")]},
            {"mean": [0.5], "std": [float("nan")]},
            {"mean": [10**400], "std": [1.0]},
            {"mean": [[0.5]], "std": [1.0]},
        ],
    )
    def test_refuses_nonsense(self, data: object) -> None:
        with pytest.raises(DataError, match=r"normalization: got .*needed"):
            Normalization.from_dict(data)


class TestBatches:
    @pytest.mark.parametrize(("size", "sizes"), [(1, [1] * 10), (4, [4, 4, 2]), (5, [5, 5]), (10, [10]), (11, [10])])
    def test_drop_nothing(self, size: int, sizes: list[int]) -> None:
        batches = Batches(image_set(), size, PLAIN, shuffle_seed=0)
        labels = [labels for _, labels in batches.epoch(0)]
        assert [len(each) for each in labels] == sizes
        assert len(batches) == len(sizes)
        assert sorted(torch.cat(labels).tolist()) == list(range(10))

    @pytest.mark.parametrize("seed", [None, 0])
    def test_are_normalized_images_with_their_labels(self, seed: int | None) -> None:
        images = image_set()
        normalization = Normalization.of(images)
        for pixels, labels in Batches(images, 4, normalization, shuffle_seed=seed).epoch(0):
            assert pixels.dtype == torch.float32
            assert labels.dtype == torch.int64
            assert torch.equal(pixels, normalization(images.images[labels]))

    def test_without_a_seed_they_are_in_order(self) -> None:
        batches = Batches(image_set(), 4, PLAIN)
        for number in (0, 1):
            assert [labels.tolist() for _, labels in batches.epoch(number)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]

    def test_order_depends_on_seed_and_epoch_alone(self) -> None:
        def order(seed: int, number: int) -> tuple[int, ...]:
            (batch,) = Batches(image_set(50), 50, PLAIN, shuffle_seed=seed).epoch(number)
            return tuple(batch[1].tolist())

        torch.manual_seed(0)
        first = {(seed, number): order(seed, number) for seed in range(5) for number in range(5)}
        torch.manual_seed(1)
        assert len(set(first.values())) == 25
        assert all(order(*key) == value for key, value in reversed(first.items()))

    def test_does_not_touch_the_global_random_state(self) -> None:
        before, state = torch.get_rng_state(), np.random.get_state()[1].copy()
        list(Batches(image_set(), 4, PLAIN, shuffle_seed=0).epoch(0))
        assert torch.equal(torch.get_rng_state(), before)
        assert (np.random.get_state()[1] == state).all()

    def test_go_on_where_they_were_left(self) -> None:
        batches = Batches(image_set(), 3, PLAIN, shuffle_seed=0)
        whole = list(batches.epoch(2))
        for start in range(len(batches) + 1):
            rest = list(batches.epoch(2, start))
            assert len(rest) == len(whole) - start
            for (pixels, labels), (expected_pixels, expected_labels) in zip(rest, whole[start:], strict=True):
                assert torch.equal(pixels, expected_pixels)
                assert torch.equal(labels, expected_labels)

    def test_never_share_memory_with_the_set(self) -> None:
        images = image_set()
        kept = images.images.clone(), images.labels.clone()
        for pixels, labels in Batches(images, 4, PLAIN).epoch(0):
            pixels.zero_()
            labels.zero_()
        assert torch.equal(images.images, kept[0])
        assert torch.equal(images.labels, kept[1])

    def test_go_to_the_device(self) -> None:
        pixels, labels = next(Batches(image_set(), 4, PLAIN, device="meta").epoch(0))
        assert (pixels.device.type, labels.device.type) == ("meta", "meta")

    @pytest.mark.parametrize(("number", "start"), [(-1, 0), (0, -1), (0, 4)])
    def test_refuse_what_no_epoch_has(self, number: int, start: int) -> None:
        with pytest.raises(DataError, match=f"got epoch {number}, start {start}; needed .* 0 to 3"):
            Batches(image_set(), 4, PLAIN).epoch(number, start)

    @pytest.mark.parametrize(
        ("size", "normalization", "seed", "message"),
        [
            (0, PLAIN, 0, "got batch size 0; needed 1 or more"),
            (4, PLAIN, -1, "got shuffle seed -1; needed 0 or more"),
            (4, Normalization((0.0,), (1.0,)), 0, "a normalization of 1 channels for images of 3"),
        ],
    )
    def test_refuse_settings(self, size: int, normalization: Normalization, seed: int, message: str) -> None:
        with pytest.raises(DataError, match=message):
            Batches(image_set(), size, normalization, shuffle_seed=seed)
