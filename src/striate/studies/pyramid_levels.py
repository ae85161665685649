"""Detectors on one fine map, on one coarse map, and on a pyramid: small and large receptive fields, or both."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from striate.analysis import summarize
from striate.models.centernet import CenterNet, Heads, Trunk
from striate.studies.panels import Bars
from striate.studies.scenes import SMALL, detected, detection_loss, field_of, fit, scenes, table
from striate.studies.study import Check, Finding, Measured, Say, study

_TRAIN, _TEST, _EPOCHS = 1200, 150, 8


class _Fine(torch.nn.Module):
    """The trunk's map of stride 4, from its first two stages alone."""

    def __init__(self, trunk: Trunk) -> None:
        super().__init__()
        self.stages, self.across = torch.nn.Sequential(trunk.stem, trunk.down[0]), trunk.across[0]
        self.out = trunk.out

    def forward(self, input: Tensor) -> Tensor:
        found: Tensor = self.out(self.across(self.stages(input)).relu())
        return found


class _Coarse(torch.nn.Module):
    """The trunk's map of stride 16, each number of it for 4 by 4 places of stride 4."""

    def __init__(self, trunk: Trunk) -> None:
        super().__init__()
        self.stages, self.across = torch.nn.Sequential(trunk.stem, *trunk.down[:3]), trunk.across[2]
        self.out = trunk.out

    def forward(self, input: Tensor) -> Tensor:
        coarse: Tensor = self.out(self.across(self.stages(input)).relu())
        return F.interpolate(coarse, scale_factor=4.0, mode="bilinear")


class _Pyramid(torch.nn.Module):
    """All of the trunk's maps, added up on the way back to stride 4."""

    def __init__(self, trunk: Trunk) -> None:
        super().__init__()
        self.trunk = trunk

    def forward(self, input: Tensor) -> Tensor:
        found: Tensor = self.trunk(input)[1]
        return found


class _Maps(torch.nn.Module):
    def __init__(self, features: torch.nn.Module, classes: int) -> None:
        super().__init__()
        self.features, self.heads = features, Heads(64, {"heat": classes, "box": 4})

    def forward(self, input: Tensor) -> dict[str, Tensor]:
        found: dict[str, Tensor] = self.heads(self.features(input))
        return found


_KINDS: dict[str, Callable[[Trunk], torch.nn.Module]] = {"stride 4": _Fine, "stride 16": _Coarse, "pyramid": _Pyramid}


def detector(kind: str) -> CenterNet:
    """The small centre detector, looking at one of these maps."""

    class Detector(CenterNet):
        def _maps(self) -> torch.nn.Module:
            return _Maps(_KINDS[kind](Trunk(self.in_channels)), self.classes)

    return Detector(num_classes=11)


@study(
    "pyramid-levels",
    "Small objects are found on a fine map and large ones on a coarse map with its larger receptive field; a feature "
    "pyramid finds both at least as well as the better of the two.",
)
def pyramid_levels(seeds: Sequence[int], say: Say) -> Finding:
    """Trains the small centre detector with three kinds of maps on 1,200 scenes of 64x64."""
    found = {kind: [] for kind in _KINDS}  # type: dict[str, list[tuple[float, float, float]]]
    for seed in seeds:
        data = scenes(seed, _TRAIN, _TEST)
        for kind in _KINDS:
            torch.manual_seed(seed)
            network = detector(kind)
            fit(network, data.train, detection_loss, seed=seed, epochs=_EPOCHS)
            of = detected(network, data.test)
            found[kind].append((of.ap50, of.small, of.large))
            say(f"seed {seed}: {kind}: AP50 {of.ap50:.1f} %, found {of.small:.1f} % small, {of.large:.1f} % large")
    measured = table(("AP50", "small digits found", "large digits found"), found)
    rows: list[Measured] = []
    for kind in _KINDS:
        maps = _Maps(_KINDS[kind](Trunk(3)), 10)
        rows += [
            Measured(f"{kind}: receptive field of a place", field_of(maps.features), "pixels"),
            Measured(f"{kind}: a scene", summarize(maps, (3, 64, 64)).macs, "MACs"),
            *measured[kind],
        ]
    fine, coarse, pyramid = (measured[kind] for kind in _KINDS)
    return Finding(
        tuple(rows),
        (
            Check("the fine map finds more of the small digits than the coarse one", fine[1].value > coarse[1].value),
            Check("the coarse map finds more of the large digits than the fine one", coarse[2].value > fine[2].value),
            Check(
                "the pyramid's AP50 is at least that of the better of the two",
                pyramid[0].value >= max(fine[0].value, coarse[0].value),
            ),
        ),
        (
            f"Small digits have boxes of less than {SMALL}x{SMALL} pixels, large ones up to 24x24: the fine map's "
            "receptive field is about as large as the largest digit, and not much smaller.",
            "The three differ in depth and cost as well, not only in where they look.",
        ),
        (
            Bars(
                "Digits that are found",
                "share found, %",
                tuple(f"{kind}, {size}" for size in ("small", "large") for kind in _KINDS),
                tuple(measured[kind][place].value for place in (1, 2) for kind in _KINDS),
                tuple(measured[kind][place].spread for place in (1, 2) for kind in _KINDS),
            ),
        ),
    )
