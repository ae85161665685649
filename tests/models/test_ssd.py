"""SSD: what it learns from, and its maps."""

from __future__ import annotations

import one_stage
import pytest
import torch

from striate import nn
from striate.models import ssd
from striate.models.ssdlite import MobileNetFeatures


def test_hard_negatives_are_the_worst_of_each_image() -> None:
    losses = torch.tensor([[9.0, 1.0, 3.0, 2.0, 4.0], [5.0, 4.0, 3.0, 2.0, 1.0], [9.0, 9.0, 1.0, 9.0, 9.0]])
    positive = torch.zeros(3, 5, dtype=torch.bool)
    positive[0, 0] = True
    positive[2, [0, 1, 3, 4]] = True
    found = ssd.hard_negatives(losses, positive, 3)
    assert found.tolist() == [
        [False, False, True, True, True],
        [False] * 5,  # no object, so nothing is learnt from
        [False, False, True, False, False],  # and never more than there are
    ]


def test_an_object_has_its_best_box_however_little_they_overlap() -> None:
    model = one_stage.levelled(ssd.SSD300)
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [20.0, 0.0, 30.0, 10.0], [20.0, 0.0, 29.0, 10.0]])
    objects = torch.tensor([[8.0, 8.0, 18.0, 18.0], [20.0, 0.0, 30.0, 10.0]])
    assert model.match(objects, boxes).tolist() == [0, 1, 1]
    assert model.match(objects[:0], boxes).tolist() == [nn.BACKGROUND] * 3


@torch.no_grad()
def test_channels_of_the_first_map_are_scaled_to_one_length() -> None:
    torch.manual_seed(0)
    features = ssd.VGGFeatures()
    features.extra = torch.nn.ModuleList()  # only the first map is looked at
    (maps,) = features(torch.randn(1, 3, 40, 40)).values()
    torch.testing.assert_close(maps.norm(dim=1), torch.full((1, 5, 5), 20.0))


@pytest.mark.parametrize(
    ("backbone", "size", "sides"),
    [(ssd.VGGFeatures, 300, (38, 19, 10, 5, 3, 1)), (MobileNetFeatures, 320, (20, 10, 5, 3, 2, 1))],
)
def test_maps_have_the_sizes_of_the_paper(backbone: type[ssd.VGGFeatures], size: int, sides: tuple[int, ...]) -> None:
    with torch.device("meta"):
        features = backbone().eval()
        maps = features(torch.zeros(1, 3, size, size))
    assert [tuple(each.shape[1:]) for each in maps.values()] == [
        (channels, side, side) for channels, side in zip(features.channels, sides, strict=True)
    ]
