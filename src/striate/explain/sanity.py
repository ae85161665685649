"""Sanity checks: does a map change if the weights are destroyed, and does the score fall without its pixels?"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
import torch.nn.functional as F
from scipy.stats import spearmanr
from torch import Tensor

from striate.drawing import Pictured
from striate.errors import ExplainError
from striate.explain.arguments import checked
from striate.explain.faithful import Curves, deletion_insertion, faithfulness
from striate.explain.inputs import Input, call_of
from striate.explain.probe import survey
from striate.explain.result import Explanation, Method, made_by
from striate.explain.subject import in_batches
from striate.explain.targets import Target

_SIGMA: Final = 1.5
_REACH: Final = 5


@dataclass(frozen=True)
class Likeness:
    """How alike two sets of maps are, in absolute value; means over the images.

    Args:
        rank_correlation: Spearman's, -1 to 1; 0 if one of them is constant.
        ssim: structural similarity of the maps scaled to 0..1, -1 to 1.
    """

    rank_correlation: float
    ssim: float


@dataclass(frozen=True)
class Randomisation:
    """Maps of a network whose layers are randomised, from the output down, compared with the true maps.

    Args:
        layers: for each stage, the lowest layer with random weights.
        likeness: of each stage's maps to the true ones. A map that explains the network becomes different early.
    """

    layers: tuple[str, ...]
    likeness: tuple[Likeness, ...]

    def to_dict(self) -> dict[str, Any]:
        """The stages, for JSON."""
        return {
            "stages": [{"layer": layer, **vars(each)} for layer, each in zip(self.layers, self.likeness, strict=True)]
        }


@dataclass(frozen=True, eq=False)
class Check(Pictured):
    """Measures of a map's quality; means over its images.

    Args:
        explanation: the map.
        curves: deletion and insertion by the map's order.
        chance: deletion and insertion by a random order.
        faithfulness: correlation of the map's sums with the score's falls, -1 to 1.
        randomisation: likeness to maps of the network with random weights.
    """

    explanation: Explanation
    curves: Curves
    chance: Curves
    faithfulness: float
    randomisation: Randomisation

    def to_dict(self) -> dict[str, Any]:
        """All but the map, for JSON."""
        return {
            "curves": self.curves.to_dict(),
            "chance": self.chance.to_dict(),
            "faithfulness": self.faithfulness,
            "randomisation": self.randomisation.to_dict(),
        }


def pooled(checks: Sequence[Check]) -> Check:
    """Checks of single images, by one method, as one of all of them; it keeps the first one's explanation."""
    first = checks[0]

    def curves(kind: str) -> Curves:
        parts: list[Curves] = [getattr(each, kind) for each in checks]
        return Curves(
            parts[0].shares,
            tuple(row for part in parts for row in part.deletion),
            tuple(row for part in parts for row in part.insertion),
        )

    rows = []
    for stage in zip(*(each.randomisation.likeness for each in checks), strict=True):
        ranks, similar = [each.rank_correlation for each in stage], [each.ssim for each in stage]
        rows.append(Likeness(sum(ranks) / len(stage), sum(similar) / len(stage)))
    return Check(
        first.explanation,
        curves("curves"),
        curves("chance"),
        sum(each.faithfulness for each in checks) / len(checks),
        Randomisation(first.randomisation.layers, tuple(rows)),
    )


@checked
def check(
    method: Method, model: torch.nn.Module, image: Input, target: Target = None, *, seed: int = 0, **options: Any
) -> Check:
    """A method's map of images, with all measures that don't need the right answer.

    Args:
        method: a function of this package, as :func:`striate.explain.grad_cam`.
        model, image, target: as that takes them.
        seed: of random orders, subsets and weights.
        options: of the method.

    Raises:
        ExplainError: as the method does.

    >>> from striate.explain import saliency
    >>> network = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU(), torch.nn.Flatten())
    >>> checked = check(saliency, network, torch.rand(1, 8, 8))
    >>> -1 <= checked.faithfulness <= 1, checked.randomisation.layers
    (True, ('0',))
    """
    explanation = made_by(method, model, image, target, **options)
    settled: Target = target if explanation.classes is None else explanation.classes
    chance = torch.rand(explanation.map.shape, generator=torch.Generator().manual_seed(seed))
    faithful = faithfulness(model, image, explanation.map, settled, seed=seed)
    return Check(
        explanation,
        deletion_insertion(model, image, explanation.map, settled),
        deletion_insertion(model, image, chance, settled),
        sum(faithful) / len(faithful),
        model_randomisation(method, model, image, settled, seed=seed, **options),
    )


