"""Networks against torchvision's and timm's: the same names, the same initial weights, the same outputs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peers import Peer, differences, told_apart
from safetensors.torch import save_file

from striate import models
from striate.models.naming import translated

SMALL = ("resnet18", "mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0", "squeezenet1_1", "regnet_y_400mf")
LARGE = (
    "alexnet", "shufflenet_v2_x0_5",
    "vgg11", "vgg11_bn", "vgg13", "vgg13_bn", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn", "resnet34", "resnet50",
    "resnet101", "resnet152", "mobilenet_v3_large", "efficientnet_b1", "efficientnet_b2", "efficientnet_b3",
    "efficientnet_b4", "efficientnet_b5", "efficientnet_b6", "efficientnet_b7", "efficientnet_v2_s",
    "efficientnet_v2_m", "efficientnet_v2_l", "densenet121", "densenet161", "densenet169", "densenet201",
    "squeezenet1_0", "shufflenet_v2_x1_0", "shufflenet_v2_x1_5", "shufflenet_v2_x2_0", "regnet_y_800mf",
    "regnet_y_1_6gf", "regnet_y_3_2gf", "regnet_y_8gf", "regnet_y_16gf", "regnet_y_32gf", "regnet_x_400mf",
    "regnet_x_800mf", "regnet_x_1_6gf", "regnet_x_3_2gf", "regnet_x_8gf", "regnet_x_16gf", "regnet_x_32gf",
)  # fmt: skip
TORCHVISIONS = [*SMALL, *(pytest.param(name, marks=pytest.mark.slow) for name in LARGE)]
TIMMS = [
    pytest.param("resnet18", "resnet18", marks=pytest.mark.slow),
    pytest.param("se_resnet50", "seresnet50", marks=pytest.mark.slow),
    ("mobilenet_v1", "mobilenetv1_100"),
    pytest.param("mobilenet_v2", "mobilenetv2_100", marks=pytest.mark.slow),
    ("efficientnet_b0", "efficientnet_b0"),
    ("efficientnet_lite0", "tf_efficientnet_lite0"),
    pytest.param("vgg11_bn", "vgg11_bn", marks=pytest.mark.slow),
    pytest.param("vgg16", "vgg16", marks=pytest.mark.slow),
    pytest.param("efficientnet_b3", "efficientnet_b3", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("name", TORCHVISIONS)
def test_names_initial_weights_and_outputs_are_torchvisions(name: str, peer: Peer) -> None:
    torch.manual_seed(3)
    theirs = peer(f"torchvision:{name}")
    torch.manual_seed(3)
    ours = models.create(name)
    # The very same numbers from the same seed: initial weights are torchvision's, not just alike.
    expected = theirs.state_dict()
    assert list(ours.state_dict()) == list(expected)
    for key, tensor in ours.state_dict().items():
        assert torch.equal(tensor, expected[key]), key
    for difference, size in differences(ours, theirs, torch.randn(2, 3, 64, 64)):
        # Untrained networks without normalisation at their end let numbers grow.
        assert difference < 1e-9 * max(1, size)
        assert size > 0.01  # or a network that says nothing would pass


@pytest.mark.parametrize(("name", "there"), TIMMS)
def test_weights_of_timm_load_by_their_own_names(name: str, there: str, peer: Peer, tmp_path: Path) -> None:
    theirs = told_apart(peer(f"timm:{there}"))
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    ours = models.create(name, weights=tmp_path / "model.safetensors")
    # timm's VGGs see 7x7 maps or nothing
    images = torch.randn(2, 3, *((224, 224) if name.startswith("vgg") else (64, 64)))
    for difference, size in differences(ours, theirs, images):
        assert difference < 1e-9
        assert size > 0.01


def test_names_that_no_dialect_knows_stay(peer: Peer) -> None:
    found = peer("timm:mobilenetv2_100").state_dict()
    own = models.create("efficientnet_b0").state_dict()
    assert translated(found, own).keys() == found.keys()
    odd = {name.replace("conv_dw", "conv_odd"): tensor for name, tensor in found.items()}
    assert translated(odd, models.create("mobilenet_v2").state_dict()).keys() == odd.keys()


def test_classes_of_imagenet_are_in_timms_order(peer: Peer) -> None:
    peer("timm:resnet10t")
    from timm.data import ImageNetInfo

    info = ImageNetInfo()
    ours = models.imagenet_classes()
    assert len(set(ours)) == 1000
    # timm's words come from WordNet too, in another spelling here and there
    theirs = [info.index_to_description(index).partition(",")[0] for index in range(1000)]
    alike = [a.lower() == b.lower() for a, b in zip(ours, theirs, strict=True)]
    assert sum(alike) > 950
    assert all(any(alike[start : start + 20]) for start in range(0, 1000, 20))
