"""Preprocessing against Pillow's, and against what it says of itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from striate.data import Normalization, Preprocessing
from striate.errors import DataError

HALF = Normalization((0.5, 0.25, 0.125), (0.5, 0.25, 0.5))


@pytest.mark.parametrize(
    ("word", "method"), [("bilinear", Image.Resampling.BILINEAR), ("bicubic", Image.Resampling.BICUBIC)]
)
@pytest.mark.parametrize(("resize", "crop"), [(128, 112), (64, 64), (360, 300)])
def test_fitting_is_pillows(word: str, method: Image.Resampling, resize: int, crop: int) -> None:
    picture = data.chelsea()  # 300x451
    preprocess = Preprocessing(resize, crop, HALF, word)
    height, width = resize, resize * 451 // 300
    top, left = (height - crop) // 2, (width - crop) // 2
    resized = Image.fromarray(picture).resize((width, height), method)
    expected = np.asarray(resized.crop((left, top, left + crop, top + crop))).astype(int)
    fitted = preprocess.fit(torch.from_numpy(picture).permute(2, 0, 1)[None])
    assert fitted.dtype == torch.uint8
    difference = np.abs(fitted[0].permute(1, 2, 0).numpy().astype(int) - expected)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.005


def test_the_shorter_side_counts_and_the_middle_is_cut_out() -> None:
    wide = torch.zeros(1, 3, 20, 60, dtype=torch.uint8)
    wide[..., 20:40] = 200
    for images in (wide, wide.mT):
        assert (Preprocessing(20, 20, HALF).fit(images) == 200).all()


def test_a_batch_is_scaled_and_grey_becomes_colour() -> None:
    grey = torch.full((2, 1, 40, 30), 51, dtype=torch.uint8)
    output = Preprocessing(36, 32, HALF, "bicubic")(grey)
    assert output.shape == (2, 3, 32, 32)
    for channel, (mean, std) in enumerate(zip(HALF.mean, HALF.std, strict=True)):
        torch.testing.assert_close(output[:, channel], torch.full((2, 32, 32), (0.2 - mean) / std))


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(DataError, match="crop 40 of 32"):
        Preprocessing(32, 40, HALF)
    with pytest.raises(DataError, match="needed bilinear or bicubic"):
        Preprocessing(32, 32, HALF, "nearest")
    with pytest.raises(DataError, match="uint8"):
        Preprocessing(32, 32, HALF)(torch.zeros(1, 3, 40, 40))


def test_it_is_json() -> None:
    assert Preprocessing(256, 224, HALF, "bicubic").to_dict() == {
        "resize": 256,
        "crop": 224,
        "normalization": {"mean": [0.5, 0.25, 0.125], "std": [0.5, 0.25, 0.5]},
        "interpolation": "bicubic",
    }
