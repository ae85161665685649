"""Tensors of any shape as maps: every pixel is the number at the place that the page says it is."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import pytest
import torch

from striate.studio.requests import RequestError
from striate.studio.tensors import form_named, forms_of, maps_of, place_of, reduced, statistics

SHAPES = [
    (),
    (1,),
    (5,),
    (70,),
    (1, 10),
    (3, 40),
    (2, 5, 7),
    (1, 17, 6),
    (2, 16, 3),
    (1, 4, 5, 6),
    (2, 7, 7, 5),
    (3, 4, 1, 1),
    (2, 3, 2, 4, 5),
    (2, 2, 2, 2, 3, 3),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_pixel_is_the_number_at_its_place(shape: tuple[int, ...]) -> None:
    tensor = torch.arange(math.prod(shape), dtype=torch.float64).reshape(shape)
    for form in forms_of(shape):
        seen = set()
        for sample in range(form.samples):
            maps = maps_of(tensor, form, sample)
            assert maps.shape == (form.channels, form.height, form.width)
            for channel, y, x in itertools.product(*map(range, maps.shape)):
                place = place_of(form, shape, sample, channel, y, x)
                if place is None:
                    assert maps[channel, y, x].isnan()
                else:
                    assert maps[channel, y, x] == tensor[place]
                    seen.add(place)
        skipped = form.skipped * shape[0] * shape[2] if form.skipped else 0
        assert len(seen) == tensor.numel() - skipped, form


def test_the_page_finds_the_same_places(browser: Any, studio: Any) -> None:
    """JavaScript has its own copy of the arithmetic, for clicks."""
    asked, expected = [], []
    for shape in SHAPES:
        for form in forms_of(shape):
            pixels = itertools.product(range(form.channels), range(form.height), range(form.width))
            for channel, y, x in itertools.islice(pixels, 0, None, 7):
                sample = (channel + y) % form.samples
                asked.append([form.to_dict(), list(shape), sample, channel, y, x])
                place = place_of(form, shape, sample, channel, y, x)
                expected.append(None if place is None else list(place))
    browser.open(studio)
    script = """const [asked] = arguments;
        return import("/static/lib/places.js").then(({placeOf}) => asked.map((each) => placeOf(...each)));"""
    assert browser.run(script, asked) == expected


def test_tokens_stand_on_their_grid() -> None:
    form = forms_of((1, 197, 8))[0]
    assert (form.name, form.height, form.width, form.skipped) == ("tokens", 14, 14, 1)
    assert forms_of((1, 50, 8))[0].skipped == 1
    assert forms_of((1, 49, 8))[0].skipped == 0


def test_channels_last_are_seen_where_they_stand_last() -> None:
    assert forms_of((1, 56, 56, 96))[0].name == "maps_last"
    assert forms_of((1, 96, 56, 56))[0].name == "maps"


def test_reduced_maps_are_means() -> None:
    maps = torch.arange(25.0).reshape(1, 5, 5)
    found, factor = reduced(maps, 3)
    assert factor == 2
    assert found.shape == (1, 3, 3)
    assert found[0, 0, 0] == maps[0, :2, :2].mean()
    assert found[0, 2, 2] == 24
    assert reduced(maps, 5)[1] == 1


def test_unknown_forms_are_refused() -> None:
    with pytest.raises(RequestError, match="needed one of vector"):
        form_named((1, 3), "maps")


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.bfloat16, torch.complex64], ids=str)
def test_numbers_of_every_kind_are_shown(dtype: torch.dtype) -> None:
    tensor = torch.tensor([[1, 0, 1]]).to(dtype)
    assert maps_of(tensor, forms_of((1, 3))[0])[0, 0].tolist() == [1, 0, 1]
    assert statistics(tensor)["max"] == 1


def test_statistics_leave_out_what_isn_t_finite() -> None:
    told = statistics(torch.tensor([1.0, math.nan, math.inf, 3.0]))
    assert told["not_finite"] == 2
    assert (told["min"], told["max"], told["mean"]) == (1.0, 3.0, 2.0)
    assert json.dumps(told)
    assert statistics(torch.zeros(0)) == {"count": 0, "not_finite": 0}
