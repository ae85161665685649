"""Operations of detection against stored results of torchvision 0.14.1; see torchvision_outputs.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from striate import ops
from striate.engine import use

STORED = np.load(Path(__file__).parent / "torchvision.npz")
CASES = json.loads(str(STORED["cases"]))
NAMES = {"clip_boxes_to_image": "clip_boxes"}


def given(value: Any) -> Any:
    if isinstance(value, list):
        return [given(each) for each in value]
    return torch.from_numpy(STORED[value[1:]]) if isinstance(value, str) and value.startswith("@") else value


@pytest.mark.parametrize("backend", ["auto", "aten"])
@pytest.mark.parametrize("number", range(len(CASES)), ids=lambda number: f"{number}-{CASES[number][0]}")
def test_results_are_torchvisions(number: int, backend: str) -> None:
    name, arguments, keywords = CASES[number]
    with use(backend):
        found = getattr(ops, NAMES.get(name, name))(*given(arguments), **keywords)
    expected = torch.from_numpy(np.array(STORED[f"result{number}"]))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
