"""Classifiers of torchvision's: their names, shapes and counts, and what the small ones of each family compute."""

from __future__ import annotations

import contextlib
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from peers import Peer, differences, told_apart

from striate import models
from striate.errors import WeightsWarning
from striate.models import densenet, efficientnet_v2, regnet, shufflenet_v2, swin
from striate.models.auxiliary import WithAuxiliary

#: Parameters as torchvision's tables of weights have them; of GoogLeNet with its auxiliary heads, which it leaves out.
PARAMETERS = {
    "mobilenet_v3_small": 2_542_856,
    "mobilenet_v3_large": 5_483_032,
    "densenet121": 7_978_856,
    "densenet161": 28_681_000,
    "densenet169": 14_149_480,
    "densenet201": 20_013_928,
    "googlenet": 13_004_888,
    "inception_v3": 27_161_264,
    "squeezenet1_0": 1_248_424,
    "squeezenet1_1": 1_235_496,
    "shufflenet_v2_x0_5": 1_366_792,
    "shufflenet_v2_x1_0": 2_278_604,
    "shufflenet_v2_x1_5": 3_503_624,
    "shufflenet_v2_x2_0": 7_393_996,
    "regnet_y_400mf": 4_344_144,
    "regnet_y_800mf": 6_432_512,
    "regnet_y_1_6gf": 11_202_430,
    "regnet_y_3_2gf": 19_436_338,
    "regnet_y_8gf": 39_381_472,
    "regnet_y_16gf": 83_590_140,
    "regnet_y_32gf": 145_046_770,
    "regnet_x_400mf": 5_495_976,
    "regnet_x_800mf": 7_259_656,
    "regnet_x_1_6gf": 9_190_136,
    "regnet_x_3_2gf": 15_296_552,
    "regnet_x_8gf": 39_572_648,
    "regnet_x_16gf": 54_278_536,
    "regnet_x_32gf": 107_811_560,
    "efficientnet_v2_s": 21_458_488,
    "efficientnet_v2_m": 54_139_356,
    "efficientnet_v2_l": 118_515_272,
    "swin_t": 28_288_354,
    "swin_s": 49_606_258,
    "swin_b": 87_768_224,
}
#: One of each family, whose every name and shape the everyday tests compare.
MEMBERS = (
    "mobilenet_v3_small", "densenet121", "googlenet", "inception_v3", "squeezenet1_1", "shufflenet_v2_x0_5",
    "regnet_y_400mf", "efficientnet_v2_s", "swin_t",
)  # fmt: skip
AUXILIARY = ("googlenet", "inception_v3")


def theirs_of(name: str, peer: Peer) -> torch.nn.Module:
    return peer(f"torchvision:{name}", **({"aux_logits": True, "init_weights": False} if name in AUXILIARY else {}))


@torch.no_grad()
def without_start(name: str) -> Any:
    """A network whose weights still are to come: to draw those of the large ones takes seconds."""
    with torch.device("meta"):
        return models.create(name)


def test_described_parameters_are_torchvisions() -> None:
    for name, parameters in PARAMETERS.items():
        assert f"{parameters:,} parameters" in models.describe(name)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name not in MEMBERS)) for name in PARAMETERS]
)
def test_names_and_shapes_are_torchvisions(name: str, peer: Peer) -> None:
    # RegNets of torchvision's compute their widths with tensors, whose values they need.
    with contextlib.nullcontext() if name.startswith("regnet") else torch.device("meta"):
        expected = theirs_of(name, peer).state_dict()
    found = without_start(name).state_dict()
    assert [(key, tensor.shape) for key, tensor in found.items()] == [
        (key, tensor.shape) for key, tensor in expected.items()
    ]
    assert sum(tensor.numel() for tensor in without_start(name).parameters()) == PARAMETERS[name]


def small_densenet(peer: Peer) -> tuple[torch.nn.Module, torch.nn.Module]:
    depths = (2, 3, 2, 1)
    theirs = peer("torchvision:DenseNet", growth_rate=8, block_config=depths, num_init_features=16)
    return densenet.DenseNet(densenet.Variant("", depths, 8, 16, 0)), theirs


