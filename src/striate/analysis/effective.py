"""The effective receptive field: the actual influence of each input position, measured by gradients over images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from striate.analysis import arguments
from striate.analysis.probing import Images, Subject
from striate.analysis.trace import layer_paths
from striate.errors import AnalysisError

#: Positions below this share of the strongest one don't count: for a Gaussian, those beyond two standard deviations.
_FAINT = 1 - 0.9545


@dataclass(frozen=True, eq=False)
class EffectiveField:
    """The distribution of the gradient of one position of a layer.

    Args:
        layer: its path.
        position: in the layer's map.
        density: (H, W), adds up to 1; the mean over images of the gradient's absolute sum over channels.
        images: how many.
    """

    layer: str
    position: tuple[int, ...]
    density: Tensor
    images: int

    @property
    def centre(self) -> tuple[float, ...]:
        """The density's mean position along each axis."""
        return tuple(
            float((self._along(axis) * torch.arange(length)).sum()) for axis, length in enumerate(self.density.shape)
        )

    @property
    def radius(self) -> float:
        """Root of the mean squared distance from the centre, in pixels."""
        squared = 0.0
        for axis, (length, middle) in enumerate(zip(self.density.shape, self.centre, strict=True)):
            squared += float((self._along(axis) * (torch.arange(length) - middle) ** 2).sum())
        return math.sqrt(squared)

    @property
    def size(self) -> float:
        """Side of a square with as many pixels as there are above 4.55 % of the strongest."""
        seen = int((self.density > _FAINT * self.density.max()).sum())
        return math.pow(seen, 1 / self.density.dim())

    def _along(self, axis: int) -> Tensor:
        others = [other for other in range(self.density.dim()) if other != axis]
        return self.density.sum(others) if others else self.density

    def to_dict(self) -> dict[str, Any]:
        """The figures and the density, for JSON."""
        return {
            "layer": self.layer,
            "position": list(self.position),
            "images": self.images,
            "centre": list(self.centre),
            "radius": self.radius,
            "size": self.size,
            "density": self.density.tolist(),
        }


def effective_receptive_field(
    model: torch.nn.Module,
    images: Images,
    layer: str,
    position: Sequence[int] | None = None,
    *,
    input: str | int | None = None,
    name: str | None = None,
) -> EffectiveField:
    """How strongly each input position moves one position of a layer, averaged over images.

    Args:
        model: any network; a copy of it runs, in evaluation mode.
        images: (N, C, H, W) as the network takes them; among other inputs as a list or a dictionary.
        layer: path of a layer whose output is (N, C', ...).
        position: in the layer's map; its middle by default.
        input: which input the images are, by its name or number; by default the first with axes to look along.
        name: of the network, for errors; its class by default.

    Raises:
        AnalysisError: no such layer, no map, a position outside of it, or no gradient.

    Source: Luo, Li, Urtasun & Zemel, "Understanding the effective receptive field in deep convolutional neural
    networks" (2016), section 3: the gradient of one unit, and its size as the root of the area within two deviations.

    >>> layers = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 3), torch.nn.Conv2d(1, 1, 3))
    >>> int((effective_receptive_field(layers, torch.rand(2, 1, 9, 9), "1").density > 0).sum())
    25
    """
    subject = Subject(model, images, input=input, name=name).copied()
    arguments.layer(layer, layer_paths(subject.model), subject.name)
    outputs: list[Any] = []
    twin = subject.model.eval()
    twin.get_submodule(layer).register_forward_hook(lambda _, __, output: outputs.append(output))
    if subject.images.dim() < 3 or not subject.images.is_floating_point():
        shape = "x".join(map(str, subject.images.shape))
        raise AnalysisError("images", f"got {shape} of {subject.images.dtype}", "needed floating-point (N, C, ...)")
    source = subject.images.detach().clone().requires_grad_()
    with torch.enable_grad():
        subject.answer(source)
    maps = [output for output in outputs if isinstance(output, Tensor) and output.dim() >= 3]
    if not maps:
        raise AnalysisError(layer, "its output is no map", "needed (N, C, ...) out of a layer that runs")
    # Of several calls the last one that these images reach, and not another input's.
    output = next((each for each in reversed(maps) if _gradient(each.sum(), source) is not None), maps[-1])
    size = output.shape[2:]
    middle = [length // 2 for length in size]
    place = arguments.position(layer, middle if position is None else position, size)
    flat = sum(p * math.prod(size[axis + 1 :]) for axis, p in enumerate(place))
    gradient = _gradient(output.flatten(2)[..., flat].sum(), source)
    if gradient is None:
        raise AnalysisError(layer, "its output has no gradient by the images", "needed one all the way through")
    strength = gradient.abs().sum(1).double().cpu()
    total = strength.flatten(1).sum(1).clamp_min(torch.finfo(torch.float64).tiny)
    density = (strength / total.reshape(-1, *[1] * (strength.dim() - 1))).mean(0)
    if not bool(density.sum() > 0):
        raise AnalysisError(
            layer,
            "its gradient is zero on all images",
            "needed a unit that is active",
            "take more images or another position",
        )
    return EffectiveField(layer, place, density / density.sum(), len(source))


def _gradient(total: Tensor, source: Tensor) -> Tensor | None:
    if not total.requires_grad:
        return None
    return torch.autograd.grad(total, source, retain_graph=True, allow_unused=True)[0]
