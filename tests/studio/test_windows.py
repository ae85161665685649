"""Windows in a row: every number is the library's, and every formula's middle text computes to its value."""

from __future__ import annotations

import contextlib
import io
import itertools
import math
import random
import re
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from striate.errors import GeometryError
from striate.geometry import ConvShape, Window, parse
from striate.studio.formulas import call, describe
from striate.studio.windows import Layer, steps

LAYERS = [
    "conv kernel=3",
    "conv kernel=7 stride=2 padding=3 out=64",
    "conv kernel=4 padding=same",
    "conv kernel=3 stride=2 padding=same out=4 groups=2",
    "conv kernel=3 padding=full dilation=2",
    "conv kernel=3 padding=0:2 stride=3",
    "max kernel=2 stride=2",
    "max kernel=3 stride=2 padding=1 ceil_mode",
    "avg kernel=3 stride=2 ceil_mode",
    "transposed kernel=3 stride=2 padding=1 extra=1 out=2",
    "transposed kernel=4 stride=2 padding=1 out=6 groups=2",
    "transposed kernel=3 dilation=2 out=3",
]


def computed(text: str) -> int:
    """A formula's middle text as Python computes it."""
    plain = text.replace("·", "*")
    plain = re.sub(r"⌊([^⌋]*)⌋", r"math.floor(\1)", plain)
    plain = re.sub(r"⌈([^⌉]*)⌉", r"math.ceil(\1)", plain)
    value = eval(plain, {"math": math})
    assert value == int(value)
    return int(value)


@pytest.mark.parametrize("dims", [1, 2])
@pytest.mark.parametrize("text", LAYERS)
def test_each_formula_computes_to_the_value_of_the_library(text: str, dims: int) -> None:
    for size in (9, 14, 32):
        for each in describe(size, 4, [Layer.parse(text)], dims)["layers"][0]["formulas"]:
            assert computed(each["numbers"]) == each["value"], (each["name"], each["numbers"])
            assert each["symbols"]


@pytest.mark.parametrize("text", LAYERS)
def test_sizes_and_costs_are_those_of_pytorch_and_of_the_problem(text: str) -> None:
    layer = Layer.parse(text)
    (step,) = steps(14, 4, [layer])
    made = network(layer, 4)(torch.zeros(1, 4, 14, 14))
    assert made.shape == (1, step.out_channels, step.outputs, step.outputs)
    problem = parse(describe(14, 4, [layer])["layers"][0]["problem"])
    if isinstance(problem, ConvShape):
        assert step.macs == problem.macs
        assert step.in_bounds == problem.in_bounds_macs
    weights = sum(each.numel() for each in network(layer, 4).parameters())
    assert step.parameters == weights


def network(layer: Layer, channels: int) -> torch.nn.Module:
    """The layer as PyTorch has it; words and uneven padding as cells around the input."""
    how: dict[str, Any] = {"stride": layer.stride, "dilation": layer.dilation}
    if layer.kind == "transposed":
        assert isinstance(layer.padding, int)
        return torch.nn.ConvTranspose2d(
            channels, layer.out, layer.kernel, padding=layer.padding, output_padding=layer.extra,
            groups=layer.groups, **how,
        )  # fmt: skip
    if layer.kind == "avg":
        return torch.nn.AvgPool2d(layer.kernel, layer.stride, ceil_mode=layer.ceil_mode)
    if layer.kind == "max":
        assert isinstance(layer.padding, int)
        return torch.nn.MaxPool2d(layer.kernel, padding=layer.padding, ceil_mode=layer.ceil_mode, **how)
    return Padded(layer, torch.nn.Conv2d(channels, layer.out, layer.kernel, groups=layer.groups, **how))


class Padded(torch.nn.Module):
    def __init__(self, layer: Layer, convolution: torch.nn.Module) -> None:
        super().__init__()
        self.layer, self.convolution = layer, convolution

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        sides = self.layer.window.pads(images.shape[-1])
        return self.convolution(F.pad(images, (*sides, *sides)))


@pytest.mark.parametrize("text", LAYERS)
def test_who_sees_whom_is_what_gradients_say(text: str) -> None:
    layer = Layer.parse(text)
    (step,) = steps(11, 1 if layer.groups == 1 else 2, [layer], dims=1)
    depends = dependence(layer, step.channels, 11)
    sees = [{place for place, _ in pairs if 0 <= place < step.size} for pairs in step.sees()]
    assert sees == [set(row.nonzero()[:, 0].tolist()) for row in depends]
    seen_by = [{output for output, _ in pairs} for pairs in step.seen_by()]
    assert seen_by == [set(column.nonzero()[:, 0].tolist()) for column in depends.T]
    assert {(o, i, t) for o, pairs in enumerate(step.sees()) for i, t in pairs if 0 <= i < step.size} == {
        (o, i, t) for i, pairs in enumerate(step.seen_by()) for o, t in pairs
    }


