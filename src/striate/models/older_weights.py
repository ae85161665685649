"""Converts torchvision's weight files of detectors from before version 0.13 to the newer form.

Two things have changed. Some layers have new names. And frozen batch normalisation now adds a small number to the
variance, which it didn't when the weights of ResNet detectors were published. A .safetensors file doesn't contain a
version, so its names decide: files with the older names are old. Their scales are changed so that layers that add the
number compute the same results as before. Files that are saved later need no conversion.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

import torch
from torch import Tensor

#: The number that frozen layers add to the variance.
EPS: Final = 1e-5

_PYRAMID: Final = re.compile(r"(fpn\.(?:inner|layer)_blocks\.\d+)\.(weight|bias)$")
#: Older names of layers, and what they are called now. Where ReLUs were counted too, every second number is a layer's.
_RENAMED: Final[tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str]], ...]] = (
    (_PYRAMID, lambda found: f"{found[1]}.0.{found[2]}"),
    (re.compile(r"(rpn\.head\.conv)\.(weight|bias)$"), lambda found: f"{found[1]}.0.0.{found[2]}"),
    (re.compile(r"mask_fcn(\d)\.(weight|bias)$"), lambda found: f"{int(found[1]) - 1}.0.{found[2]}"),
    (
        re.compile(r"((?:classification|regression)_head\.conv)\.(\d)\.(weight|bias)$"),
        lambda found: f"{found[1]}.{int(found[2]) // 2}.0.{found[3]}",
    ),
)


def renewed(found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The named tensors of a file; if the file is an older one, under new names and with new scales.

    >>> list(renewed({"backbone.fpn.inner_blocks.0.weight": torch.zeros(1), "rpn.head.conv.bias": torch.zeros(1)}))
    ['backbone.fpn.inner_blocks.0.0.weight', 'rpn.head.conv.0.0.bias']
    """
    if not any(_PYRAMID.search(name) for name in found):
        return dict(found)
    # FCOS's heads have kept their names, and it added the number from the first.
    is_fcos = any("bbox_ctrness" in name for name in found)
    rules = _RENAMED[:1] if is_fcos else _RENAMED
    tensors = {_renamed(name, rules): tensor for name, tensor in found.items()}
    if is_fcos:
        return tensors
    for name, variance in found.items():
        layer, _, leaf = name.rpartition(".")
        # MobileNets' weights were published later. A layer that counts batches isn't frozen.
        if leaf == "running_var" and _is_resnet(layer) and f"{layer}.num_batches_tracked" not in found:
            scale = tensors[f"{layer}.weight"]
            tensors[f"{layer}.weight"] = (scale.double() * (1 + EPS / variance.double()).sqrt()).to(scale.dtype)
    return tensors


def renew_on_loading(model: torch.nn.Module) -> None:
    """Makes ``model.load_state_dict`` convert older files, as torchvision's networks do."""
    model.register_load_state_dict_pre_hook(_renew)


def _renew(_: torch.nn.Module, state_dict: dict[str, Tensor], *__: Any) -> None:
    tensors = renewed(state_dict)
    state_dict.clear()
    state_dict.update(tensors)


def _renamed(name: str, rules: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str]], ...]) -> str:
    for pattern, new in rules:
        name = pattern.sub(new, name)
    return name


def _is_resnet(layer: str) -> bool:
    return re.search(r"body\.(bn1$|layer\d\.)", layer) is not None
