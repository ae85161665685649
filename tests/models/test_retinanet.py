"""RetinaNet beside torchvision's."""

from __future__ import annotations

from functools import partial

import one_stage
import pytest

from striate import models
from striate.models.retinanet import RetinaNet

SIZES = {"min_size": 96, "max_size": 128}
VERSIONS = [
    ("retinanet_resnet50_fpn", RetinaNet, 34_014_999),
    ("retinanet_resnet50_fpn_v2", partial(RetinaNet, second=True), 38_198_935),
]


@pytest.mark.parametrize(("name", "builder", "parameters"), VERSIONS)
def test_networks_are_torchvisions(name: str, builder: partial[RetinaNet], parameters: int) -> None:
    one_stage.assert_names_and_count(name, models.create, parameters)
    ours, theirs = one_stage.pair(name, builder, **SIZES)
    one_stage.assert_results_agree(ours, theirs)
    one_stage.assert_losses_agree(ours, theirs, one_stage.KNOWN)
