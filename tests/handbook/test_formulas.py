"""Formulas and worked examples of the texts that no other test states: written out, against the functions."""

from __future__ import annotations

import math

import pytest
import torch

from striate import ConvShape, Window, analysis, models, nn, ops
from striate.errors import GeometryError, OperandError

X = torch.tensor([[1.0, 5, 4], [9, 2, 1], [6, 3, 2]], dtype=torch.float64)
KERNEL = torch.tensor([[0.1, 0.02], [0.003, 0.0004]], dtype=torch.float64)
UPSTREAM = torch.tensor([[2.0, 30], [500, 7000]], dtype=torch.float64)
A, B, C, D = UPSTREAM.flatten().tolist()


def image(matrix: torch.Tensor) -> torch.Tensor:
    return matrix[None, None]


@pytest.mark.formula("W1", "F2", "F8")
@pytest.mark.parametrize("conv2d", [ops.conv2d, ops.reference.conv2d], ids=["ops", "reference"])
def test_forward_of_a_2x2_kernel_on_3x3_written_out(conv2d) -> None:
    (x00, x01, x02), (x10, x11, x12), (x20, x21, x22) = X.tolist()
    (w00, w01), (w10, w11) = KERNEL.tolist()
    expected = [
        [x00 * w00 + x01 * w01 + x10 * w10 + x11 * w11, x01 * w00 + x02 * w01 + x11 * w10 + x12 * w11],
        [x10 * w00 + x11 * w01 + x20 * w10 + x21 * w11, x11 * w00 + x12 * w01 + x21 * w10 + x22 * w11],
    ]
    torch.testing.assert_close(conv2d(image(X), image(KERNEL))[0, 0], torch.tensor(expected, dtype=torch.float64))


@pytest.mark.formula("W2", "F14", "F16")
def test_weight_gradient_of_the_same_written_out() -> None:
    (x00, x01, x02), (x10, x11, x12), (x20, x21, x22) = X.tolist()
    expected = [
        [A * x00 + B * x01 + C * x10 + D * x11, A * x01 + B * x02 + C * x11 + D * x12],
        [A * x10 + B * x11 + C * x20 + D * x21, A * x11 + B * x12 + C * x21 + D * x22],
    ]
    found = ops.reference.conv2d_weight_grad(image(X), (1, 1, 2, 2), image(UPSTREAM))[0, 0]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.formula("W3", "F15", "F17")
def test_input_gradient_of_the_same_written_out() -> None:
    (w00, w01), (w10, w11) = KERNEL.tolist()
    expected = [
        [A * w00, A * w01 + B * w00, B * w01],
        [A * w10 + C * w00, A * w11 + B * w10 + C * w01 + D * w00, B * w11 + D * w01],
        [C * w10, C * w11 + D * w10, D * w11],
    ]
    found = ops.reference.conv2d_input_grad((1, 1, 3, 3), image(KERNEL), image(UPSTREAM))[0, 0]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.formula("W4", "F36", "F41")
@pytest.mark.parametrize("max_pool2d", [ops.max_pool2d, ops.reference.max_pool2d], ids=["ops", "reference"])
def test_maxima_of_the_matrix_and_where_they_stand(max_pool2d) -> None:
    values, places = max_pool2d(image(X), 2, 1, return_indices=True)
    assert values[0, 0].tolist() == [[9, 5], [9, 3]]
    # rows first: 9 stands at (1, 0), 5 at (0, 1), 3 at (2, 1)
    assert places[0, 0].tolist() == [[3, 1], [3, 7]]


@pytest.mark.formula("W5", "F39")
def test_gradient_of_maxima_written_out() -> None:
    found = ops.reference.max_pool2d_backward(image(UPSTREAM), image(X), 2, 1)[0, 0]
    assert found.tolist() == [[0, B, 0], [A + C, 0, 0], [0, D, 0]]


@pytest.mark.formula("W6", "F37")
@pytest.mark.parametrize("avg_pool2d", [ops.avg_pool2d, ops.reference.avg_pool2d], ids=["ops", "reference"])
def test_averages_of_the_matrix(avg_pool2d) -> None:
    assert avg_pool2d(image(X), 2, 1)[0, 0].tolist() == [[4.25, 3], [5, 2]]


@pytest.mark.formula("W7", "F40")
def test_gradient_of_averages_written_out() -> None:
    found = ops.reference.avg_pool2d_backward(image(UPSTREAM), image(X), 2, 1)[0, 0]
    assert (4 * found).tolist() == [[A, A + B, B], [A + C, A + B + C + D, B + D], [C, C + D, D]]


