"""Equivariance under shifts: what theory says of each layer, exactly; the borders; and what goes wrong."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import networks
import striate.nn as snn
from striate.analysis import equivariance
from striate.analysis.shifts import CircularBorders, shifted
from striate.errors import AnalysisError

ROUNDING = 1e-5
SHIFTS = [(0, 1), (1, 1), 2, (0, 3), 0.5]


def convolutions(make: type) -> nn.Sequential:
    return nn.Sequential(
        make(2, 4, 3, padding=1), make(4, 4, 5, padding="same", dilation=2), make(4, 3, 3, padding=1, bias=False)
    )


@pytest.mark.formula("F42", "S3")
@pytest.mark.parametrize("borders", ["circular", "zeros"])
@pytest.mark.parametrize("make", [nn.Conv2d, snn.Conv2d])
def test_convolution_is_equivariant_to_rounding(make: type, borders: str) -> None:
    found = equivariance(convolutions(make), (2, 32, 31), SHIFTS, borders=borders)
    for row in found:
        assert all(error is not None and error < ROUNDING for error in (*row.error, *row.aligned[:4])), row
        assert row.region == ("circle" if borders == "circular" else "interior")


def test_valid_convolution_is_compared_where_the_image_reaches() -> None:
    found = equivariance(nn.Sequential(nn.Conv2d(1, 3, 5), nn.Conv2d(3, 3, 3)), (1, 20, 20), [1, (-3, 2), 0.5])
    assert [row.region for row in found] == ["interior"] * 3
    assert all(error < ROUNDING for row in found for error in row.error[:2] if error is not None)
    # half a pixel on a circle reaches across the border, so there is nothing to compare with
    assert found.at("1").error[2] is None


@pytest.mark.formula("S3", "S4")
def test_strided_pooling_is_not_equivariant_and_blurring_helps() -> None:
    torch.manual_seed(0)
    first = nn.Conv2d(2, 8, 3, padding=1)
    strided = nn.Sequential(first, nn.ReLU(), nn.MaxPool2d(2))
    blurred = nn.Sequential(first, nn.ReLU(), snn.MaxPool2d(2, 1, "same"), snn.BlurPool2d(8, 4))
    one, other = (equivariance(model, (2, 32, 32), SHIFTS) for model in (strided, blurred))
    for found in (one, other):
        final = found.rows[-1]
        assert final.stride == (2, 2)
        assert final.error[2] is not None
        assert final.error[2] < ROUNDING
    for shift in (0, 1, 3):
        odd, smooth = one.at("2"), other.at("3")
        assert odd.error[shift] > 0.25 > 2 * smooth.error[shift] > ROUNDING
        assert odd.alone[shift] == pytest.approx(odd.error[shift], rel=1e-4)
    # it is the stride alone: everything before it moves with the image
    assert all(error < ROUNDING for error in one.at("1").error[:4])


def test_polyphase_sampling_is_exact_up_to_whole_shifts() -> None:
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.ReLU(),
        snn.PolyphaseSampling2d(),
        nn.Conv2d(4, 4, 3, padding=1),
        snn.PolyphaseSampling2d(),
        snn.GlobalAvgPool(),
        nn.Flatten(),
        nn.Linear(4, 3),
    )
    found = equivariance(model, (2, 16, 16), [(0, 1), 1, (2, 3), (5, 7)])
    for name in ("2", "3", "4"):
        assert max(found.at(name).aligned) < ROUNDING
        assert max(found.at(name).error) > 0.1
    for row in found.rows[-4:]:
        assert row.region == "whole"
        assert max(row.error) < ROUNDING


def test_transposed_convolution_undoes_a_stride() -> None:
    up = nn.Sequential(nn.ConvTranspose2d(2, 3, 4, 2, 1), nn.ConvTranspose2d(3, 3, 3, 2, 1, output_padding=1))
    for borders in ("circular", "zeros"):
        found = equivariance(up, (2, 12, 12), [1, (2, 3)], borders=borders)
        assert [row.stride for row in found][:2] == [(0.5, 0.5), (0.25, 0.25)]
        assert max(error for row in found for error in row.error) < ROUNDING


@pytest.mark.formula("F42")
def test_errors_are_what_their_definition_says() -> None:
    torch.manual_seed(3)
    conv, x = nn.Conv2d(1, 2, 3, stride=2, padding=1), torch.randn(3, 1, 16, 16)
    found = equivariance(nn.Sequential(conv), x, [(0, 2), (0, 1)]).at("0")

    def circular(x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="circular"), conv.weight, conv.bias, 2).detach()

    before = circular(x)
    after = circular(x.roll(1, 3))
    columns = torch.fft.fft(before.double(), dim=3)
    frequencies = torch.fft.fftfreq(8, dtype=torch.float64)
    half = torch.fft.ifft(columns * torch.exp(-2j * torch.pi * frequencies * 0.5), dim=3).real
    expected = ((after - half).flatten(1).norm(dim=1) / half.flatten(1).norm(dim=1)).mean()
    assert found.error[1] == pytest.approx(float(expected), rel=1e-5)
    best = torch.stack(
        [(after - before.roll(by, 3)).flatten(1).norm(dim=1) / before.flatten(1).norm(dim=1) for by in (0, 1)]
    )
    assert found.aligned[1] == pytest.approx(float(best.amin(0).mean()), rel=1e-5)


def check_zero_borders(dy: int, dx: int, seed: int) -> None:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(1, 2, 3, padding=2), nn.ReLU(), nn.Conv2d(2, 2, 5, padding=2))
    found = equivariance(model, (1, 17, 18), [(dy, dx)], borders="zeros")
    assert all(row.error[0] is not None and row.error[0] < ROUNDING for row in found)


@given(st.integers(-6, 6), st.integers(-6, 6), st.integers(0, 7))
@settings(max_examples=25)
def test_zero_borders_compare_only_what_sees_the_image(dy: int, dx: int, seed: int) -> None:
    check_zero_borders(dy, dx, seed)


@pytest.mark.slow
@given(st.integers(-6, 6), st.integers(-6, 6), st.integers(0, 7))
def test_zero_borders_at_more_shifts(dy: int, dx: int, seed: int) -> None:
    check_zero_borders(dy, dx, seed)


def test_nothing_to_compare_is_said() -> None:
    found = equivariance(networks.ResNet(18, width=4), (3, 32, 32), [1], borders="zeros")
    row = found.at("layer3")
    assert (row.shape[2:], row.error) == ((2, 2), (None,))
    assert "sees only what is in the image" in row.note
    assert found.at("fc").region == "whole"
    assert found.at("fc").error[0] > 0.001


class Odd(nn.Module):
    """A layer called twice, one never, an activation in place, a branch, and padding by a function."""

    def __init__(self) -> None:
        super().__init__()
        self.twice = nn.Conv2d(2, 2, 3, padding=1)
        self.never = nn.Conv2d(2, 2, 3)
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.AvgPool2d(3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.twice(x))
        x = self.pool(self.twice(F.pad(x, (1, 2, 2, 1))[:, :, 1:-2, 2:-1])) + F.avg_pool2d(x, 3, 2, 1)
        return x


@pytest.mark.parametrize("borders", ["circular", "zeros"])
def test_any_network_is_measured_and_left_as_it_is(borders: str) -> None:
    model = Odd().train()
    model.relu.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = equivariance(model, (2, 16, 16), [2, (4, 0)], borders=borders)
    assert [row.name for row in found] == ["twice@1", "relu", "twice", "pool", "(network)"]
    for row in found:
        assert max(row.error) < ROUNDING
    assert model.training
    assert not model.relu.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in model.modules())
    json.dumps(found.to_dict(), allow_nan=False)


def test_a_network_that_fails_is_left_as_it_is() -> None:
    class Failing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 1, 3, padding=1)
            self.calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            if self.calls > 1:
                raise RuntimeError("worn out")
            result: Tensor = self.conv(x)
            return result

    model = Failing().train()
    with pytest.raises(AnalysisError, match="worn out"):
        equivariance(model, (1, 8, 8))
    assert model.training
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in model.modules())


def test_circular_borders_are_circular_padding() -> None:
    x = torch.randn(2, 3, 10, 9)
    around = F.pad(x, (2, 2, 2, 2), mode="circular")
    conv, pool = nn.Conv2d(3, 4, 5, padding=2), nn.MaxPool2d(3, 2, 1)
    with torch.no_grad(), CircularBorders():
        torch.testing.assert_close(conv(x), F.conv2d(around, conv.weight, conv.bias))
        torch.testing.assert_close(pool(x), F.max_pool2d(around[:, :, 1:-1, 1:-1], 3, 2))
        torch.testing.assert_close(F.pad(x, (2, 2, 2, 2)), around)
        torch.testing.assert_close(F.pad(x, (2, 2, 2, 2), mode="reflect"), around)
        torch.testing.assert_close(F.pad(x, (2, 2, 2, 2), mode="replicate"), around)
        torch.testing.assert_close(F.pad(x, (-1, 2)), around[:, :, 2:-2, 3:])


@given(st.integers(1, 5), st.integers(1, 3), st.integers(1, 2), st.integers(0, 2))
def test_circular_transposed_convolution_is_the_adjoint_of_the_circular_one(
    kernel: int, stride: int, dilation: int, padding: int
) -> None:
    torch.manual_seed(kernel)
    n = 4
    spread = dilation * (kernel - 1) + 1
    extra = n * stride - ((n - 1) * stride - 2 * padding + spread)
    if not 0 <= extra < max(stride, dilation):
        return
    weight = torch.randn(2, 3, kernel, kernel, dtype=torch.float64)
    y = torch.randn(1, 2, n, n, dtype=torch.float64)
    x = torch.randn(1, 3, n * stride, n * stride, dtype=torch.float64)
    with CircularBorders():
        up = F.conv_transpose2d(y, weight, None, stride, padding, extra, 1, dilation)
        down = F.conv2d(x, weight, None, stride, padding, dilation)[:, :, :n, :n]
    torch.testing.assert_close((up * x).sum(), (y * down).sum())


@given(st.floats(-7, 7), st.integers(4, 9))
def test_broken_shifts_move_waves_by_what_they_say(by: float, n: int) -> None:
    places = torch.arange(n, dtype=torch.float64)
    wave = torch.cos(2 * torch.pi * places / n)[None, None, None]
    moved = torch.cos(2 * torch.pi * (places - by) / n)[None, None, None]
    torch.testing.assert_close(shifted(wave, (0, by), circular=(True, True)), moved)
    ramp = 3 * places[None, None, None] + 1
    inside = (places - by >= 0) & (places - by <= n - 1)
    torch.testing.assert_close(shifted(ramp, (0, by))[..., inside], (ramp - 3 * by)[..., inside])


@pytest.mark.parametrize(
    ("given_", "named", "message"),
    [
        ((1, 8), {}, r"input size: got \(1, 8\); needed \(C, H, W\)"),
        (torch.zeros(3, 8, 8), {}, r"images: got 3x8x8; needed \(N, C, H, W\)"),
        (torch.zeros(1, 2, 8, 8, dtype=torch.uint8), {}, "got torch.uint8; needed floating point"),
        (torch.full((1, 2, 8, 8), torch.nan), {}, "not finite"),
        ((2, 8, 8), {"shifts": [8]}, r"shift: got \(8, 8\); needed .* below the image's 8x8"),
        ((2, 8, 8), {"shifts": []}, "shifts: got none"),
        ((2, 8, 8), {"borders": "mirror"}, "borders: got 'mirror'"),
        ((5, 8, 8), {}, "twice: .*doesn't go through"),
    ],
)
def test_mistakes(given_: object, named: dict, message: str) -> None:
    with pytest.raises(AnalysisError, match=message):
        equivariance(Odd(), given_, **named)


def test_unknown_layers_suggest_near_ones() -> None:
    with pytest.raises(AnalysisError, match="near: pool"):
        equivariance(Odd(), (2, 8, 8), [1]).at("pol")
