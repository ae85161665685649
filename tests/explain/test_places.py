"""Outputs are laid on the image: maps, channels last, tokens with and without extra ones."""

from __future__ import annotations

import pytest
import torch
from explained_networks import Nested, TinyViT
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from striate.explain import default_layer, grad_cam
from striate.explain.places import alike, grid_of


@pytest.mark.parametrize(
    ("shape", "image", "expected"),
    [
        ((1, 512, 7, 7), (224, 224), ("map", (7, 7), 0)),
        ((1, 7, 7, 768), (224, 224), ("channels last", (7, 7), 0)),
        ((1, 14, 10, 96), (224, 160), ("channels last", (14, 10), 0)),
        ((1, 96, 14, 10), (224, 160), ("map", (14, 10), 0)),
        ((1, 197, 768), (224, 224), ("tokens", (14, 14), 1)),
        ((1, 198, 768), (224, 224), ("tokens", (14, 14), 2)),
        ((1, 196, 768), (224, 224), ("tokens", (14, 14), 0)),
        ((1, 201, 384), (224, 224), ("tokens", (14, 14), 5)),
        ((1, 281, 384), (224, 320), ("tokens", (14, 20), 1)),
        ((1, 512, 1, 1), (224, 224), None),
        ((1, 1000), (224, 224), None),
        ((1, 1, 768), (224, 224), None),
    ],
)
def test_forms(shape: tuple[int, ...], image: tuple[int, int], expected: tuple[object, ...] | None) -> None:
    grid = grid_of(shape, image)
    assert (grid and (grid.form, grid.size, grid.extra)) == expected


@given(st.integers(2, 20), st.integers(2, 20), st.integers(0, 5), st.integers(1, 7))
def test_tokens_come_back_to_their_places(height: int, width: int, extra: int, channels: int) -> None:
    maps = torch.rand(2, channels, height, width)
    tokens = torch.cat([torch.rand(2, extra, channels), maps.flatten(2).transpose(1, 2)], 1)
    if extra <= height * width:
        grid = grid_of(tuple(tokens.shape), (16 * height, 16 * width), {(height, width)})
        assert grid is not None
        assert torch.equal(grid.maps(tokens), maps)


@pytest.mark.parametrize("extra", [1, 2, 5])
def test_a_transformers_default_layer_is_the_last_that_the_score_hangs_on(extra: int) -> None:
    model, x = TinyViT(extra).eval(), torch.randn(2, 3, 24, 32)
    assert default_layer(model, x) == "blocks.1.norm1"
    found = grad_cam(model, x)
    assert found.values.shape == (2, 3, 4)
    assert found.values.any()


def test_a_layer_after_the_last_attention_says_why_it_is_empty() -> None:
    with pytest.warns(UserWarning, match="doesn't hang on the places of norm; take an earlier layer"):
        found = grad_cam(TinyViT().eval(), torch.randn(1, 3, 24, 32), layer="norm")
    assert not found.map.any()


def test_a_convolutional_networks_default_layer_is_its_last_map() -> None:
    assert default_layer(Nested(), torch.randn(1, 3, 16, 16)) == "act"


@pytest.mark.parametrize(
    ("size", "image_size", "lies"),
    [
        ((38, 118), (40, 120), True),  # 3x3 without padding
        ((34, 114), (40, 120), True),
        ((8, 14), (28, 40), True),  # 5x5, pooling, 5x5
        ((7, 7), (224, 224), True),
        ((6, 11), (200, 350), True),
        ((7, 8), (224, 224), True),
        ((1, 40), (30, 1200), True),
        ((12, 14), (224, 224), False),
        ((197, 64), (224, 224), False),  # heads of attention: tokens by channels
        ((70, 32), (224, 160), False),
        ((196, 196), (224, 160), False),
        ((140, 140), (224, 160), False),
        ((32, 70), (224, 160), False),
        ((41, 120), (40, 120), False),
    ],
)
def test_places_that_may_lie_on_an_image(size: tuple[int, int], image_size: tuple[int, int], lies: bool) -> None:
    assert alike(size, image_size) == lies
    assert alike(size[::-1], image_size[::-1]) == lies


@pytest.mark.parametrize("shape", [(40, 120), (31, 90), (64, 20)])
def test_wide_images_without_padding_have_maps(shape: tuple[int, int]) -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 3, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(3, 3, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2)
    )
    image = torch.rand(1, 1, *shape)
    model(image)
    assert grad_cam(model, image, 1).layer == "4"
