"""SSDlite beside torchvision's."""

from __future__ import annotations

import one_stage

from striate import models
from striate.models.ssdlite import SSDLite320


def test_network_is_torchvisions() -> None:
    name = "ssdlite320_mobilenet_v3_large"
    one_stage.assert_names_and_count(name, models.create, 3_440_060)
    ours, theirs = one_stage.pair(name, SSDLite320, score_thresh=0.3)
    one_stage.assert_results_agree(ours, theirs)
    one_stage.assert_losses_agree(ours, theirs, one_stage.KNOWN)
