"""Feature pyramids: what reaches which level."""

from __future__ import annotations

import pytest
import torch

from striate import nn

MAPS = {"a": (1, 3, 13, 9), "b": (1, 5, 7, 5), "c": (1, 7, 4, 3)}


@pytest.mark.parametrize("changed", MAPS)
def test_a_map_reaches_its_own_level_and_the_finer_ones(changed: str) -> None:
    torch.manual_seed(0)
    pyramid = nn.FeaturePyramidNetwork((3, 5, 7), 4)
    maps = {name: torch.randn(shape) for name, shape in MAPS.items()}
    before, after = pyramid(maps), pyramid(maps | {changed: maps[changed] + 1})
    assert {name: tuple(level.shape) for name, level in before.items()} == {
        name: (1, 4, *shape[2:]) for name, shape in MAPS.items()
    }
    assert [name for name in MAPS if not torch.equal(before[name], after[name])] == list(MAPS)[
        : "abc".index(changed) + 1
    ]


def test_levels_beyond_are_every_second_position_or_convolutions() -> None:
    maps = {name: torch.randn(shape) for name, shape in MAPS.items()}
    pooled = nn.FeaturePyramidNetwork((3, 5, 7), 4, nn.LastLevelMaxPool())(maps)
    assert list(pooled) == ["a", "b", "c", "pool"]
    assert torch.equal(pooled["pool"], pooled["c"][:, :, ::2, ::2])
    for in_channels, changes in ((7, True), (4, False)):
        pyramid = nn.FeaturePyramidNetwork((3, 5, 7), 4, nn.LastLevelP6P7(in_channels, 4))
        torch.nn.init.zeros_(pyramid.layer_blocks[2][0].weight)
        before, after = pyramid(maps), pyramid(maps | {"c": maps["c"] + 1})
        assert list(before) == ["a", "b", "c", "p6", "p7"]
        assert before["p7"].shape == (1, 4, 1, 1)
        assert torch.equal(before["p6"], after["p6"]) != changes


def test_convolutions_have_a_bias_where_nothing_normalises() -> None:
    plain = {name for name, _ in nn.FeaturePyramidNetwork((3,), 4).named_parameters()}
    assert plain == {f"{block}_blocks.0.0.{leaf}" for block in ("inner", "layer") for leaf in ("weight", "bias")}
    normed = {name for name, _ in nn.FeaturePyramidNetwork((3,), 4, norm=torch.nn.BatchNorm2d).named_parameters()}
    assert "inner_blocks.0.0.bias" not in normed
    assert "inner_blocks.0.1.bias" in normed
