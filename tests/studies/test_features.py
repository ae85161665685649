"""Hand-made features: HOG is scikit-image's, Gabor energies answer to orientation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from striate.studies.digits import digits
from striate.studies.features import gabor_bank, hog


@pytest.mark.parametrize(("orientations", "cell", "block"), [(9, 2, 2), (8, 4, 1), (6, 2, 3)])
def test_hog_is_scikit_images(orientations: int, cell: int, block: int) -> None:
    theirs = pytest.importorskip("skimage.feature").hog
    images = torch.cat([digits(0).images[:5].double(), torch.rand(3, 1, 8, 8, dtype=torch.float64)])
    for image in images:
        expected = theirs(
            image[0].numpy(), orientations, (cell, cell), (block, block), block_norm="L2-Hys", feature_vector=True
        )
        found = hog(image[None], orientations=orientations, cell=cell, block=block)[0]
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-9)


def test_gabor_energies_answer_to_orientation_and_not_to_the_mean() -> None:
    x = torch.arange(32.0)
    waves = torch.cos(2 * math.pi * 0.15 * x)
    across = waves.expand(32, 32)[None, None]
    energies = gabor_bank(torch.cat([across, across.mT, torch.full_like(across, 5.0)]))
    strength = energies.unflatten(1, (2, 8, 16, 16))[..., 3:-3, 3:-3].mean((3, 4))
    assert strength[0, 0].argmax() == 0
    assert strength[1, 0].argmax() == 4
    assert float(strength[2].max()) < 1e-4
