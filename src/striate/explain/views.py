"""The views, which show the inside of a network instead of a map of evidence, by name, with their arguments."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from striate.analysis.probing import Prepare
from striate.drawing import Pictured
from striate.errors import ExplainError
from striate.explain.activations import activation_maps, hierarchy, top_patches
from striate.explain.adversarial import smallest_perturbation
from striate.explain.cams import default_layer
from striate.explain.filters import filters
from striate.explain.inversion import invert
from striate.explain.pictures import prepared
from striate.explain.probe import probing
from striate.explain.synthesis import deep_dream, maximize
from striate.explain.targets import settle

VIEWS: Final[dict[str, Callable[..., Pictured]]] = {
    function.__name__: function
    for function in (
        filters,
        activation_maps,
        top_patches,
        hierarchy,
        maximize,
        deep_dream,
        invert,
        smallest_perturbation,
    )
}


@dataclass(frozen=True, eq=False)
class Question:
    """The arguments of a view.

    Args:
        model: the network.
        pictures: (N, C, H, W) in 0..1.
        prepare: makes the network's input of them.
        layer, channel, target: None where a default has to do: the last layer with places that the predicted class
            hangs on, no channel, the predicted class.
    """

    model: torch.nn.Module
    pictures: Tensor
    prepare: Prepare
    layer: str | None = None
    channel: int | None = None
    target: int | None = None


def takes_several(name: str) -> bool:
    """Whether a view uses several images together."""
    return "images" in inspect.signature(VIEWS[name]).parameters


def view(name: str, asked: Question) -> Pictured:
    """The result of a view.

    Args:
        name: one of :data:`VIEWS`.
        asked: with one picture, or several for ``top_patches``.

    Raises:
        ExplainError: several pictures, an option that the view doesn't take, a channel that it needs, and whatever the
            view itself raises.

    >>> network = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 2))
    >>> type(view("maximize", Question(network, torch.rand(1, 1, 8, 8), lambda pixels: pixels))).__name__
    'Synthesis'
    """
    function = VIEWS[name]
    takes = inspect.signature(function).parameters
    if len(asked.pictures) > 1 and not takes_several(name):
        raise ExplainError(name, f"got {len(asked.pictures)} images", "needed one")
    layered = "layer" in takes or "layers" in takes
    for option, value, taken in (
        ("layer", asked.layer, layered),
        ("channel", asked.channel, "channel" in takes),
        ("target", asked.target, "target" in takes),
    ):
        if value is not None and not taken:
            raise ExplainError(name, f"got a {option}", "needed none: it takes no such option")
    images = prepared(asked.model, asked.pictures, asked.prepare)
    known: dict[str, Any] = {
        "model": asked.model,
        "image": images[0],
        "images": images,
        "picture": asked.pictures[0],
        "input_size": tuple(asked.pictures.shape[1:]),
        "prepare": asked.prepare,
        "layer": asked.layer,
        "layers": None if asked.layer is None else tuple(asked.layer.split(",")),
        "channel": asked.channel,
        "target": asked.target,
    }
    if function is maximize and asked.layer is None and asked.target is None:
        with probing(asked.model) as probe:
            known["target"] = settle(None, probe(images[:1]), 1).classes
    elif function is invert and asked.layer is None:
        known["layers"] = tuple(stage.layer for stage in hierarchy(asked.model, images[0]).stages)
    elif layered and asked.layer is None and function not in (filters, maximize):
        known["layer"] = default_layer(asked.model, images[0])
    if function is top_patches and asked.channel is None:
        raise ExplainError(name, "got no channel", "needed that of the layer's output")
    return function(**{option: known[option] for option in takes if known.get(option) is not None})