@pytest.mark.formula("W8", "S3")
def test_maxima_of_a_shifted_row_and_the_third_that_rounding_up_adds() -> None:
    row, shifted = torch.tensor([[1.0, 3, 2, 4]]), torch.tensor([[0.0, 1, 3, 2, 4]])
    assert ops.max_pool1d(row, 2).tolist() == [[3, 4]]
    assert ops.max_pool1d(shifted, 2).tolist() == [[1, 3]]
    assert ops.max_pool1d(shifted, 2, ceil_mode=True).tolist() == [[1, 3, 4]]
    assert (Window(2, 2).output_size(5), Window(2, 2).output_size(5, ceil_mode=True)) == (2, 3)


@pytest.mark.formula("F4")
@pytest.mark.parametrize("conv2d", [ops.conv2d, ops.reference.conv2d], ids=["ops", "reference"])
def test_every_filter_has_its_bias(conv2d) -> None:
    x, w = torch.randn(2, 3, 6, 5).double(), torch.randn(4, 3, 3, 2).double()
    bias = torch.tensor([1.0, -20, 300, -4000]).double()
    found = conv2d(x, w, bias)
    for f in range(4):
        by_channel = sum(conv2d(x[:, c : c + 1], w[f : f + 1, c : c + 1]) for c in range(3))
        torch.testing.assert_close(found[:, f : f + 1], by_channel + bias[f])


@pytest.mark.formula("F10")
@pytest.mark.parametrize("convolve", [ops.convolve, ops.reference.convolve], ids=["ops", "reference"])
def test_densities_on_a_fine_grid(convolve) -> None:
    h = 1 / 64
    # two uniform densities on 0..1 make a triangle on 0..2: sums of cell centres lie h apart, from h on
    uniform = torch.ones(64, dtype=torch.float64)
    z = h * torch.arange(1, 128, dtype=torch.float64)
    torch.testing.assert_close(h * convolve(uniform, uniform), 1 - (z - 1).abs())
    # two normal densities make a normal one, whose variance is the sum
    grid = torch.arange(-8, 8 + h, h, dtype=torch.float64)

    def normal(at: torch.Tensor, deviation: float) -> torch.Tensor:
        return (-0.5 * (at / deviation).square()).exp() / (deviation * math.sqrt(2 * math.pi))

    found = h * convolve(normal(grid, 0.6), normal(grid, 0.8))
    wide = torch.linspace(-16, 16, len(found), dtype=torch.float64)
    torch.testing.assert_close(found, normal(wide, 1.0), rtol=0, atol=1e-9)


@pytest.mark.formula("F11")
@pytest.mark.parametrize("function", [ops.distribution_of_sum, ops.reference.distribution_of_sum])
def test_sum_of_dependent_variables(function) -> None:
    joint = torch.rand(3, 5, dtype=torch.float64)
    joint /= joint.sum()
    found = function(joint)
    assert found.shape == (7,)
    for z in range(7):
        expected = sum(joint[x, z - x].item() for x in range(3) if 0 <= z - x < 5)
        assert math.isclose(found[z].item(), expected, abs_tol=1e-15)
    first, second = torch.rand(2, 4, dtype=torch.float64)
    torch.testing.assert_close(function(torch.outer(first, second)), ops.convolve(first, second))
    batch = torch.rand(2, 3, 2, 2, dtype=torch.float64)
    torch.testing.assert_close(function(batch)[1, 2], function(batch[1, 2]))


def test_the_sums_distribution_has_gradients_and_refuses_what_is_no_table() -> None:
    assert torch.autograd.gradcheck(ops.distribution_of_sum, torch.rand(2, 3, dtype=torch.float64, requires_grad=True))
    with pytest.raises(OperandError, match="needed two axes"):
        ops.distribution_of_sum(torch.rand(3))
    with pytest.raises(GeometryError, match="needed an entry"):
        ops.distribution_of_sum(torch.rand(3, 0))


