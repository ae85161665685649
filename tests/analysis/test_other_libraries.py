"""Networks that others wrote, where their libraries are installed: the support of gradients, layer by layer."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from oracle import average_like_max, gradient_support
from torch import Tensor, nn

from striate.analysis import receptive_field

LAYERS = {
    "torchvision:resnet18": ("layer1", "layer2", "layer3"),
    "torchvision:mobilenet_v2": ("features.3", "features.8"),
    "torchvision:densenet121": ("features.denseblock1", "features.transition2"),
    "torchvision:shufflenet_v2_x1_0": ("stage2", "stage3"),
    "torchvision:squeezenet1_1": ("features.4", "features"),
    "torchvision:convnext_tiny": ("features.1", "features.3"),
    "timm:dla34": ("level2", "level4"),
    "timm:res2net50_26w_4s": ("layer1",),
    "timm:resnetaa50": ("layer1", "layer3"),
    "timm:cspresnet50": ("stages.0", "stages.2"),
    "timm:ghostnet_100": ("blocks.2",),
    "timm:repvgg_a0": ("stages.1", "stages.3"),
}
FLAT = (nn.ReLU, nn.ReLU6, nn.Hardswish, nn.Hardsigmoid, nn.SiLU, nn.GELU)


class Averaged(nn.Module):
    def __init__(self, layer: nn.MaxPool2d) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        how = self.layer
        if how.ceil_mode:
            return F.avg_pool2d(x, how.kernel_size, how.stride, how.padding, ceil_mode=True)
        return average_like_max(x, how.kernel_size, how.stride, how.padding, how.dilation)


def linear(model: nn.Module) -> nn.Module:
    """A copy without what hides paths, with positive weights that keep a deep network's numbers in range."""
    twin = copy.deepcopy(model).double().eval()
    generator = torch.Generator().manual_seed(0)
    for tensor in [*twin.parameters(), *(b for b in twin.buffers() if b.is_floating_point())]:
        values = torch.rand(tensor.shape, generator=generator, dtype=torch.float64) + 0.5
        tensor.data.copy_(values / max(1, tensor[0].numel()) if tensor.dim() > 1 else values)
    for layer in list(twin.modules()):
        for name, child in layer.named_children():
            if isinstance(child, nn.MaxPool2d):
                layer.add_module(name, Averaged(child))
            elif isinstance(child, FLAT):
                layer.add_module(name, nn.Identity())
    return twin


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYERS)
def test_support_equals_the_gradients(name: str, peer: Callable[[str], nn.Module]) -> None:
    model = peer(name)
    fields, twin = receptive_field(model, (3, 128, 128)), linear(model)
    for layer in LAYERS[name]:
        height, width = fields.at(layer).shape[2:]
        for position in {(0, 0), (height // 2, width // 2), (height - 1, width - 2)}:
            expected = gradient_support(twin, (1, 3, 128, 128), layer, position)
            assert expected.any()
            assert torch.equal(fields.support(layer, position), expected), (layer, position)
