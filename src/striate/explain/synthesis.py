"""Synthetic images: those that excite a unit, a channel or a class the most, and dreams on photographs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from striate.analysis.probing import Prepare
from striate.drawing import Pictured
from striate.errors import ExplainError
from striate.explain.arguments import checked, kind_of, single, whole
from striate.explain.inputs import home_of
from striate.explain.pictures import check_picture, prepared
from striate.explain.places import Grid
from striate.explain.probe import Probe, grid_at, input_of, layer_named, probing
from striate.explain.progress import watched
from striate.explain.targets import Target, settle

#: Square root of the covariance of colours in photographs, up to scale (Olah et al. 2017, in their code).
_COLOURS: Final = ((0.26, 0.09, 0.02), (0.27, 0.00, -0.05), (0.27, -0.09, 0.03))
#: Sizes of a dream.
_OCTAVES: Final = 4
#: Steps from one blur to the next, as Yosinski et al. (2015) take.
_BLUR_EVERY: Final = 4


@dataclass(frozen=True, eq=False)
class Synthesis(Pictured):
    """Images that maximise something.

    Args:
        what: is maximised, in words.
        pictures: (N, C, H, W) in 0..1, one a seed.
        seeds: of the initial noise.
        started, reached: the maximised quantity for the initial noise and for the pictures.
        history: (steps, N), the same quantity at each step, with jitter.
        largest: the largest value among the images given for comparison; None if there are none.
    """

    what: str
    pictures: Tensor
    seeds: tuple[int, ...]
    started: tuple[float, ...]
    reached: tuple[float, ...]
    history: Tensor
    largest: float | None

    def to_dict(self) -> dict[str, Any]:
        """The figures, for JSON."""
        return {
            "what": self.what,
            "seeds": list(self.seeds),
            "started": list(self.started),
            "reached": list(self.reached),
            "largest": self.largest,
            "history": self.history.tolist(),
        }


@dataclass(frozen=True, eq=False)
class Dream(Pictured):
    """A picture that excites a layer more than it did.

    Args:
        what: is excited, in words.
        before, after: (C, H, W) in 0..1.
        energies: half the mean square of the activations, of before and after.
        sizes: (height, width) of the octaves, in order.
    """

    what: str
    before: Tensor
    after: Tensor
    energies: tuple[float, float]
    sizes: tuple[tuple[int, int], ...]

    def to_dict(self) -> dict[str, Any]:
        """The figures, for JSON."""
        return {"what": self.what, "energies": list(self.energies), "sizes": [list(size) for size in self.sizes]}


@checked
def maximize(
    model: torch.nn.Module,
    input_size: Sequence[int],
    target: Target = None,
    *,
    layer: str | None = None,
    channel: int | None = None,
    position: Sequence[int] | None = None,
    prepare: Prepare | None = None,
    data: Tensor | None = None,
    count: int = 1,
    steps: int = 256,
    rate: float = 0.05,
    decay: float = 1.0,
    jitter: int | None = None,
    blur: float = 0.0,
    variation: float = 0.0,
    seed: int = 0,
) -> Synthesis:
    """Images that excite a unit, a channel or a class the most, by gradient ascent.

    The image is the sigmoid of a Fourier series in decorrelated colours. Waves of higher frequency have a smaller
    weight. Adam optimises the coefficients. Each step sees the image at a slightly different position, so that the
    result doesn't depend on single pixels.

    Args:
        model: any network of images.
        input_size: (C, H, W).
        target: a class or a function of the output, as for all explanations. Leave it out where a layer is named.
        layer: with ``channel``: what to maximise instead; the mean over places, or at ``position`` (y, x).
        prepare: makes the network's input of pictures in 0..1: its normalisation; by default that is the input. Where
            the network takes several inputs, all of them, as a tuple or a dict of keywords.
        data: (N, C, H, W) network input for comparison: the result has the largest value among these.
        count: number of images, each from its own seed.
        rate: Adam's.
        decay: waves are weighted by ``frequency ** -decay``: 1 as in photographs, 0 as pixels.
        jitter: up to how many pixels the image moves, 1/16 of the shorter side by default.
        blur: standard deviation, in pixels, of a Gaussian that every fourth step applies.
        variation: weight of the mean squared difference of neighbouring pixels, to be subtracted.

    Raises:
        ExplainError: unknown layer, channel, position or class; nothing to climb on: a gradient of zero.

    Sources: Erhan et al., "Visualizing higher-layer features of a deep network" (2009); Olah, Mordvintsev & Schubert,
    "Feature visualization", Distill 2017, "Preconditioning and parameterization".

    >>> network = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 4, bias=False))
    >>> found = maximize(network, (1, 4, 4), layer="0", channel=0, jitter=0)
    >>> found.started[0] < found.reached[0] <= float(network[0].weight.detach().clamp_min(0).sum())
    True

    Formula: F48.
    """
    _check(steps=steps, count=count)
    if rate <= 0:
        raise ExplainError("rate", f"got {rate}", "needed more than 0")
    input_size = _sizes("input_size", input_size)
    if len(input_size) != 3 or min(input_size) < 1:
        raise ExplainError("input_size", f"got {input_size}", "needed (channels, height, width)")
    layer = None if layer is None else layer_named(model, layer)
    position = None if position is None else _sizes("position", position)
    if (layer is None) == (target is None) or (layer is None) != (channel is None):
        raise ExplainError("maximize", "got no single thing to maximise", "needed a target, or a layer and a channel")
    height, width = input_size[1:]
    moves = min(height, width) // 16 if jitter is None else jitter
    if not 0 <= moves < min(height, width):
        raise ExplainError("jitter", f"got {moves}", f"needed 0 to {min(height, width) - 1}")
    seeds = tuple(range(seed, seed + count))
    series = _Series((count, *input_size), decay, seeds, _device(model))
    generator = torch.Generator().manual_seed(seed)
    history = []
    with _objective(model, layer, channel, position, target, prepare, input_size) as objective:
        optimizer = torch.optim.Adam([series.waves], lr=rate)
        with torch.no_grad():
            started = objective(series.pictures())
        for step in watched(range(steps), f"maximising {objective.what}"):
            pictures = series.pictures()
            moved = F.pad(pictures, (moves,) * 4, mode="reflect") if moves else pictures
            y, x = torch.randint(2 * moves + 1, (2,), generator=generator).tolist()
            value = objective(moved[:, :, y : y + height, x : x + width])
            history.append(value.detach().cpu().double())
            gain = value.sum() - variation * total_variation(pictures).sum()
            (slope,) = torch.autograd.grad(gain, series.waves)
            if step == 0 and not bool(slope.abs().amax() > 0):
                raise ExplainError(
                    objective.what,
                    "its gradient is zero at the start",
                    "needed a unit that is active",
                    "take the layer before its ReLU, or another seed",
                )
            series.waves.grad = -slope
            optimizer.step()
            if blur and step % _BLUR_EVERY == 0:
                series.blur(blur)
        with torch.no_grad():
            pictures = series.pictures()
            reached = objective(pictures)
            largest = None if data is None else objective.largest(data)
    return Synthesis(
        objective.what,
        pictures.cpu(),
        seeds,
        tuple(started.tolist()),
        tuple(reached.tolist()),
        torch.stack(history),
        largest,
    )


@checked
def deep_dream(
    model: torch.nn.Module,
    picture: Tensor,
    layer: str,
    *,
    channel: int | None = None,
    prepare: Prepare | None = None,
    octaves: int | None = None,
    ratio: float = 1.4,
    steps: int = 10,
    rate: float = 0.02,
    seed: int = 0,
) -> Dream:
    """A picture changed to increase a layer's activations: gradient ascent on their mean square.

    It proceeds from the smallest octave to the picture's own size; the changes of an octave are enlarged and kept.

    Args:
        model: any network; it is left as it is.
        picture: (C, H, W) in 0..1.
        layer: whose activations grow.
        channel: the only one that counts; all by default.
        prepare: makes the network's input of pictures in 0..1, as for :func:`maximize`.
        octaves: sizes, each ``ratio`` times as large as the one before; by default four, or one if the network doesn't
            take images of the smallest.
        steps: in each octave.
        rate: how far a step goes, in units of 0..1, where the gradient is as large as it is on average.

    Raises:
        ExplainError: unknown layer or channel, a size that the network doesn't take, a gradient of zero.

    Source: Mordvintsev, Olah & Tyka, "Inceptionism: going deeper into neural networks" (2015).

    >>> layers = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())
    >>> found = deep_dream(layers, torch.rand(3, 32, 32), "1", octaves=2)
    >>> found.sizes, found.energies[1] > found.energies[0]
    (((23, 23), (32, 32)), True)
    """
    check_picture(picture)
    layer = layer_named(model, layer)
    height, width = picture.shape[1:]
    if octaves is None:
        smallest = (
            1,
            picture.shape[0],
            max(1, round(height * ratio ** (1 - _OCTAVES))),
            max(1, round(width * ratio ** (1 - _OCTAVES))),
        )
        octaves = _OCTAVES if _takes(model, prepared(model, torch.full(smallest, 0.5), prepare)) else 1
    _check(steps=steps, octaves=octaves)
    if ratio < 1:
        raise ExplainError("ratio", f"got {ratio}", "needed 1 or more")
    factors = [ratio**-octave for octave in reversed(range(octaves))]
    sizes = tuple((max(1, round(height * factor)), max(1, round(width * factor))) for factor in factors)
    generator = torch.Generator().manual_seed(seed)
    original = input_of(model, picture).float()
    detail = torch.zeros_like(original)
    what = layer if channel is None else f"channel {channel} of {layer}"
    rounds = watched([size for size in sizes for _ in range(steps)], f"dreaming of {what}")
    with probing(model, layer) as probe:
        dreamt, base, size_before = original, original, None
        for size in rounds:
            if size != size_before:
                detail = F.interpolate(dreamt - base, size, mode="bilinear") if size_before else detail
                base = F.interpolate(original, size, mode="bilinear", antialias=True)
                dreamt = (base + (detail if size_before else 0)).clamp(0, 1)
                size_before = size
            # The image is rolled on a circle, so that no part always stays at the border.
            shift = torch.randint(-8, 9, (2,), generator=generator).tolist()
            source = dreamt.roll(shift, (2, 3)).requires_grad_()
            (slope,) = torch.autograd.grad(_energy(probe, source, layer, channel, prepare), source)
            mean = slope.abs().mean()
            if not float(mean):
                raise ExplainError(layer, "its gradient is zero", "needed a layer that is active", "take another one")
            dreamt = (dreamt + rate * (slope / mean).roll([-each for each in shift], (2, 3))).clamp(0, 1)
        with torch.no_grad():
            energies = [float(_energy(probe, each, layer, channel, prepare)) for each in (original, dreamt)]
    return Dream(what, original[0].cpu(), dreamt[0].detach().cpu(), (energies[0], energies[1]), sizes)


def _takes(model: torch.nn.Module, images: Any) -> bool:
    """Whether a network runs on such images."""
    with probing(model) as probe, torch.no_grad():
        try:
            probe(images)
        except ExplainError:
            return False
    return True


def _energy(probe: Probe, pictures: Tensor, layer: str, channel: int | None, prepare: Prepare | None) -> Tensor:
    probe(prepared(probe.model, pictures, prepare))
    activations = probe[layer].float()
    if channel is not None:
        if activations.dim() < 2 or not 0 <= channel < activations.shape[1]:
            raise ExplainError("channel", f"got {channel}", f"needed 0 to {activations.shape[1] - 1} in {layer}")
        activations = activations[:, channel]
    return activations.square().mean() / 2


def total_variation(images: Tensor, beta: float = 2.0) -> Tensor:
    """How much neighbouring pixels differ: (N,), the mean of ``(dx^2 + dy^2) ** (beta / 2)`` over pixels and channels.

    Source: Mahendran & Vedaldi, "Understanding deep image representations by inverting them" (2015), section 3.

    >>> total_variation(torch.tensor([[[[0.0, 1.0], [0.0, 1.0]]]]))
    tensor([0.5000])
    """
    across = F.pad(images.diff(dim=3), (0, 1))
    down = F.pad(images.diff(dim=2), (0, 0, 0, 1))
    squared = across.square() + down.square()
    # A root has no slope at 0.
    varied: Tensor = squared if beta == 2 else (squared + 1e-12) ** (beta / 2)
    return varied.mean((1, 2, 3))


def falling(size: Sequence[int], decay: float) -> Tensor:
    """Weights ``frequency ** -decay`` of an image's waves, as ``rfft2`` lays them out; the mean counts as the lowest.

    >>> falling((1, 4), 1.0)
    tensor([[4., 4., 2.]])
    """
    frequencies = _frequencies(size)
    return frequencies.clamp_min(1 / max(size)) ** -decay


def _frequencies(size: Sequence[int]) -> Tensor:
    """Cycles a pixel."""
    return torch.hypot(torch.fft.fftfreq(size[0])[:, None], torch.fft.rfftfreq(size[1]))


class _Series:
    """Images as Fourier series; a seed's image is the same whatever others are made beside it."""

    def __init__(self, shape: tuple[int, ...], decay: float, seeds: Sequence[int], device: torch.device) -> None:
        self.size = shape[2:]
        self.frequencies = _frequencies(self.size).to(device)
        self.scale = falling(self.size, decay).to(device) / 4
        noise = [
            torch.randn(shape[1], *self.frequencies.shape, 2, generator=torch.Generator().manual_seed(each))
            for each in seeds
        ]
        self.waves = (0.01 * torch.stack(noise)).to(device).requires_grad_()
        colours = torch.tensor(_COLOURS, device=device)
        self.colours = colours / colours.norm(dim=0).amax() if shape[1] == 3 else None

    def pictures(self) -> Tensor:
        values: Tensor = torch.fft.irfft2(torch.view_as_complex(self.waves) * self.scale, s=self.size, norm="ortho")
        if self.colours is not None:
            values = torch.einsum("nkhw,ck->nchw", values, self.colours)
        return values.sigmoid()

    @torch.no_grad()
    def blur(self, deviation: float) -> None:
        """A Gaussian's transform is a Gaussian."""
        self.waves *= torch.exp(-2 * (math.pi * deviation * self.frequencies) ** 2)[..., None]


