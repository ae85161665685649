"""Information in windows: the effect of pooling, and the information of a filter's response about its patch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from sklearn.cluster import KMeans
from torch import Tensor

from striate.analysis import arguments
from striate.analysis.arguments import Array
from striate.analysis.information.discrete import Binning, Unit, entropy, in_unit, mutual_information
from striate.errors import AnalysisError


@dataclass(frozen=True)
class PoolingEntropy:
    """Entropies of binned values around a pooling.

    Args:
        kind: ``"max"`` or ``"avg"``.
        windows: how many were counted.
        window: joint entropy of all values in a window. Pooling is a function of them, so ``pooled`` can't exceed it.
        value: of a single value before pooling. ``pooled`` may well exceed it.
        pooled: of a value after pooling.
        unit: of all three.
    """

    kind: str
    windows: int
    window: float
    value: float
    pooled: float
    unit: Unit

    def to_dict(self) -> dict[str, Any]:
        """All fields, for JSON."""
        return asdict(self)


def pooling_entropy(
    maps: Array,
    kind: Literal["max", "avg"],
    *,
    size: int = 2,
    binning: Binning = Binning(4, atom=None),  # noqa: B008, as it is frozen
    unit: Unit = "nats",
) -> PoolingEntropy:
    """What pooling without overlap does to the entropy of maps, (N, C, H, W), all channels together.

    Values are binned first and the bins' numbers pooled (averages are rounded to a bin), so that a window has a
    countable number of states. With ``b``
    bins it has b^(size^2), of which there must be samples: few bins and small windows, or the entropies are too low.

    Raises:
        AnalysisError: no (N, C, H, W), another kind, or fewer than ten windows for each state a window can have.

    >>> import torch
    >>> found = pooling_entropy(torch.rand(8, 1, 64, 64), "max", binning=Binning(2, atom=None), unit="bits")
    >>> found.pooled < found.value < found.window
    True

    Formula: F46, S14.
    """
    size = arguments.whole("size", size, 1)
    arguments.word("kind", kind, ("max", "avg"))
    given = arguments.tensor("pooling_entropy", maps, "needed (N, C, H, W)")
    if given.dim() != 4 or min(given.shape[2:]) < size:
        raise AnalysisError("pooling_entropy", f"got maps {tuple(given.shape)}", f"needed (N, C, H, W) from {size} on")
    symbols = _binned(binning)(given.detach().double().cpu().numpy())
    height, width = (length - length % size for length in given.shape[2:])
    cut = symbols[..., :height, :width].reshape(*given.shape[:2], height // size, size, width // size, size)
    windows = cut.transpose(0, 1, 2, 4, 3, 5).reshape(-1, size**2)
    states = len(np.unique(symbols)) ** size**2
    if len(windows) < 10 * states:
        raise AnalysisError(
            "pooling_entropy",
            f"got {len(windows)} windows for {states} states",
            f"needed {10 * states}",
            "take fewer bins, a smaller window or more images",
        )
    pooled = windows.max(1) if kind == "max" else np.rint(windows.mean(1))
    each = (entropy(one) for one in (windows, windows.ravel(), pooled))
    window, value, after = (in_unit(nats, unit) for nats in each)
    return PoolingEntropy(kind, len(windows), window, value, after, unit)


@dataclass(frozen=True)
class FilterMatch:
    """How much each filter's response tells of which kind of patch it sees.

    Args:
        information: I(response; class of the patch) of each filter.
        class_entropy: H(class), which none can exceed.
        patches: how many were counted.
        unit: of all.
    """

    information: tuple[float, ...]
    class_entropy: float
    patches: int
    unit: Unit

    def to_dict(self) -> dict[str, Any]:
        """All fields, for JSON."""
        return asdict(self)


def filter_match(
    kernels: Array,
    images: Array,
    *,
    classes: int = 8,
    binning: Binning = Binning(16, "quantile", None),  # noqa: B008, as it is frozen
    seed: int = 0,
    unit: Unit = "nats",
) -> FilterMatch:
    """Mutual information of each filter's response and the class of the patch it responds to.

    Patches are classed by k-means after their mean is taken off and their length made 1; patches of one value
    are no pattern and left out. Responses (inner products) are binned, and the counts corrected by Miller and Madow.
    A response by itself isn't information: it is a score of one patch, in the units of the image.

    Args:
        kernels: (F, C, kH, kW).
        images: (N, C, H, W), at least the kernels' size.
        classes: k of k-means.
        binning: of each filter's responses.
        seed: of k-means.
        unit: ``"nats"`` or ``"bits"``.

    Raises:
        AnalysisError: shapes that don't fit, or fewer than 50 patches a class.

    >>> import torch
    >>> found = filter_match(torch.randn(3, 1, 3, 3), torch.rand(20, 1, 8, 8))
    >>> len(found.information), found.patches
    (3, 720)

    Formula: F47, S15.
    """
    needed = "needed (F, C, kH, kW) and (N, C, H, W), larger"
    kernels, images = (arguments.tensor("filter_match", each, needed) for each in (kernels, images))
    classes, seed = arguments.whole("classes", classes, 2), arguments.whole("seed", seed, 0, 2**32 - 1)
    fits = kernels.dim() == images.dim() == 4 and kernels.shape[1] == images.shape[1]
    if not fits or any(k > n for k, n in zip(kernels.shape[2:], images.shape[2:], strict=True)):
        shapes = f"kernels {tuple(kernels.shape)} and images {tuple(images.shape)}"
        raise AnalysisError("filter_match", f"got {shapes}", needed)
    patches = _patches(images.detach().double().cpu(), kernels.shape[2:])
    centred = patches - patches.mean(1, keepdims=True)
    length = np.linalg.norm(centred, axis=1)
    kept = length > 1e-9 * max(float(length.max()), 1e-300)
    if kept.sum() < 50 * classes:
        raise AnalysisError(
            "filter_match",
            f"got {int(kept.sum())} patches with a pattern",
            f"needed {50 * classes}",
            "take more images",
        )
    patterns = centred[kept] / length[kept, None]
    kinds = KMeans(classes, n_init=2, random_state=seed).fit_predict(patterns)
    responses = patches[kept] @ kernels.detach().double().cpu().flatten(1).numpy().T
    bins = _binned(binning)
    found = tuple(mutual_information(bins(column), kinds, corrected=True, unit=unit) for column in responses.T)
    return FilterMatch(found, entropy(kinds, unit=unit), int(kept.sum()), unit)


def _binned(binning: object) -> Binning:
    if not isinstance(binning, Binning):
        raise AnalysisError("binning", f"got {binning!r}", "needed a Binning", "as Binning(8)")
    return binning


def _patches(images: Tensor, size: Sequence[int]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Every window, (patches, C kH kW)."""
    windows = images.unfold(2, size[0], 1).unfold(3, size[1], 1)
    return windows.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(0, 2).numpy()
