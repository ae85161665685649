"""The kernels of a convolution: as images, as filters of spatial frequencies, and as Gabor functions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from scipy.cluster.hierarchy import leaves_list, linkage, optimal_leaf_ordering
from scipy.spatial.distance import squareform
from torch import Tensor, nn

from striate.analysis import GaborFit, fit_gabor
from striate.drawing import Pictured
from striate.errors import ExplainError
from striate.explain.arguments import checked
from striate.explain.inputs import home_of
from striate.explain.probe import layer_named
from striate.explain.progress import watched

#: Frequencies a response has along an axis; steps of 1/64 cycles a pixel.
_FREQUENCIES: Final = 64
#: Places along a ray of frequencies, on which the bandwidth is measured.
_RAY: Final = 512
#: Kernels below this share of the largest norm count as zero: weight decay has shrunk unused ones.
_DEAD: Final = 1e-5
_Conv: Final = nn.modules.conv._ConvNd


@dataclass(frozen=True)
class Filter:
    """One kernel in numbers.

    Args:
        index: its output channel (input channel, of a transposed convolution).
        norm: root of the sum of its squares.
        share: the share of its energy in its pattern, which is 1 if it is one pattern times one weight a channel.
        frequency: at which its response is largest, cycles a pixel.
        orientation: radians in [0, pi), the direction in which that wave changes, 0 from left to right, pi/2 from top
            to bottom; None where frequency 0 is passed best, or the kernel is zero.
        bandwidth: octaves between the frequencies, in that direction, at which the response has fallen to half; None
            where it doesn't on both sides.
        fit: the nearest Gabor function to its pattern; None if not asked for, or the pattern is one value everywhere.
    """

    index: int
    norm: float
    share: float
    frequency: float
    orientation: float | None
    bandwidth: float | None
    fit: GaborFit | None

    def to_dict(self) -> dict[str, Any]:
        """All fields, for JSON."""
        return vars(self) | {"fit": None if self.fit is None else self.fit.to_dict()}


@dataclass(frozen=True, eq=False)
class Filters(Pictured):
    """The kernels of a layer.

    Args:
        layer: its path.
        kind: its class.
        total: number of its kernels, of which those with the largest norms are included here.
        kernels: (F, C, H, W), float64; H is 1 for a convolution along one axis.
        patterns: (F, H, W): of all patterns times a weight a channel the nearest to the kernel; of a single channel
            the kernel itself.
        responses: (F, V, U), the magnitude of the discrete Fourier transform, rooted mean square over channels, with
            frequency 0 at (V // 2, U // 2) and steps of 1 / V, 1 / U cycles a pixel.
        filters: the numbers, in the order of the kernels.
        order: of similarity: neighbours are alike up to sign.
    """

    layer: str
    kind: str
    total: int
    kernels: Tensor
    patterns: Tensor
    responses: Tensor
    filters: tuple[Filter, ...]
    order: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.filters)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the responses, for JSON."""
        return {
            "layer": self.layer,
            "kind": self.kind,
            "total": self.total,
            "order": list(self.order),
            "filters": [each.to_dict() for each in self.filters],
            "kernels": self.kernels.tolist(),
        }


@checked
def filters(model: nn.Module, layer: str | None = None, *, fit: bool = True, most: int = 144) -> Filters:
    """The kernels of a convolution: 1-D or 2-D, grouped, depthwise, transposed.

    The order is that of the leaves of a tree of average distances, rotated so that neighbours are as similar as
    possible; kernels that are equal up to sign and scale have distance 0. Kernels with less than 1e-5 of the largest
    norm count as zero. Fits take up to half a second for each kernel.

    Args:
        model: any network; it doesn't run.
        layer: path of a convolution; the first one by default.
        fit: whether to look for the nearest Gabor functions.
        most: how many kernels at most, those with the largest norms.

    Raises:
        ExplainError: no such layer, no convolution of one or two axes, weights that aren't finite.

    Sources: Krizhevsky, Sutskever & Hinton (2012), figure 3, for the picture; Bar-Joseph, Gifford & Jaakkola, "Fast
    optimal leaf ordering for hierarchical clustering" (2001), for the order.

    >>> layer = torch.nn.Conv2d(1, 1, 5, bias=False)
    >>> layer.weight.data[:] = torch.tensor([1.0, 0, -1, 0, 1])
    >>> filters(layer, fit=False).filters[0].frequency
    0.25

    Formula: S27.
    """
    if most < 1:
        raise ExplainError("most", f"got {most}", "needed 1 or more")
    path, convolution = _convolution(model, layer)
    weight = convolution.weight.detach().double().cpu()
    # Of a transposed one, a kernel is what an input channel puts into the outputs of its group.
    kernels = weight[:, :, None] if weight.dim() == 3 else weight
    if not bool(kernels.isfinite().all()):
        raise ExplainError(path, "its weights are NaN or infinite", "needed finite ones")
    total = len(kernels)
    norms = kernels.flatten(1).norm(dim=1)
    kept = norms.argsort(descending=True, stable=True)[:most].sort().values
    alive = norms > _DEAD * norms.max()
    kernels = torch.where(alive[kept, None, None, None], kernels[kept], 0.0)
    patterns, shares = _patterns(kernels)
    size = (1 if kernels.shape[2] == 1 else _FREQUENCIES, _FREQUENCIES)
    spectra = torch.fft.fft2(kernels, s=size).abs().square().mean(1).sqrt()
    responses = torch.fft.fftshift(spectra, dim=(1, 2))
    found = tuple(
        Filter(index, norm, share, *_tuning(kernel, response), _fitted(pattern) if fit else None)
        for index, norm, share, kernel, response, pattern in watched(
            zip(kept.tolist(), norms[kept].tolist(), shares.tolist(), kernels, responses, patterns, strict=True),
            f"filters of {path}",
            len(kernels),
        )
    )
    kind = type(convolution).__name__
    return Filters(path, kind, total, kernels, patterns, responses, found, _seriation(kernels))


def _convolution(model: nn.Module, layer: str | None) -> tuple[str, nn.modules.conv._ConvNd]:
    known = {path: module for path, module in model.named_modules(remove_duplicate=False) if isinstance(module, _Conv)}
    if not known:
        raise ExplainError(type(model).__name__, "has no convolution", "needed one, torch.nn's or striate.nn's")
    home_of(model)  # refuses kernels that don't exist yet
    path = next(iter(known)) if layer is None else layer if layer in known else layer_named(model, layer)
    if path not in known:
        kind = type(model.get_submodule(path.partition("@")[0])).__name__
        raise ExplainError(path, f"is a {kind}", "needed a convolution", "the first ones: " + ", ".join([*known][:3]))
    if len(known[path].kernel_size) > 2:
        raise ExplainError(path, f"has {len(known[path].kernel_size)} axes", "needed a convolution of one or two")
    return path or type(model).__name__, known[path]


def _patterns(kernels: Tensor) -> tuple[Tensor, Tensor]:
    """The first singular vectors over pixels, scaled, and their share of the energy. Signs make colours add up."""
    matrix = kernels.flatten(2)
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    sign = torch.where(left[:, :, 0].sum(1) < 0, -1.0, 1.0).to(matrix)
    patterns = (sign * values[:, 0])[:, None] * right[:, 0]
    energy = values.square()
    shares = energy[:, 0] / energy.sum(1).clamp_min(torch.finfo(energy.dtype).tiny)
    return patterns.unflatten(1, kernels.shape[2:]), shares


def _tuning(kernel: Tensor, response: Tensor) -> tuple[float, float | None, float | None]:
    """Peak frequency, its orientation, and the bandwidth in octaves."""
    rows, columns = response.shape
    place = int(response.argmax())
    fy, fx = (place // columns - rows // 2) / rows, (place % columns - columns // 2) / columns
    frequency = math.hypot(fy, fx)
    if frequency == 0 or not float(response.max()):
        return 0.0, None, None
    orientation = math.atan2(fy, fx) % math.pi
    return frequency, orientation, _bandwidth(kernel, frequency, orientation)


def _bandwidth(kernel: Tensor, frequency: float, orientation: float) -> float | None:
    cos, sin = math.cos(orientation), math.sin(orientation)
    ray = torch.linspace(0, 0.5 / max(abs(cos), abs(sin)), _RAY, dtype=torch.float64)
    y, x = (torch.arange(length, dtype=torch.float64) for length in kernel.shape[1:])
    places = y[:, None] * sin + x * cos
    waves = torch.exp(-2j * math.pi * ray[:, None, None] * places)
    along = torch.einsum("fhw,chw->fc", waves, kernel.to(waves.dtype)).abs().square().mean(1).sqrt()
    peak = int((ray - frequency).abs().argmin())
    below = (along < along[peak] / 2).nonzero()[:, 0]
    low, high = below[below < peak], below[below > peak]
    if not len(low) or not len(high) or not float(ray[low[-1]]):
        return None
    return math.log2(float(ray[high[0]]) / float(ray[low[-1]]))


def _fitted(pattern: Tensor) -> GaborFit | None:
    return fit_gabor(pattern) if pattern.numel() >= 3 and float(pattern.max() - pattern.min()) > 0 else None


def _seriation(kernels: Tensor) -> tuple[int, ...]:
    if len(kernels) < 3:
        return tuple(range(len(kernels)))
    unit = nn.functional.normalize(kernels.flatten(1), dim=1)
    distances = (2 - 2 * (unit @ unit.T).abs()).clamp_min(0).sqrt().fill_diagonal_(0).numpy()
    condensed = squareform(np.maximum(distances, distances.T), checks=False)
    tree = optimal_leaf_ordering(linkage(condensed, "average"), condensed)
    order: Sequence[int] = leaves_list(tree).tolist()
    return tuple(order)
