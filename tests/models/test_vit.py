"""The vision transformer against torchvision's and timm's, and against its own equations."""

from __future__ import annotations

import importlib

import pytest
import torch
import torch.nn.functional as F
from compiling import compiled, exported, loss_before_and_after_a_step
from peers import Peer

from striate import models
from striate.analysis import summarize
from striate.errors import ModelError
from striate.models.vit import Variant, VisionTransformer

COUNTS = {
    "vit_ti_16": 5_717_416,
    "vit_s_16": 22_050_664,
    "vit_b_16": 86_567_656,
    "vit_ti_32": 6_131_560,
    "vit_s_32": 22_878_952,
    "vit_b_32": 88_224_232,
}
NANO = Variant("nano", 16, 24, 3, 0)


def count(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", COUNTS)
def test_parameter_counts(name: str) -> None:
    with torch.device("meta"):
        assert count(models.create(name, num_classes=1000, in_channels=3)) == COUNTS[name]
    assert f"{COUNTS[name]:,}" in models.describe(name)


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("vit_ti_16", "vit_tiny_patch16_224"),
        ("vit_s_16", "vit_small_patch16_224"),
        ("vit_s_32", "vit_small_patch32_224"),
    ],
)
def test_parameter_counts_are_timms(name: str, theirs: str, peer: Peer) -> None:
    assert count(peer(f"timm:{theirs}")) == COUNTS[name]


@pytest.mark.parametrize("name", ["vit_b_32", pytest.param("vit_b_16", marks=pytest.mark.slow)])
def test_names_shapes_and_logits_are_torchvisions(name: str, peer: Peer) -> None:
    theirs = peer(f"torchvision:{name}").eval()
    for parameter in theirs.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    ours = models.create(name, num_classes=1000, in_channels=3).eval()
    assert {key: value.shape for key, value in ours.state_dict().items()} == {
        key: value.shape for key, value in theirs.state_dict().items()
    }
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        expected = theirs(x)
        assert (expected[0] - expected[1]).abs().max() > 0.1, "images that differ"
        torch.testing.assert_close(ours(x), expected, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_initial_values_are_spread_as_torchvisions(peer: Peer) -> None:
    theirs = peer("torchvision:vit_b_32")
    ours = models.create("vit_b_32", num_classes=1000, in_channels=3)
    for (key, one), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert one.mean().item() == pytest.approx(other.mean().item(), abs=2e-3), key
        if key == "heads.head.weight":  # torchvision's is zero; see the top of the file
            assert one.std().item() == pytest.approx(0.02, rel=0.05)
        elif one.numel() > 1:
            assert one.std().item() == pytest.approx(other.std().item(), rel=0.1, abs=1e-9), key


@pytest.mark.slow
def test_multiply_accumulates_are_the_literatures() -> None:
    with torch.device("meta"):
        model = models.create("vit_b_16", num_classes=1000, in_channels=3)
    cost = summarize(model.to_empty(device="cpu"), (1, 3, 224, 224))
    assert round(cost.macs / 1e9, 3) == 17.564


def test_the_network_is_equations_one_to_four() -> None:
    model = VisionTransformer(NANO, num_classes=5, small_input=True).double().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    patches = x[0].unfold(1, 4, 4).unfold(2, 4, 4).permute(1, 2, 0, 3, 4).reshape(64, 48)
    z = patches @ model.conv_proj.weight.reshape(24, 48).T + model.conv_proj.bias
    z = torch.cat([model.class_token[0], z]) + model.encoder.pos_embedding[0]
    for layer in model.encoder.layers:
        attention = layer.self_attention
        normal = F.layer_norm(z, (24,), layer.ln_1.weight, layer.ln_1.bias, 1e-6)
        mixed, _ = F.multi_head_attention_forward(
            *[normal[:, None]] * 3, 24, 3, attention.in_proj_weight, attention.in_proj_bias, None, None, False, 0.0,
            attention.out_proj.weight, attention.out_proj.bias,
        )  # fmt: skip
        z = z + mixed[:, 0]
        wide, narrow = layer.mlp[0], layer.mlp[3]
        normal = F.layer_norm(z, (24,), layer.ln_2.weight, layer.ln_2.bias, 1e-6)
        z = z + F.gelu(normal @ wide.weight.T + wide.bias) @ narrow.weight.T + narrow.bias
    y = F.layer_norm(z[0], (24,), model.encoder.ln.weight, model.encoder.ln.bias, 1e-6)
    torch.testing.assert_close(model(x)[0], y @ model.heads.head.weight.T + model.heads.head.bias)


def test_another_size_is_an_error_until_it_is_asked_for() -> None:
    model = VisionTransformer(NANO, num_classes=10, in_channels=1, small_input=True).eval()
    with pytest.raises(ModelError, match=r"got images of 28x28; needed 32x32; .*resize") as caught:
        model(torch.zeros(1, 1, 28, 28))
    assert "\n" not in str(caught.value)
    before = model.encoder.pos_embedding.detach().clone()
    model.resize((32, 32))
    torch.testing.assert_close(model.encoder.pos_embedding, before)
    for wrong in ((30, 32), (32, 2), (0, 32)):
        with pytest.raises(ModelError, match="multiples of the patch's 4"):
            model.resize(wrong)
    model.resize((28, 40))
    assert model.input_size == (28, 40)
    assert model(torch.zeros(1, 1, 28, 40)).shape == (1, 10)


def test_interpolated_positions_are_torchvisions(peer: Peer) -> None:
    theirs = peer("torchvision:vit_b_32")
    interpolate = importlib.import_module(type(theirs).__module__).interpolate_embeddings
    model = VisionTransformer(NANO)
    expected = interpolate(384, 16, {"encoder.pos_embedding": model.encoder.pos_embedding.detach().clone()})
    model.resize((384, 384))
    torch.testing.assert_close(model.encoder.pos_embedding.detach(), expected["encoder.pos_embedding"])
    assert model.encoder.pos_embedding.requires_grad


def test_small_images_of_one_channel() -> None:
    model = VisionTransformer(NANO, num_classes=10, in_channels=1, small_input=True)
    for size in ((32, 32), (28, 28)):
        model.resize(size)
        before, after = loss_before_and_after_a_step(model, torch.randn(4, 1, *size))
        assert after < before
        assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())


def test_dropout_is_off_in_evaluation() -> None:
    model = VisionTransformer(NANO, num_classes=10, in_channels=1, small_input=True)
    x = torch.randn(2, 1, 32, 32)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


@pytest.mark.slow
def test_compiles_and_exports() -> None:
    model = VisionTransformer(NANO, num_classes=10, in_channels=1, small_input=True).eval()
    x = torch.randn(4, 1, 32, 32)
    with torch.no_grad():
        expected = model(x)
    torch.testing.assert_close(compiled(model, x), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(exported(model, x), expected[:2], rtol=1e-4, atol=1e-5)