@checked
def model_randomisation(
    method: Method,
    model: torch.nn.Module,
    image: Input,
    target: Target = None,
    *,
    stages: int = 5,
    seed: int = 0,
    **options: Any,
) -> Randomisation:
    """Whether a map depends on the learnt weights: layers get random weights, one after the other from the output.

    The weights of a copy of the network are replaced by normal random numbers with each tensor's mean and deviation, so
    that activations keep their range. The target and the layer of a class activation map are those of the true network.

    Args:
        method, model, image, target, options: as for :func:`check`.
        stages: number of depths, spread evenly over the layers, at which maps are compared.
        seed: of the weights.

    Raises:
        ExplainError: a network without weights; as the method does.

    Source: Adebayo, Gilmer, Muelly, Goodfellow, Hardt & Kim, "Sanity checks for saliency maps" (2018), section 3.1
    (cascading randomization).
    """
    if stages < 1:
        raise ExplainError("stages", f"got {stages}", "needed 1 or more")
    call = call_of(model, image)
    given = call.images if call.alone else image
    true = made_by(method, model, given, target, **options)
    if true.layer is not None:
        options = {**options, "layer": true.layer}
    settled: Target = target if true.classes is None else true.classes
    twin = copy.deepcopy(model)
    layers = [
        layer
        for layer in reversed(survey(twin, call))
        if "@" not in layer and any(True for _ in twin.get_submodule(layer).parameters(recurse=False))
    ]
    if not layers:
        raise ExplainError(type(model).__name__, "has no weights to randomise", "needed layers with parameters")
    generator = torch.Generator().manual_seed(seed)
    ends = torch.linspace(0, len(layers) - 1, min(stages, len(layers))).round().long().tolist()
    done, compared = 0, []
    for part in in_batches(len(ends), 1, "model_randomisation"):
        end = ends[int(part)]
        for layer in layers[done : end + 1]:
            for weights in twin.get_submodule(layer).parameters(recurse=False):
                _randomise(weights, generator)
        done = end + 1
        compared.append(likeness(true.map, made_by(method, twin, given, settled, **options).map))
    return Randomisation(tuple(layers[end] for end in ends), tuple(compared))


@checked
def label_randomisation(
    method: Method,
    train: Callable[[Tensor, Tensor], torch.nn.Module],
    images: Tensor,
    labels: Tensor,
    shown: Input,
    *,
    seed: int = 0,
    **options: Any,
) -> Likeness:
    """Whether a map depends on the labels: maps of a network trained on the true labels, and on shuffled ones.

    Args:
        method, options: as for :func:`check`.
        train: what makes a trained network from images (N, C, H, W) and labels (N,); each time from the same start.
        images, labels: to train on.
        shown: (M, C, H, W), to explain, each for the class that the truly trained network predicts.
        seed: of the order into which the labels are shuffled.

    Returns:
        The likeness of the maps; it is low for a method that explains the network.

    Source: Adebayo, Gilmer, Muelly, Goodfellow, Hardt & Kim, "Sanity checks for saliency maps" (2018), section 3.2
    (data randomization test).
    """
    if images.dim() == 0 or labels.shape != images.shape[:1]:
        raise ExplainError("labels", f"got {tuple(labels.shape)}", f"needed {tuple(images.shape[:1])}, one an image")
    true = made_by(method, train(images, labels), shown, None, **options)
    shuffled = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed)).to(labels.device)]
    if true.layer is not None:
        options = {**options, "layer": true.layer}
    return likeness(true.map, made_by(method, train(images, shuffled), shown, true.classes, **options).map)


@checked
def likeness(first: Tensor, second: Tensor) -> Likeness:
    """How alike the absolute values of maps (N, H, W) are.

    Source: Spearman's rank correlation; Wang, Bovik, Sheikh & Simoncelli, "Image quality assessment: from error
    visibility to structural similarity" (2004), equation 13, with a Gaussian window of deviation 1.5.

    >>> numbers = torch.rand(2, 12, 12)
    >>> likeness(numbers, -2 * numbers)
    Likeness(rank_correlation=1.0, ssim=1.0)
    """
    if first.dim() != 3 or first.shape != second.shape or 0 in first.shape:
        raise ExplainError("likeness", f"got {tuple(first.shape)} and {tuple(second.shape)}", "needed (N, H, W) twice")
    first, second = first.detach().cpu().abs().double(), second.detach().cpu().abs().double()
    ranks = []
    for one, other in zip(first.flatten(1), second.flatten(1), strict=True):
        varied = one.min() < one.max() and other.min() < other.max()
        ranks.append(float(spearmanr(one, other).statistic) if varied else 0.0)
    similar = _ssim(_scaled(first), _scaled(second))
    return Likeness(round(sum(ranks) / len(ranks), 12), round(float(similar.mean()), 12))


def _ssim(first: Tensor, second: Tensor) -> Tensor:
    """(N,), of maps in 0..1, over the windows that lie inside."""
    reach = min(_REACH, (min(first.shape[1:]) - 1) // 2)
    taps = torch.exp(-(torch.arange(-reach, reach + 1).double() ** 2) / (2 * _SIGMA**2))
    window = torch.outer(taps, taps)[None, None] / taps.sum() ** 2

    def mean(numbers: Tensor) -> Tensor:
        return F.conv2d(numbers[:, None], window)

    one, other = mean(first), mean(second)
    variances = mean(first**2) - one**2 + mean(second**2) - other**2
    covariance = mean(first * second) - one * other
    steady = (0.01**2, 0.03**2)
    parts = (2 * one * other + steady[0]) * (2 * covariance + steady[1])
    return (parts / ((one**2 + other**2 + steady[0]) * (variances + steady[1]))).mean((1, 2, 3))


def _scaled(maps: Tensor) -> Tensor:
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return (maps - low) / torch.where(high == low, 1.0, high - low)


def _randomise(weights: Tensor, generator: torch.Generator) -> None:
    numbers = torch.randn(weights.shape, generator=generator).to(weights)
    spread = weights.detach().std() if weights.numel() > 1 else weights.detach().abs().mean()
    weights.data.copy_(weights.detach().mean() + spread * numbers)
