"""Accuracy under attack: images are changed by at most epsilon in any pixel, so that a classifier errs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from striate.analysis import arguments
from striate.analysis.arguments import Array
from striate.analysis.probing import Images, Prepare, Subject, evaluating, generator, labels_of, pixels_of
from striate.errors import AnalysisError

EPSILONS: Final = (0.0, 0.01, 0.02, 0.04, 0.08, 0.12, 0.16, 0.2, 0.3)
_STEPS: Final = 20


@dataclass(frozen=True)
class AdversarialCurve:
    """Accuracy over the largest change of a pixel.

    Args:
        model: the network's name, its class by default.
        images: number of images. The standard error of a share p is sqrt(p (1 - p) / images).
        epsilons: largest changes of a pixel; pixels are 0 to 1.
        fgsm: share of images that are classified correctly after one signed step, 0 to 1, for each epsilon.
        pgd: the same after projected gradient descent.
        steps, restarts: of projected gradient descent.
    """

    model: str
    images: int
    epsilons: tuple[float, ...]
    fgsm: tuple[float, ...]
    pgd: tuple[float, ...]
    steps: int
    restarts: int

    def to_dict(self) -> dict[str, Any]:
        """All fields, for JSON."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in vars(self).items()}


def fgsm(
    model: torch.nn.Module,
    images: Images,
    labels: Array | Sequence[int],
    epsilon: float,
    *,
    input: str | int | None = None,
    prepare: Prepare | None = None,
) -> Tensor:
    """Images changed by epsilon in each pixel, in the direction of the cross entropy's gradient, clamped to 0 to 1.

    Args:
        model: a classifier, (N, C, H, W) to (N, K); it isn't changed, nor are its gradients.
        images: (N, C, H, W), pixels 0 to 1; among other inputs as a list or a dictionary.
        labels: (N,), the right classes.
        epsilon: 0 to 1.
        input: which input the images are, by its name or number; by default the first with axes to look along.
        prepare: from images to the network's input, for example a normalisation; the gradient goes through it.

    Raises:
        AnalysisError: images, labels or an epsilon out of range.

    Source: Goodfellow, Shlens & Szegedy, "Explaining and harnessing adversarial examples" (2015), section 4.

    >>> line = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
    >>> image = torch.full((1, 1, 2, 2), 0.5)
    >>> (fgsm(line, image, torch.tensor([1]), 0.1) - image).abs()
    tensor([[[[0.1000, 0.1000],
              [0.1000, 0.1000]]]])

    Formula: S6.
    """
    subject = Subject(model, images, input=input, prepare=prepare)
    pixels, size = pixels_of(subject), _checked(epsilon)
    with evaluating(subject.model):
        targets = _targets(subject, pixels, labels)
        gradient, _ = _gradient(subject, pixels, targets)
    return _within(pixels + size * gradient.sign(), pixels, size)


def pgd(
    model: torch.nn.Module,
    images: Images,
    labels: Array | Sequence[int],
    epsilon: float,
    *,
    steps: int = _STEPS,
    step_size: float | None = None,
    restarts: int = 1,
    seed: int = 0,
    input: str | int | None = None,
    prepare: Prepare | None = None,
) -> Tensor:
    """Images changed by signed gradient steps; each step is projected to within epsilon of the image and to 0 to 1.

    Every image starts from a random point near it. The result is a point of its path at which the network errs, or else
    the one with the largest loss. An attack that fails proves nothing: a network may hide its gradients without being
    more robust.

    Args:
        model, images, labels, epsilon, input, prepare: as for :func:`fgsm`.
        steps: 1 or more.
        step_size: in pixels of 0 to 1; 2.5 epsilon / steps by default, which reaches every point from any other.
        restarts: number of random starting points, used one after the other.
        seed: of the starting points.

    Raises:
        AnalysisError: images, labels or numbers out of range.

    Source: Madry, Makelov, Schmidt, Tsipras & Vladu, "Towards deep learning models resistant to adversarial attacks"
    (2018), section 2.1.

    >>> line = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
    >>> image = torch.full((1, 1, 2, 2), 0.5)
    >>> attacked = pgd(line, image, torch.tensor([1]), 0.1)
    >>> float((attacked - image).abs().max()) < 0.1 + 1e-6
    True

    Formula: S6.
    """
    steps, restarts = arguments.whole("steps", steps, 1), arguments.whole("restarts", restarts, 1)
    subject = Subject(model, images, input=input, prepare=prepare)
    pixels, size = pixels_of(subject), _checked(epsilon)
    stride = 2.5 * size / steps if step_size is None else arguments.number("step_size", step_size, 0)
    drawn = generator(seed)
    with evaluating(subject.model):
        targets = _targets(subject, pixels, labels)
        best, strength = pixels, torch.full((len(pixels),), -torch.inf, device=pixels.device)
        for _ in range(restarts):
            start = (2 * torch.rand(pixels.shape, generator=drawn) - 1).to(pixels)
            place = _within(pixels + size * start, pixels, size)
            for _ in range(steps + 1):
                gradient, reached = _gradient(subject, place, targets)
                better = reached > strength
                strength = torch.where(better, reached, strength)
                best = torch.where(better[:, None, None, None], place, best)
                place = _within(place + stride * gradient.sign(), pixels, size)
    return best


