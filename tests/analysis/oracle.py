"""The independent method: which inputs have a gradient, with positive weights, so that nothing cancels."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from striate.models.lenet import ScaledTanh


def linear_twin(model: nn.Module) -> nn.Module:
    """A copy with positive weights, averages for maxima and no nonlinearity that could hide or cancel a path."""
    twin = copy.deepcopy(model).double().eval()
    positive(twin)
    for layer in list(twin.modules()):
        for name, child in layer.named_children():
            if isinstance(child, nn.MaxPool2d):
                layer.add_module(name, _Average(child))
            elif isinstance(child, (nn.ReLU6, ScaledTanh)):  # which are flat where weights are large
                layer.add_module(name, nn.Identity())
    return twin


def positive(model: nn.Module) -> None:
    """Gives all weights and statistics positive random values, in double precision."""
    model.double()
    generator = torch.Generator().manual_seed(0)
    for tensor in [*model.parameters(), *(b for b in model.buffers() if b.is_floating_point())]:
        tensor.data.copy_(torch.rand(tensor.shape, generator=generator, dtype=torch.float64) + 0.5)


class _Average(nn.Module):
    """Average pooling over a maximum's window: the same taps, and all of them have a gradient."""

    def __init__(self, layer: nn.MaxPool2d) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return average_like_max(x, self.layer.kernel_size, self.layer.stride, self.layer.padding, self.layer.dilation)


def average_like_max(x: Tensor, kernel: int, stride: int, padding: int, dilation: int = 1) -> Tensor:
    channels = x.shape[1]
    weight = torch.ones(channels, 1, kernel, kernel, dtype=x.dtype)
    return nn.functional.conv2d(x, weight, None, stride, padding, dilation, channels)


def gradient_support(
    model: nn.Module, shape: tuple[int, ...], layer: str, position: tuple[int, ...], faint: float = 0.0
) -> Tensor:
    """Where the input has a gradient of a layer's output at one position: a mask of (H, W).

    ``faint`` is the share of the largest gradient that still counts as none: interpolation has weights that are zero
    but for the last bit.
    """
    seen: list[Tensor] = []
    handle = model.get_submodule(layer).register_forward_hook(lambda _, __, out: seen.append(out))
    generator = torch.Generator().manual_seed(1)
    image = (torch.rand(shape, generator=generator, dtype=torch.float64) + 0.5).requires_grad_()
    try:
        model(image)
    finally:
        handle.remove()
    output = seen[-1]
    picked = output[(Ellipsis, *position)].sum()
    (gradient,) = torch.autograd.grad(picked, image)
    size = gradient.abs().sum((0, 1))
    return size > faint * size.max()
