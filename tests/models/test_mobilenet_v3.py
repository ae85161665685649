"""MobileNetV3's forms for detection and segmentation against torchvision's."""

from __future__ import annotations

import pytest
import torch
from peers import Peer, differences

from striate.models.mobilenet_v3 import VARIANTS, Block, MobileNetV3, Variant


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
@pytest.mark.parametrize(("dilated", "reduced_tail"), [(True, False), (False, True), (True, True)])
def test_dilated_and_narrower_forms_are_torchvisions(
    variant: Variant, dilated: bool, reduced_tail: bool, peer: Peer
) -> None:
    theirs = peer(f"torchvision:{variant.name}", dilated=dilated, reduced_tail=reduced_tail)
    ours = MobileNetV3(variant, dilated=dilated, reduced_tail=reduced_tail)
    ours.load_state_dict(theirs.state_dict())
    # The stages that torchvision's detectors and segmenters look for.
    starts = [index for index, layer in enumerate(theirs.features) if getattr(layer, "_is_cn", False)]
    assert ours.stages == (0, *starts, len(theirs.features) - 1)
    assert [layer.out_channels for layer in ours.features] == [layer.out_channels for layer in theirs.features]
    for difference, size in differences(ours, theirs, torch.randn(2, 3, 64, 80)):
        assert difference < 1e-9
        assert size > 0.01


def test_the_whole_stride_is_32_or_16_or_8() -> None:
    x = torch.zeros(1, 3, 64, 64)
    large = VARIANTS[1]
    for stride, network in {
        32: MobileNetV3(large),
        16: MobileNetV3(large, dilated=True),
        8: MobileNetV3(large, small_input=True),
    }.items():
        with torch.no_grad():
            assert network.eval().features(x).shape[2:] == (64 // stride, 64 // stride)


def test_no_block_with_a_stride_has_a_shortcut() -> None:
    blocks = [layer for layer in MobileNetV3(VARIANTS[0]).modules() if isinstance(layer, Block)]
    assert [block.starts_stage for block in blocks].count(True) == 4
    assert not any(block.shortcut and block.starts_stage for block in blocks)
