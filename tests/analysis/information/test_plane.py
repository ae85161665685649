"""The information plane: by hand, by restated formulas, on networks of awkward kinds; the model stays as it was."""

from __future__ import annotations

import copy
import json
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from striate.analysis.information import Binning, entropy, information, kernel_bounds, mutual_information
from striate.errors import AnalysisError
from striate.report.information import plane_figure, plane_table

X = torch.randn(60, 1, 6, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(60) % 3


class Awkward(torch.nn.Module):
    """A layer used twice, writing in place, and a branch."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(1, 2, 3)
        self.relu = torch.nn.ReLU(inplace=True)
        self.drop = torch.nn.Dropout(0.5)
        self.unused = torch.nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.drop(self.relu(y - 1) + self.relu(self.conv(-x)))


def test_binned_is_counted_as_stated() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(36, 2), torch.nn.Tanh())
    plane = information(model, X, Y, layers=["2"], binning=Binning(3, atom=None))
    values = model(X).detach().double().numpy()
    binned = Binning(3, atom=None)(values)
    (row,) = plane.rows
    assert row.input == row.entropy == pytest.approx(entropy(binned))
    assert row.label == pytest.approx(mutual_information(binned, Y.numpy()))
    assert row.unit_entropy == pytest.approx(np.mean([entropy(binned[:, 0]), entropy(binned[:, 1])]))
    assert plane.label_entropy == pytest.approx(math.log(3))
    assert "3 bins of equal width" in plane.measured
    assert information(model, X, Y, layers=["2"], binning=Binning(3, atom=None), unit="bits").rows[0].input == (
        pytest.approx(row.input / math.log(2))
    )


def test_kernel_is_as_stated() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(36, 2))
    (row,) = information(model, X, Y, layers=["1"], method="kernel", noise=0.5).rows
    values = model(X).detach().double().numpy()
    upper = kernel_bounds(values, 0.5).upper
    within = np.mean([kernel_bounds(values[Y.numpy() == kind], 0.5).upper for kind in range(3)])
    assert row.input == pytest.approx(upper)
    assert row.label == pytest.approx(upper - within)
    assert row.entropy == pytest.approx(upper + math.log(2 * math.pi * math.e * 0.25))


def test_laws_along_a_deterministic_network() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(36, 4), torch.nn.ReLU(), torch.nn.Linear(4, 3))
    for row in information(model, X, Y).rows:
        assert 0 <= row.label <= min(row.input, math.log(3)) + 1e-9
        assert row.input <= math.log(60) + 1e-9
        assert row.saturated == (row.input > 0.99 * math.log(60))


def test_bins_span_all_checkpoints() -> None:
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(36, 1, bias=False))
    large = {name: tensor * 100 for name, tensor in model.state_dict().items()}
    small, grown = information(
        model, X, Y, checkpoints={0: model.state_dict(), 5: large}, layers=["1"], binning=Binning(8, atom=None)
    ).rows
    assert (small.epoch, grown.epoch) == (0, 5)
    assert small.input < 0.8 < grown.input, "what is small beside the later range falls into a bin or two"


def test_awkward_networks_and_nothing_is_left_behind() -> None:
    torch.manual_seed(0)
    model = Awkward().train()
    before = copy.deepcopy(model.state_dict())
    plane = information(model, X, Y, layers=["conv", "relu", "drop"])
    assert plane.layers == ("conv", "relu", "conv:2", "relu:2", "drop")
    first = torch.nn.functional.conv2d(X, model.conv.weight, model.conv.bias).detach().flatten(1).double().numpy()
    assert plane.of("conv")[0].unit_entropy == pytest.approx(
        np.mean([entropy(column) for column in Binning()(first).T]), abs=1e-6
    ), "of the values before anything is written into them"
    with pytest.raises(AnalysisError, match="unused: it doesn't run"):
        information(model, X, Y)
    assert model.training
    assert model.drop.training
    assert not any(module._forward_hooks for module in model.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_table_figure_and_json() -> None:
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(36, 3))
    plane = information(model, X, Y, checkpoints={0: model.state_dict(), 3: model.state_dict()}, layers=["1"])
    assert plane_table(plane).row_count == 2
    figure = plane_figure(plane)
    assert "I(input; layer), nats" in figure.axes[0].get_xlabel()
    assert "bins" in figure.axes[0].get_xlabel()
    assert json.loads(json.dumps(plane.to_dict(), allow_nan=False))["images"] == 60


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"layers": ["flaten"]}, "did you mean flatten"),
        ({"labels": Y[:5]}, "needed one for each of 60 images"),
        ({"labels": Y * 0}, "one class"),
        ({"method": "magic"}, "needed binned or kernel"),
        ({"method": "kernel", "noise": -1.0}, "above 0"),
        ({"checkpoints": {}}, "no checkpoints"),
        ({"images": X * float("nan")}, "aren't finite"),
        ({"images": X * 0}, "all 0; needed values that vary"),
    ],
)
def test_mistakes(arguments: dict[str, object], says: str) -> None:
    model = torch.nn.Sequential()
    model.add_module("flatten", torch.nn.Flatten())
    model.add_module("linear", torch.nn.Linear(36, 2))
    given = {"images": X, "labels": Y} | arguments
    with pytest.raises(AnalysisError, match=says):
        information(model, **given)  # type: ignore[arg-type]
