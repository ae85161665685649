"""Operations, their gradients and the gradients of these, layers and networks: on the GPU as on the CPU."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from cases import CONVOLUTIONS, POOLINGS, assert_same, conv, image, operands, pool
from striate import models, nn, ops
from striate.engine import Pass

CONV = {1: ops.conv1d, 2: ops.conv2d, 3: ops.conv3d}
CONV_TRANSPOSE = {1: ops.conv_transpose1d, 2: ops.conv_transpose2d, 3: ops.conv_transpose3d}
POOL = {
    "max": {1: ops.max_pool1d, 2: ops.max_pool2d, 3: ops.max_pool3d},
    "avg": {1: ops.avg_pool1d, 2: ops.avg_pool2d, 3: ops.avg_pool3d},
}

Call = Callable[..., Tensor]


def compare(call: Call, device: torch.device, *given: Tensor) -> None:
    """The result, its gradients along a random direction, and the gradients of what these add up to, squared."""
    here, there = (derivatives(call, [each.to(where) for each in given]) for where in ("cpu", device))
    for ours, expected in zip(there, here, strict=True):
        assert ours.device == device
        torch.testing.assert_close(ours.cpu(), expected, rtol=1e-9, atol=1e-9)


def derivatives(call: Call, given: list[Tensor]) -> list[Tensor]:
    operands = [each.detach().requires_grad_() for each in given]
    result = call(*operands)
    generator = torch.Generator().manual_seed(1)
    along = torch.randn(result.shape, dtype=result.dtype, generator=generator).to(result.device).requires_grad_()
    first = torch.autograd.grad(result, operands, along, create_graph=True)
    size = sum((each.square().sum() for each in first), torch.zeros((), device=result.device))
    second = torch.autograd.grad(size, [*operands, along], allow_unused=True, materialize_grads=True)
    return [result.detach(), *(each.detach() for each in (*first, *second))]


@pytest.mark.parametrize("line", CONVOLUTIONS)
def test_convolution(line: str, device: torch.device) -> None:
    shape = conv(line)
    given = operands(shape)
    how = (shape.stride, shape.pads, shape.dilation, shape.groups)
    bias = torch.arange(float(shape.out_channels), dtype=torch.float64)
    x, w = given[Pass.INPUT_GRAD], given[Pass.WEIGHT_GRAD]
    compare(lambda x, w, b: CONV[shape.dims](x, w, b, *how), device, x, w, bias)


@pytest.mark.parametrize("line", CONVOLUTIONS)
def test_transposed_convolution(line: str, device: torch.device) -> None:
    shape = conv(line)
    given = operands(shape)
    how: dict[str, Any] = {name: getattr(shape, name) for name in ("stride", "dilation", "groups")}
    how["padding"] = shape.pads
    g, w = given[Pass.OUTPUT], given[Pass.WEIGHT_GRAD]
    compare(lambda g, w: CONV_TRANSPOSE[shape.dims](g, w, **how), device, g, w)


@pytest.mark.parametrize("line", CONVOLUTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_convolution_of_fewer_digits(line: str, dtype: torch.dtype, device: torch.device) -> None:
    shape = conv(line)
    given = operands(shape, dtype)
    x, w = given[Pass.INPUT_GRAD], given[Pass.WEIGHT_GRAD]
    how = (None, shape.stride, shape.pads, shape.dilation, shape.groups)
    found = CONV[shape.dims](x.to(device), w.to(device), *how)
    assert (found.dtype, found.device) == (dtype, device)
    assert_same(found.cpu(), CONV[shape.dims](x.double(), w.double(), *how), math.prod(shape.weight_shape[1:]))


@pytest.mark.parametrize("line", POOLINGS)
def test_pooling(line: str, device: torch.device) -> None:
    shape = pool(line)
    how: dict[str, Any] = {"dilation": shape.dilation, "ceil_mode": shape.ceil_mode}
    if shape.kind == "avg":
        how |= {"count_include_pad": shape.count_include_pad, "divisor_override": shape.divisor}
    call = POOL[shape.kind][shape.dims]
    compare(lambda x: call(x, shape.kernel, shape.stride, shape.pads, **how), device, image(shape))


@pytest.mark.parametrize(
    "call",
    [
        lambda x: ops.max_pool2d(x, 3, 2, return_indices=True)[1].double() * x.mean(),
        lambda x: ops.lp_pool2d(x, 2, 3, 2),
        lambda x: ops.adaptive_avg_pool2d(x, (3, 2)),
        lambda x: ops.adaptive_max_pool2d(x, (3, 2)),
        lambda x: ops.global_avg_pool(x),
        lambda x: ops.global_max_pool(x),
        lambda x: ops.norm.batch_norm(x, None, None, None, None, True, 0.1, 1e-5, activation="relu"),
        lambda x: ops.convolve(x[0, 0], x[1, 1]),
        lambda x: ops.conv2d(x.to(memory_format=torch.channels_last), x[:, :, :2, :2]),
    ],
)
def test_other_operations(call: Call, device: torch.device) -> None:
    x = torch.rand(3, 4, 9, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    compare(call, device, x)


LAYERS = {
    "blur": lambda: nn.BlurPool2d(4),
    "polyphase": lambda: nn.PolyphaseSampling2d(),
    "separable": lambda: nn.DepthwiseSeparableConv2d(4, 6, 3, padding=1),
    "reflected": lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"),
    "same": lambda: nn.Conv2d(4, 6, 4, stride=2, padding="same"),
    "squeeze and excite": lambda: nn.SqueezeExcite(4, 2),
    "attention": lambda: nn.SelfAttention2d(4, 2, size=(8, 8)),
    "layer norm": lambda: nn.LayerNorm2d(4),
    "inverted": lambda: nn.InvertedResidual(4, 4, 2),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name: str, device: torch.device) -> None:
    layer = LAYERS[name]().double()
    x = torch.randn(2, 4, 8, 8, dtype=torch.float64)
    moved = copy.deepcopy(layer).to(device)
    results = []
    for each, where in ((layer, "cpu"), (moved, device)):
        given = x.detach().to(where).requires_grad_()
        output = each(given)
        output.square().sum().backward()
        assert given.grad is not None
        results.append([output.detach().cpu(), given.grad.cpu(), *(p.grad.cpu() for p in each.parameters())])
    torch.testing.assert_close(results[1], results[0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "name", ["lenet5_1998", "mobilenet_v2", "resnet18", "se_resnet18", "resnet18_aps", "resnet18_blur", "vit_ti_32"]
)
def test_networks(name: str, device: torch.device) -> None:
    channels, *size = models.input_shape(name)
    if models.has_small_form(name, (32, 32)):
        size = [32, 32]
    torch.manual_seed(0)
    model = models.create(name, in_channels=channels, small_input=models.has_small_form(name, (32, 32))).eval()
    x = torch.rand(2, channels, *size)
    with torch.inference_mode():
        expected = model(x)
        found = model.to(device)(x.to(device))
    assert found.device == device
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