def small_efficientnet(peer: Peer) -> tuple[torch.nn.Module, torch.nn.Module]:
    peer("torchvision:squeezenet1_1")  # imports torchvision
    from torchvision.models.efficientnet import FusedMBConvConfig, MBConvConfig

    rows = ((True, 1, 1, 8, 2), (True, 4, 2, 16, 2), (False, 4, 2, 24, 2), (False, 6, 1, 32, 2))
    settings, channels = [], 8
    for fused, expansion, stride, width, depth in rows:
        kind = FusedMBConvConfig if fused else MBConvConfig
        settings.append(kind(expansion, 3, stride, channels, width, depth))
        channels = width
    norm = partial(torch.nn.BatchNorm2d, eps=1e-3)
    theirs = peer("torchvision:EfficientNet", inverted_residual_setting=settings, dropout=0.2, last_channel=1280,
                  norm_layer=norm)  # fmt: skip
    stages = tuple(efficientnet_v2.Stage(*row) for row in rows)
    return efficientnet_v2.EfficientNetV2(efficientnet_v2.Variant("", stages, 64, 0.2, 0)), theirs


def small_swin(peer: Peer) -> tuple[torch.nn.Module, torch.nn.Module]:
    depths, heads = (2, 2, 2, 2), (1, 2, 2, 4)
    theirs = peer("torchvision:SwinTransformer", patch_size=[4, 4], embed_dim=16, depths=list(depths),
                  num_heads=list(heads), window_size=[7, 7], stochastic_depth_prob=0.2)  # fmt: skip
    return swin.SwinTransformer(swin.Variant("", 16, depths, heads, 0.2, 0)), theirs


@pytest.mark.parametrize(
    ("pair", "size"),
    [
        (small_densenet, (64, 64)),
        (small_efficientnet, (64, 48)),
        (small_swin, (64, 64)),  # 16x16 patches: windows stand over, and shift along both axes
        (small_swin, (28, 70)),  # 7x18 patches: one window down, which doesn't shift
    ],
)
def test_a_small_network_computes_what_torchvisions_does(pair: Any, size: tuple[int, int], peer: Peer) -> None:
    ours, theirs = pair(peer)
    assert [module.p for module in ours.modules() if type(module).__name__ == "StochasticDepth"] == pytest.approx(
        [module.p for module in theirs.modules() if type(module).__name__ == "StochasticDepth"]
    )
    ours.load_state_dict(told_apart(theirs).state_dict())
    for difference, largest in differences(ours, theirs, torch.randn(2, 3, *size)):
        assert difference < 1e-9 * max(1, largest)
        assert largest > 0.01


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "side", "weight"),
    [("googlenet", 64, 0.3), ("inception_v3", 299, 0.4)],
)
def test_auxiliary_heads_are_torchvisions(name: str, side: int, weight: float, peer: Peer) -> None:
    theirs, ours = theirs_of(name, peer), without_start(name)
    for layer in (*theirs.modules(), *ours.modules()):
        if isinstance(layer, torch.nn.Dropout):
            layer.p = 0.0
    ours.load_state_dict(theirs.state_dict(), assign=True)
    images, labels = torch.randn(2, 3, side, side), torch.tensor([3, 999])
    scores = ours(images)
    main, *auxiliary = theirs(images)
    expected = F.cross_entropy(main, labels) + weight * sum(F.cross_entropy(each, labels) for each in auxiliary)
    torch.testing.assert_close(scores, main, rtol=1e-4, atol=1e-4)
    loss = ours.loss(scores, labels)
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-4)
    assert ours.auxiliary == ()
    # In evaluation there are none, and the transformation of inputs is torchvision's.
    for network in (ours, theirs):
        network.eval().transform_input = True
    with torch.no_grad():
        scores, main = ours(images), theirs(images)
        torch.testing.assert_close(scores, main, rtol=1e-4, atol=1e-4 * main.abs().max().item())
        assert ours.loss(scores, labels) == F.cross_entropy(scores, labels)


