"""FCOS beside torchvision's."""

from __future__ import annotations

import one_stage

from striate import models
from striate.models import fcos


def test_network_is_torchvisions() -> None:
    name = "fcos_resnet50_fpn"
    one_stage.assert_names_and_count(name, models.create, 32_269_600)
    ours, theirs = one_stage.pair(name, fcos.FCOS, min_size=96, max_size=128)
    one_stage.assert_results_agree(ours, theirs)
    one_stage.assert_losses_agree(ours, theirs, one_stage.KNOWN)
