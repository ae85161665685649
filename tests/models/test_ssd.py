"""SSD beside torchvision's."""

from __future__ import annotations

import one_stage
import pytest

from striate import models
from striate.models import ssd


def test_names_and_parameters_are_torchvisions() -> None:
    one_stage.assert_names_and_count("ssd300_vgg16", models.create, 35_641_826)


@pytest.mark.slow
def test_network_is_torchvisions() -> None:
    ours, theirs = one_stage.pair("ssd300_vgg16", ssd.SSD300, score_thresh=0.3)
    one_stage.assert_results_agree(ours, theirs)
    one_stage.assert_losses_agree(ours, theirs, one_stage.KNOWN)
