"""Networks of torchvision and timm, as their users make them, and U-Net."""

from __future__ import annotations

import importlib
from contextlib import AbstractContextManager
from typing import Any, Final
from unittest.mock import patch

import torch
from torch import nn

from benchmarks.networks import UNet

#: Of torchvision, kinds that people deploy, from AlexNet's time to Swin.
TORCHVISION: Final = (
    "alexnet",
    "vgg11_bn",
    "squeezenet1_1",
    "resnet18",
    "resnet50",
    "resnext50_32x4d",
    "googlenet",
    "densenet121",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "mobilenet_v3_large",
    "mnasnet1_0",
    "shufflenet_v2_x1_0",
    "efficientnet_b0",
    "regnet_y_400mf",
    "regnet_x_800mf",
    "convnext_tiny",
    "vit_b_32",
    "swin_t",
)
#: Of timm: other blocks (GhostNet, partial convolutions, recurrent shortcuts, mixers, hybrids).
TIMM: Final = (
    "ghostnet_100",
    "mobilevit_xs",
    "repvgg_a0",
    "res2net50_26w_4s",
    "dla34",
    "hrnet_w18_small",
    "ese_vovnet19b_dw",
    "mixnet_s",
    "poolformer_s12",
    "edgenext_xx_small",
    "deit_tiny_patch16_224",
    "resmlp_12_224",
)


#: Of neither: U-Net, whose maps grow by transposed convolutions.
OTHERS: Final = {"unet": UNet}


def build(name: str) -> nn.Module:
    """One of them, with random weights; the classifier's result alone."""
    if name in OTHERS:
        return OTHERS[name]()
    if name in TIMM:
        return of_timm(name)
    named = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
    with _without_compiled_part():
        made: nn.Module = getattr(importlib.import_module("torchvision").models, name)(**named)
    return made


def of_timm(name: str) -> nn.Module:
    with _without_compiled_part():
        made: nn.Module = importlib.import_module("timm").create_model(name)
    return made


def _without_compiled_part() -> AbstractContextManager[object]:
    """Where torchvision, which timm imports, may be imported although its compiled part doesn't fit PyTorch."""
    register = torch.library.register_fake

    def lenient(operator: Any, *arguments: Any, **named: Any) -> Any:
        # There are no operators to register a shape for.
        if isinstance(operator, str) and operator.startswith("torchvision::"):
            return lambda function: function
        return register(operator, *arguments, **named)

    return patch.object(torch.library, "register_fake", lenient)
