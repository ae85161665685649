"""Inversion: an image is reconstructed from a layer's output alone, to see what the layer knows about it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from striate.drawing import Pictured
from striate.errors import ExplainError
from striate.explain.arguments import checked, kind_of
from striate.explain.inputs import Input, call_of
from striate.explain.probe import Probe, layer_named, probing
from striate.explain.progress import watched
from striate.explain.synthesis import falling, total_variation

#: Steps between two checks whether the loss still falls.
_AT_ONCE: Final = 10


@dataclass(frozen=True, eq=False)
class Inverted:
    """An image made from a layer's output.

    Args:
        layer: its path.
        image: (C, H, W), as the network's input.
        feature_error: squared distance of the layer's outputs, over the squared norm of the original's.
        image_error: squared distance of the images, over the squared deviation of the original from its mean: 1 is as
            bad as a plain image of that mean.
        numbers: how many the layer's output has.
    """

    layer: str
    image: Tensor
    feature_error: float
    image_error: float
    numbers: int


@dataclass(frozen=True, eq=False)
class Inversion(Pictured):
    """An image, made again from the outputs of layers.

    Args:
        image: (C, H, W), as the network's input.
        rows: one a layer, as they were asked for.
        alpha_weight, variation_weight: of the penalties.
    """

    image: Tensor
    rows: tuple[Inverted, ...]
    alpha_weight: float
    variation_weight: float

    def to_dict(self) -> dict[str, Any]:
        """The errors by layer, for JSON."""
        return {
            "alpha_weight": self.alpha_weight,
            "variation_weight": self.variation_weight,
            "rows": [{name: value for name, value in vars(row).items() if name != "image"} for row in self.rows],
        }


@checked
def invert(
    model: torch.nn.Module,
    image: Input,
    layers: str | Sequence[str],
    *,
    steps: int = 200,
    alpha: float = 6.0,
    alpha_weight: float = 1e-2,
    beta: float = 2.0,
    variation_weight: float = 1e-1,
    decay: float = 1.0,
    seed: int = 0,
) -> Inversion:
    """Images whose outputs at a layer are those of the given one, as far as natural images can have them.

    It minimises ``|f(x) - f(x0)|^2 / |f(x0)|^2`` plus two penalties: the mean of ``|x / b| ** alpha``, which keeps
    numbers in range (b is the image's largest number), and the total variation of ``x / b``. L-BFGS starts from noise
    and optimises Fourier coefficients weighted by ``frequency ** -decay``; without this weight, colours and shades
    aren't recovered from deep layers.

    Args:
        model: any network.
        image: (C, H, W), as the network wants it; or all inputs of a network that takes several
            (:class:`striate.explain.Inputs`).
        layers: one or more paths.
        steps: of L-BFGS, at most, for each layer.
        alpha_weight, variation_weight: of the penalties; 0 switches one off.
        decay: 1 as in photographs, 0 for pixels. Of many images with the same output it prefers smooth ones.
        seed: of the noise.

    Raises:
        ExplainError: unknown layer, another shape, an image or output of nothing but zeros.

    Source: Mahendran & Vedaldi, "Understanding deep image representations by inverting them" (2015), equations 1-4.

    >>> layer = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 2, 2))
    >>> with torch.no_grad():
    ...     _ = layer[0].weight.copy_(torch.eye(4).reshape(4, 1, 2, 2))
    >>> found = invert(layer, torch.rand(1, 8, 8), "0", alpha_weight=0, variation_weight=0)
    >>> found.rows[0].image_error < 1e-3
    True
    """
    if steps < 1:
        raise ExplainError("steps", f"got {steps}", "needed 1 or more")
    if not isinstance(layers, Sequence) or not layers:
        raise ExplainError("layers", f"got {kind_of(layers)}", "needed the path of a layer, or several")
    names = tuple(layer_named(model, layer) for layer in ((layers,) if isinstance(layers, str) else layers))
    call = call_of(model, image)
    source = call.images
    if len(source) != 1:
        raise ExplainError("image", f"got {len(source)} images", "needed one")
    original = source.float()
    bound = float(original.abs().max())
    spread = float((original - original.mean()).square().sum())
    if not bound or not spread:
        raise ExplainError("image", "is one number everywhere", "needed an image with something in it")
    scale = falling(original.shape[2:], decay).to(original.device)
    scale = scale / scale.square().mean().sqrt()
    noise = torch.randn(original.shape, generator=torch.Generator().manual_seed(seed)).to(original.device)
    rows = []
    with probing(model, *names, call=call) as probe:
        for name in names:
            penalties = (alpha, alpha_weight, beta, variation_weight)
            found = _minimum(probe, source, name, steps, bound, 0.01 * bound * noise, scale, penalties)
            with torch.no_grad():
                wanted = _features(probe, source, name)
                error = _distance(_features(probe, found.to(source.dtype), name), wanted)
            away = float((found - original).square().sum()) / spread
            rows.append(Inverted(name, found[0].cpu(), float(error), away, wanted.numel()))
    return Inversion(original[0].cpu(), tuple(rows), alpha_weight, variation_weight)


def _minimum(
    probe: Probe,
    source: Tensor,
    layer: str,
    steps: int,
    bound: float,
    start: Tensor,
    scale: Tensor,
    penalties: tuple[float, float, float, float],
) -> Tensor:
    alpha, alpha_weight, beta, variation_weight = penalties
    with torch.no_grad():
        wanted = _features(probe, source, layer)
    if not float(wanted.square().sum()):
        raise ExplainError(layer, "puts out nothing but zeros for this image", "needed a layer that is active")
    free = start.clone().requires_grad_()
    search = torch.optim.LBFGS([free], max_iter=min(steps, _AT_ONCE), history_size=20, line_search_fn="strong_wolfe")

    def image_of(free: Tensor) -> Tensor:
        image: Tensor = torch.fft.irfft2(torch.fft.rfft2(free) * scale, s=free.shape[2:])
        return image

    def loss() -> Tensor:
        image = image_of(free)
        value = _distance(_features(probe, image.to(source.dtype), layer), wanted)
        scaled = image / bound
        value = value + alpha_weight * scaled.abs().pow(alpha).mean()
        value = value + variation_weight * total_variation(scaled, beta).sum()
        (free.grad,) = torch.autograd.grad(value, free)
        return value.detach()

    before = float("inf")
    for _ in watched(range(math.ceil(steps / _AT_ONCE)), f"inverting {layer}"):
        now = float(search.step(loss))
        if not before - now > 1e-7 * abs(now):
            break
        before = now
    return image_of(free).detach()


def _features(probe: Probe, images: Tensor, layer: str) -> Tensor:
    probe(images)
    return probe[layer].float()


def _distance(found: Tensor, wanted: Tensor) -> Tensor:
    return (found - wanted).square().sum() / wanted.square().sum()
