"""The worked examples: each is possible, and what its text claims is what the library computes."""

from __future__ import annotations

import contextlib
import io
import json
from typing import Any

import pytest
import torch

from striate.errors import GeometryError
from striate.studio.formulas import describe
from striate.studio.presets import PRESETS, Preset
from striate.studio.windows import Layer
from striate.studio.worked import work_out

BY_NAME = {preset.name: preset for preset in PRESETS}


def told(name: str) -> dict[str, Any]:
    preset = BY_NAME[name]
    return describe(preset.size, preset.channels, [Layer.parse(each) for each in preset.layers], preset.dims)


def worked(preset: Preset) -> dict[str, Any]:
    layer = Layer.parse(preset.layers[0])
    return work_out(layer, preset.size, preset.dims, x=preset.x, w=preset.w, g=preset.g, flipped=preset.flipped)


def sizes(name: str) -> list[int]:
    return [layer["outputs"] for layer in told(name)["layers"]]


@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.name)
def test_every_preset_can_be_shown(preset: Preset) -> None:
    made = told(preset.name)
    assert json.loads(json.dumps(made))["size"] == preset.size
    assert json.loads(json.dumps(preset.to_dict()))["layers"] == [layer["layer"] for layer in made["layers"]]
    assert preset.title
    assert preset.text.endswith(".")
    if preset.x:
        worked(preset)


def test_names_differ() -> None:
    assert len(BY_NAME) == len(PRESETS)


def test_claims_about_sizes() -> None:
    assert sizes("nine-windows") == [3]
    assert sizes("four-windows") == [2]
    assert sizes("valid") == [24]
    assert sizes("same") == [9]
    assert sizes("same-even") == [8]
    assert told("same-even")["layers"][0]["padding"] == [1, 2]
    assert sizes("same-strided") == [4]
    assert told("same-strided")["layers"][0]["padding"] == [0, 1]
    assert sizes("full") == [8]
    assert sizes("stem") == [112, 55]
    assert sizes("lenet5") == [28, 14, 10, 5, 1]
    assert sizes("alexnet")[0] == 55
    assert sizes("transposed") == [8]
    assert sizes("there-and-back") == [4, 8]
    assert describe(7, 1, [Layer.parse(BY_NAME["there-and-back"].layers[0])])["layers"][0]["outputs"] == 4


def test_claims_about_fields() -> None:
    assert [told(name)["layers"][-1]["field"]["size"] for name in ("dilated", "two-of-three", "three-of-three")] == [
        5,
        5,
        7,
    ]
    assert told("vgg16")["layers"][-1]["field"] == {"size": 196, "stride": 16, "start": -90}
    assert len([layer for layer in told("vgg16")["layers"] if layer["kind"] == "conv"]) == 13
    assert told("lenet5")["layers"][-1]["field"]["size"] == 32


def test_claims_about_weights() -> None:
    assert told("weights-of-eight")["layers"][0]["parameters"] == 608
    assert told("against-dense")["layers"][0]["parameters"] == 73_856
    dense = {each["name"]: each["value"] for each in told("against-dense")["layers"][0]["formulas"]}
    assert round(dense["Weights of a dense layer"] / 1e9, 1) == 8.6
    assert told("separable")["total"]["parameters"] == 8_960
    assert told("one-neuron")["layers"][0]["parameters"] == 120_001
    assert told("one-neuron")["layers"][0]["outputs"] == 1


def test_claims_about_numbers() -> None:
    most = worked(BY_NAME["max-pooling"])
    assert most["y"] == [9, 5, 9, 3]
    assert most["dx"] == [0, 10, 0, 101, 0, 0, 0, 1000, 0]
    assert most["winners"] == [3, 1, 3, 7]
    mean = worked(BY_NAME["average-pooling"])
    assert mean["y"] == [4.25, 3, 5, 2]
    assert [4 * each for each in mean["dx"]] == [1, 11, 10, 101, 1111, 1010, 100, 1100, 1000]
    both = worked(BY_NAME["backpropagation"])
    a, b, c, d = BY_NAME["backpropagation"].g
    x, w = BY_NAME["backpropagation"].x, BY_NAME["backpropagation"].w
    assert both["y"][0] == x[0] * w[0] + x[1] * w[1] + x[3] * w[2] + x[4] * w[3]
    assert both["dw"] == [a * x[i] + b * x[i + 1] + c * x[i + 3] + d * x[i + 4] for i in (0, 1, 3, 4)]
    assert both["dx"][4] == a * w[3] + b * w[2] + c * w[1] + d * w[0]
    kernel = worked(BY_NAME["true-convolution"])
    assert torch.tensor(kernel["y"]).reshape(5, 5)[1:4, 1:4].flatten().tolist() == list(range(1, 10))
    dice = worked(BY_NAME["two-dice"])["y"]
    assert dice == [1, 2, 3, 4, 5, 6, 5, 4, 3, 2, 1]
    pooled = worked(BY_NAME["pooling-and-shifts"])["y"]
    assert pooled == [3, 4]
    moved = work_out(Layer("max", 2, 2), 5, 1, x=[0, 1, 3, 2, 4])["y"]
    assert moved == [1, 3]
    overlap = [len(pairs) for pairs in told("checkerboard")["layers"][0]["sees"]]
    assert overlap == [1, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 1]


@pytest.mark.parametrize("preset", [each for each in PRESETS if each.x], ids=lambda preset: preset.name)
def test_the_call_prints_the_same_numbers(preset: Preset) -> None:
    made = worked(preset)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(made["call"], {})
    wanted = [made[name] for name in ("y", "dx", "dw") if made[name] is not None]
    assert printed.getvalue().splitlines() == [str(each) for each in wanted]


@pytest.mark.parametrize("kind", ["conv", "transposed", "avg"])
def test_gradients_are_the_slopes_of_the_numbers(kind: str) -> None:
    layer = Layer(kind, 2, 2, 1)  # type: ignore[arg-type]
    made = work_out(layer, 4, 1)

    def value(x: list[float], w: list[float]) -> float:
        again = work_out(layer, 4, 1, x=x, w=w, g=made["g"])
        return sum(y * g for y, g in zip(again["y"], again["g"], strict=True))

    x, w = made["x"], made["w"] or []
    for place in range(len(x)):
        risen = [each + (at == place) for at, each in enumerate(x)]
        assert value(risen, w) - value(x, w) == pytest.approx(made["dx"][place])
    for place in range(len(w)):
        risen = [each + (at == place) for at, each in enumerate(w)]
        assert value(x, risen) - value(x, w) == pytest.approx(made["dw"][place])


def test_bad_numbers_get_a_line() -> None:
    with pytest.raises(GeometryError, match="3 for x; needed 9"):
        work_out(Layer("max", 2), 3, x=[1, 2, 3])
    with pytest.raises(GeometryError, match="one of w is out of bounds"):
        work_out(Layer("conv", 1), 3, w=[float("nan")])
    with pytest.raises(GeometryError, match="needed one"):
        work_out(Layer("conv", 1, out=2), 3)
    with pytest.raises(GeometryError, match="400 inputs"):
        work_out(Layer("conv", 1), 20)