def dependence(layer: Layer, channels: int, size: int) -> torch.Tensor:
    """(outputs, inputs) along a row: which output hangs on which input, by averages in place of maxima."""
    plain = Layer("avg", layer.kernel, layer.stride, layer.padding, layer.dilation) if layer.pools else layer
    if layer.pools:
        window = layer.window.resolve(size)
        outputs = window.output_size(size, layer.ceil_mode)
        table = torch.zeros(outputs, size)
        for output, tap in itertools.product(range(outputs), range(window.kernel)):
            if 0 <= (place := output * window.stride - window.pads(size)[0] + tap * window.dilation) < size:
                table[output, place] = 1
        return table
    module = network(plain, channels)
    torch.nn.init.ones_(next(module.parameters()))
    image = torch.zeros(1, channels, size, size, requires_grad=True)
    row = module(image)[0, 0]
    middle = row.shape[0] // 2
    grads = [torch.autograd.grad(each, image, retain_graph=True)[0][0, 0].sum(0) for each in row[middle]]
    return torch.stack(grads)


def test_fields_are_those_of_windows_in_a_row() -> None:
    text = ["conv kernel=3", "conv kernel=3 dilation=2", "max kernel=2 stride=2", "conv kernel=5 stride=2 padding=same"]
    made = describe(40, 1, [Layer.parse(each) for each in text])["layers"]
    whole = Window(3) @ Window(3, dilation=2) @ Window(2, 2) @ Window(5, 2, "same").resolve(17)
    assert made[-1]["size"] == 17
    assert made[-1]["field"] == {"size": whole.kernel, "stride": 4, "start": -whole.pads(0)[0]}
    assert describe(8, 1, [Layer("transposed"), Layer()])["layers"][1]["field"] is None


@pytest.mark.parametrize("kind", ["conv", "transposed"])
def test_a_transposed_window_is_a_plain_one_over_cells_set_apart(kind: Any) -> None:
    tried = 0
    for kernel, stride, padding, dilation in itertools.product((1, 2, 3, 4), (1, 2, 3), (0, 1, 3), (1, 2)):
        try:
            layer = Layer(kind, kernel, stride, padding, dilation)
            (step,) = steps(5, 1, [layer], dims=1)
        except GeometryError:
            continue
        line = describe(5, 1, [layer], 1)["layers"][0]["stretched"]
        reach = [range(i, i + dilation * kernel, dilation) for i in range(line["made"])]
        flipped = [
            {(line["cells"][cell], kernel - 1 - t) for t, cell in enumerate(cells) if line["cells"][cell] is not None}
            for cells in reach
        ]
        assert flipped == [set(pairs) for pairs in (step.sees() if kind == "transposed" else step.seen_by())], layer
        tried += 1
    assert tried > 40


@pytest.mark.parametrize("seed", range(5))
def test_the_call_prints_the_numbers_of_the_page(seed: int) -> None:
    draw = random.Random(seed)
    layers = [Layer.parse(draw.choice(LAYERS).replace("groups=2", "groups=1")) for _ in range(draw.randint(1, 3))]
    layers = [*layers, Layer("conv", 1, padding=(1, 2), out=5)]
    told = describe(48, 4, layers)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(told["call"], {})
    lines = printed.getvalue().splitlines()
    sizes = [line for line in lines if line.startswith("output: ")]
    assert sizes == [f"output: ({each['outputs']}, {each['outputs']})" for each in told["layers"]]
    costs = [f"MACs: {each['macs']} inside: {each['in_bounds_macs']}" for each in told["layers"] if each["parameters"]]
    assert [line for line in lines if line.startswith("MACs")] == costs
    weights = [f"parameters: {each['parameters']}" for each in told["layers"] if each["parameters"]]
    assert [line for line in lines if line.startswith("parameters")] == weights
    if field := told["layers"][-1]["field"]:
        assert lines[-1] == f"receptive field: {field['size']} jump: {field['stride']}"


@pytest.mark.parametrize("text", LAYERS)
def test_layers_come_back_from_their_lines(text: str) -> None:
    assert Layer.parse(str(Layer.parse(text))) == Layer.parse(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "kind is ''"),
        ("dense kernel=3", "kind is 'dense'"),
        ("conv kernel=0", "kernel is 0"),
        ("conv kernel=257", "needed 1 to 256"),
        ("conv kernel=-1", "needed a whole number"),
        ("conv kernel=\N{ARABIC-INDIC DIGIT ONE}", "needed a whole number"),
        ("conv padding=1:2:3", "needed a number, BEFORE:AFTER or a word"),
        ("conv padding=513", "needed 0 to 512"),
        ("conv depth=3", "needed kernel="),
        ("conv kernel", "needed kernel="),
    ],
)
def test_bad_layers_get_a_line(text: str, said: str) -> None:
    with pytest.raises(GeometryError, match=re.escape(said)):
        Layer.parse(text)


def test_what_does_not_fit_names_its_layer() -> None:
    with pytest.raises(GeometryError, match=r"layer 2, conv2d, axis H: .*the input has 3"):
        steps(5, 1, [Layer(), Layer("conv", 7)])
    with pytest.raises(GeometryError, match="3 groups for 4 channels"):
        steps(5, 4, [Layer("conv", groups=3)])
    with pytest.raises(GeometryError, match="pairs of an output and a tap"):
        steps(512, 1, [Layer("conv", 64, padding="same")] * 5)
    assert "Window" not in call(8, 1, [Layer("transposed")])
