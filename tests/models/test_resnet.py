"""What detectors and segmenters ask of residual networks: dilation in place of strides, other normalisation."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from peers import Peer, differences

from striate.models.resnet import VARIANTS, ResNet

RESNET50 = next(variant for variant in VARIANTS if variant.name == "resnet50")


@pytest.mark.parametrize("dilated", [(False, True, True), (False, False, True), (True, False, True)])
def test_dilated_networks_are_torchvisions(dilated: tuple[bool, bool, bool], peer: Peer) -> None:
    peer("torchvision:squeezenet1_1")  # imports torchvision
    from torchvision.models.resnet import Bottleneck

    depths = (1, 1, 2, 2)
    theirs = peer(
        "torchvision:ResNet", block=Bottleneck, layers=list(depths), replace_stride_with_dilation=list(dilated)
    )
    ours = ResNet(RESNET50.block, depths, replace_stride_with_dilation=dilated)
    ours.load_state_dict(theirs.state_dict())
    for difference, size in differences(ours, theirs, torch.randn(2, 3, 32, 48)):
        assert difference < 1e-9
        assert size > 0.01


def test_every_normalisation_is_the_one_that_is_asked_for() -> None:
    with torch.device("meta"):
        network = ResNet(RESNET50.block, RESNET50.depths, norm_layer=partial(torch.nn.GroupNorm, 32))
    kinds = [type(layer) for layer in network.modules()]
    assert kinds.count(torch.nn.GroupNorm) == 53
    assert torch.nn.BatchNorm2d not in kinds
    assert network.out_channels == (256, 512, 1024, 2048)
