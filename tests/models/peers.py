"""Networks of torchvision and timm, where these are installed, made comparable with ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

Peer = Callable[..., torch.nn.Module]


@torch.no_grad()
def told_apart(model: torch.nn.Module) -> torch.nn.Module:
    """``model`` with other numbers in each vector: ones and zeros would hide that two were exchanged."""
    for tensor in model.state_dict().values():
        if tensor.dim() == 1 and tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5)
    return model


def without_chance(model: torch.nn.Module) -> torch.nn.Module:
    """``model`` in float64, with nothing dropped, and statistics that one batch sets: of one size all the way."""
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = 1.0
        if isinstance(layer, torch.nn.Dropout) or type(layer).__name__ in ("StochasticDepth", "DropPath"):
            layer.p = layer.drop_prob = 0.0
        if hasattr(layer, "drop_rate"):
            layer.drop_rate = 0.0
    return model.double()


@torch.no_grad()
def differences(ours: torch.nn.Module, theirs: torch.nn.Module, images: torch.Tensor) -> Iterator[tuple[float, float]]:
    """The largest difference of the outputs, and the largest output: in training, and then in evaluation mode."""
    ours, theirs = without_chance(ours), without_chance(theirs)
    for training in (True, False):
        here, there = ours.train(training)(images.double()), theirs.train(training)(images.double())
        yield (here - there).abs().max().item(), there.abs().max().item()