@dataclass(frozen=True, eq=False)
class _Objective:
    """What is maximised, one number an image, of pictures in 0..1."""

    probe: Probe
    what: str
    layer: str | None
    channel: int
    position: Sequence[int] | None
    target: Target
    prepare: Prepare | None
    grid: Grid | None

    def __call__(self, pictures: Tensor) -> Tensor:
        return self.of_input(prepared(self.probe.model, pictures, self.prepare), len(pictures))

    def of_input(self, images: Any, count: int) -> Tensor:
        output = self.probe(images)
        if self.layer is None:
            aim = settle(self.target, output, count)
            scores: Tensor = aim(output)
            return scores.float()
        found = self.probe[self.layer].float()
        if self.grid is None:
            return found.flatten(1)[:, self.channel]
        maps = self.grid.maps(found)[:, self.channel]
        if self.position is None:
            return maps.mean((1, 2))
        y, x = self.position
        return maps[:, y, x]

    def largest(self, data: Tensor, batch: int = 64) -> float:
        parts = input_of(self.probe.model, data).split(batch)
        return max(float(self.of_input(part, len(part)).max()) for part in parts)


@contextmanager
def _objective(
    model: torch.nn.Module,
    layer: str | None,
    channel: int | None,
    position: Sequence[int] | None,
    target: Target,
    prepare: Prepare | None,
    input_size: Sequence[int],
) -> Iterator[_Objective]:
    """The network, probed, with what to maximise checked on a grey picture."""
    with probing(model, *(() if layer is None else (layer,))) as probe, torch.no_grad():
        grey = prepared(model, torch.full((1, *input_size), 0.5), prepare)
        output = probe(grey)
        grid = None
        if layer is None:
            what = settle(target, output, 1).label
        else:
            shape = probe[layer].shape
            grid = None if math.prod(shape[2:]) == 1 else grid_at(model, grey, layer)
            channels = shape[1] if grid is None else grid.channels
            if channel is None or not 0 <= channel < channels:
                raise ExplainError("channel", f"got {channel}", f"needed 0 to {channels - 1} in {layer}")
            what = f"channel {channel} of {layer}" if grid is not None else f"unit {channel} of {layer}"
            if position is not None:
                size = (1, 1) if grid is None else grid.size
                if len(position) != 2 or any(not 0 <= p < n for p, n in zip(position, size, strict=True)):
                    raise ExplainError("position", f"got {tuple(position)}", f"needed one in {size[0]}x{size[1]}")
                what += f" at ({position[0]}, {position[1]})"
        with torch.enable_grad():
            yield _Objective(probe, what, layer, channel or 0, position, target, prepare, grid)


def _device(model: torch.nn.Module) -> torch.device:
    home = home_of(model)
    return torch.device("cpu") if home is None else home.device


def _sizes(name: str, value: Any) -> tuple[int, ...]:
    """A sequence of whole numbers, whatever holds them."""
    value = value.tolist() if isinstance(value, Tensor | np.ndarray) else single(value)
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise ExplainError(name, f"got {kind_of(value)}", "needed whole numbers, one an axis")
    return tuple(whole(name, each) for each in value)


def _check(**counts: int) -> None:
    for name, number in counts.items():
        if number < 1:
            raise ExplainError(name, f"got {number}", "needed 1 or more")
