"""LeNet-5 against the paper's numbers and formulas."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from striate.models.lenet import C3_TABLE, LeNet5_1998, ScaledTanh, Subsampling, TableConv2d, digit_codes


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_parameters_of_every_layer_of_1998() -> None:
    model = LeNet5_1998()
    layers = (model.c1, model.s2, model.c3, model.s4, model.c5, model.f6, model.output)
    assert [count(layer) for layer in layers] == [156, 12, 1_516, 32, 48_120, 10_164, 0]


def test_table_one() -> None:
    rows = [[c3 for c3, channels in enumerate(C3_TABLE) if s2 in channels] for s2 in range(6)]
    assert [len(channels) for channels in C3_TABLE] == [3] * 6 + [4] * 9 + [6]
    assert sum(map(len, C3_TABLE)) == 60
    # the table's rows as printed
    assert rows[0] == [0, 4, 5, 6, 9, 10, 11, 12, 14, 15]
    assert rows[3] == [1, 2, 3, 6, 7, 8, 9, 12, 14, 15]
    assert all(len(row) == 10 for row in rows)


def test_a_table_convolution_is_sixteen_small_ones() -> None:
    layer = TableConv2d(C3_TABLE, 6, 5)
    torch.nn.init.normal_(layer.weight)
    torch.nn.init.normal_(layer.bias)
    x = torch.randn(2, 6, 14, 14)
    start, maps = 0, []
    for bias, channels in zip(layer.bias, C3_TABLE, strict=True):
        weight = layer.weight[start : start + len(channels)].reshape(1, len(channels), 5, 5)
        maps.append(F.conv2d(x[:, list(channels)], weight, bias[None]))
        start += len(channels)
    torch.testing.assert_close(layer(x), torch.cat(maps, 1), rtol=1e-4, atol=1e-5)


def test_the_scaled_tanh_maps_one_to_one() -> None:
    squash = ScaledTanh()
    x = torch.tensor([-1.0, 1.0], requires_grad=True)
    torch.testing.assert_close(squash(x), torch.tensor([-1.0, 1.0]), atol=1e-4, rtol=0)
    torch.testing.assert_close(squash(torch.tensor(100.0)), torch.tensor(1.7159))


def test_subsampling_adds_four_times_a_coefficient_plus_a_bias() -> None:
    layer = Subsampling(2)
    with torch.no_grad():
        layer.coefficient.copy_(torch.tensor([2.0, -1.0]))
        layer.bias.copy_(torch.tensor([0.5, 0.0]))
    x = torch.arange(16.0).reshape(1, 2, 2, 4)
    assert layer(x).tolist() == [[[[2 * 10 + 0.5, 2 * 18 + 0.5]], [[-42.0, -50.0]]]]


def test_codes_are_pictures_of_digits() -> None:
    codes = digit_codes()
    assert codes.shape == (10, 84)
    assert set(codes.unique().tolist()) == {-1.0, 1.0}
    assert len({tuple(code.tolist()) for code in codes}) == 10
    seven = codes[7].reshape(12, 7)
    assert (seven[0] == 1).all()
    assert (seven[10:] == -1).all()


@pytest.mark.formula("F50")
def test_output_is_minus_the_squared_distance_and_the_loss_is_equation_nine() -> None:
    model = LeNet5_1998()
    exact = model.output(digit_codes()[3:4])
    assert exact.argmax() == 3
    assert exact[0, 3] == 0
    # two codes differ by 2 in every cell where they differ
    assert exact[0, 8] == -4 * (digit_codes()[3] != digit_codes()[8]).sum()
    y = torch.tensor([[0.3, 2.0, 1.0], [4.0, 0.1, 0.2]], dtype=torch.float64)
    labels = torch.tensor([0, 2])
    expected = 0.0
    for row, label in zip(y.tolist(), labels.tolist(), strict=True):
        expected += row[label] + math.log(math.exp(-1) + sum(math.exp(-value) for value in row))
    assert math.isclose(model.loss(-y, labels).item(), expected / 2, rel_tol=1e-12)


def test_initial_weights_lie_within_2_4_over_fan_in() -> None:
    model = LeNet5_1998()
    assert model.c1.weight.abs().max() <= 2.4 / 25
    assert model.c1.weight.abs().max() > 2.0 / 25
    assert model.c3.weight[:3].abs().max() <= 2.4 / 75
    assert model.c3.weight[-6:].abs().max() <= 2.4 / 150
    assert model.c5.weight.abs().max() <= 2.4 / 400
    assert model.f6.weight.abs().max() <= 2.4 / 120
