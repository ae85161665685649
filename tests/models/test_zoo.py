"""Every network of the zoo: its figures, its gradients, learning, compilers, small images."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F

from cases import slow_but
from striate import models
from striate.analysis import receptive_field, summarize
from striate.errors import GeometryError, ModelError

#: Light ones of different kinds, which stand for all where these would take long.
LIGHT = ("alexnet_2012", "se_resnet18", "resnet18_aps", "mobilenet_v2", "efficientnet_b0")
SMALL_FORM = [name for name in models.names("classification") if models.has_small_form(name, (32, 32))]

#: MACs in 1e9 at the native size: torchvision's tables (ops), and of MobileNet its paper's table 4.
GMACS = {
    "alexnet": 0.714,
    "vgg11": 7.609,
    "vgg13": 11.308,
    "vgg16": 15.470,
    "vgg19": 19.632,
    "resnet18": 1.814,
    "resnet34": 3.664,
    "resnet50": 4.089,
    "resnet101": 7.801,
    "resnet152": 11.514,
    "mobilenet_v1": 0.569,
    "mobilenet_v2": 0.301,
    "mobilenet_v3_small": 0.057,
    "mobilenet_v3_large": 0.217,
    "efficientnet_b0": 0.386,
    "squeezenet1_0": 0.819,
    "squeezenet1_1": 0.349,
    "shufflenet_v2_x1_0": 0.145,
    "regnet_y_400mf": 0.402,
    "regnet_x_400mf": 0.414,
    "densenet121": 2.834,
    "googlenet": 1.498,
    "inception_v3": 5.713,
    "efficientnet_v2_s": 8.366,
    "swin_t": 4.491,
}


#: Networks of so many layers that to make them takes a while, without any weights.
MANY_LAYERS = re.compile(
    r"densenet(161|169|201)|efficientnet_(b[4-7]|v2_[ml])|\w*resnet(101|152)\w*|regnet_._\d+gf|swin_b"
)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * bool(MANY_LAYERS.fullmatch(name)))
        for name in models.names("classification")
    ],
)
def test_parameters_are_what_the_description_says(name: str) -> None:
    with torch.device("meta"):
        model = models.create(name)
    told = re.search(r"([\d,]+) parameters, (\d+)x(\d+) images\.", models.describe(name))
    assert told is not None
    assert sum(parameter.numel() for parameter in model.parameters()) == int(told[1].replace(",", ""))
    assert model.input_size == (int(told[2]), int(told[3]))


@pytest.mark.formula("W14")
def test_described_parameters_are_the_literatures() -> None:
    for name, parameters in {
        "alexnet": 61_100_840,
        "alexnet_2012": 60_965_224,
        "vgg16": 138_357_544,
        "resnet18": 11_689_512,
        "resnet34": 21_797_672,
        "resnet50": 25_557_032,
        "resnet101": 44_549_160,
        "resnet152": 60_192_808,
        "mobilenet_v2": 3_504_872,
        "efficientnet_b0": 5_288_548,
    }.items():
        assert f"{parameters:,} parameters" in models.describe(name)


DEEP = (
    "vgg13", "vgg19", "resnet34", "resnet101", "resnet152", "mobilenet_v3_large", "squeezenet1_0", "shufflenet_v2_x1_0",
    "regnet_y_400mf", "regnet_x_400mf", "densenet121", "googlenet", "inception_v3", "efficientnet_v2_s", "swin_t",
    "efficientnet_b0", "mobilenet_v3_small", "mobilenet_v2", "resnet50",
)  # fmt: skip


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in DEEP else name for name in GMACS]
)
def test_multiply_accumulates_are_the_literatures(name: str) -> None:
    with torch.device("meta"):
        model = models.create(name)
    assert round(summarize(model, models.input_shape(name)).macs / 1e9, 3) == GMACS[name]


@pytest.mark.formula("S9")
@pytest.mark.parametrize(
    ("name", "layer", "size", "stride"),
    [
        ("alexnet", "features", 195, 32),
        pytest.param("vgg16", "features", 212, 32, marks=pytest.mark.slow),
        ("mobilenet_v1", "features", 315, 32),
        ("resnet18", "layer4", 435, 32),
        ("resnet50", "layer4", 427, 32),
        pytest.param("resnet50_v1", "layer4", 483, 32, marks=pytest.mark.slow),
        pytest.param("resnet101_v1", "layer4", 1027, 32, marks=pytest.mark.slow),
    ],
)
def test_receptive_fields_are_the_literatures(name: str, layer: str, size: int, stride: int) -> None:
    row = receptive_field(models.create(name), models.input_shape(name)).at(layer)
    assert (row.size, row.stride) == ((size, size), (stride, stride))


def learns(name: str, model: torch.nn.Module, images: torch.Tensor) -> None:
    """One step against the gradient lowers the loss on the same images, and every parameter has a gradient."""
    for layer in model.modules():
        if isinstance(layer, torch.nn.Dropout) or type(layer).__name__ == "StochasticDepth":
            layer.p = 0.0
    labels = torch.arange(len(images))
    before = F.cross_entropy(model(images), labels)
    before.backward()
    norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            assert parameter.grad is not None, key
            assert parameter.grad.isfinite().all(), key
            assert parameter.grad.any(), key
            # By the gradient the loss falls by 0.05; the deeper a network at its start, the larger its gradients.
            parameter -= 0.05 / norm**2 * parameter.grad
        after = F.cross_entropy(model(images), labels)
    assert after < before, name


@pytest.mark.parametrize("name", slow_but([name for name in SMALL_FORM if name in LIGHT], ["se_resnet18"]))
def test_small_images_train(name: str) -> None:
    model = models.create(name, 10, 1, small_input=True)
    assert model.input_size == (32, 32)
    learns(name, model, torch.randn(4, 1, 32, 32))
    if not name.endswith("_aps"):
        assert model.eval()(torch.randn(1, 1, 28, 28)).shape == (1, 10)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SMALL_FORM if name not in LIGHT])
def test_small_images_train_all_others(name: str) -> None:
    learns(name, models.create(name, 10, 1, small_input=True), torch.randn(4, 1, 32, 32))


@pytest.mark.slow
@pytest.mark.parametrize("name", models.names("classification"))
def test_native_size_trains(name: str) -> None:
    channels, height, width = models.input_shape(name)
    model = models.create(name)
    if hasattr(model, "loss"):
        pytest.skip("brings a loss of its own, and trains in test_registry")
    learns(name, model, torch.randn(2, channels, height, width))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "resnet18_aps", "alexnet_2012", "vgg11", "vgg11_bn", "resnet18", "resnet50", "se_resnet18", "resnet18_blur",
        "mobilenet_v1", "mobilenet_v2", "efficientnet_b0", "efficientnet_lite0",
    ],
)  # fmt: skip
def test_compilers_take_it(name: str) -> None:
    model = models.create(name, 10, 1, small_input=True).eval()
    images = torch.randn(2, 1, 32, 32)
    with torch.no_grad():
        expected = model(images)
        exported = torch.export.export(model, (images,)).module()(images)
        torch.testing.assert_close(exported, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())
        compiled = torch.compile(model, backend="eager", fullgraph=True)(images)
        torch.testing.assert_close(compiled, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())
    torch._dynamo.reset()


def test_networks_without_a_small_form_say_so() -> None:
    assert set(models.names("classification")) - set(SMALL_FORM) >= {"lenet5", "lenet5_1998", "simple_cnn"}
    with pytest.raises(ModelError, match="lenet5: has no form for small images"):
        models.create("lenet5", small_input=True)
    with pytest.raises(GeometryError, match="H and W divisible by 2"):
        models.create("resnet18_aps", 10, 1, small_input=True)(torch.zeros(1, 1, 28, 28))


def settled(name: str, images: torch.Tensor) -> torch.nn.Module:
    """In float64 and evaluation mode, with the statistics of ``images``."""
    model = models.create(name, 10, 3, small_input=True).double()
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = 1.0
    model(images)
    return model.eval()


@pytest.mark.parametrize("name", ["resnet18_aps", pytest.param("resnet50_aps", marks=pytest.mark.slow)])
def test_polyphase_networks_do_not_notice_circular_shifts(name: str) -> None:
    images = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    model, plain = settled(name, images), settled(name.removesuffix("_aps"), images)
    for shift in ((0, 1), (1, 0), (3, 5), (16, 7)):
        moved = images.roll(shift, (2, 3))
        torch.testing.assert_close(model(moved), model(images), rtol=0, atol=1e-10)
        assert (plain(moved) - plain(images)).abs().max() > 1e-3


@pytest.mark.slow
def test_blurred_networks_notice_shifts_less() -> None:
    images = F.interpolate(torch.rand(4, 3, 8, 8, dtype=torch.float64), (32, 32), mode="bicubic")
    change = {}
    for name in ("resnet18", "resnet18_blur"):
        torch.manual_seed(1)
        model = settled(name, images)
        scores, moved = model(images), model(images.roll(1, 3))
        change[name] = ((moved - scores).norm() / (scores - scores.mean(0)).norm()).item()
    assert change["resnet18_blur"] < change["resnet18"]


def test_response_normalisation_is_the_papers() -> None:
    layer = models.create("alexnet_2012").features[2]
    a = torch.randn(1, 8, 1, 1, dtype=torch.float64) * 30
    expected = torch.empty_like(a)
    for i in range(8):
        total = sum(a[0, j, 0, 0] ** 2 for j in range(max(0, i - 2), min(7, i + 2) + 1))
        expected[0, i] = a[0, i] / (2 + 1e-4 * total) ** 0.75
    torch.testing.assert_close(layer(a), expected)
