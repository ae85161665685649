"""Resampling: PyTorch's results, and errors that say what."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from striate import ops
from striate.errors import GeometryError, OperandError


@pytest.mark.parametrize("mode", ["nearest", "nearest-exact", "bilinear", "bicubic", "area"])
@pytest.mark.parametrize("how", [{"size": (7, 5)}, {"size": 9}, {"scale_factor": 2.0}, {"scale_factor": (0.5, 3.0)}])
def test_results_are_pytorchs(mode: Any, how: dict[str, Any]) -> None:
    x = torch.randn(2, 3, 6, 4)
    assert torch.equal(ops.interpolate(x, mode=mode, **how), F.interpolate(x, mode=mode, **how))


BAD: list[tuple[dict[str, Any], str]] = [
    ({}, "neither size nor scale_factor"),
    ({"size": 3, "scale_factor": 2.0}, "size and scale_factor"),
    ({"size": (3, 3, 3)}, "needed 2 numbers or one"),
    ({"size": 3, "mode": "linear"}, "needed one of nearest, nearest-exact, area, bilinear, bicubic"),
]


@pytest.mark.parametrize(("how", "words"), BAD)
def test_what_does_not_fit_is_refused(how: dict[str, Any], words: str) -> None:
    with pytest.raises(GeometryError, match=f"^interpolate: .*{words}"):
        ops.interpolate(torch.zeros(1, 1, 2, 2), **how)
    with pytest.raises(OperandError, match=r"needed \(N, C, H, W\)"):
        ops.interpolate(torch.zeros(2, 2), size=3)
