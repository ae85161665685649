"""CoAtNet-0 against timm's, set to the same choices where the paper leaves them open."""

from __future__ import annotations

import pytest
import torch
from compiling import compiled, exported, loss_before_and_after_a_step
from peers import Peer

from striate import models, nn
from striate.analysis import summarize
from striate.errors import ModelError
from striate.models.coatnet import CoAtNet, Variant

NANO = Variant("nano", 8, ((12, 1), (16, 1)), ((32, 2), (64, 1)), 0.2, 0)
#: timm's names of this file's choices.
CHOICES = {
    "head_hidden_size": 0,
    "conv_stride_mode": "1x1",
    "conv_pool_type": "max2",
    "transformer_pool_type": "max2",
    "conv_attn_act_layer": "gelu",
}


@pytest.mark.slow
def test_cost_is_the_papers() -> None:
    model = models.create("coatnet_0")
    cost = summarize(model, (1, 3, 224, 224))
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == 24_446_228
    assert f"{count:,}" in models.describe("coatnet_0")
    # the paper says 25 million and 4.2 billion
    assert count / 1e6 == pytest.approx(25, rel=0.03)
    assert cost.macs / 1e9 == pytest.approx(4.2, rel=0.02)


def test_layers_and_logits_are_timms(peer: Peer) -> None:
    theirs = peer("timm:coatnet_0_224", **CHOICES).eval()
    ours = models.create("coatnet_0").eval()
    for tensor in theirs.state_dict().values():
        if tensor.dim() == 1:
            tensor.add_(0.1 * torch.rand_like(tensor))
        elif tensor.dim() == 2 and tensor.shape[0] in (27 * 27, 13 * 13):
            tensor.normal_()  # the relative positions
    mapped = {}
    for (name, own), tensor in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        if name.endswith("relative_bias"):
            tensor = tensor.T
        elif name.endswith(("in_proj_weight", "in_proj_bias")):  # timm's are sorted by heads first
            tensor = tensor.unflatten(0, (-1, 3, 32)).transpose(0, 1)
        mapped[name] = tensor.reshape(own.shape)
    ours.load_state_dict(mapped)
    x = torch.nn.functional.interpolate(torch.randn(2, 3, 4, 4), (224, 224), mode="bilinear")
    with torch.no_grad():
        expected = theirs(x)
        assert (expected[0] - expected[1]).abs().max() > 0.1, "images that differ"
        torch.testing.assert_close(ours(x), expected, rtol=1e-5, atol=1e-5)


def test_stochastic_depth_rises_to_the_papers() -> None:
    drops = [layer.p for layer in models.create("coatnet_0").modules() if isinstance(layer, nn.StochasticDepth)]
    assert len(drops) == 2 + 3 + 2 * 5 + 2 * 2
    assert drops == sorted(drops)
    assert (drops[0], drops[-1]) == (0, pytest.approx(0.2))


@pytest.mark.parametrize("size", [pytest.param((32, 32), marks=pytest.mark.slow), (28, 28)])
def test_small_images_of_one_channel(size: tuple[int, int]) -> None:
    model = CoAtNet(NANO, num_classes=10, in_channels=1, small_input=True)
    assert model.input_size == (32, 32)
    if size != model.input_size:
        with pytest.raises(ModelError, match=r"got images of 28x28; needed 32x32; .*resize"):
            model(torch.zeros(1, 1, *size))
        model.resize(size)
    before, after = loss_before_and_after_a_step(model, torch.randn(4, 1, *size))
    assert after < before
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())


@pytest.mark.slow
def test_every_map_has_the_size_that_its_attention_was_made_for() -> None:
    model = CoAtNet(NANO, num_classes=10, in_channels=1, small_input=True)
    for size in ((32, 32), (29, 45), (1, 2)):
        model.resize(size)
        assert model.input_size == size
        assert model(torch.zeros(2, 1, *size)).shape == (2, 10)
    with pytest.raises(ModelError, match="needed 1 pixel"):
        model.resize((0, 32))


@pytest.mark.slow
def test_compiles_and_exports() -> None:
    model = CoAtNet(NANO, num_classes=10, in_channels=1, small_input=True).eval()
    x = torch.randn(4, 1, 32, 32)
    with torch.no_grad():
        expected = model(x)
    torch.testing.assert_close(compiled(model, x), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(exported(model, x), expected[:2], rtol=1e-4, atol=1e-5)
