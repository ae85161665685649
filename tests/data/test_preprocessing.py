"""Preprocessing against Pillow's, and against what it says of itself."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from skimage import data

from striate.data import Fit, Normalization, Preprocessing
from striate.data.fitting import Crop
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
        "mode": "crop",
    }


@pytest.mark.parametrize(
    "made",
    [
        Preprocessing(256, 224, HALF, "bicubic"),
        Preprocessing(None, (28, 32), Normalization((0.5,), (0.25,)), mode="frame"),
        Preprocessing(None, 64, HALF, "bicubic", "squash"),
        Preprocessing(72, (64, 96), HALF),
    ],
)
def test_it_comes_back_from_json(made: Preprocessing) -> None:
    assert Preprocessing.from_dict(json.loads(json.dumps(made.to_dict()))) == made


@pytest.mark.parametrize(
    "fields",
    [
        None,
        {},
        {"crop": 8},
        {"crop": "8", "normalization": {"mean": [0.5], "std": [0.5]}},
        {"crop": [8, 8, 8], "normalization": {"mean": [0.5], "std": [0.5]}},
        {"crop": 8, "normalization": {"mean": [0.5], "std": [0.5]}, "mode": "bend"},
        {"crop": 8, "normalization": {"mean": [0.5], "std": [0.0]}},
        {"crop": 8, "normalization": {"mean": [0.5], "std": [0.5]}, "more": 1},
    ],
)
def test_what_is_no_preprocessing_is_refused(fields: object) -> None:
    with pytest.raises(DataError):
        Preprocessing.from_dict(fields)


def test_another_size_keeps_the_share_that_is_cut_out() -> None:
    assert Preprocessing(256, 224, HALF).at((112, 112)) == Preprocessing(128, (112, 112), HALF)
    assert Preprocessing(256, 224, HALF).at((224, 224)) == Preprocessing(256, 224, HALF)
    assert Preprocessing(None, 28, HALF, mode="frame").at((32, 40)).image_size == (32, 40)


def test_a_crop_that_is_not_square_covers_in_proportion() -> None:
    how = Preprocessing(72, (64, 96), HALF).how
    assert how.resize == (72, 108)
    assert how.covering(144, 216) == (72, 108)
    assert how.covering(216, 216) == (108, 108)  # the width decides


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (
            {
                "input_size": [3, 240, 240],
                "crop_pct": 0.882,
                "interpolation": "bicubic",
                "mean": [0.5] * 3,
                "std": [0.5] * 3,
            },
            Preprocessing(272, 240, Normalization((0.5,) * 3, (0.5,) * 3), "bicubic"),
        ),
        (
            {"input_size": [3, 224, 224], "crop_pct": 1.0, "crop_mode": "squash", "mean": [0.0] * 3, "std": [1.0] * 3},
            Preprocessing(None, 224, Normalization((0.0,) * 3, (1.0,) * 3), mode="squash"),
        ),
        ({"architecture": "x"}, None),
    ],
)
def test_what_timm_says_of_its_weights(config: dict[str, object], expected: Preprocessing | None) -> None:
    assert Preprocessing.of_timm(config) == expected


@given(
    height=st.integers(1, 60),
    width=st.integers(1, 60),
    mode=st.sampled_from(["crop", "squash", "frame"]),
    target=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    crop=st.none() | st.builds(Crop, st.floats(0.01, 1), st.floats(0.3, 3), st.floats(0, 1), st.floats(0, 1)),
)
def test_every_picture_gets_the_size_and_keeps_its_range(height, width, mode, target, crop) -> None:
    picture = torch.full((3, height, width), 77, dtype=torch.uint8)
    fitted = Fit(target, mode)(picture, crop)
    assert fitted.shape == (3, *target)
    assert set(fitted.unique().tolist()) <= ({0, 77} if mode == "frame" and crop is None else {77})


@given(
    height=st.integers(1, 500),
    width=st.integers(1, 500),
    crop=st.builds(Crop, st.floats(0.01, 1), st.floats(0.3, 3), st.floats(0, 1), st.floats(0, 1)),
)
def test_crops_lie_inside_and_have_their_area_where_it_fits(height: int, width: int, crop: Crop) -> None:
    top, left, rows, columns = crop.box(height, width)
    assert 0 <= top <= top + rows <= height
    assert 0 <= left <= left + columns <= width
    if 1 < rows < height and 1 < columns < width:
        assert abs(rows * columns - crop.area * height * width) <= rows + columns
