"""Disturbances against scikit-image, scipy and their definitions, and the curves made of them."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor, nn

from striate.analysis import DISTURBANCES, disturbed, robustness
from striate.errors import AnalysisError


class Brightest(nn.Module):
    """Says in which quarter of the image the most light is: 0 and 1 above, 2 and 3 below."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(x.sum(1, keepdim=True), 2).flatten(1)


def spots() -> tuple[Tensor, Tensor]:
    images = torch.zeros(4, 1, 16, 16)
    for label, (y, x) in enumerate(((5, 5), (5, 10), (10, 5), (10, 10))):
        images[label, 0, y, x] = 1
    return images, torch.arange(4)


@pytest.mark.parametrize("name", DISTURBANCES)
def test_neutral_levels_change_nothing_and_others_do(name: str) -> None:
    images, how = torch.rand(3, 2, 12, 10), DISTURBANCES[name]
    assert torch.equal(disturbed(images, name, how.neutral), images)
    # the same through the computation itself, where it has no special case
    if name != "blur":
        torch.testing.assert_close(how.apply(images, float(how.neutral), 0), images)
    for level in how.levels:
        changed = disturbed(images, name, level, seed=3)
        assert changed.shape == images.shape
        assert -1e-6 <= float(changed.min()) <= float(changed.max()) <= 1 + 1e-6
        assert torch.equal(changed, disturbed(images, name, level, seed=3))
        assert torch.equal(changed, images) == (level == how.neutral)


@pytest.mark.parametrize("degrees", [-30, 15, 90])
@pytest.mark.parametrize("shape", [(15, 15), (16, 16), (12, 17)])
def test_rotation_is_scikit_images(degrees: float, shape: tuple[int, int]) -> None:
    transform = pytest.importorskip("skimage.transform")
    image = torch.rand(1, 1, *shape, dtype=torch.float64)
    expected = transform.rotate(image[0, 0].numpy(), degrees, order=1, mode="constant", cval=0)
    found = disturbed(image, "rotation", degrees)[0, 0].numpy()
    # the two differ in how they fade out at the very border
    inside = np.s_[3:-3, 3:-3]
    np.testing.assert_allclose(found[inside], expected[inside], atol=1e-9)


@pytest.mark.parametrize("factor", [0.5, 0.8, 1.5, 2])
def test_scaling_is_scipys(factor: float) -> None:
    image = torch.rand(1, 1, 15, 15, dtype=torch.float64)
    middle = 7.0
    offset = middle - middle / factor
    expected = ndimage.affine_transform(image[0, 0].numpy(), np.eye(2) / factor, offset, order=1, mode="grid-constant")
    np.testing.assert_allclose(disturbed(image, "scale", factor)[0, 0].numpy(), expected, atol=1e-9)


def test_blur_is_scipys() -> None:
    image = torch.rand(2, 3, 14, 11, dtype=torch.float64)
    expected = ndimage.gaussian_filter(image.numpy(), (0, 0, 1.5, 1.5), mode="nearest", radius=(0, 0, 5, 5))
    np.testing.assert_allclose(disturbed(image, "blur", 1.5).numpy(), expected, atol=1e-9)


def test_translation_contrast_brightness() -> None:
    image = torch.arange(9.0).reshape(1, 1, 3, 3) / 8
    expected = torch.tensor([[0, 0, 0], [0, 0, 1], [0, 3, 4]]) / 8
    torch.testing.assert_close(disturbed(image, "translation", 1)[0, 0], expected)
    torch.testing.assert_close(disturbed(image, "contrast", 0), torch.full((1, 1, 3, 3), 0.5))
    torch.testing.assert_close(disturbed(image, "contrast", 0.5), (image + 0.5) / 2)
    torch.testing.assert_close(disturbed(image, "brightness", -0.5), (image - 0.5).clamp(min=0))


def test_covered_boxes_lie_inside_and_have_the_size_that_they_should() -> None:
    images = torch.ones(200, 1, 8, 12)
    dark = disturbed(images, "occlusion", 0.5, seed=2) == 0
    assert dark.sum((1, 2, 3)).tolist() == [4 * 6] * 200
    # every place where it fits is met, the corners too
    assert bool(dark.any(0).all())
    assert not bool(disturbed(images, "occlusion", 1).any())


def test_noise_has_the_deviation_that_it_should() -> None:
    images = torch.full((8, 1, 64, 64), 0.5)
    assert float(disturbed(images, "noise", 0.05).std()) == pytest.approx(0.05, rel=0.02)


@pytest.mark.formula("S26")
def test_curves_of_a_network_that_is_known_by_heart() -> None:
    images, labels = spots()
    model = Brightest().train()
    found = robustness(model, images, labels, {"translation": [-4, 0, 2, 3], "rotation": [0, 90], "brightness": [0.5]})
    assert found.accuracy == 1
    translation, rotation, _ = found.curves
    # moved by 3 or more the upper left spot lies in the lower right quarter
    assert translation.levels == (-4, 0, 2, 3)
    assert translation.accuracy == translation.agreement == (0.25, 1, 1, 0.25)
    assert rotation.accuracy == (1, 0)
    assert model.training
    json.dumps(found.to_dict(), allow_nan=False)
    wrong = robustness(model, images, labels.flip(0), ["rotation"]).curves[0]
    assert wrong.agreement[5] == 1
    assert wrong.accuracy[5] == 0


def test_all_disturbances_by_default_and_the_network_gets_what_is_prepared() -> None:
    images, labels = spots()
    found = robustness(Brightest(), images, labels, prepare=lambda pixels: -pixels)
    assert [curve.name for curve in found.curves] == list(DISTURBANCES)
    assert found.accuracy < 1


@pytest.mark.parametrize(
    ("images", "labels", "disturbances", "message"),
    [
        (torch.rand(4, 16, 16), torch.arange(4), None, "images: got 4x16x16"),
        (torch.rand(4, 1, 16, 16) * 255, torch.arange(4), None, "needed 0 to 1; divide bytes by 255"),
        (torch.rand(4, 1, 16, 16), torch.arange(3), None, r"labels: got 3; needed \(4,\)"),
        (torch.rand(4, 1, 16, 16), torch.arange(1, 5), None, "labels: got 4; needed 0 to 3, the network has 4 classes"),
        (torch.rand(4, 1, 16, 16), torch.arange(4) - 1, None, "labels: got -1; needed 0 to 3"),
        (torch.rand(4, 1, 16, 16), torch.rand(4), None, "labels: got torch.float32; needed whole numbers"),
        (torch.rand(4, 1, 16, 16), torch.arange(4), ["rotaton"], "got 'rotaton'; .*did you mean rotation"),
        (torch.rand(4, 1, 16, 16), torch.arange(4), {"scale": [0]}, "scale: got 0; needed 0.05 to 20"),
        (torch.rand(4, 1, 16, 16), torch.arange(4), {"noise": [-1]}, "needed 0 or more"),
        (torch.rand(4, 1, 16, 16), torch.arange(4), {"noise": [math.inf]}, "needed a number, 0 or more"),
    ],
)
def test_mistakes(images: Tensor, labels: Tensor, disturbances: object, message: str) -> None:
    with pytest.raises(AnalysisError, match=message):
        robustness(Brightest(), images, labels, disturbances)


def test_images_of_a_size_that_the_network_refuses() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(9, 2))
    with pytest.raises(AnalysisError, match="Sequential: 2x1x4x4 doesn't go through"):
        robustness(model, torch.rand(2, 1, 4, 4), torch.arange(2))
