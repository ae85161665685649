"""Networks of timm and torchvision, accelerated, are the networks that they were.

Each is compared with itself and with itself in float64 (accuracy.py says how). Weights are random, with batch
statistics of random images, moved a little; what starts at zero or one (scales of branches, biases) is moved away from
there, or whole branches would say nothing.

What can be held to rounding is: evaluation, and gradients of a single step. A gradient jumps where an activation's
sign, or the place of a maximum, hangs on rounding; among the hundred thousands of numbers of one pass there often is
one. So several draws of images are tried, of which one has to agree; something that is computed wrongly agrees in none.
Five steps of training meet such places almost surely, in the plain network as well. They are held to a hundredth of how
far parameters moved, or to a multiple of how far the plain network's runs are apart, if that is more.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
import torch
from accuracy import excess, moved, tensors
from torch import Tensor, nn

import striate
from striate.acceleration import plan_of


class Network(NamedTuple):
    """What a network is made with, and the sides of its images; None for a network of one size."""

    options: Mapping[str, Any] = MappingProxyType({})
    side: int = 64
    other: int | None = 96


def fixed(side: int = 64, by: str = "img_size", **options: Any) -> Network:
    """One that is made for a size."""
    return Network({by: (side, side) if by == "input_size" else side, **options}, side, None)


NETWORKS: dict[str, Network] = {
    "timm:test_resnet": Network({}, 32, 64),
    "timm:test_efficientnet": Network(),
    # Residual networks and their kin.
    "torchvision:resnet18": Network(),
    "torchvision:resnet50": Network(),
    "timm:resnet10t": Network(),
    "timm:resnext50_32x4d": Network(),
    "timm:seresnext26t_32x4d": Network(),
    "timm:resnetv2_18": Network(),
    "timm:resnetv2_50x1_bit": Network(),
    "timm:resnetblur18": Network(),
    "timm:resnet50_clip_gap": Network(),
    "timm:res2net50_14w_8s": Network(),
    "timm:resnest14d": Network(),
    "timm:skresnet18": Network(),
    "timm:tresnet_m": Network(),
    "timm:lambda_resnet26t": Network(),
    "timm:botnet26t_256": fixed(),
    "timm:halonet26t": Network({}, 256, None),
    "torchvision:regnet_x_400mf": Network(),
    "timm:regnety_002": Network(),
    "timm:regnetz_005": Network(),
    "torchvision:densenet121": Network(),
    "timm:densenet121": Network(),
    "timm:dpn48b": Network(),
    "timm:dla34": Network(),
    "timm:dla46x_c": Network(),
    "timm:hrnet_w18_small": Network(),
    "timm:cspdarknet53": Network(),
    "timm:cs3darknet_focus_s": Network(),
    "timm:darknet17": Network(),
    "timm:ese_vovnet19b_slim_dw": Network(),
    "timm:selecsls42": Network(),
    "timm:gernet_s": Network(),
    "timm:hgnetv2_b0": Network(),
    "timm:test_byobnet": Network(),
    # Branches that are one convolution in the end.
    "timm:repvgg_a0": Network(),
    "timm:mobileone_s0": Network(),
    "timm:repghostnet_050": Network(),
    "timm:repvit_m0_9": Network(),
    # Without normalisation.
    "torchvision:alexnet": Network(),
    "torchvision:squeezenet1_1": Network(),
    "timm:vgg11": Network({}, 64, None),
    "torchvision:vgg11_bn": Network(),
    "timm:nfnet_l0": Network(),
    "timm:eca_nfnet_l0": Network(),
    "timm:nf_resnet26": Network(),
    "timm:nf_regnet_b0": Network(),
    "timm:test_nfnet": Network(),
    # With outputs beside the main one.
    "torchvision:googlenet": Network({"aux_logits": True, "init_weights": True}),
    # Their auxiliary classifiers take images of 299 pixels and more.
    "torchvision:inception_v3": Network({"aux_logits": False, "init_weights": True}, 128, 160),
    "timm:inception_v3": Network({"aux_logits": False}, 128, 160),
    "timm:deit_tiny_distilled_patch16_224": fixed(),
    # For small machines.
    "timm:mobilenetv1_100": Network(),
    "timm:mobilenetv2_035": Network(),
    "torchvision:mobilenet_v3_small": Network(),
    "timm:mobilenetv3_large_075": Network(),
    "timm:mobilenetv4_conv_small_035": Network(),
    "timm:mobilenetv4_hybrid_medium_075": Network(),
    "timm:efficientnet_b0": Network(),
    "torchvision:efficientnet_b0": Network(),
    "timm:efficientnet_lite0": Network(),
    "timm:tf_efficientnetv2_b0": Network(),
    "timm:efficientnet_cc_b0_4e": Network(),
    "timm:test_efficientnet_gn": Network(),
    "timm:test_efficientnet_evos": Network(),
    "timm:ghostnet_050": Network(),
    "timm:ghostnetv2_100": Network(),
    "timm:ghostnetv3_050": Network(),
    "torchvision:shufflenet_v2_x0_5": Network(),
    "torchvision:mnasnet0_5": Network(),
    "timm:semnasnet_050": Network(),
    "timm:mixnet_s": Network(),
    "timm:fbnetv3_b": Network(),
    "timm:lcnet_035": Network(),
    "timm:hardcorenas_a": Network(),
    "timm:rexnet_100": Network(),
    "timm:tinynet_e": Network(),
    "timm:starnet_s050": Network(),
    "timm:shvit_s1": Network(),
    # As transformers are built.
    "timm:convnext_zepto_rms": Network(),
    "torchvision:convnext_tiny": Network(),
    "timm:convnextv2_atto": Network(),
    "timm:inception_next_atto": Network(),
    "timm:convmixer_768_32": Network(),
    "timm:convformer_s18": Network(),
    "timm:poolformer_s12": Network(),
    "timm:poolformerv2_s12": Network(),
    "timm:focalnet_tiny_srf": Network(),
    "timm:mambaout_femto": Network(),
    "timm:fasternet_t0": Network(),
    "timm:fastvit_t8": Network(),
    "timm:mixer_s32_224": fixed(),
    "timm:gmlp_ti16_224": fixed(),
    "timm:resmlp_12_224": fixed(),
    # Transformers, and mixtures.
    "timm:test_vit": fixed(),
    "timm:vit_tiny_patch16_224": fixed(),
    "torchvision:vit_b_32": fixed(by="image_size"),
    "timm:vit_relpos_small_patch16_224": fixed(),
    "timm:swin_tiny_patch4_window7_224": fixed(),
    "torchvision:swin_v2_t": Network(),
    "timm:cait_xxs24_224": fixed(),
    "timm:convit_tiny": fixed(),
    "timm:crossvit_9_240": fixed(96),
    "timm:pit_ti_224": fixed(),
    "timm:pvt_v2_b0": Network(),
    "timm:xcit_nano_12_p16_224": fixed(),
    "timm:caformer_s18": Network(),
    "timm:coatnet_pico_rw_224": fixed(),
    "timm:test_maxvit": fixed(),
    "torchvision:maxvit_t": fixed(by="input_size"),
    "timm:levit_conv_128s": fixed(),
    "timm:efficientformer_l1": fixed(),
    "timm:efficientformerv2_s0": fixed(),
    "timm:efficientvit_b0": Network(),
    "timm:efficientvit_m0": fixed(),
    "timm:edgenext_xx_small": Network(),
    "timm:mobilevit_xxs": Network(),
    "timm:mobilevitv2_050": Network(),
    "timm:swiftformer_xs": Network(),
    # A class for each pixel.
    "segmentation:fcn_resnet50": Network({"aux_loss": True}),
    "segmentation:deeplabv3_mobilenet_v3_large": Network({"aux_loss": True}),
    "segmentation:lraspp_mobilenet_v3_large": Network(),
}
#: Run by `make test`; the others by `make test-all`.
QUICK = ("timm:test_vit",)
#: Those that are planned as a whole: how far plans reach isn't told by numbers that agree.
PLANNED = (
    "timm:test_resnet",
    "timm:test_efficientnet",
    "timm:mobilenetv2_035",
    "timm:efficientnet_b0",
    "torchvision:resnet18",
)
#: Draws of images, of which one has to agree.
DRAWS = 8
#: How far five steps may lead apart, as a share of how far they lead.
STRAYING = 1e-2


def networks(quick: tuple[str, ...]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        "name", [pytest.param(name, marks=[] if name in quick else [pytest.mark.slow]) for name in NETWORKS]
    )


def images(network: Network, count: int, seed: int, other: bool = False) -> Tensor:
    side = network.side if not other or network.other is None else network.other
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def lively(model: nn.Module, x: Tensor) -> nn.Module:
    """The model with nothing that is zero, one or random where it is called."""
    draw = torch.Generator().manual_seed(1)
    for module in model.modules():
        for name in ("p", "drop_prob"):
            if "Drop" in type(module).__name__ or "Depth" in type(module).__name__:
                setattr(module, name, 0.0) if isinstance(getattr(module, name, None), (float, int)) else None
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not parameter.numel() or (parameter != parameter.flatten()[0]).any():
                continue
            if name.endswith("bias"):
                parameter.normal_(0, 0.1, generator=draw)
            elif parameter.dim() > 1 and len(parameter) > 1 and parameter.numel() > len(parameter):
                parameter.normal_(0, 0.02, generator=draw)
            else:
                parameter.uniform_(0.6, 1.4, generator=draw)
        norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.momentum = 0.5
        for _ in range(3 if norms else 0):
            model.train()(torch.randn(x.shape, generator=draw))
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            deviation = norm.running_var.sqrt()
            norm.running_mean += 0.1 * deviation * torch.randn(deviation.shape, generator=draw)
            norm.running_var *= torch.empty_like(deviation).uniform_(0.8, 1.25, generator=draw)
    return model


class Versions(NamedTuple):
    plain: nn.Module
    fast: nn.Module
    exact: nn.Module

    def all(
        self, compute: Callable[..., list[Tensor]], *inputs: Tensor
    ) -> tuple[list[Tensor], list[list[Tensor]], list[Tensor]]:
        """What the fast, the plain (with inputs as they are, and moved) and the exact one come to, from one state."""
        state = copy.deepcopy(self.plain.state_dict())
        results = []
        for model, seed in ((self.fast, 0), (self.plain, 0), (self.plain, 1), (self.exact, 0)):
            model.load_state_dict(state)
            given = [moved(x, seed) if seed else x for x in inputs]
            results.append(compute(model, *(x.double() if model is self.exact else x for x in given)))
        self.plain.load_state_dict(state)
        fast, *plain, exact = results
        return fast, plain, exact


def versions(name: str, peer: Callable[..., nn.Module]) -> Versions:
    network = NETWORKS[name]
    library, _, kind = name.partition(":")
    if library == "segmentation":
        segmentation = pytest.importorskip("torchvision.models.segmentation")
        made = getattr(segmentation, kind)(num_classes=5, weights_backbone=None, **network.options)
    else:
        made = peer(name, num_classes=10, **network.options)
    model = lively(made, images(network, 4, 0))
    return Versions(model, striate.accelerate(copy.deepcopy(model), quiet=True), copy.deepcopy(model).double())


def loss_of(result: Any, seed: int) -> Tensor:
    """How far all outputs are from random ones."""
    draw = torch.Generator().manual_seed(seed)
    outputs = tensors(result)
    return torch.stack([(y - torch.randn(y.shape, generator=draw).to(y)).square().mean() for y in outputs]).sum()


def evaluated(model: nn.Module, x: Tensor) -> list[Tensor]:
    with torch.no_grad():
        return tensors(model.eval()(x))


def derived(train: bool) -> Callable[..., list[Tensor]]:
    def gradients(model: nn.Module, x: Tensor) -> list[Tensor]:
        """Outputs, gradients by images and parameters, and what is left in buffers."""
        model.train(train)
        x = x.clone().requires_grad_()
        wanted = [x, *(p for p in model.parameters() if p.requires_grad)]
        outputs = model(x)
        found = torch.autograd.grad(loss_of(outputs, 5), wanted, allow_unused=True)
        kept = [each.clone() for each in model.buffers() if each.is_floating_point()]
        return [*(y.detach() for y in tensors(outputs)), *(g for g in found if g is not None), *kept]

    return gradients


def trained(model: nn.Module, *batches: Tensor) -> list[Tensor]:
    """Losses, how far parameters moved, and buffers."""
    model.train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    before = [p.detach().clone() for p in parameters]
    optimizer, losses = torch.optim.SGD(parameters, 0.01, momentum=0.9), []
    for step, x in enumerate(batches):
        optimizer.zero_grad()
        loss = loss_of(model(x), step)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        losses.append(loss.detach())
    way = torch.cat([(p.detach() - b).flatten() for p, b in zip(parameters, before, strict=True)])
    kept = [each.clone() for each in model.buffers() if each.is_floating_point()]
    return [torch.stack(losses), way, *kept]


@networks(QUICK)
def test_evaluation(name: str, peer: Callable[..., nn.Module], planning: None) -> None:
    network, made = NETWORKS[name], versions(name, peer)
    for count, other in ((2, False), (3, True)):
        x = images(network, count, 7, other)
        mine, theirs, told = made.all(evaluated, x)
        assert excess(mine, theirs, told) <= 1
        for _ in range(4):  # the second call makes a plan, by which later ones go
            assert excess(evaluated(made.fast, x), theirs, told) <= 1
    if name in PLANNED:
        assert "steps on" in plan_of(made.fast, x).partition("\n")[0]


@networks(())
def test_gradients_and_training(name: str, peer: Callable[..., nn.Module], planning: None) -> None:
    network, made = NETWORKS[name], versions(name, peer)
    for train in (False, True):
        found = []
        for seed in range(DRAWS):
            found.append(excess(*made.all(derived(train), images(network, 4, seed))))
            if found[-1] <= 1:
                break
        assert min(found) <= 1, f"train={train}: {found}"
    batches = [images(network, 4, 20 + step) for step in range(5)]
    assert excess(*made.all(trained, *batches), STRAYING) <= 1
