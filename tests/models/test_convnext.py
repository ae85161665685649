"""ConvNeXt against torchvision's, layer for layer and number for number."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from compiling import compiled, exported, loss_before_and_after_a_step
from peers import Peer

from cases import slow_but
from striate import models
from striate.analysis import summarize
from striate.models.convnext import Block, ConvNeXt, Variant

COUNTS = {
    "convnext_tiny": 28_589_128,
    "convnext_small": 50_223_688,
    "convnext_base": 88_591_464,
    "convnext_large": 197_767_336,
}
NANO = Variant("nano", (1, 1, 2, 1), (8, 16, 24, 32), 0.1, 0)


def shaken(model: torch.nn.Module) -> torch.nn.Module:
    """With weights that make every layer count: as they are at first, blocks add a millionth."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("layer_scale"):
                parameter.normal_()
            elif parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name != "convnext_tiny")) for name in COUNTS]
)
def test_names_shapes_counts_and_logits_are_torchvisions(name: str, peer: Peer) -> None:
    theirs = shaken(peer(f"torchvision:{name}"))
    ours = models.create(name, num_classes=1000, in_channels=3).eval()
    assert {key: value.shape for key, value in ours.state_dict().items()} == {
        key: value.shape for key, value in theirs.state_dict().items()
    }
    assert sum(parameter.numel() for parameter in ours.parameters()) == COUNTS[name]
    assert f"{COUNTS[name]:,}" in models.describe(name)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 3, 96, 64)
    with torch.no_grad():
        expected = theirs(x)
        assert (expected[0] - expected[1]).abs().max() > 0.01, "images that differ"
        torch.testing.assert_close(ours(x), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", slow_but([torch.nn.Conv2d, torch.nn.Linear, torch.nn.LayerNorm], [torch.nn.Conv2d]))
def test_initial_values_are_spread_as_torchvisions(kind: type[torch.nn.Module], peer: Peer) -> None:
    theirs = peer("torchvision:convnext_tiny")
    ours = models.create("convnext_tiny", num_classes=1000, in_channels=3)
    for one, other in zip(ours.modules(), theirs.modules(), strict=False):
        if isinstance(one, kind):
            for key, parameter in one.named_parameters():
                expected = other.get_parameter(key)
                assert parameter.mean().item() == pytest.approx(expected.mean().item(), abs=2e-3)
                assert parameter.std().item() == pytest.approx(expected.std().item(), rel=0.05, abs=1e-9)


def test_stochastic_depth_grows_as_torchvisions(peer: Peer) -> None:
    theirs = [m.p for m in peer("torchvision:convnext_small").modules() if type(m).__name__ == "StochasticDepth"]
    model = models.create("convnext_small")
    ours = [block.stochastic_depth.p for block in model.modules() if isinstance(block, Block)]
    assert ours == pytest.approx(theirs)
    assert (ours[0], ours[-1]) == (0, pytest.approx(0.4))


def test_multiply_accumulates_are_the_literatures() -> None:
    with torch.device("meta"):
        model = models.create("convnext_tiny", num_classes=1000, in_channels=3)
    cost = summarize(model.to_empty(device="cpu"), (1, 3, 224, 224))
    assert round(cost.macs / 1e9, 3) == 4.456


def test_a_block_is_the_papers() -> None:
    block = Block(3, drop=0.5).eval()
    torch.nn.init.normal_(block.layer_scale)
    x = torch.randn(2, 3, 8, 9)
    depthwise, _, norm, wide, _, narrow, _ = block.block
    maps = F.conv2d(x, depthwise.weight, depthwise.bias, padding=3, groups=3)
    centred = maps - maps.mean(1, keepdim=True)
    maps = centred / (centred.square().mean(1, keepdim=True) + 1e-6).sqrt()
    maps = maps * norm.weight[:, None, None] + norm.bias[:, None, None]
    maps = torch.einsum("dc,nchw->ndhw", wide.weight, maps) + wide.bias[:, None, None]
    maps = maps * torch.special.ndtr(maps)
    maps = torch.einsum("cd,ndhw->nchw", narrow.weight, maps) + narrow.bias[:, None, None]
    torch.testing.assert_close(block(x), x + block.layer_scale * maps, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [(28, 28), (32, 32)])
def test_small_images_of_one_channel(size: tuple[int, int]) -> None:
    model = ConvNeXt(NANO, num_classes=10, in_channels=1, small_input=True)
    assert model.input_size == (32, 32)
    x = torch.randn(4, 1, *size)
    before, after = loss_before_and_after_a_step(model, x, rate=0.1)
    assert after < before
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())


def test_compiles_and_exports() -> None:
    model = shaken(ConvNeXt(NANO, num_classes=10, in_channels=1, small_input=True))
    x = torch.randn(4, 1, 32, 32)
    with torch.no_grad():
        expected = model(x)
    torch.testing.assert_close(compiled(model, x), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(exported(model, x), expected[:2], rtol=1e-4, atol=1e-5)
