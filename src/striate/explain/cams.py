"""Class activation maps: a layer's maps, weighted by their effect on the target's score, enlarged to the image.

A_k(y, x) is the layer's channel k, S the score, G_k(y, x) the derivative of S by A_k(y, x). The map has only evidence
for the target; ``values`` has both signs, at the layer's own size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from striate.errors import ExplainError
from striate.explain.arguments import checked
from striate.explain.inputs import Call, Input, call_of
from striate.explain.places import Grid, alike
from striate.explain.probe import grid_at, grids_in, layer_named, probing
from striate.explain.result import Explanation
from striate.explain.subject import Subject, asking, in_batches
from striate.explain.targets import Target, settle

_POSITIVE: Final = "evidence for the target (rectified sum of maps)"


@checked
def grad_cam(model: torch.nn.Module, image: Input, target: Target = None, layer: str | None = None) -> Explanation:
    """A layer's maps, each weighted by its mean gradient.

    Args:
        model: any network; it is left as it is.
        image: (C, H, W) or (N, C, H, W), normalised as the network wants it; or all inputs of a network that takes
            several, as a tuple or a dict of keywords (:class:`striate.explain.Inputs`).
        target: a class, one for each image, a function of the output that gives (N,); the predicted class by default.
        layer: a path, with ``@k`` for the k-th of several calls. By default the last layer whose output has spatial
            positions that the score depends on; for a transformer with a class token, the last one before attention
            reads the other tokens. Tokens are arranged on the grid of their patches.

    Returns:
        An explanation whose map is the positive part, enlarged bilinearly; ``values`` (N, h, w) is the signed sum.

    Raises:
        ExplainError: an unknown layer, one without places, a class out of range, an image that the network can't take.

    Warns:
        ExplainWarning: no evidence for the target, so that the map is zero; the result's notes say so too.

    Source: Selvaraju et al., "Grad-CAM: visual explanations from deep networks via gradient-based localization" (2017),
    equations 1 and 2.

    >>> network = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU(), torch.nn.Flatten())
    >>> found = grad_cam(network, torch.rand(1, 8, 8))
    >>> found.layer, found.values.shape, found.map.shape
    ('1', torch.Size([1, 6, 6]), torch.Size([1, 8, 8]))

    Formula: S27.
    """

    def weighed(maps: Tensor, gradient: Tensor) -> Tensor:
        return (gradient.mean((2, 3), keepdim=True) * maps).sum(1)

    return _by_gradient("grad_cam", weighed, model, image, target, layer)


@checked
def grad_cam_plus_plus(
    model: torch.nn.Module, image: Input, target: Target = None, layer: str | None = None
) -> Explanation:
    """A layer's maps, weighted by their positive gradients, with more weight on isolated positions.

    Finds several objects of a class better than :func:`grad_cam`, with its arguments and errors. The score's
    exponential is taken as in the source, so that the second and third derivatives are powers of the first; its
    constant factor is left out.

    Source: Chattopadhay, Sarkar, Howlader & Balasubramanian, "Grad-CAM++: generalized gradient-based visual
    explanations for deep convolutional networks" (2018), equations 5 and 19.

    >>> network = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU(), torch.nn.Flatten())
    >>> grad_cam_plus_plus(network, torch.rand(1, 8, 8)).method
    'grad_cam_plus_plus'
    """

    def weighed(maps: Tensor, gradient: Tensor) -> Tensor:
        below = 2 * gradient**2 + maps.sum((2, 3), keepdim=True) * gradient**3
        alpha = torch.where(below == 0, 0.0, gradient**2 / torch.where(below == 0, 1.0, below))
        return ((alpha * gradient.clamp_min(0)).sum((2, 3), keepdim=True) * maps).sum(1)

    return _by_gradient("grad_cam_plus_plus", weighed, model, image, target, layer)


@checked
def x_grad_cam(model: torch.nn.Module, image: Input, target: Target = None, layer: str | None = None) -> Explanation:
    """A layer's maps, each weighted by its gradient's mean over places, by activation.

    The weights are closest to those for which the maps add up to the score, and each map's share equals the fall of the
    score without this map. Arguments and errors are those of :func:`grad_cam`.

    Source: Fu et al., "Axiom-based Grad-CAM: towards accurate visualization and explanation of CNNs" (2020), eq. 8.

    >>> network = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU(), torch.nn.Flatten())
    >>> x_grad_cam(network, torch.rand(1, 8, 8)).method
    'x_grad_cam'
    """

    def weighed(maps: Tensor, gradient: Tensor) -> Tensor:
        whole = maps.sum((2, 3), keepdim=True)
        weights = (gradient * maps).sum((2, 3), keepdim=True) / torch.where(whole == 0, 1.0, whole)
        return (torch.where(whole == 0, 0.0, weights) * maps).sum(1)

    return _by_gradient("x_grad_cam", weighed, model, image, target, layer)


@checked
def layer_cam(model: torch.nn.Module, image: Input, target: Target = None, layer: str | None = None) -> Explanation:
    """A layer's maps, each position weighted by its own positive gradient; also useful in early layers.

    Arguments and errors are those of :func:`grad_cam`.

    Source: Jiang et al., "LayerCAM: exploring hierarchical class activation maps for localization" (2021), equations 5
    and 6.

    >>> network = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU(), torch.nn.Flatten())
    >>> layer_cam(network, torch.rand(1, 8, 8), layer="0").method
    'layer_cam'
    """

    def weighed(maps: Tensor, gradient: Tensor) -> Tensor:
        return (gradient.clamp_min(0) * maps).sum(1)

    return _by_gradient("layer_cam", weighed, model, image, target, layer)


@checked
def eigen_cam(model: torch.nn.Module, image: Input, target: Target = None, layer: str | None = None) -> Explanation:
    """The projection of a layer's maps on their first principal component, independent of the class.

    The component's sign makes the map's sum positive. Arguments and errors are those of :func:`grad_cam`; the target is
    only used in the title.

    Source: Muhammad & Yeasin, "Eigen-CAM: class activation map using principal components" (2020), equations 4 and 5.

    >>> network = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU(), torch.nn.Flatten())
    >>> eigen_cam(network, torch.rand(1, 8, 8)).notes
    ('says nothing of the class: the map is the same for all targets',)
    """
    with _asking(model, image, target, layer) as (subject, layer, grid):
        maps = _wide(grid.maps(subject.probe[layer])).detach()
        rows = maps.flatten(2).transpose(1, 2)
        first = torch.linalg.svd(rows, full_matrices=False).Vh[:, 0]
        values = torch.einsum("nkhw,nk->nhw", maps, first)
        values = values * values.sum((1, 2), keepdim=True).sign()
        return _enlarged(
            "eigen_cam",
            subject,
            layer,
            values,
            "projection on the first principal direction",
            notes=("says nothing of the class: the map is the same for all targets",),
        )


@checked
def score_cam(
    model: torch.nn.Module,
    image: Input,
    target: Target = None,
    layer: str | None = None,
    *,
    batch_size: int = 32,
) -> Explanation:
    """A layer's maps, each weighted by the score of the image masked by it; needs no gradients.

    The network runs once for each channel. Arguments and errors are those of :func:`grad_cam`, and:

    Args:
        batch_size: masked images computed at once.

    Source: Wang et al., "Score-CAM: score-weighted visual explanations for convolutional neural networks" (2020),
    definitions 3 and 4, equations 6 to 8; weights by softmax of the scores over the channels.

    >>> network = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU(), torch.nn.Flatten())
    >>> score_cam(network, torch.rand(1, 8, 8)).method
    'score_cam'
    """
    with _asking(model, image, target, layer) as (subject, layer, grid):
        maps = _wide(grid.maps(subject.probe[layer])).detach()
        channels, images = maps.shape[1], subject.images
        scores = torch.empty(len(images) * channels, dtype=torch.float64, device=images.device)
        for part in in_batches(len(scores), batch_size, "score_cam"):
            part = part.to(images.device)
            which = part // channels
            masks = F.interpolate(maps[which, part % channels][:, None], images.shape[2:], mode="bilinear")
            low, high = masks.amin((2, 3), keepdim=True), masks.amax((2, 3), keepdim=True)
            masks = (masks - low) / torch.where(high == low, 1.0, high - low)  # a constant map shows nothing
            scores[part] = subject.scores(images[which] * masks.to(images), which)
        weights = scores.view(len(images), channels).softmax(1).to(maps)
        return _enlarged("score_cam", subject, layer, torch.einsum("nkhw,nk->nhw", maps, weights))


@checked
def cam(model: torch.nn.Module, image: Input, target: Target = None, layer: str | None = None) -> Explanation:
    """The last maps, weighted by the classifier's row of the class: each place's share of the logit, signed.

    Only for networks whose logits are a linear layer of the maps' means over all places, which is checked by computing
    them that way. The shares' mean, and the bias, are the logit; on such networks it is height x width times what
    :func:`grad_cam` rectifies. Arguments and errors are those of :func:`grad_cam`, and:

    Raises:
        ExplainError: another kind of network; a target that is no class.

    Source: Zhou, Khosla, Lapedriza, Oliva & Torralba, "Learning deep features for discriminative localization" (2016),
    equations 1 and 2.

    >>> network = torch.nn.Sequential(
    ...     torch.nn.Conv2d(1, 2, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(2, 5)
    ... )
    >>> found = cam(network, torch.rand(1, 8, 8))
    >>> bool((found.values.mean() + network[3].bias[found.classes[0]] - found.scores[0]).abs() < 1e-5)
    True
    """
    with _asking(model, image, target, layer) as (subject, layer, grid):
        if subject.aim.classes is None:
            raise ExplainError(
                "cam", f"got {subject.aim.label} as target", "needed a class", "grad_cam takes functions"
            )
        maps = _wide(grid.maps(subject.probe[layer])).detach()
        weights, output = None, subject.output.detach()
        for module in model.modules():
            if isinstance(module, torch.nn.Linear) and module.weight.shape == (output.shape[1], maps.shape[1]):
                linear = module(maps.mean((2, 3)).to(output)).detach()
                if torch.allclose(linear, output, rtol=1e-2 if output.dtype.itemsize == 2 else 1e-3, atol=1e-3):
                    weights = module.weight.detach()
        if weights is None:
            raise ExplainError(
                "cam",
                f"the logits of {subject.probe.name} aren't a linear layer of the means of {layer}'s maps",
                "needed global average pooling and one linear layer after it",
                "grad_cam takes any network",
            )
        rows = weights[list(subject.aim.classes)].to(maps)
        values = torch.einsum("nkhw,nk->nhw", maps, rows)
        return _enlarged("cam", subject, layer, values, "share of the logit, its mean over places", signed=True)


@checked
def default_layer(model: torch.nn.Module, image: Input, target: Target = None) -> str:
    """The last layer whose output has spatial positions that the score depends on.

    It is the last layer with positions. If the score depends on none of them (after the last attention of a transformer
    that reads its class token), it is the last layer with as many channels whose positions the score depends on.

    Raises:
        ExplainError: a network in which no layer has places.
    """
    return _default(model, call_of(model, image), target)[0]


@contextmanager
def _asking(
    model: torch.nn.Module, image: Input, target: Target, layer: str | None
) -> Iterator[tuple[Subject, str, Grid]]:
    call = call_of(model, image)
    if layer is None:
        layer, grid = _default(model, call, target)
    else:
        layer = layer_named(model, layer)
        grid = grid_at(model, call, layer)
    with asking(model, call, target, layer) as subject:
        yield subject, layer, grid


def _default(model: torch.nn.Module, call: Call, target: Target) -> tuple[str, Grid]:
    images = call.images
    size = (images.shape[-2], images.shape[-1])
    # heads of attention have four dimensions too, of other proportions
    grids = {layer: grid for layer, grid in grids_in(model, call).items() if alike(grid.size, size)}
    if not grids:
        raise ExplainError(
            type(model).__name__, "no layer's output has places", "needed maps (N, C, H, W) or tokens of a grid"
        )
    last = list(grids)[-1]
    candidates = [layer for layer, grid in grids.items() if grid.channels == grids[last].channels and "@" not in layer]
    for layers in ([last], candidates):
        with probing(model, *layers, call=call) as probe:
            output = probe(images)
            score = settle(target, output, len(images))(output).sum()
            for layer in reversed(layers):
                if bool(grids[layer].maps(probe.gradient(score, layer)).any()):
                    return layer, grids[layer]
    return last, grids[last]


def _by_gradient(
    method: str,
    weighed: Callable[[Tensor, Tensor], Tensor],
    model: torch.nn.Module,
    image: Input,
    target: Target,
    layer: str | None,
) -> Explanation:
    with _asking(model, image, target, layer) as (subject, layer, grid):
        maps = _wide(grid.maps(subject.probe[layer])).detach()
        gradient = _wide(grid.maps(subject.probe.gradient(subject.aim(subject.output).sum(), layer)))
        values = weighed(maps, gradient)
        empty = f"all evidence in {layer} speaks against the target"
        if not bool(gradient.any()):
            empty = f"the score doesn't hang on the places of {layer}; take an earlier layer"
        return _enlarged(method, subject, layer, values, empty=empty)


def _wide(tensor: Tensor) -> Tensor:
    """Converts half precision to float32, because sums over positions and cubes of gradients would overflow."""
    return tensor.float() if tensor.dtype.itemsize == 2 else tensor


def _enlarged(
    method: str,
    subject: Subject,
    layer: str,
    values: Tensor,
    quantity: str = _POSITIVE,
    *,
    signed: bool = False,
    **more: Any,
) -> Explanation:
    shown = values if signed else values.clamp_min(0)
    large = F.interpolate(shown[:, None], subject.images.shape[2:], mode="bilinear")[:, 0]
    return subject.explanation(method, values, large, quantity, signed=signed, detail="regions", layer=layer, **more)