@pytest.mark.formula("F12")
@pytest.mark.parametrize("function", [ops.distribution_of_sum, ops.reference.distribution_of_sum])
def test_density_of_a_sum_of_correlated_normal_variables(function) -> None:
    h, correlation = 1 / 8, 0.5
    x, y = (torch.arange(-ends, ends + h, h, dtype=torch.float64) for ends in (7, 6))
    a, b = x[:, None], y[None, :]
    joint = (-(a * a - 2 * correlation * a * b + b * b) / (2 * (1 - correlation**2))).exp()
    joint /= 2 * math.pi * math.sqrt(1 - correlation**2)
    z = torch.linspace(-13, 13, len(x) + len(y) - 1, dtype=torch.float64)
    variance = 2 + 2 * correlation
    expected = (-(z * z) / (2 * variance)).exp() / math.sqrt(2 * math.pi * variance)
    torch.testing.assert_close(h * function(joint), expected, rtol=0, atol=1e-6)


@pytest.mark.formula("F18")
def test_a_step_of_gradient_descent_takes_the_sum_over_places() -> None:
    x, w = torch.randn(1, 1, 5, 5).double(), torch.randn(1, 1, 3, 3).double()
    target = torch.randn(1, 1, 3, 3).double()
    upstream = ops.conv2d(x, w) - target  # of half the sum of squares
    by_place = [upstream[0, 0, i, j] * x[0, 0, i : i + 3, j : j + 3] for i in range(3) for j in range(3)]
    assert len(by_place) == 9
    torch.testing.assert_close(ops.reference.conv2d_weight_grad(x, w.shape, upstream)[0, 0], sum(by_place))
    weight = w.clone().requires_grad_()
    step = torch.optim.SGD([weight], lr=0.25)
    (0.5 * (ops.conv2d(x, weight) - target).square().sum()).backward()
    step.step()
    torch.testing.assert_close(weight.detach()[0, 0], w[0, 0] - 0.25 * sum(by_place))


@pytest.mark.formula("F21", "F19")
def test_the_size_without_rounding_is_that_with_it_where_the_stride_divides() -> None:
    whole = 0
    for size in range(4, 12):
        for kernel in range(1, 5):
            for padding in range(3):
                for stride in range(1, 4):
                    exact = (size - kernel + 2 * padding) / stride + 1
                    found = Window(kernel, stride, padding).output_size(size)
                    assert found == math.floor(exact)
                    whole += found == exact
    assert 100 < whole < 8 * 4 * 3 * 3
    assert Window(3, 2).output_size(6) == 2 != (6 - 3) / 2 + 1


@pytest.mark.formula("F22", "F19")
@pytest.mark.parametrize("window", [Window(3), Window(3, 2, 1), Window(5, 3, 2), Window(2, 4, 0)])
def test_outputs_are_the_places_where_the_kernel_still_fits(window: Window) -> None:
    padding = window.pads(0)[0]
    for size in range(window.kernel, 20):
        places = [p for p in range(0, size + 2 * padding, window.stride) if p + window.kernel <= size + 2 * padding]
        assert window.output_size(size) == len(places)


@pytest.mark.formula("F26")
def test_effective_kernel() -> None:
    for kernel in range(1, 6):
        for dilation in range(1, 5):
            assert Window(kernel, dilation=dilation).effective_kernel == kernel + (kernel - 1) * (dilation - 1)


