"""Transforms against Pillow's, and restatements of their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from striate.data import transforms


def picture(channels: int = 3, size: tuple[int, int] = (17, 23)) -> Tensor:
    return torch.randint(0, 256, (channels, *size), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def pillow(image: Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).numpy())


def pixels(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


def one(number: float) -> Tensor:
    return torch.tensor([number])


@pytest.mark.parametrize("factor", [0.3, 1.0, 1.4])
@pytest.mark.parametrize(
    ("mine", "theirs"),
    [
        (transforms.brightness, ImageEnhance.Brightness),
        (transforms.contrast, ImageEnhance.Contrast),
        (transforms.saturation, ImageEnhance.Color),
        (transforms.sharpness, ImageEnhance.Sharpness),
    ],
)
def test_light_and_colour_are_pillows(mine, theirs, factor: float) -> None:
    image = picture()
    found = mine(image[None].float() / 255, one(factor))[0].clamp(0, 1)
    torch.testing.assert_close(found, pixels(theirs(pillow(image)).enhance(factor)), rtol=0, atol=2.5 / 255)


def test_point_operations_are_pillows() -> None:
    image = picture() // 3 + 20
    given = image[None].float() / 255
    for found, expected in (
        (transforms.posterize(given, one(3.0)), ImageOps.posterize(pillow(image), 3)),
        (transforms.solarize(given, one(0.25)), ImageOps.solarize(pillow(image), 64)),
        (transforms.autocontrast(given), ImageOps.autocontrast(pillow(image))),
    ):
        torch.testing.assert_close(found[0], pixels(expected), rtol=0, atol=1.5 / 255)


def test_equalizing_makes_ranks() -> None:
    values = torch.tensor([10, 10, 20, 30, 30, 30, 99, 200], dtype=torch.float32).view(1, 1, 2, 4) / 255
    # Pixels that are as dark or darker, less the two darkest, of the six others.
    expected = torch.tensor([0, 0, 1, 4, 4, 4, 5, 6]).view(1, 1, 2, 4) / 6
    torch.testing.assert_close(transforms.equalize(values), expected)
    flat = torch.full((1, 1, 3, 3), 0.4)
    assert torch.equal(transforms.equalize(flat), flat)
    assert torch.equal(transforms.autocontrast(flat), flat)


def test_hue_turns_colours_and_leaves_grey() -> None:
    red = torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1)
    torch.testing.assert_close(transforms.hue(red, one(120)).flatten(), torch.tensor([0.0, 1, 0]), atol=1e-6, rtol=0)
    grey = torch.full((1, 3, 1, 1), 0.3)
    torch.testing.assert_close(transforms.hue(grey, one(40)), grey)


@pytest.mark.parametrize("size", [(9, 9), (8, 15)])
def test_a_warp_samples_where_its_map_says(size: tuple[int, int]) -> None:
    """Against a loop over single pixels, bilinear, with zeros outside."""
    height, width = size
    image = torch.rand(1, 1, height, width, dtype=torch.float64).float()
    matrix = transforms.affine(
        degrees=one(20.0), scale_x=one(1.2), scale_y=one(0.8), shear_x=one(0.3), translate_x=one(0.1), flip=one(1) > 0
    )
    found = transforms.warp(image, matrix)[0, 0]
    (a, b, p), (c, d, q) = matrix[0].tolist()

    def pixel(row: int, column: int) -> float:
        return float(image[0, 0, row, column]) if 0 <= row < height and 0 <= column < width else 0.0

    for row in range(height):
        for column in range(width):
            x, y = column - (width - 1) / 2, row - (height - 1) / 2
            u, v = a * x + b * y + p * width + (width - 1) / 2, c * x + d * y + q * height + (height - 1) / 2
            left, top = math.floor(u), math.floor(v)
            value = sum(
                pixel(top + i, left + j) * (1 - abs(v - top - i)) * (1 - abs(u - left - j))
                for i in (0, 1)
                for j in (0, 1)
            )
            assert float(found[row, column]) == pytest.approx(value, abs=1e-4)


def test_directions_are_as_named() -> None:
    dot = torch.zeros(1, 1, 11, 11)
    dot[0, 0, 5, 8] = 1  # to the right of the centre

    def where(**how: Tensor) -> tuple[int, ...]:
        moved = transforms.warp(dot, transforms.affine(**how))[0, 0]
        return tuple(int(index) for index in divmod(int(moved.argmax()), 11))

    assert where(degrees=one(90)) == (2, 5), "counterclockwise"
    assert where(translate_x=one(1 / 11)) == (5, 9)
    assert where(translate_y=one(1 / 11)) == (6, 8)
    assert where(scale_x=one(1.34)) == (5, 9)
    assert where(scale_y=one(1.34)) == (5, 8)
    assert where(flip=torch.tensor([True])) == (5, 2)
    assert where(shear_y=one(1 / 3)) == (6, 8), "down, to the right of the centre"


def test_each_operation_of_randaugment_takes_a_batch() -> None:
    images = torch.rand(5, 3, 9, 7)
    strength = torch.tensor([-1.0, -0.5, 0.0, 0.5, 1.0])
    for operation in transforms.RANDAUGMENT:
        whole = operation(images, strength)
        assert whole.shape == images.shape
        alone = torch.cat([operation(images[n : n + 1], strength[n : n + 1]) for n in range(5)])
        torch.testing.assert_close(whole, alone, rtol=0, atol=1e-5)