def test_inception_is_torchvisions(peer: Peer) -> None:
    theirs, ours = theirs_of("inception_v3", peer).eval(), without_start("inception_v3").eval()
    ours.load_state_dict(theirs.state_dict(), assign=True)
    with torch.no_grad():
        for here, there, x in (
            (ours, theirs, torch.randn(1, 3, 80, 96)),
            (ours.AuxLogits, theirs.AuxLogits, torch.randn(1, 768, 17, 20)),
        ):
            expected = there(x)
            assert expected.std() > 1e-3
            torch.testing.assert_close(here(x), expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


class Tiny(WithAuxiliary):
    """The least that has an auxiliary head."""

    head_keys = ("aux", "fc")

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__()
        self.shared, self.aux = torch.nn.Linear(4, 4), torch.nn.Linear(4, num_classes)
        self.fc = torch.nn.Linear(4, num_classes)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        inner = self.shared(input)
        if self.training:
            self.auxiliary = (self.aux(inner),)
        scores: torch.Tensor = self.fc(inner)
        return scores


def test_a_network_is_copied_between_its_scores_and_their_loss() -> None:
    import copy

    model = Tiny()
    scores = model(torch.randn(2, 4))
    assert copy.deepcopy(model).auxiliary == ()
    model.loss(scores, torch.tensor([0, 1])).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())


def test_auxiliary_heads_for_other_classes_stay_random_with_the_head(tmp_path: Path) -> None:
    trained = Tiny(3)
    torch.save(trained.state_dict(), tmp_path / "w.pt")
    model = Tiny(5)
    with pytest.warns(WeightsWarning, match="fc is for 3 classes, this network's for 5, and stays random"):
        models.load_weights(model, tmp_path / "w.pt", new_head=True)
    assert torch.equal(model.shared.weight, trained.shared.weight)


def test_a_head_that_is_a_convolution_is_replaced(tmp_path: Path) -> None:
    torch.save(models.create("squeezenet1_1", 7).state_dict(), tmp_path / "w.pt")
    with pytest.warns(WeightsWarning, match=r"classifier\.1 is for 7 classes, this network's for 4"):
        models.create("squeezenet1_1", 4, weights=tmp_path / "w.pt")


def test_files_of_densenets_have_dots_in_names_of_layers(tmp_path: Path) -> None:
    own = models.create("densenet121")
    dotted = {}
    for key, tensor in told_apart(own).state_dict().items():
        if "denselayer" in key:
            for kind in ("norm1", "norm2", "conv1", "conv2"):
                key = key.replace(f".{kind}.", f".{kind[:-1]}.{kind[-1]}.")
        dotted[key] = tensor
    assert "features.denseblock2.denselayer12.conv.2.weight" in dotted
    torch.save(dotted, tmp_path / "densenet.pth")
    again = models.create("densenet121", weights=tmp_path / "densenet.pth").state_dict()
    assert all(torch.equal(tensor, again[key]) for key, tensor in own.state_dict().items())


def test_channels_are_shuffled_as_in_figure_3() -> None:
    x = torch.arange(8.0).view(1, 8, 1, 1)
    assert shufflenet_v2.shuffled(x).flatten().tolist() == [0, 4, 1, 5, 2, 6, 3, 7]


def test_widths_of_regnets_are_the_papers() -> None:
    stages = {variant.name: variant.stages() for variant in regnet.VARIANTS}
    # tables 2 and 3 of the paper: blocks d_i, widths w_i and the groups' g
    assert stages["regnet_x_400mf"] == [(32, 1, 16), (64, 2, 16), (160, 7, 16), (400, 12, 16)]
    assert stages["regnet_y_400mf"] == [(48, 1, 8), (104, 3, 8), (208, 6, 8), (440, 6, 8)]
    assert stages["regnet_y_32gf"] == [(232, 2, 232), (696, 5, 232), (1392, 12, 232), (3712, 1, 232)]