def adversarial(
    model: torch.nn.Module,
    images: Images,
    labels: Array | Sequence[int],
    epsilons: Sequence[float] = EPSILONS,
    *,
    steps: int = _STEPS,
    restarts: int = 1,
    seed: int = 0,
    input: str | int | None = None,
    prepare: Prepare | None = None,
    name: str | None = None,
) -> AdversarialCurve:
    """Accuracy under both attacks over the largest change of a pixel.

    Args:
        model, images, labels, input, prepare: as for :func:`fgsm`.
        epsilons: 0 to 1; at 0 stands the accuracy on the images themselves.
        steps, restarts, seed: of :func:`pgd`.
        name: of the network, for tables and pictures; its class by default.

    Raises:
        AnalysisError: images, labels or numbers out of range.

    >>> line = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
    >>> found = adversarial(line, torch.rand(8, 1, 2, 2), torch.zeros(8, dtype=torch.long), [0, 1])
    >>> found.fgsm[0] == found.pgd[0] >= found.pgd[1]
    True
    """
    sizes = tuple(_checked(epsilon) for epsilon in arguments.several("epsilons", epsilons))
    steps, restarts = arguments.whole("steps", steps, 1), arguments.whole("restarts", restarts, 1)
    subject = Subject(model, images, input=input, prepare=prepare, name=name)
    pixels, network, inputs = pixels_of(subject), subject.model, subject.example
    how: dict[str, Any] = {"input": input, "prepare": prepare}
    often: dict[str, Any] = {"steps": steps, "restarts": restarts, "seed": seed}
    with evaluating(network):
        targets = _targets(subject, pixels, labels)

    def accuracy(attacked: Tensor) -> float:
        with evaluating(network), torch.no_grad():
            return float((subject.logits(attacked).argmax(1) == targets).double().mean())

    once = tuple(accuracy(fgsm(network, inputs, targets, size, **how)) for size in sizes)
    more = tuple(accuracy(pgd(network, inputs, targets, size, **often, **how) if size else pixels) for size in sizes)
    return AdversarialCurve(subject.name, len(pixels), sizes, once, more, steps, restarts)


def _checked(epsilon: float) -> float:
    try:
        return arguments.number("epsilon", epsilon, 0, 1)
    except AnalysisError as error:
        raise AnalysisError(error.where, error.got, "needed 0 to 1", "pixels are 0 to 1; divide by 255") from None


def _targets(subject: Subject, pixels: Tensor, labels: object) -> Tensor:
    with torch.no_grad():
        classes = subject.logits(pixels[:1]).shape[1]
    return labels_of(labels, pixels, classes)


def _gradient(subject: Subject, place: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The cross entropy's gradient by the images, and each image's loss, which is infinite if the network errs."""
    with torch.enable_grad():
        source = place.clone().requires_grad_()
        logits = subject.logits(source)
        losses = F.cross_entropy(logits, targets, reduction="none")
        gradient = torch.autograd.grad(losses.sum(), source, allow_unused=True)[0] if logits.requires_grad else None
    if gradient is None:
        raise AnalysisError(subject.name, "its answer has no gradient by the images", "needed one all the way through")
    return gradient, losses.detach().where(logits.argmax(1) == targets, torch.inf)


def _within(place: Tensor, pixels: Tensor, size: float) -> Tensor:
    return place.clamp((pixels - size).clamp(min=0), (pixels + size).clamp(max=1))
