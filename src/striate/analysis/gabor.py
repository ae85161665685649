"""Gabor functions: a wave under a Gaussian, similar to filters of first layers and to cells of the visual cortex."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import least_squares
from torch import Tensor

from striate.analysis import arguments
from striate.analysis.arguments import Array
from striate.errors import AnalysisError

Floats = NDArray[np.float64]

#: Side of the grid of frequencies on which starting points are looked for.
_GRID: Final = 64
#: A Gaussian narrower than this covers one pixel, whatever its width.
_NARROWEST: Final = 0.4
#: The fit of a Gabor function converges within 20 steps; for other kernels, more steps hardly improve it.
_STEPS: Final = 60


@dataclass(frozen=True)
class Gabor:
    """``amplitude * exp(-u^2 / (2 along^2) - v^2 / (2 across^2)) * cos(2 pi frequency u + phase)``.

    ``u`` runs from the centre in the direction ``orientation``, the one in which the wave changes, and ``v`` at right
    angles to it: ``u = dx cos + dy sin``, ``v = dy cos - dx sin``, x to the right and y downwards.

    Args:
        orientation: radians, 0 for a wave that changes from left to right, in [0, pi] when fitted.
        frequency: cycles a pixel, up to 0.5.
        phase: radians at the centre; 0 is even (a bar), pi/2 odd (an edge).
        along, across: the Gaussian's standard deviations, in pixels.
        centre: (y, x) in pixels from the middle of the kernel.
        amplitude: its largest value where the phase is 0.

    Source: Daugman, "Uncertainty relation for resolution in space, spatial frequency, and orientation optimized by
    two-dimensional visual cortical filters" (1985), equation 1, real part.
    """

    orientation: float = 0.0
    frequency: float = 0.25
    phase: float = 0.0
    along: float = 1.5
    across: float = 1.5
    centre: tuple[float, float] = (0.0, 0.0)
    amplitude: float = 1.0

    def sample(self, size: Sequence[int]) -> Tensor:
        """Its values on a kernel of (height, width) pixels, (H, W) in float64.

        Raises:
            AnalysisError: no such size.

        >>> Gabor(frequency=0.5, along=1e9, across=1e9).sample((1, 3))
        tensor([[-1.,  1., -1.]], dtype=torch.float64)
        """
        needed = "needed (height, width), whole numbers of 1 or more"
        size = arguments.wholes("size", size, needed, 1)
        if len(size) != 2:
            raise AnalysisError("size", f"got {size}", needed)
        even, odd = _waves(size, self.orientation, self.frequency, self.along, self.across, self.centre)
        values = self.amplitude * (math.cos(self.phase) * even - math.sin(self.phase) * odd)
        return torch.from_numpy(values.reshape(*size))

    def to_dict(self) -> dict[str, Any]:
        """All fields, for JSON."""
        return asdict(self) | {"centre": list(self.centre)}


@dataclass(frozen=True)
class GaborFit:
    """The Gabor function that is nearest to a kernel.

    Args:
        gabor: the function.
        r2: share of the kernel's variance that it explains, at most 1; below 0 it is worse than the kernel's mean.
        adjusted_r2: the same for the number of pixels and free parameters (8 in the plane, 5 on a line); None where
            there are too few pixels to tell, as in a 3x3 kernel, which some Gabor function always meets nearly.
    """

    gabor: Gabor
    r2: float
    adjusted_r2: float | None

    def to_dict(self) -> dict[str, Any]:
        """All fields, for JSON."""
        return asdict(self) | {"gabor": self.gabor.to_dict()}


def fit_gabor(kernel: Array, *, starts: int = 2) -> GaborFit:
    """The Gabor function nearest to a kernel by least squares.

    Amplitude and phase are linear in ``amplitude * (cos phase, -sin phase)`` and solved for exactly at each step, so
    that only the wave and its Gaussian are searched for, from the strongest peaks of the kernel's spectrum.

    Args:
        kernel: (H, W), or (L,), which is taken as one row and has orientation 0 and as wide across as along.
        starts: how many peaks to start from, each with a narrow and a wide Gaussian.

    Raises:
        AnalysisError: no (H, W), fewer than three pixels, values that aren't finite, or one value everywhere.

    Sources: Jones & Palmer, "An evaluation of the two-dimensional Gabor filter model of simple receptive fields in cat
    striate cortex" (1987), for the fit; Golub & Pereyra (1973) for the split into linear and non-linear parameters.

    >>> found = fit_gabor(Gabor(orientation=0.5, frequency=0.2, phase=1.0).sample((9, 9)))
    >>> round(found.gabor.orientation, 3), round(found.gabor.frequency, 3), round(found.gabor.phase, 3)
    (0.5, 0.2, 1.0)
    >>> round(found.r2, 3)
    1.0
    """
    needed = "needed (H, W) or (L,) with three pixels or more"
    given, starts = arguments.tensor("fit_gabor", kernel, needed), arguments.whole("starts", starts, 1)
    if given.dim() not in (1, 2) or given.numel() < 3 or given.is_complex():
        shape = "x".join(map(str, given.shape)) or "a number"
        raise AnalysisError("fit_gabor", f"got a kernel of {shape}", needed)
    pixels = np.atleast_2d(given.detach().double().cpu().numpy())
    if not np.isfinite(pixels).all() or np.ptp(pixels) == 0:
        raise AnalysisError("fit_gabor", "got a kernel without finite variance", "needed values that differ")
    size, flat = pixels.shape, pixels.ravel()
    line = size[0] == 1
    scale = float(np.linalg.norm(flat))

    def unfold(free: Floats) -> tuple[float, float, float, float, tuple[float, float]]:
        if line:
            frequency, along, x = free.tolist()
            return 0.0, frequency, along, along, (0.0, x)
        orientation, frequency, along, across, y, x = free.tolist()
        return orientation, frequency, along, across, (y, x)

    def solve(free: Floats) -> tuple[Floats, Floats]:
        basis = np.stack(_waves(size, *unfold(free)), axis=1)
        weights = np.linalg.lstsq(basis, flat, rcond=1e-9)[0]
        return weights, basis @ weights - flat

    low, high = _bounds(size)
    best = min(
        (
            least_squares(
                lambda free: solve(free)[1] / scale, np.clip(start, low, high), bounds=(low, high), max_nfev=_STEPS
            )
            for start in _starts(pixels, starts)
        ),
        key=lambda found: float(found.cost),
    )
    weights, left_over = solve(best.x)
    orientation, frequency, along, across, centre = unfold(best.x)
    phase = math.atan2(-weights[1], weights[0])
    turned = math.floor(orientation / math.pi)
    if turned % 2:  # half a turn of the wave's direction runs through it backwards
        phase = -phase
    orientation -= turned * math.pi
    gabor = Gabor(orientation, frequency, phase, along, across, centre, math.hypot(*weights))
    variance = float(((flat - flat.mean()) ** 2).sum())
    r2 = 1 - float(left_over @ left_over) / variance
    spare = flat.size - len(low) - 3
    return GaborFit(gabor, r2, 1 - (1 - r2) * (flat.size - 1) / spare if spare > 0 else None)


def _waves(
    size: Sequence[int],
    orientation: float,
    frequency: float,
    along: float,
    across: float,
    centre: tuple[float, float],
) -> tuple[Floats, Floats]:
    """The even and the odd wave under the Gaussian, each with all pixels in a row."""
    dy, dx = (
        axis.ravel() - (length - 1) / 2 - middle
        for axis, length, middle in zip(np.indices(tuple(size)), size, centre, strict=True)
    )
    u = dx * math.cos(orientation) + dy * math.sin(orientation)
    v = dy * math.cos(orientation) - dx * math.sin(orientation)
    envelope = np.exp(-0.5 * ((u / along) ** 2 + (v / across) ** 2))
    angle = 2 * math.pi * frequency * u
    return envelope * np.cos(angle), envelope * np.sin(angle)


def _bounds(size: Sequence[int]) -> tuple[Floats, Floats]:
    widest = 2.0 * max(size)
    reach = [max(length / 2, 1e-6) for length in size]
    if size[0] == 1:
        return np.array([0, _NARROWEST, -reach[1]]), np.array([0.5, widest, reach[1]])
    low = [-2 * math.pi, 0, _NARROWEST, _NARROWEST, -reach[0], -reach[1]]
    return np.array(low), np.array([2 * math.pi, 0.5, widest, widest, *reach])


#: By how much numbers of a spectrum differ at most that would be the same.
_ROUNDING = 1e-9


def _starts(pixels: Floats, count: int) -> Iterator[Floats]:
    """Peaks of the spectrum, strongest first, as waves of that direction and frequency in the kernel's middle."""
    height, width = pixels.shape
    spectrum = np.abs(np.fft.fft2(pixels, (1 if height == 1 else _GRID, _GRID)))
    around = [np.roll(spectrum, shift, axis=(0, 1)) for shift in ((0, 1), (0, -1), (1, 0), (-1, 0))]
    # Both halves of the spectrum are the same but for rounding, which must not make a peak of one of them alone.
    peaks = np.argwhere((spectrum >= (1 - _ROUNDING) * np.maximum.reduce(around)) & (spectrum > 0))
    fy, fx = (np.fft.fftfreq(length)[index] for length, index in zip(spectrum.shape, peaks.T, strict=True))
    # The other half is the same, conjugate; a frequency of -0.5 is its own conjugate.
    half = (fx > 0) | ((fx == 0) & ((fy >= 0) | (fy == -0.5))) | (fx == -0.5)
    strength = np.where(half, spectrum[tuple(peaks.T)], -1.0)
    middle = (height - 1) / 2, (width - 1) / 2
    energy = pixels**2 / (pixels**2).sum()
    y, x = ((energy * np.indices(pixels.shape)[axis]).sum() - middle[axis] for axis in (0, 1))
    slowest = 1 / max(height, width)
    waves = []
    for place in np.argsort(-strength, kind="stable")[:count]:
        if strength[place] < 0:
            break
        orientation, frequency = math.atan2(fy[place], fx[place]), min(math.hypot(fy[place], fx[place]), 0.5)
        # At frequency 0 nothing tells the orientation, and a search that starts there stays: it tries several.
        turns = [orientation] if frequency >= slowest or height == 1 else [n * math.pi / 4 for n in range(4)]
        waves += [(turn, max(frequency, slowest if height > 1 else 0.0)) for turn in turns]
    for orientation, frequency in waves:
        for width_ in (max(height, width) / 6, max(height, width) / 3):
            if height == 1:
                yield np.array([frequency, width_, x])
            else:
                yield np.array([orientation, frequency, width_, width_, y, x])
