"""U-Net: any size in, the same size out; learning; what differs from the paper does no harm."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cases import slow_but
from striate.errors import ModelError
from striate.models.unet import UNet


def settled(model: UNet) -> UNet:
    """In evaluation mode and float64, with statistics of one batch."""
    for layer in model.double().modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = 1.0
    model(torch.randn(2, model.stem[0][0].in_channels, 32, 32, dtype=torch.float64))
    return model.eval()


@given(
    st.integers(1, 40), st.integers(1, 40), st.integers(1, 3), st.sampled_from(["bilinear", "transposed"]),
    st.integers(1, 5), st.integers(1, 4),
)  # fmt: skip
@settings(max_examples=25)
def test_every_size_comes_out_as_it_went_in(
    height: int, width: int, depth: int, up: str, classes: int, channels: int
) -> None:
    model = UNet(classes, channels, width=2, depth=depth, up=up).eval()  # type: ignore[arg-type]
    scores = model(torch.randn(1, channels, height, width))
    assert list(scores) == ["out"]
    assert scores["out"].shape == (1, classes, height, width)
    assert scores["out"].isfinite().all()


def test_padding_is_what_a_larger_image_with_zeros_is() -> None:
    model = settled(UNet(3, 1, width=4, depth=2))
    image = torch.randn(1, 1, 13, 18, dtype=torch.float64)
    whole = model(F.pad(image, (0, 2, 0, 3)))["out"]
    torch.testing.assert_close(model(image)["out"], whole[..., :13, :18], rtol=0, atol=1e-12)


def test_narrowing_before_growing_is_narrowing_after() -> None:
    """A 1x1 convolution and interpolation commute, which is why the cheaper order is taken."""
    narrow, grow = UNet(2, 1, width=4, depth=1).double().up[0].grow
    maps = torch.randn(2, 8, 5, 6, dtype=torch.float64)
    torch.testing.assert_close(grow(narrow(maps)), narrow(grow(maps)), rtol=0, atol=1e-12)


def discs(count: int, side: int, seed: int) -> tuple[Tensor, Tensor]:
    """Bright and dark discs on grey noise, and their classes 1 and 2: images (N, 1, S, S), class maps (N, S, S)."""
    generator = torch.Generator().manual_seed(seed)
    grid = torch.arange(side).float()
    images, truth = 0.3 * torch.randn(count, 1, side, side, generator=generator), torch.zeros(count, side, side).long()
    for image, classes in zip(images, truth, strict=True):
        for label in (1, 2):
            row, column, radius = (torch.rand(3, generator=generator) * torch.tensor([side, side, 6]) + 3).tolist()
            inside = (grid[:, None] - row) ** 2 + (grid - column) ** 2 < radius**2
            image[0][inside] += 3 - 2 * label
            classes[inside] = label
    return images, truth


@pytest.mark.parametrize("up", slow_but(["bilinear", "transposed"], ["transposed"]))
def test_it_learns_in_seconds(up: str) -> None:
    model = UNet(3, 1, width=8, depth=2, up=up)  # type: ignore[arg-type]
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    images, truth = discs(64, 36, seed=0)
    for step in range(30):
        chosen = torch.arange(16) + 16 * (step % 4)
        loss = F.cross_entropy(model(images[chosen])["out"], truth[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    images, truth = discs(16, 50, seed=1)  # other images, of another size
    found = model.eval()(images)["out"].argmax(1)
    for label in range(3):
        union = ((found == label) | (truth == label)).sum()
        assert ((found == label) & (truth == label)).sum() / union > 0.7, label


def test_every_parameter_has_a_gradient() -> None:
    model = UNet(3, 2, width=4, depth=3)
    F.cross_entropy(model(torch.randn(2, 2, 30, 40))["out"], torch.randint(3, (2, 30, 40))).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        # normalisation takes off what a bias before it would add, which is why there are none
        assert parameter.grad.any(), name


def test_wrong_arguments_are_told() -> None:
    with pytest.raises(ModelError, match="unet: got width 0 and depth 4; needed 1 or more"):
        UNet(width=0)
    with pytest.raises(ModelError, match="unet: got up='nearest'; needed one of bilinear, transposed"):
        UNet(up="nearest")  # type: ignore[arg-type]


@pytest.mark.slow
def test_compilers_take_every_multiple_of_the_largest_window() -> None:
    model = UNet(3, 1, width=4, depth=2).eval()
    with torch.no_grad():
        images = torch.randn(1, 1, 16, 20)
        sides = {2: 4 * torch.export.Dim("rows", min=2, max=64), 3: 4 * torch.export.Dim("columns", min=2, max=64)}
        program = torch.export.export(model, (images,), dynamic_shapes=(sides,))
        for size in ((16, 20), (32, 12)):
            images = torch.randn(1, 1, *size)
            torch.testing.assert_close(program.module()(images)["out"], model(images)["out"], rtol=1e-4, atol=1e-5)
        # Of one size that isn't a multiple it is exported as well.
        images = torch.randn(2, 1, 21, 30)
        program = torch.export.export(model, (images,))
        torch.testing.assert_close(program.module()(images)["out"], model(images)["out"], rtol=1e-4, atol=1e-5)
