"""Attribution by gradients: which pixels move the score."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from striate.errors import ExplainError
from striate.explain.arguments import array, checked, real
from striate.explain.inputs import Input
from striate.explain.result import Explanation
from striate.explain.subject import Subject, asking, in_batches
from striate.explain.targets import Target

#: Points of the first and of the last Gauss-Legendre rule that integrated gradients tries by itself.
_FEWEST, _MOST = 16, 256
_MOVES: Final = "|change of the score per unit of the input|, largest over channels"
_DRAWS: Final = (
    "known failure: this rule nearly reconstructs the input's edges, whatever the class and the upper layers' weights "
    "(Adebayo et al. 2018; Nie et al. 2018)"
)


@checked
def saliency(model: torch.nn.Module, image: Input, target: Target = None) -> Explanation:
    """How fast the score changes with each pixel: the gradient's absolute value, largest over channels.

    Args:
        model: any network; it is left as it is.
        image: (C, H, W) or (N, C, H, W), normalised as the network wants it; or all inputs of a network that takes
            several, as a tuple or a dict of keywords (:class:`striate.explain.Inputs`).
        target: a class, one for each image, a function of the output that gives (N,); the predicted class by default.

    Returns:
        An explanation whose ``values`` are the gradients (N, C, H, W).

    Raises:
        ExplainError: an image that the network can't take, a class out of range, no gradient.

    Source: Simonyan, Vedaldi & Zisserman, "Deep inside convolutional networks" (2014), section 3.1.

    >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
    >>> found = saliency(network, torch.rand(1, 2, 2), target=1)
    >>> torch.equal(found.map.flatten(), network[1].weight[1].abs())
    True

    Formula: S27.
    """
    with asking(model, image, target) as subject:
        return _strength("saliency", subject, subject.gradient(subject.images))


@checked
def input_x_gradient(model: torch.nn.Module, image: Input, target: Target = None) -> Explanation:
    """Input times gradient, summed over channels: the score's linear part, with sign.

    Arguments and errors are those of :func:`saliency`. ``values`` are the products (N, C, H, W). An input of zero,
    which is the mean colour of a normalised image, counts as no evidence.

    Source: Shrikumar, Greenside, Shcherbina & Kundaje, "Not just a black box" (2016), section 2.

    >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2, bias=False))
    >>> found = input_x_gradient(network, torch.rand(1, 2, 2), target=1)
    >>> abs(float(found.map.sum()) - found.scores[0]) < 1e-5
    True
    """
    with asking(model, image, target) as subject:
        values = subject.images * subject.gradient(subject.images)
        return subject.explanation(
            "input_x_gradient",
            values,
            values.sum(1),
            "input x gradient, in units of the score",
            signed=True,
            detail="pixels",
        )


@checked
def smooth_grad(
    model: torch.nn.Module,
    image: Input,
    target: Target = None,
    *,
    samples: int = 32,
    noise: float = 0.15,
    seed: int = 0,
    batch_size: int = 32,
) -> Explanation:
    """Saliency of the mean gradient over noisy copies of the image.

    Arguments and errors are those of :func:`saliency`, and these:

    Args:
        samples: copies of each image.
        noise: standard deviation of the Gaussian noise, as a share of the image's range (largest less smallest number).
        seed: of the noise.
        batch_size: copies computed at once. Memory is bounded by what one training step of so many images takes.

    Source: Smilkov, Thorat, Kim, Viegas & Wattenberg, "SmoothGrad: removing noise by adding noise" (2017), section 3.

    >>> network = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU(), torch.nn.Flatten())
    >>> smooth_grad(network, torch.rand(1, 4, 4), samples=4).map.shape
    torch.Size([1, 4, 4])
    """
    if samples < 1 or not noise >= 0:
        raise ExplainError("smooth_grad", f"got {samples} samples and noise {noise}", "needed 1 or more, and 0 or more")
    with asking(model, image, target) as subject:
        images = subject.images
        generator = torch.Generator().manual_seed(seed)
        spread = noise * (images.amax((1, 2, 3), keepdim=True) - images.amin((1, 2, 3), keepdim=True))
        total = torch.zeros_like(images, dtype=torch.float64)
        for part in in_batches(len(images) * samples, batch_size, "smooth_grad"):
            which = (part // samples).to(images.device)
            shifts = torch.randn(len(which), *images.shape[1:], generator=generator).to(images)
            gradient = subject.gradient(images[which] + spread[which] * shifts, which)
            total.index_add_(0, which, gradient.double())
        return _strength("smooth_grad", subject, total / samples)


@checked
def integrated_gradients(
    model: torch.nn.Module,
    image: Input,
    target: Target = None,
    *,
    baseline: Tensor | NDArray[Any] | float = 0.0,
    steps: int | None = None,
    tolerance: float = 0.05,
    batch_size: int = 32,
) -> Explanation:
    """The integral of the gradient along the straight line from a baseline to the image, times their difference.

    The values add up to the difference of the scores of image and baseline (completeness). ``measures`` has the
    ``completeness gap`` in units of the score, and the ``score difference``. ``values`` are (N, C, H, W), the map is
    their sum over channels.

    Arguments and errors are those of :func:`saliency`, and these:

    Args:
        baseline: a number, or what broadcasts to the images: the input that stands for no evidence.
        steps: points of the Gauss-Legendre rule; None: 16, doubled until the gap is within the tolerance, at most 256.
        tolerance: largest gap, as a share of the score's difference; a note says if it is exceeded.
        batch_size: points computed at once. Memory is bounded by what one training step of so many images takes.

    Source: Sundararajan, Taly & Yan, "Axiomatic attribution for deep networks" (2017), equation 1 and proposition 1.

    >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 1)).double()
    >>> found = integrated_gradients(network, torch.rand(1, 2, 2), target=0)
    >>> abs(found.measures["completeness gap"][0]) < 1e-12
    True
    """
    if steps is not None and steps < 1:
        raise ExplainError("integrated_gradients", f"got {steps} steps", "needed 1 or more")
    with asking(model, image, target) as subject:
        images = subject.images
        # A Python number must not be rounded to float32 if the images are float64.
        if isinstance(baseline, Tensor | np.ndarray):
            start = array("baseline", baseline).to(images)
        else:
            start = torch.tensor(real("baseline", baseline), dtype=images.dtype, device=images.device)
        if not bool(start.isfinite().all()):
            raise ExplainError("baseline", "got NaN or infinite numbers", "needed finite ones")
        try:
            start = start.expand_as(images)
        except RuntimeError as error:
            raise ExplainError(
                "baseline", f"got {tuple(start.shape)}", f"needed what broadcasts to {tuple(images.shape)}"
            ) from error
        every = torch.arange(len(images))
        difference = subject.scores(images, every) - subject.scores(start, every)
        number = steps or _FEWEST
        while True:
            values = _integrated(subject, start, number, batch_size)
            gap = values.sum((1, 2, 3)) - difference
            missed = gap.abs() > tolerance * difference.abs()
            if steps is not None or not bool(missed.any()) or number >= _MOST:
                break
            number *= 2
        where = "" if len(images) == 1 else f" of image {', '.join(map(str, missed.nonzero()[:, 0].tolist()))}"
        note = (
            f"the shares{where} miss the score's difference by more than {tolerance:.0%} with {number} steps: the "
            "network is too rough along the way, or its numbers too coarse"
        )
        return subject.explanation(
            "integrated_gradients",
            values,
            values.sum(1),
            "share of the score's difference to the baseline",
            signed=True,
            detail="pixels",
            measures={
                "completeness gap": tuple(gap.tolist()),
                "score difference": tuple(difference.tolist()),
                "steps": (float(number),) * len(images),
            },
            notes=(note,) if bool(missed.any()) else (),
        )


@checked
def guided_backprop(model: torch.nn.Module, image: Input, target: Target = None) -> Explanation:
    """The gradient that passes each open ReLU only where it is positive: sharp, but hardly an explanation.

    Arguments and errors are those of :func:`saliency`. It applies to ReLU and ReLU6, as layers, functions or in place.
    The result's notes mention the method's known failure: its map is nearly the same for a network with random upper
    layers.

    Source: Springenberg, Dosovitskiy, Brox & Riedmiller, "Striving for simplicity" (2015), section 3.4. Failure:
    Adebayo et al., "Sanity checks for saliency maps" (2018); Nie, Zhang & Patel, "A theoretical explanation for
    perplexing behaviors of backpropagation-based visualizations" (2018).

    >>> network = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU(), torch.nn.Flatten())
    >>> guided_backprop(network, torch.rand(1, 4, 4)).signed
    True
    """
    with asking(model, image, target) as subject:
        return _imprint("guided_backprop", subject, "guided")


@checked
def deconvnet(model: torch.nn.Module, image: Input, target: Target = None) -> Explanation:
    """The gradient with each ReLU applied to the gradient itself, as a deconvolutional network projects activity back.

    Arguments and errors are those of :func:`guided_backprop`, and so is the known failure. Gradients of max pooling go
    to the positions of the maxima.

    Source: Zeiler & Fergus, "Visualizing and understanding convolutional networks" (2014), section 2.1.

    >>> network = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU(), torch.nn.Flatten())
    >>> deconvnet(network, torch.rand(1, 4, 4)).signed
    True
    """
    with asking(model, image, target) as subject:
        return _imprint("deconvnet", subject, "deconvolved")


def _strength(method: str, subject: Subject, gradient: Tensor) -> Explanation:
    return subject.explanation(method, gradient, gradient.abs().amax(1), _MOVES, signed=False, detail="pixels")


def _imprint(method: str, subject: Subject, rule: str) -> Explanation:
    values = subject.gradient(subject.images, rectified=rule)
    return subject.explanation(
        method,
        values,
        values.sum(1),
        "rectified gradient, summed over channels",
        signed=True,
        detail="pixels",
        notes=(_DRAWS,),
    )


def _integrated(subject: Subject, start: Tensor, steps: int, batch_size: int) -> Tensor:
    points, weights = (torch.from_numpy(each) for each in np.polynomial.legendre.leggauss(steps))
    images = subject.images
    way = images - start
    total = torch.zeros_like(images, dtype=torch.float64)
    for part in in_batches(len(images) * steps, batch_size, f"integrated_gradients, {steps} steps"):
        which, step = (part // steps).to(images.device), part % steps
        along = ((points[step] + 1) / 2).to(images).view(-1, 1, 1, 1)  # from -1..1 to 0..1
        gradient = subject.gradient(start[which] + along * way[which], which).double()
        share = (weights[step] / 2).to(images.device).view(-1, 1, 1, 1)
        total.index_add_(0, which, share * gradient)
    return total * way