@pytest.mark.formula("F24")
def test_half_the_kernel_keeps_the_size_of_odd_kernels_only() -> None:
    for kernel in range(1, 8):
        assert Window(kernel, padding=kernel // 2).output_size(20) == (20 if kernel % 2 else 21)
        assert Window(kernel, padding="same").output_size(20) == 20


@pytest.mark.formula("F52")
def test_stride_two_halves_even_sizes_and_rounds_odd_ones_up() -> None:
    for size in range(1, 20):
        assert Window(3, 2, "same").output_size(size) == -(-size // 2)
        assert Window(3, 2, 1).output_size(size) == -(-size // 2)
    assert Window(3, 2).output_size(20) == 9


@pytest.mark.formula("F32", "F35", "W12", "F33", "F34")
def test_fields_of_layers_in_a_row() -> None:
    pixel = Window(1)
    assert [(pixel @ Window(kernel)).kernel for kernel in (1, 3, 7)] == [1, 3, 7]
    field = pixel
    for layers in range(1, 8):
        field = field @ Window(3)
        assert field.kernel == 1 + 2 * layers
    assert (Window(3) @ Window(3)).kernel == Window(5).kernel == 5
    weights = [ConvShape.of((1, 1, 9, 9), (1, 1, k, k)).parameters(bias=False) for k in (3, 5)]
    assert (2 * weights[0], weights[1]) == (18, 25)
    # closed form, with strides
    layers = [(7, 2), (3, 2), (5, 1), (3, 3), (2, 1)]
    field, jump, size = pixel, 1, 1
    for kernel, stride in layers:
        field = field @ Window(kernel, stride)
        size += (kernel - 1) * jump
        jump *= stride
        assert (field.kernel, field.stride) == (size, jump)


@pytest.mark.formula("F29", "F30", "W17")
def test_weights_of_a_depthwise_separable_convolution() -> None:
    for kernel, c_in, c_out in ((3, 64, 128), (5, 4, 6)):
        layer = nn.DepthwiseSeparableConv2d(c_in, c_out, kernel, bias=False)
        assert layer.parameter_count() == c_in * (kernel**2 + c_out)
        assert layer.standard_parameter_count() == c_in * kernel**2 * c_out
        biased = nn.DepthwiseSeparableConv2d(c_in, c_out, kernel)
        assert biased.parameter_count() == c_in * kernel**2 + c_in * c_out + c_in + c_out
        assert biased.standard_parameter_count() == c_in * c_out * kernel**2 + c_out


@pytest.mark.formula("F51", "W10")
@pytest.mark.parametrize(
    ("size", "inputs"), [((3, 256, 256), 196_608), ((3, 224, 224), 150_528), ((3, 200, 200), 120_000)]
)
def test_a_fully_connected_layer_on_an_image(size: tuple[int, ...], inputs: int) -> None:
    with torch.device("meta"):
        layer = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(math.prod(size), 1000, bias=False))
    assert sum(weight.numel() for weight in layer.parameters()) == 1000 * inputs
    small = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 10, bias=False))
    assert analysis.summarize(small, (3, 8, 8)).parameters == 3 * 8 * 8 * 10


@pytest.mark.formula("W14")
def test_parameters_of_the_classics() -> None:
    assert analysis.summarize(models.create("lenet5_1998"), (1, 32, 32)).parameters == 60_000
    with torch.device("meta"):
        for name, count in (("alexnet", 61_100_840), ("vgg16", 138_357_544)):
            assert sum(weight.numel() for weight in models.create(name).parameters()) == count


@pytest.mark.formula("F49", "W18")
def test_simple_cnn_rectifies_and_halves() -> None:
    network = models.create("simple_cnn").eval()
    assert network.input_size == (28, 28)
    x, seen = torch.randn(1, 1, 28, 28), {}
    value = x
    for name, layer in network.named_children():
        before, value = value, layer(value)
        seen[name] = tuple(value.shape[1:])
        if name.startswith("relu"):
            assert torch.equal(value, torch.where(before > 0, before, 0.0))
            assert bool((before < 0).any())
    assert seen["relu1"] == (32, 28, 28)
    assert seen["pool1"] == (32, 14, 14)
    assert seen["relu2"] == (64, 14, 14)
    assert seen["pool2"] == (64, 7, 7)
    assert seen["flatten"] == (3136,)
    assert seen["output"] == (10,)


@pytest.mark.formula("W13")
def test_maps_of_lenet5() -> None:
    rows = {row.name: row.output_shape[1:] for row in analysis.summarize(models.create("lenet5_1998"), (1, 32, 32))}
    expected = {"c1": (6, 28, 28), "s2": (6, 14, 14), "c3": (16, 10, 10), "s4": (16, 5, 5), "c5": (120, 1, 1)}
    assert {name: rows[name] for name in expected} == expected
    sizes = [32]
    for window in (Window(5), Window(2, 2), Window(5), Window(2, 2), Window(5)):
        sizes.append(window.output_size(sizes[-1]))
    assert sizes == [32, 28, 14, 10, 5, 1]


@pytest.mark.formula("S20", "S21")
def test_pooling_loses_has_no_parameters_and_its_windows_may_overlap() -> None:
    x, y = torch.tensor([[[1.0, 5], [9, 2]]]), torch.tensor([[[9.0, 0], [0, 0]]])
    assert torch.equal(ops.max_pool2d(x, 2), ops.max_pool2d(y, 2))
    assert sum(parameter.numel() for parameter in nn.MaxPool2d(2).parameters()) == 0
    assert ops.max_pool2d(torch.rand(1, 1, 9, 9), 3, 2).shape == (1, 1, 4, 4)


@pytest.mark.formula("S28")
def test_channels_of_images_and_filters() -> None:
    for channels in (1, 3):
        layer = nn.Conv2d(channels, 64, 3)
        assert layer.weight.shape == (64, channels, 3, 3)
        assert layer(torch.rand(1, channels, 8, 8)).shape[1] == 64
